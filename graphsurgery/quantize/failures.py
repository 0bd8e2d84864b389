"""Why a quantizer in another process failed, and at which node: what its own message does not say.

    attempt(run, seconds)            in that process: {} or {"failed": "the reason", "at": ["b_12", ...]}
    failure(name, reply, given)      in this one: PassError("backend 'x': node 'head', a Gemm: the reason; ...")

Quantizers are Python: the names that their functions hold when one raises, or does not end, tell where they are.
"""

from __future__ import annotations

import _thread
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from google.protobuf.message import EncodeError
from onnx import ModelProto, NodeProto

from graphsurgery.errors import PassError
from graphsurgery.quantize.restore import Normalised

__all__ = ["GRACE", "attempt", "failure", "plain", "write"]

GRACE = 5.0  # seconds that the other process has to say where it was when its time was up
_LONGEST = 200
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class _Late(BaseException):
    """The time is up; no quantizer catches it, as it may any Exception."""


def attempt(run: Callable[[], None], seconds: float) -> dict[str, Any]:
    """Run a quantizer in the main thread and return what it failed with; nothing where it is through."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise _Late

    before = signal.signal(signal.SIGTERM, late)
    timer = threading.Timer(seconds, _thread.interrupt_main, [signal.SIGTERM])
    timer.daemon = True
    begin = time.monotonic()
    try:
        try:
            timer.start()
            run()
            if time.monotonic() - begin > seconds:  # and the timer has had no turn yet
                raise _Late
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            timer.cancel()
    except _Late as error:
        return {"failed": f"it was stopped after {seconds:g} s, its limit seconds={seconds:g}", "at": _at(error)}
    except Exception as error:  # whatever it is, the parent reports it
        return {"failed": plain(str(error)) or type(error).__name__, "at": _at(error)}
    finally:
        timer.join()  # else it might still be about to end this process
        signal.signal(signal.SIGTERM, before)
    return {}


def failure(name: str, reply: Mapping[str, Any], given: Normalised) -> PassError:
    """Return the error for a reply that says so."""
    place = next(filter(None, map(given.place, reply.get("at", ()))), "")
    where = f"{place}: " if place else ""
    advice = "exclude that node, or quantize" if place else "quantize"
    return PassError(f"{name}: {where}{given.text(reply['failed'])}; {advice} this part in another way, or not at all")


def plain(text: str) -> str:
    """Return the first line of a message, without colours."""
    lines = [line.strip() for line in _COLOURS.sub("", text).splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def write(model: ModelProto, file: Path, name: str) -> None:
    """Write a model for another process. Raises PassError for one that protobuf can't hold."""
    try:
        file.write_bytes(model.SerializeToString())
    except (ValueError, EncodeError) as error:
        raise PassError(f"{name}: the model is above the 2 GB that protobuf can hold; quantize it in parts") from error


def _at(error: BaseException) -> list[str]:
    """Return the names of nodes and tensors that the functions held, the innermost first."""
    frames: list[FrameType] = []
    step: TracebackType | None = error.__traceback__
    while step is not None:
        frames.insert(0, step.tb_frame)
        step = step.tb_next
    found = [name for frame in frames for value in frame.f_locals.values() for name in _names(value)]
    return list(dict.fromkeys(found))[:_LONGEST]


def _names(value: object) -> Iterator[str]:
    for each in (value, getattr(value, "node", None)):  # the quantizer of one operator holds its node
        if isinstance(each, NodeProto) and each.name:
            yield each.name
    if isinstance(value, str) and len(value) < _LONGEST:
        yield value
