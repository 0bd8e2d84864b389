"""How a command ends: one line and an exit code, never a traceback unless --debug asks for it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

import typer
from typer.exceptions import TyperException

from graphsurgery.cli.screen import err
from graphsurgery.errors import Difference, GraphSurgeryError

EXIT_INTERRUPTED = 130
_SIGNALLED = 128  # and the number of the signal, as a shell has it
_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")
EXIT_BUG = 70


class Ended(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[list[Ended]]:
    """Let the signals that end a process end the command as Ctrl-C does, and yield the list of those that came.

    One that is ignored, as nohup has it, stays so.
    """
    came: list[Ended] = []

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would stop the removing
        came.append(Ended(number))
        raise came[-1]

    there = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {each: signal.getsignal(each) for each in there}
    in_main = threading.current_thread() is threading.main_thread()  # no other may handle signals
    mine = [each for each, handler in before.items() if in_main and handler is signal.SIG_DFL]
    for each in mine:
        signal.signal(each, end)
    try:
        yield came
    finally:
        for each in mine:
            signal.signal(each, before[each])


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn whatever ends a command into one line and an exit code."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        if debug and not isinstance(error, KeyboardInterrupt | typer.Exit):
            traceback.print_exc()
        code, message = _explain(error)
        if message:
            err.print(message, markup=False, highlight=False, soft_wrap=True)
        if isinstance(error, Difference) and error.hint:
            err.print(" ".join(error.hint.split()), markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)


def _explain(error: BaseException) -> tuple[int, str]:
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, GraphSurgeryError):
        return error.exit_code, f"error: {' '.join(str(error).split())}"
    if isinstance(error, TyperException):
        message = " ".join(error.format_message().split())
        return 2, f"error: {message.rstrip('.')}. See: python -m graphsurgery --help" if message else ""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        code = _SIGNALLED + error.number if isinstance(error, Ended) else EXIT_INTERRUPTED
        return code, "interrupted; no output is half written"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return 2, f"error: {error.filename or 'input/output'}: {error.strerror or error}"
    if isinstance(error, BrokenPipeError):
        return 0, ""
    kind = type(error).__name__
    return EXIT_BUG, f"error: a bug in graphsurgery: {kind}: {error}; run it with --debug and report what it prints"
