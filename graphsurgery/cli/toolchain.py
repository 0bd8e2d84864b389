"""toolchain: vendors' tools in environments of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile
from graphsurgery.cli.screen import Display, err, screen_for, write_json
from graphsurgery.report import terminal

commands = typer.Typer(no_args_is_help=True, help="Vendors' tools, each in an environment of its own: list, install.")
app.add_typer(commands, name="toolchain")


@commands.command("list")
def list_command(json_: JsonFile = None) -> None:
    """Show the toolchains that are known, and what of them is installed.

    Example: python -m graphsurgery toolchain list
    """
    from graphsurgery.toolchains.environment import look
    from graphsurgery.toolchains.toolchain import find_toolchain, names

    screen = screen_for(json_)
    found = [look(find_toolchain(name)) for name in names()]
    rows = [
        [
            each.toolchain.name,
            str(each.toolchain),
            f"{each.state} ({each.reason})" if each.reason else each.state,
            each.stamp.python if each.stamp else f"for {', '.join(each.toolchain.pythons)}",
            f"{each.stamp.size / 1e6:,.0f} MB" if each.stamp else "-",
        ]
        for each in found
    ]
    screen.print(terminal.plain_table("Toolchains", ["name", "what", "state", "Python", "size"], rows))
    for each in found:
        if each.state != "installed":
            screen.print(each.toolchain.command, highlight=False, markup=False, soft_wrap=True)
    write_json(
        json_,
        [
            {
                "name": each.toolchain.name,
                "title": each.toolchain.title,
                "version": each.toolchain.version,
                "state": each.state,
                "reason": each.reason or None,
                "folder": str(each.folder),
                "python": each.stamp.python if each.stamp else None,
                "size": each.stamp.size if each.stamp else None,
                "install": each.toolchain.command,
            }
            for each in found
        ],
    )


@commands.command("install")
def install_command(
    name: Annotated[str, typer.Argument(help="The toolchain; `toolchain list` shows which there are.")],
    python: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="What the environment is made with, if not this Python.")
    ] = None,
) -> None:
    """Download a vendor's tools into an environment of their own, in the place of an earlier one.

    You agree to the terms of their licence by it, which is named first. Nothing else of this program downloads them.

    Example: python -m graphsurgery toolchain install rknn
    """
    from graphsurgery.toolchains.install import install
    from graphsurgery.toolchains.toolchain import find_toolchain

    screen = screen_for(None)
    toolchain = find_toolchain(name)
    err.print(f"{toolchain}; licence: {toolchain.licence}", highlight=False, markup=False, soft_wrap=True)
    with Display() as display:
        made = install(toolchain, python=python, watcher=display)
    size = f"{made.stamp.size / 1e6:,.0f} MB" if made.stamp else "?"
    screen.print(f"{toolchain} in {made.folder}, {size}", highlight=False, markup=False, soft_wrap=True)
