"""How a command ends: one line and an exit code, never a traceback unless --debug asks for it."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

import typer
from typer.exceptions import TyperException

from graphsurgery.cli.screen import err
from graphsurgery.errors import Difference, GraphSurgeryError

EXIT_INTERRUPTED = 130
EXIT_BUG = 70


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
        return EXIT_INTERRUPTED, "interrupted; what was there before is as it was"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return 2, f"error: {error.filename or 'input/output'}: {error.strerror or error}"
    if isinstance(error, BrokenPipeError):
        return 0, ""
    kind = type(error).__name__
    return EXIT_BUG, f"error: a bug in graphsurgery: {kind}: {error}; run it with --debug and report what it prints"
