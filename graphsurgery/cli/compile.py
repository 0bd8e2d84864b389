"""compile: what a vendor's toolchain makes of the parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, PartsFolder
from graphsurgery.cli.screen import Display, screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.compiling.compiler import Compiler
    from graphsurgery.compiling.placed import Layer, Placed
    from graphsurgery.targets.load import Named


@app.command("compile")
def compile_command(
    folder: PartsFolder,
    with_: Annotated[
        str | None, typer.Option("--with", metavar="NAME", help="The compiler: ascend, magicmind, ...")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="The accelerator, in place of its compiler.")
    ] = None,
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
    from graphsurgery.images.files import read_images

    screen = screen_for(json_)
    named, compiler = _compiler(with_, target, option or [], plugin or [])
    files = read_images(images, max_samples=max_samples) if images is not None else []
    with Display() as display:
        place, compiled = compile_parts(
            folder, compiler, parts=part or [], images=files, run=run, out=out_, watcher=display
        )
    write_json(json_, {"folder": str(place), **compiled.model_dump(mode="json")})
    rows = [[path, f"{file.size:,}"] for path, file in compiled.files.items()]
    shown = rows if len(rows) <= _SHOWN else [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", ""]]
    title = f"Compiled with {compiler.name}" if compiled.ran else f"For {compiler.name}"
    screen.print(terminal.plain_table(title, _COLUMNS, shown))
    _show_placed(screen, folder, compiled.placed, named)
    screen.print(f"\n{place}", highlight=False, markup=False, soft_wrap=True)


_COLUMNS = ["file", "bytes"]
_SHOWN = 20


def _compiler(
    name: str | None, target: str | None, options: list[str], plugins: list[Path]
) -> tuple[Named | None, Compiler]:
    """Return the compiler that is asked for, by its name or by a target, which is returned with it."""
    from graphsurgery.compiling.registry import discover
    from graphsurgery.recipe.plugin_options import make_plugin, options_of
    from graphsurgery.rewrite.registry import discover as passes
    from graphsurgery.targets.load import load_target

    if (name is None) == (target is None):
        raise InputError("give --with NAME, a compiler, or --target NAME, which has one")
    known, named = discover(plugins), None
    if target is not None:
        named = load_target(target, passes())
        if not named.target.compiler:
            raise InputError(
                f"target '{named.name}' names no compiler; give one with --with: {', '.join(known.names())}"
            )
        ((name, usual),) = named.target.compiler.items()
        given = {text.partition("=")[0] for text in options}
        options = [f"{key}={json.dumps(value)}" for key, value in usual.items() if key not in given] + options
    return named, make_plugin(known.get(str(name)), f"compiler '{name}'", *options_of(options))


def _show_placed(screen: terminal.Screen, folder: Path, placed: Mapping[str, Placed], named: Named | None) -> None:
    """Say how many layers the NPU runs, which are left to the CPU, and why where the target says so."""
    for part, found in placed.items():
        line = f"{part}: {found.on_npu} of {found.layers} layers on the NPU"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
        reasons = _reasons(folder, part, found.on_cpu, named)
        for layer in found.on_cpu:
            why = reasons.get(layer.name, "")
            line = f"  on the CPU: {layer.op} '{layer.name}'{': ' if why else ''}{why}"
            screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _reasons(folder: Path, part: str, layers: tuple[Layer, ...], named: Named | None) -> dict[str, str]:
    """Return what a target says of the nodes of layers; a tool may call a layer as a node, with more behind."""
    from graphsurgery.graph.model import Model
    from graphsurgery.targets.support import support

    file = folder / f"{part}.onnx"
    if named is None or not layers or not file.is_file():
        return {}
    left = [(each.name, each.verdict) for each in support(Model.load(file), named).left if each.name]
    return {
        layer.name: verdict.advice
        for layer in layers
        for name, verdict in left
        if layer.name == name or layer.name.startswith(f"{name}_")
    }
