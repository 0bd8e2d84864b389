"""A vendor's quantizer in a process of its own, where it may print, log, and leave files lying about.

    quantize_apart(__name__, "backend 'quark'", ...)      the parent's end
    serve(load, quantize)                                 the other end, under `if __name__ == "__main__"`

Such a package writes tables to stdout and quantized_info.csv to where it stands, sets up `logging` anew, compiles a
library when it is imported, keeps all feeds that it is given, and goes on with another method after an error that it
only logs. Everything travels as files in one temporary folder, in which the process stands and puts its own temporary
files, and which vanishes with it:

    float.onnx  request.json  feeds.json, feeds.bin   ->   quantized.onnx, and reply.json if that is not to be had

What it gets is in the form of `normalise`, and so are the names in its files and messages.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto

from graphsurgery.errors import MissingTool, PassError
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.quantize import Calibration, Settings, is_excluded
from graphsurgery.quantize.failures import GRACE, attempt, failure, plain, write
from graphsurgery.quantize.normalise import normalise

FLOAT, QUANTIZED = "float.onnx", "quantized.onnx"
_REQUEST, _REPLY, _MESSAGES = "request.json", "reply.json", "messages.txt"
_INDEX, _VALUES = "feeds.json", "feeds.bin"
_ALIGNED = 64
SECONDS = 7200.0  # what trains the rounding of the weights takes long
_START_SECONDS = 120.0
# Its folder can't be put on the path of another environment: in site-packages all others would come along.
_LENT = """
import importlib.util, runpy, sys
folder, module = sys.argv[1:3]
del sys.argv[1:3]
spec = importlib.util.spec_from_file_location(
    "graphsurgery", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules["graphsurgery"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["graphsurgery"])
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def quantize_apart(
    module: str,
    name: str,
    model: ModelProto,
    calibration: Calibration,
    settings: Settings,
    progress: Callable[[int, int], None],
    *,
    symmetric: bool,
    python: Path | None = None,
) -> ModelProto:
    """Run `module` on the model and return what it made, with the names, order and notes that the model had.

    Where activations are not `symmetric`, a Relu or Clip stays float when what it reads is wanted elsewhere: the
    packages stand on ONNX Runtime's quantizer, which gives its input the range of its output, and so clips that too.
    `python` is that of a toolchain, where the package isn't in this environment; graphsurgery alone is lent to it.
    `progress` counts the feeds as they are stored; what follows takes longer and says nothing. Raises MissingTool
    when the package can't be loaded there, PassError, naming the node, when it fails or takes longer than
    `settings.seconds`; and what `normalise` raises.
    """
    given = normalise(model, per_channel=bool(settings.per_channel))
    # they fold an Identity, and fail where a bias has another length than the scales of its weight
    excluded = [*given.waiting, *given.waiting.values(), *_excluded(given.model.graph, settings, symmetric=symmetric)]
    seconds = settings.seconds or SECONDS
    with temporary_folder() as work:
        write(given.model, work / FLOAT, name)
        _store(work, given.feeds(calibration), progress)
        request = {"settings": asdict(settings), "excluded": excluded, "seconds": seconds}
        (work / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        code = _run(module, work, seconds + GRACE + _START_SECONDS, python)
        reply = _read(work / _REPLY)
        if "missing" in reply:
            raise MissingTool(f"{name}: {reply['missing']}")
        if "failed" in reply:
            raise failure(name, reply, given)
        if code is None:
            raise failure(name, {"failed": f"it was stopped after {seconds:g} s, its limit seconds={seconds:g}"}, given)
        if code or not (work / QUANTIZED).is_file():
            raise PassError(f"{name}: it died with exit code {code}: {_last_line(work / _MESSAGES)}")
        return given.restore(onnx.load(work / QUANTIZED), name)


def _excluded(graph: GraphProto, settings: Settings, *, symmetric: bool) -> list[str]:
    """Return the names of the nodes that stay float."""
    wanted = {info.name for info in graph.output}
    wanted |= {name for node in graph.node for body in bodies(node) for n in walk_protos(body) for name in n.input}
    return [
        node.name
        for node in graph.node
        if is_excluded(node, settings)
        or (not symmetric and node.op_type in ("Relu", "Clip") and node.input[0] in wanted)
    ]


def _store(work: Path, calibration: Calibration, progress: Callable[[int, int], None]) -> None:
    """Write the feeds one after another into one file, which the other end maps into memory."""
    index: list[dict[str, list[Any]]] = []
    with (work / _VALUES).open("wb") as file:
        for feed in calibration:
            places: dict[str, list[Any]] = {}
            for name in calibration.inputs:
                value = np.asarray(feed[name])
                file.write(bytes(-file.tell() % _ALIGNED))
                places[name] = [file.tell(), value.dtype.str, list(value.shape)]
                file.write(value.tobytes())
            index.append(places)
            progress(len(index), len(calibration))
    (work / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _run(module: str, work: Path, seconds: float, python: Path | None) -> int | None:
    """Return the exit code of the other process, None where it was stopped after so many seconds."""
    # it finds what this process finds, in the same order, but stands elsewhere
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    command = [sys.executable, "-P", "-m", module, str(work)]
    if python is not None:
        command = [str(python), "-I", "-c", _LENT, str(Path(__file__).parents[1]), module, str(work)]
    with (work / _MESSAGES).open("wb") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            cwd=work,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)},
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        except BaseException:  # Ctrl-C: nobody waits for it any more
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    reply: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return reply


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return plain(lines[-1]) if lines else "it said nothing"


# --- the other end ----------------------------------------------------------------------------------------------


class Reader:
    """The stored feeds as quantizers ask for them: `get_next` until None.

    The arrays are views of one mapped file: a quantizer that keeps them all keeps addresses, not their content.
    """

    def __init__(self, work: Path) -> None:
        self._index = json.loads((work / _INDEX).read_text(encoding="utf-8"))
        size = (work / _VALUES).stat().st_size
        self._values = np.memmap(work / _VALUES, np.uint8, "r") if size else np.zeros(0, np.uint8)
        self._next = 0

    def __len__(self) -> int:
        return len(self._index)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed; None after the last."""
        if self._next == len(self._index):
            return None
        self._next += 1
        return {name: self._view(*place) for name, place in self._index[self._next - 1].items()}

    def rewind(self) -> None:
        """Begin again."""
        self._next = 0

    def _view(self, offset: int, kind: str, shape: list[int]) -> np.ndarray:
        dtype = np.dtype(kind)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.asarray(self._values[offset : offset + size]).view(dtype).reshape(shape)


def serve(load: Callable[[], Any], quantize: Callable[[Any, dict[str, Any], Path, Reader], None]) -> None:
    """Do the one request in the folder given as argument.

    `load` imports the package; `quantize` gets it, the request, the folder, and the feeds, and writes the model.
    """
    work = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    errors = _logged_errors()
    try:
        package = load()
    except Exception as error:  # whatever it is, the package can't be used here
        _reply(work, {"missing": f"it can't be loaded ({plain(str(error)) or type(error).__name__})"})
        return
    request = json.loads((work / _REQUEST).read_text(encoding="utf-8"))
    reply = attempt(lambda: quantize(package, request, work, Reader(work)), request["seconds"])
    if errors and not reply:
        reply = {"failed": errors[0]}
    if reply:
        _reply(work, reply)


def _reply(work: Path, reply: dict[str, Any]) -> None:
    (work / _REPLY).write_text(json.dumps(reply), encoding="utf-8")


def _logged_errors() -> list[str]:
    """Return a list that receives every message logged as an error: nothing else tells that a method was changed."""
    errors: list[str] = []
    make = logging.getLogRecordFactory()

    def listen(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        if record.levelno >= logging.ERROR:
            errors.append(plain(record.getMessage()) or "an error without a message")
        return record

    logging.setLogRecordFactory(listen)
    return errors


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)  # the parent holds the other end, and nothing ever comes; sys.stdin has a lock that exit needs
    os._exit(1)
