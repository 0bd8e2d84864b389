"""A process that does one request after another for this one, and may crash, hang or take what memory there is.

    running = Running(lambda: Worker("graphsurgery.processes.tool_process", "pass 'tool': tool"))
    with running.use() as worker:
        reply = worker.ask({"file": ...}, seconds=600, memory_mb=8000)          the parent's end

    serve(load, answer)                          the other end, under `if __name__ == "__main__"` of that module

A `Worker` runs a module of this package, with this Python; a `Child` is any other program that speaks so.
Requests and replies are JSON, one per line; what is larger travels as files in `worker.folder`. The process is started
by the first request, reused by later ones, replaced after it died or was stopped at a limit, and ended when this
process ends.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import psutil

from graphsurgery.errors import GraphSurgeryError, MissingTool, PassError
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.processes.ending import end_tree, last_line

_POLL_SECONDS = 0.05
_START_SECONDS = 120.0
# The worker ends itself so long after the time limit if the process that should have stopped it was killed.
_ORPHAN_SECONDS = 30.0
_MB = 1_000_000


class Child:
    """The parent's end of one process, which starts at once and is waited for at the first request.

    `command` is run as the other end, with `environment` over that of this process; `name` begins every message. Files
    for it may lie in `folder`, which goes with the process. After an error `busy` says whether the process is still at
    work and must be stopped. Raises OSError where it can't be started.
    """

    def __init__(self, command: Sequence[str], name: str, environment: Mapping[str, str]) -> None:
        self.busy = True
        self._name = name
        self._files = contextlib.ExitStack()
        self.folder = self._files.enter_context(temporary_folder())
        # what its tool leaves behind goes with the folder
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.folder))
        try:
            with self._messages.open("wb") as messages:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    encoding="utf-8",
                    env={**os.environ, **temporary, **environment},
                )
        except BaseException:
            self._files.close()
            raise
        self._replies: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=_pass_on, args=(self._process.stdout, self._replies), daemon=True).start()
        self._ready = False
        atexit.register(self.stop)

    def fault(self, what: str, cure: str = "") -> GraphSurgeryError:
        """Return the error for a process that crashed, or went over a limit that `cure` says how to raise."""
        return PassError(f"{self._name} {what}; {cure + ', or ' if cure else ''}leave the pass out")

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
        """The file in which the last words of a process are looked for that crashed."""
        return self.folder / "stderr.txt"

    def ask(self, request: Mapping[str, Any], seconds: float, memory_mb: int | None = None) -> dict[str, Any]:
        """Do one request and return the reply.

        `seconds` limits its time (starting the process not counted), `memory_mb`, 10^6 bytes, the resident memory of
        the process. Raises `fault` when it crashes or goes over a limit, MissingTool when its tool can't be loaded.
        """
        if not self._ready:
            greeting = self._reply(_START_SECONDS, None)
            if "missing" in greeting:
                raise MissingTool(f"{self._name} can't be loaded: {greeting['missing']}")
            self._ready, self.busy = True, False
        self.busy = True
        assert self._process.stdin is not None
        # a process that has died since the last request says so in _reply
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps({**request, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        reply = self._reply(seconds, memory_mb)
        self.busy = False
        return reply

    def stop(self) -> None:
        """End the process, at once if it is at work, and remove its files."""
        atexit.unregister(self.stop)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self.busy:
            end_tree(self.pid)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            end_tree(self.pid)
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
                    stopped = f"was stopped at {used:.0f} MB, above its limit memory_mb={memory_mb}"
                    raise self.fault(stopped, "raise the limit") from None
                if time.monotonic() > deadline:
                    stopped = f"was stopped after {seconds:g} s, its limit seconds={seconds:g}"
                    raise self.fault(stopped, "raise the limit") from None
                continue
            if line is None:
                raise self.fault(f"crashed ({self._death()})")
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
        said = last_line(self._messages)
        return f"{cause}: {said}" if said else cause


class Worker(Child):
    """A process of this Python that runs `module` of this package as the other end."""

    def __init__(self, module: str, name: str) -> None:
        # it finds what this process finds, in the same order
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        super().__init__([sys.executable, "-P", "-m", module], name, {"PYTHONPATH": path})


W = TypeVar("W", bound=Child)


class Running(Generic[W]):
    """The one worker of a tool: the first call starts it, and one that died or was stopped is replaced."""

    def __init__(self, begin: Callable[[], W]) -> None:
        self.worker: W | None = None
        self._begin = begin
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self) -> Iterator[W]:
        """Give the worker to one caller at a time."""
        with self._lock:
            worker = self._started()
            try:
                yield worker
            except BaseException:  # Ctrl-C too: a process at work on what nobody waits for must not live on
                if worker.busy:
                    worker.stop()
                raise

    def start(self) -> None:
        """Start the process without waiting for it, so that it is ready when it is needed."""
        with self._lock:
            self._started()

    def shutdown(self) -> None:
        """End the process; the next use starts another."""
        with self._lock:
            if self.worker is not None:
                self.worker.stop()
                self.worker = None

    def _started(self) -> W:
        if self.worker is not None and not self.worker.alive:
            self.worker.stop()
            self.worker = None
        if self.worker is None:
            self.worker = self._begin()
        return self.worker


def _pass_on(stdout: IO[str], replies: queue.Queue[str | None]) -> None:
    """Move lines into a queue, where they can be waited for with a time limit on every system; None at the end."""
    for line in stdout:
        replies.put(line)
    replies.put(None)


# --- the other end ----------------------------------------------------------------------------------------------


def serve(load: Callable[[], Any], answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the requests on stdin until it closes; `load` imports the tool first, and raises ImportError."""
    # native code and rich print to stdout: the protocol gets a descriptor of its own that nothing else knows
    protocol = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops this process

    def say(reply: dict[str, Any]) -> None:
        protocol.write(json.dumps(reply) + "\n")
        protocol.flush()

    try:
        load()
    except ImportError as error:
        say({"missing": str(error)})
        return
    say({"ready": True})
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for line in sys.stdin:
            request = json.loads(line)
            faulthandler.dump_traceback_later(request["seconds"] + _ORPHAN_SECONDS, exit=True, file=nowhere)
            say(answer(request))
            faulthandler.cancel_dump_traceback_later()
