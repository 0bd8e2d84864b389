"""The command line: the only package that prints. One file for each group of commands.

Exit codes: 0 fine, 1 the models differ, 2 the input is at fault, 3 a tool or provider that was asked for is missing;
130 interrupted, 143 and 129 ended by SIGTERM or SIGHUP.
"""

from __future__ import annotations

import io
import sys

# in the order in which --help lists the commands
# ruff: isort: off
from graphsurgery.cli.app import app
from graphsurgery.cli import apply, run, evaluate, bench, placement, report, quantize  # noqa: F401  each registers its
from graphsurgery.cli import compile, toolchain, support, probe, new_recipe, sweep  # noqa: F401
from graphsurgery.cli import compare, inspect, picture, passes, recipe_schema  # noqa: F401  commands
from graphsurgery.cli.exits import EXIT_INTERRUPTED, ended_by_signals, one_line_errors
# ruff: isort: on


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks, as that of a Windows pipe, is written out
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    with one_line_errors(debug), ended_by_signals() as came:
        code = app([a for a in arguments if a != "--debug"], prog_name="python -m graphsurgery", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise came[0] if came else KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
