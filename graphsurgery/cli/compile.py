"""compile: what a vendor's toolchain makes of the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, PartsFolder
from graphsurgery.cli.screen import Display, screen_for, write_json
from graphsurgery.report import terminal


@app.command("compile")
def compile_command(
    folder: PartsFolder,
    with_: Annotated[str, typer.Option("--with", metavar="NAME", help="The compiler: ascend, magicmind, ...")],
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the compiler. Repeatable.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part; those for an accelerator if not given. Repeatable.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Images to be written as the parts read them.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Take so many images at most.")] = None,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Run the tool; else only its files are written.")] = True,
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", help="A Python file with compilers; it is run. Repeatable.")
    ] = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Where to write; compiled/NAME in the folder if not given.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Write what a vendor's tool wants of the parts, in a folder to take to it, and run the tool where it is.

    Example: python -m graphsurgery compile model/shapes --with ascend --option soc_version=Ascend310P3 --no-run
    """
    from graphsurgery.compiling.compile import compile_parts
    from graphsurgery.compiling.registry import discover
    from graphsurgery.images.files import read_images
    from graphsurgery.recipe.plugin_options import make_plugin, options_of

    screen = screen_for(json_)
    kind = discover(plugin or []).get(with_)
    compiler = make_plugin(kind, f"compiler '{with_}'", *options_of(option or []))
    files = read_images(images, max_samples=max_samples) if images is not None else []
    with Display() as display:
        place, compiled = compile_parts(
            folder, compiler, parts=part or [], images=files, run=run, out=out_, watcher=display
        )
    write_json(json_, {"folder": str(place), **compiled.model_dump(mode="json")})
    rows = [[path, f"{file.size:,}"] for path, file in compiled.files.items()]
    shown = rows if len(rows) <= _SHOWN else [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", ""]]
    screen.print(terminal.plain_table(f"Compiled with {with_}" if compiled.ran else f"For {with_}", _COLUMNS, shown))
    screen.print(f"\n{place}", highlight=False, markup=False, soft_wrap=True)


_COLUMNS = ["file", "bytes"]
_SHOWN = 20
