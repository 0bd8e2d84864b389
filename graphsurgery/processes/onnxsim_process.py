"""onnxsim in a process of its own, so that a crash of its native code is an error message and not the end of the run.

    onnxsim_process.simplify(model, seconds=600, memory_mb=8000)  ->  ModelProto

`python -m graphsurgery.processes.onnxsim_process` is the other end: it imports onnxsim once (0.5 s, 0.12 GB) and
serves request after request until its stdin closes. Requests and replies are JSON, one per line; models travel as
files in a temporary folder. The process is started by the first call, reused by later ones, replaced after it died or
was stopped at a limit, and ended when this process ends.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from google.protobuf.message import EncodeError
from onnx import ModelProto

from graphsurgery.devices.operator_sets import why_unknown
from graphsurgery.errors import MissingTool, PassError
from graphsurgery.files.temporary import temporary_folder

_POLL_SECONDS = 0.05
_START_SECONDS = 120.0
# The worker ends itself so long after the time limit if the process that should have stopped it was killed.
_ORPHAN_SECONDS = 30.0
_MB = 1_000_000
# onnxsim 0.8.1 moves a nested If's branch in front of what it reads, and then refuses its own result.
_OFTEN_AT_FAULT = "eliminate_if_with_const_cond"


@dataclass(frozen=True)
class Simplified:
    """What onnxsim made of a model, None where it can't, and a note: why not, or what it had to leave out."""

    model: ModelProto | None
    note: str | None


def simplify(
    model: ModelProto, *, seconds: float, memory_mb: int, largest_mb: float = 16, skip: Sequence[str] = ()
) -> Simplified:
    """Return `model` as onnxsim simplifies it; `skip` names optimizers of onnxsim that are left out.

    `seconds` limits the time of this call (starting the process not counted), `memory_mb` the resident memory of the
    process, which is 120 MB before it does anything; an Expand, Tile or ConstantOfShape that writes more than
    `largest_mb` is not evaluated. MB are 10^6 bytes. Raises PassError when onnxsim crashes, fails, or goes
    over a limit, MissingTool when it can't be imported.
    """
    with _lock:
        worker = _running_worker()
        try:
            return worker.simplify(model, seconds, memory_mb, largest_mb, skip)
        except BaseException:  # Ctrl-C too: a process at work on something that nobody waits for must not live on
            if worker.busy:
                worker.stop()
            raise


def start() -> None:
    """Start the process without waiting for it, so that it is ready when simplify() needs it."""
    with _lock:
        _running_worker()


def _running_worker() -> Worker:
    global _worker
    if _worker is not None and not _worker.alive:
        _worker.stop()
        _worker = None
    if _worker is None:
        _worker = Worker()
        atexit.register(_worker.stop)
    return _worker


class Worker:
    """The parent's end of one simplifier process, which starts at once and is waited for at the first request."""

    def __init__(self) -> None:
        self.busy = True
        self._files = contextlib.ExitStack()
        self._folder = self._files.enter_context(temporary_folder())
        with self._messages.open("wb") as messages:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "graphsurgery.processes.onnxsim_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                encoding="utf-8",
                # it finds what this process finds, in the same order
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )
        self._replies: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=_pass_on, args=(self._process.stdout, self._replies), daemon=True).start()
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether the process can take a request."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def _messages(self) -> Path:
        return self._folder / "stderr.txt"

    def simplify(
        self, model: ModelProto, seconds: float, memory_mb: int, largest_mb: float, skip: Sequence[str]
    ) -> Simplified:
        """Do one request; after an error `busy` says whether the process is still at it and must be stopped.

        Raises MissingTool when onnxsim can't be imported there.
        """
        if not self._ready:
            greeting = self._reply(_START_SECONDS, None)
            if "error" in greeting:
                raise MissingTool(f"pass 'simplify' needs onnxsim: {greeting['error']}; pip install onnxsim")
            self._ready, self.busy = True, False
        before, after = self._folder / "before.onnx", self._folder / "after.onnx"
        try:
            before.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise PassError(
                "pass 'simplify': the model is above the 2 GB that protobuf can hold; simplify it in parts"
            ) from error
        request = {
            "before": str(before),
            "after": str(after),
            "seconds": seconds,
            "largest": f"{largest_mb:g}MB",
            "skip": list(skip),
            "opsets": [[entry.domain, entry.version] for entry in model.opset_import],
            "ir_version": model.ir_version,
        }
        self.busy = True
        assert self._process.stdin is not None
        # a process that has died since the last request says so in _reply
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        reply = self._reply(seconds, memory_mb)
        self.busy = False
        before.unlink()
        if "error" in reply:
            raise PassError(f"pass 'simplify': onnxsim failed: {reply['error']}; leave the pass out of the recipe")
        if not reply["done"]:
            return Simplified(None, reply["note"])
        simplified = ModelProto()
        simplified.ParseFromString(after.read_bytes())
        after.unlink()
        return Simplified(simplified, reply["note"])

    def stop(self) -> None:
        """End the process, at once if it is at work, and remove its files."""
        atexit.unregister(self.stop)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self.busy:
            self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._files.close()

    def _reply(self, seconds: float, memory_mb: int | None) -> dict[str, Any]:
        """Wait for the next reply, watching the limits."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._replies.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                used = self._resident_mb()
                if memory_mb is not None and used > memory_mb:
                    raise PassError(
                        f"pass 'simplify': onnxsim was stopped at {used:.0f} MB, above its limit memory_mb={memory_mb};"
                        " raise the limit, or leave the pass out"
                    ) from None
                if time.monotonic() > deadline:
                    raise PassError(
                        f"pass 'simplify': onnxsim was stopped after {seconds:g} s, its limit seconds={seconds:g};"
                        " raise the limit, or leave the pass out"
                    ) from None
                continue
            if line is None:
                raise PassError(f"pass 'simplify': onnxsim crashed ({self._death()}); leave the pass out")
            reply: dict[str, Any] = json.loads(line)
            return reply

    def _resident_mb(self) -> float:
        try:
            return float(psutil.Process(self.pid).memory_info().rss) / _MB
        except psutil.Error:  # it has just ended; the next reply says so
            return 0.0

    def _death(self) -> str:
        code = self._process.wait()
        if code < 0:
            cause = signal.Signals(-code).name
            if cause == "SIGKILL":
                cause += ", the machine was out of memory or somebody ended it"
        else:
            cause = f"exit code {code:#x}"
        lines = self._messages.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{cause}: {said[-1][:200]}" if said else cause


_worker: Worker | None = None
_lock = threading.Lock()


def _pass_on(stdout: IO[str], replies: queue.Queue[str | None]) -> None:
    """Move lines into a queue, where they can be waited for with a time limit on every system; None at the end."""
    for line in stdout:
        replies.put(line)
    replies.put(None)


# --- the other end ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer the requests on stdin until it closes."""
    # native code and rich print to stdout: the protocol gets a descriptor of its own that nothing else knows
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this process

    def say(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    # onnxsim imports torch where it is, for a quantizer that is not used here: 1.2 s and 0.5 GB
    sys.modules["torch"] = None  # type: ignore[assignment]  # it counts as not installed
    try:
        import onnxsim
    except ImportError as error:
        say({"error": str(error)})
        return
    say({"ready": onnxsim.__version__})
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for line in sys.stdin:
            request = json.loads(line)
            faulthandler.dump_traceback_later(request["seconds"] + _ORPHAN_SECONDS, exit=True, file=nowhere)
            say(_answer(request))
            faulthandler.cancel_dump_traceback_later()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    reason = why_unknown(request["opsets"], request["ir_version"])
    if reason is not None:
        return {"done": False, "note": reason}
    failure = _run(request, request["skip"])
    if failure is None:
        return {"done": True, "note": None}
    if _OFTEN_AT_FAULT not in request["skip"] and _run(request, [*request["skip"], _OFTEN_AT_FAULT]) is None:
        return {"done": True, "note": f"onnxsim's optimizer {_OFTEN_AT_FAULT} was left out: with it, {failure}"}
    return {"error": failure}


def _run(request: dict[str, Any], skip: list[str]) -> str | None:
    """Simplify one file into another; return what onnxsim said where it failed."""
    import onnxsim

    try:
        simplified, _ = onnxsim.simplify(
            request["before"], check_n=0, skipped_optimizers=list(skip), tensor_size_threshold=request["largest"]
        )
        Path(request["after"]).write_bytes(simplified.SerializeToString())
    except Exception as error:  # whatever it is, the parent reports it and this process goes on
        text = str(error).strip() or type(error).__name__
        return text.splitlines()[0][:300]
    return None


def shutdown() -> None:
    """End the simplifier process; the next simplify() starts another."""
    global _worker
    with _lock:
        if _worker is not None:
            _worker.stop()
            _worker = None


if __name__ == "__main__":
    serve()
