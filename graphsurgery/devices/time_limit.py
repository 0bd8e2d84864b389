"""How long one run of a model may take, which may hold a Loop without an end."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from graphsurgery.errors import InputError

TIME_LIMIT = "GRAPHSURGERY_TIME_LIMIT"  # an environment variable, so that it holds in every process
DEFAULT_TIME_LIMIT = 600

_ends: dict[Any, float] = {}  # by when each run that goes on must end; the keys are ONNX Runtime's RunOptions
_watch = threading.Thread()


def time_limit() -> float:
    """Return how many seconds one run may take; infinity where the variable is 0. Raises InputError for no number."""
    text = os.environ.get(TIME_LIMIT, "") or str(DEFAULT_TIME_LIMIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InputError(f"{TIME_LIMIT}={text}: write a number of seconds, or 0 for no limit")
    return seconds or math.inf


def run_limited(session: Any, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
    """Return what ONNX Runtime's `session` computes, and raise what it raises; TimeoutError after `time_limit`."""
    global _watch
    import onnxruntime as ort

    limit = time_limit()
    options = ort.RunOptions()
    options.log_severity_level = 4
    _ends[options] = time.monotonic() + limit
    if not _watch.is_alive():  # the first run, here or in a process that was forked
        _watch = threading.Thread(target=_end_late_runs, daemon=True)
        _watch.start()
    try:
        return list(session.run(outputs, inputs, options))
    except Exception as error:
        if options.terminate:
            raise TimeoutError(
                f"it takes longer than {limit:g} s; grant more: python -m graphsurgery --time-limit SECONDS ..."
            ) from error
        raise
    finally:
        del _ends[options]


def _end_late_runs() -> None:
    while True:
        time.sleep(0.5)
        now = time.monotonic()
        for options, end in list(_ends.items()):
            options.terminate = now > end
