"""How a command ends: one line and an exit code, never a traceback unless --debug asks for it."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType

import typer
from typer.exceptions import TyperException

from graphsurgery.cli.screen import err
from graphsurgery.devices.time_limit import runs_ended_by_signals
from graphsurgery.errors import Difference, GraphSurgeryError, first_line
from graphsurgery.text import shortened, visible

EXIT_INTERRUPTED = 130
_SIGNALLED = 128  # and the number of the signal, as a shell has it
_ENDING = ("SIGTERM", "SIGHUP", "SIGBREAK")
EXIT_BUG = 70
_LONGEST = 390  # characters of a message; of a longer one the middle is left out


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
        with runs_ended_by_signals():
            yield came
    finally:
        for each in mine:
            signal.signal(each, before[each])


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn whatever ends a command into one line and an exit code."""
    ctrl_c = _CtrlC()
    try:
        with ctrl_c:
            yield
            if ctrl_c.seen:
                raise KeyboardInterrupt
    except BaseException as error:
        if isinstance(error, SystemExit) and not ctrl_c.seen:
            raise
        if ctrl_c.seen and not isinstance(error, KeyboardInterrupt | typer.Abort):
            error = KeyboardInterrupt()  # what a library made of it
        if debug and not isinstance(error, KeyboardInterrupt | typer.Exit):
            err.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        code, message = _explain(error)
        if message:
            line = shortened(visible(message), _LONGEST)
            err.print(line, markup=False, highlight=False, soft_wrap=True)
        if isinstance(error, Difference) and error.hint:
            err.print(" ".join(error.hint.split()), markup=False, highlight=False, soft_wrap=True)
        sys.exit(code)


class _CtrlC:
    """Notes that Ctrl-C was pressed, which a library may swallow, above all while it is imported."""

    seen = False

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        self._hook = sys.unraisablehook
        self._answers = self._before not in (None, signal.SIG_IGN) and (
            threading.current_thread() is threading.main_thread()
        )
        if self._answers:
            sys.unraisablehook = self._raise_again
            signal.signal(signal.SIGINT, self._press)

    def __exit__(self, *error: object) -> None:
        if self._answers:
            signal.signal(signal.SIGINT, self._before)
            sys.unraisablehook = self._hook

    def _press(self, signum: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt

    def _raise_again(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Python would print what is raised in a destructor, and go on."""
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.interrupt_main()
        else:
            self._hook(unraisable)


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
    if isinstance(error, MemoryError):
        return 2, "error: it takes more memory than there is; give it a smaller model, or other options"
    kind = type(error).__name__
    return (
        EXIT_BUG,
        f"error: a bug in graphsurgery: {kind}: {first_line(error)}; run it with --debug and report what it prints",
    )
