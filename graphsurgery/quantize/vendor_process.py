"""A vendor's quantizer in a process of its own, where it may print, log, and leave files lying about.

    quantize_apart(__name__, "backend 'quark'", ...)      the parent's end
    serve(load, quantize)                                 the other end, under `if __name__ == "__main__"`

Such a package writes tables to stdout and quantized_info.csv to where it stands, sets up `logging` anew, compiles a
library when it is imported, keeps all feeds that it is given, and goes on with another method after an error that it
only logs. Everything travels as files in one temporary folder, in which the process stands and puts its own temporary
files, and which vanishes with it:

    float.onnx  request.json  feeds.json, feeds.bin   ->   quantized.onnx, and reply.json if that is not to be had
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto

from graphsurgery.errors import InputError, MissingTool, PassError
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, tensor_names
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.quantize import Calibration, Settings, name_nodes

FLOAT, QUANTIZED = "float.onnx", "quantized.onnx"
_REQUEST, _REPLY, _MESSAGES = "request.json", "reply.json", "messages.txt"
_INDEX, _VALUES = "feeds.json", "feeds.bin"
_ALIGNED = 64
_FIRST_OPSET = 10
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def quantize_apart(
    module: str,
    name: str,
    model: ModelProto,
    calibration: Calibration,
    request: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> ModelProto:
    """Run `module` on the model and return what it made, with the names, order and notes that the model had.

    `progress` counts the feeds as they are stored; what follows takes longer and says nothing. Raises MissingTool
    when the package can't be loaded there, PassError when it fails.
    """
    with temporary_folder() as work:
        try:
            (work / FLOAT).write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise PassError(
                f"{name}: the model is above the 2 GB that protobuf can hold; quantize it in parts"
            ) from error
        _store(work, calibration, progress)
        (work / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        code = _run(module, work)
        reply = _read(work / _REPLY)
        if "missing" in reply:
            raise MissingTool(f"{name}: {reply['missing']}")
        if "failed" in reply:
            raise PassError(f"{name}: {reply['failed']}; quantize this part in another way, or not at all")
        if code or not (work / QUANTIZED).is_file():
            raise PassError(f"{name}: it died with exit code {code}: {_last_line(work / _MESSAGES)}")
        return _with_interface_of(model, onnx.load(work / QUANTIZED), name)


def ready(model: ModelProto, settings: Settings, *, symmetric: bool) -> tuple[ModelProto, list[str]]:
    """Return a copy of `model` in which every node has a name, and the names of those that stay float.

    A weight that one of these shares with another node becomes its own, so that it is not rounded with the other's.
    Where activations are not `symmetric`, a Relu or Clip stays float when what it reads is wanted elsewhere: both
    packages stand on ONNX Runtime's quantizer, which gives its input the range of its output, and so clips that too.
    Raises InputError for what comes out of these quantizers broken: an opset without QuantizeLinear, and float16.
    """
    opset = Model(model).opset
    if opset < _FIRST_OPSET:
        raise InputError(f"opset {opset} has no QuantizeLinear; export with opset 13 or later")
    types = {info.name: info.type.tensor_type.elem_type for info in (*model.graph.input, *model.graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half = next((name for name, kind in types.items() if kind == TensorProto.FLOAT16), None)
    if half is not None:
        raise InputError(f"tensor '{half}' is float16; quantize the float32 model, and cast what stays float later")
    copy = ModelProto()
    copy.CopyFrom(model)
    name_nodes(copy)
    graph = copy.graph
    wanted = {info.name for info in graph.output}
    wanted |= {name for node in graph.node for body in bodies(node) for n in walk_protos(body) for name in n.input}
    excluded = [
        node
        for node in graph.node
        if node.op_type in settings.exclude_ops
        or any(fnmatchcase(node.name, pattern) for pattern in settings.exclude)
        or (not symmetric and node.op_type in ("Relu", "Clip") and node.input[0] in wanted)
    ]
    kept = {node.name for node in excluded}
    rounded = {name for node in graph.node if node.name not in kept for name in node.input}
    taken = tensor_names(copy)
    for tensor in [tensor for tensor in graph.initializer if tensor.name in rounded]:
        readers = [node for node in excluded if tensor.name in node.input]
        if readers:
            name = fresh(f"{tensor.name}_float", taken)
            graph.initializer.append(tensor)
            graph.initializer[-1].name = name
            for node in readers:
                node.input[:] = [name if given == tensor.name else given for given in node.input]
    return copy, [node.name for node in excluded]


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


def _run(module: str, work: Path) -> int:
    # it finds what this process finds, in the same order, but stands elsewhere
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with (work / _MESSAGES).open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(work)],
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            cwd=work,
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)},
        )
        try:
            return process.wait()
        except BaseException:  # Ctrl-C: nobody waits for it any more
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    reply: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return reply


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else "it said nothing"


def _with_interface_of(model: ModelProto, quantized: ModelProto, name: str) -> ModelProto:
    """Restore what does not belong to the quantizer; drop the operator sets that its own tools left behind."""
    for kind in ("input", "output"):
        has = {info.name: info for info in getattr(quantized.graph, kind)}
        wants = list(getattr(model.graph, kind))
        if kind == "input":  # one with a default may have become a constant
            defaults = {tensor.name for tensor in model.graph.initializer}
            wants = [info for info in wants if info.name in has or info.name not in defaults]
        if set(has) != {info.name for info in wants}:
            listed = ", ".join(info.name for info in wants)
            raise PassError(f"{name}: it changed the {kind}s {listed} into {', '.join(has)}; quantize in another way")
        del getattr(quantized.graph, kind)[:]
        getattr(quantized.graph, kind).extend(wants)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(model.metadata_props)
    quantized.graph.name = model.graph.name
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    used = _domains(quantized)
    imports = [entry for entry in quantized.opset_import if entry.domain in used]
    del quantized.opset_import[:]
    quantized.opset_import.extend(imports)
    return quantized


def _domains(model: ModelProto) -> set[str]:
    found, graphs = {""}, [model.graph]
    while graphs:
        for node in graphs.pop().node:
            found.add(node.domain)
            graphs.extend(bodies(node))
    for function in model.functions:
        found.update(entry.domain for entry in function.opset_import)
    return found


def _plain(text: str) -> str:
    """Return the first line of a message, without colours."""
    lines = [line.strip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


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
        _reply(work, {"missing": f"it can't be loaded ({_reason(error)})"})
        return
    request = json.loads((work / _REQUEST).read_text(encoding="utf-8"))
    try:
        quantize(package, request, work, Reader(work))
    except Exception as error:  # as above
        _reply(work, {"failed": _reason(error)})
        return
    if errors:
        _reply(work, {"failed": errors[0]})


def _reply(work: Path, reply: dict[str, str]) -> None:
    (work / _REPLY).write_text(json.dumps(reply), encoding="utf-8")


def _reason(error: Exception) -> str:
    return _plain(str(error)) or type(error).__name__


def _logged_errors() -> list[str]:
    """Return a list that receives every message logged as an error: nothing else tells that a method was changed."""
    errors: list[str] = []
    make = logging.getLogRecordFactory()

    def listen(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make(*arguments, **keywords)
        if record.levelno >= logging.ERROR:
            errors.append(_plain(record.getMessage()) or "an error without a message")
        return record

    logging.setLogRecordFactory(listen)
    return errors


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        os.read(0, 1)  # the parent holds the other end, and nothing ever comes; sys.stdin has a lock that exit needs
    os._exit(1)
