"""The command line's top: its name, its help, and --version."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from graphsurgery.cli.screen import out
from graphsurgery.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="ONNX graph surgery by recipe: rewrite passes, a numeric check after each, parts for NPU and CPU. "
    "[dim]Any command takes --debug: a traceback where there would be a one-line error.[/dim]",
)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="For one run of a model; 600 if not given, 50 with a Loop that may not end, 0: no limit.",
        ),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(min=1, metavar="GB", envvar="GRAPHSURGERY_MEMORY_LIMIT", help="For each process, on Linux."),
    ] = None,
) -> None:
    if memory_limit is not None:
        from graphsurgery.processes.memory_limit import limit_memory

        limit_memory(memory_limit)
    if time_limit is not None:
        os.environ["GRAPHSURGERY_TIME_LIMIT"] = str(time_limit)  # for the processes that this one starts, too
    if version:
        out.print(f"graphsurgery {__version__}", highlight=False)
        raise typer.Exit
