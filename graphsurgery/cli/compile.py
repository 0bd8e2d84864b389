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
from graphsurgery.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from graphsurgery.compiling.compiler import Compiler
    from graphsurgery.compiling.report import Report
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
    inputs: Annotated[
        Path | None, typer.Option(help="The model_io folder with captured tensors, for a tool that calibrates.")
    ] = None,
    floor: Annotated[
        float, typer.Option(metavar="DB", help="End with 1 where the tool's numbers keep less at an output.")
    ] = 10.0,
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
    from graphsurgery.capture.samples import Capture
    from graphsurgery.compiling.compile import compile_parts
    from graphsurgery.images.files import read_images

    screen = screen_for(json_)
    named, compiler = _compiler(with_, target, option or [], plugin or [])
    captured = Capture.open(inputs).samples[:max_samples] if inputs is not None else []
    if captured and not compiler.runs().most:
        raise InputError(f"compiler '{compiler.name}' takes no captured tensors; leave --inputs out")
    files = read_images(images, max_samples=max_samples) if images is not None else []
    with Display() as display:
        place, compiled = compile_parts(
            folder,
            compiler,
            parts=part or [],
            images=files,
            run=run,
            out=out_,
            captured=captured,
            floor=floor,
            watcher=display,
        )
    write_json(json_, {"folder": str(place), **compiled.model_dump(mode="json")})
    rows = [[path, f"{file.size:,}"] for path, file in compiled.files.items()]
    shown = rows if len(rows) <= _SHOWN else [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", ""]]
    title = f"Compiled with {compiler.name}" if compiled.ran else f"For {compiler.name}"
    screen.print(terminal.plain_table(title, _COLUMNS, shown))
    _show_reports(screen, {part: _explained(folder, part, each, named) for part, each in compiled.reports.items()})
    screen.print(f"\n{place}", highlight=False, markup=False, soft_wrap=True)


def _show_reports(screen: Console, reports: Mapping[str, Report]) -> None:
    """Show what the tool says of each part: what is left to the CPU, its figures, the worst SQNR."""
    for name, report in reports.items():
        total = report.accelerated + len(report.left)
        figures = [[what, f"{value:,}" if isinstance(value, int) else str(value)] for what, value in _said(report)]
        rows = [["operators on the accelerator", f"{report.accelerated} of {total}"], *figures]
        screen.print("")
        screen.print(terminal.plain_table(name, ["what", "value"], rows))
        if report.sqnr_db:
            screen.print("")
            screen.print(terminal.sqnr_table(f"{name}, against ONNX Runtime", report.sqnr_db))
        for each in report.left[:_SHOWN]:
            line = f"on the CPU: {each.operator} {visible(each.name)}{f', {visible(each.why)}' if each.why else ''}"
            screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _said(report: Report) -> list[tuple[str, int | float | str]]:
    return [(what, float(f"{v:.4g}") if isinstance(v, float) else v) for what, v in report.figures.items()]


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


def _explained(folder: Path, part: str, report: Report, named: Named | None) -> Report:
    """Return a report in which operators that are left without a word have the target's; tools add to nodes' names."""
    from graphsurgery.graph.model import Model
    from graphsurgery.targets.support import support

    file = folder / f"{part}.onnx"
    if named is None or not report.left or not file.is_file():
        return report
    known = [(each.name, each.verdict.advice) for each in support(Model.load(file), named).left if each.name]

    def reason(name: str) -> str:
        return next((said for node, said in known if name == node or name.startswith(f"{node}_")), "")

    left = [each if each.why else each.model_copy(update={"why": reason(each.name)}) for each in report.left]
    return report.model_copy(update={"left": left})
