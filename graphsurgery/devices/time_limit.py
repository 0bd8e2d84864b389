"""How long one run of a model may take, which may hold a Loop without an end, and its end by Ctrl-C.

While ONNX Runtime is at work Python handles no signal. But it writes each at once into a socket, where one is set for
that, and the thread that watches the time reads it.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from graphsurgery.errors import InputError

TIME_LIMIT = "GRAPHSURGERY_TIME_LIMIT"  # an environment variable, so that it holds in every process
DEFAULT_TIME_LIMIT = 600
DEFAULT_TIME_LIMIT_OF_LOOPS = 50  # of a model whose Loop may have no end

_ends: dict[Any, float] = {}  # by when each run that goes on must end; the keys are ONNX Runtime's RunOptions
_watch = threading.Thread()
_heard: socket.socket | None = None  # what signals are written to arrives here
_ENDING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)}
_POLL = 0.5


def time_limit(*, loops: bool = False) -> float:
    """Return how many seconds one run may take, of a model that `loops` perhaps without an end; infinity where the
    variable is 0. Raises InputError for no number."""
    text = os.environ.get(TIME_LIMIT, "") or str(DEFAULT_TIME_LIMIT_OF_LOOPS if loops else DEFAULT_TIME_LIMIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"{TIME_LIMIT}={text}: write a number of seconds, or 0 for no limit")
    return seconds or math.inf


def run_limited(
    session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, Any], *, loops: bool = False
) -> list[Any]:
    """Return what ONNX Runtime's `session` computes, and raise what it raises; TimeoutError after `time_limit`."""
    global _watch
    import onnxruntime as ort

    limit = time_limit(loops=loops)
    options = ort.RunOptions()
    options.log_severity_level = 4
    end = _ends[options] = time.monotonic() + limit
    if not _watch.is_alive():  # the first run, here or in a process that was forked
        _watch = threading.Thread(target=_end_late_runs, daemon=True)
        _watch.start()
    try:
        return list(session.run(outputs, inputs, options))
    except Exception as error:
        if options.terminate:
            if time.monotonic() < end:
                raise InterruptedError("it was interrupted") from error
            where = ", maybe in a Loop without an end" if loops else ""
            raise TimeoutError(
                f"it takes longer than {limit:g} s{where}; grant more: python -m graphsurgery --time-limit SECONDS ..."
            ) from error
        raise
    finally:
        del _ends[options]


@contextmanager
def runs_ended_by_signals() -> Iterator[None]:
    """Let a signal that ends this process end the runs of all its threads; Python's handler comes behind that.

    Does nothing in a thread that can't handle signals, nor where another, asyncio perhaps, has them written to it.
    """
    global _heard
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hearing, telling = socket.socketpair()
    with hearing, telling:
        hearing.settimeout(_POLL)
        telling.setblocking(False)
        before = signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            yield
            return
        _heard = hearing
        try:
            yield
        finally:
            _heard = None
            signal.set_wakeup_fd(-1)


def _end_late_runs() -> None:
    while True:
        signalled, now = _signalled(), time.monotonic()
        for options, end in list(_ends.items()):
            if signalled or now > end:
                options.terminate = True


def _signalled() -> bool:
    """Wait a moment; return whether a signal came meanwhile that ends this process."""
    heard = _heard
    if heard is None:
        time.sleep(_POLL)
        return False
    try:
        return not _ENDING.isdisjoint(heard.recv(4096))
    except OSError:  # nothing came, or the command is over
        return False
