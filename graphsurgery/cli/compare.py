"""check, bisect and reduce: whether models are equal, where they part, and the smallest graph that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Operators, Plugins, Tolerance
from graphsurgery.cli.screen import Display, err, screen_for, write_json
from graphsurgery.report import terminal


@app.command("check")
def check_command(
    a: Annotated[Path, typer.Argument(help="The reference: an ONNX file, a folder of parts, or a model_io folder.")],
    b: Annotated[Path, typer.Argument(help="What is compared with it, of any of these kinds.")],
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder to take inputs from; random inputs where none is given.")
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Per tensor or pattern; 1e-4 of the largest value otherwise."),
    ] = None,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Compare two models, or a model with captured tensors. Exit 1 when they differ.

    Example: python -m graphsurgery check model/model_io/shapes model/shapes
    """
    from graphsurgery.debugging.compare_paths import compare_paths, parse_tolerances

    screen = screen_for(json_)
    with Display() as display:
        verdict = compare_paths(a, b, inputs, parse_tolerances(tolerance or []), display)
    screen.print(terminal.comparison_table(f"{a} and {b}", verdict))
    for line in (*terminal.without_numbers(verdict), *verdict.notes):
        screen.print(line, highlight=False, markup=False)
    write_json(json_, verdict.to_json())
    screen.print()
    if verdict.verdict == "failed":
        err.print(Text.assemble(("different: ", "bold red"), verdict.explain()), highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    said = {"passed": "equal"}.get(verdict.verdict, verdict.verdict)
    screen.print(f"{said}: {verdict.explain()}", highlight=False, markup=False)


@app.command("bisect")
def bisect_command(
    a: Annotated[Path, typer.Argument(help="The reference: an ONNX file.")],
    b: Annotated[Path, typer.Argument(help="Another version of it, after a pass for example.")],
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder, or one sample in it; random inputs where none is given.")
    ] = None,
    tolerance: Tolerance = None,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Also compare the outputs that depend on a difference; takes longer.")
    ] = False,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Find the first tensor, in data-flow order, where two models diverge. Exit 1 when they do.

    Example: python -m graphsurgery bisect before.onnx after.onnx --inputs model/model_io/shapes/0
    """
    from graphsurgery.debugging.bisect import bisect_files
    from graphsurgery.debugging.compare_paths import parse_tolerances

    screen = screen_for(json_)
    with Display() as display:
        found = bisect_files(a, b, inputs, parse_tolerances(tolerance or []), display, outputs=outputs)
    for table in terminal.bisection_tables(found):
        screen.print(table)
        screen.print()
    for note in found.notes:
        screen.print(note, highlight=False, markup=False, soft_wrap=True)
    write_json(json_, found.to_json())
    if found.divergences:
        seen = found.divergences[0].explain()
        err.print(Text.assemble(("different: ", "bold red"), seen), highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    screen.print(f"no difference: {found.compared} tensors compared", highlight=False, markup=False)


@app.command("reduce")
def reduce_command(
    model: Annotated[Path, typer.Argument(help="An ONNX file on which a pass breaks something.")],
    pass_: Annotated[str, typer.Option("--pass", metavar="NAME", help="The pass.")],
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the pass, as in a recipe. Repeatable.")
    ] = None,
    plugin: Plugins = None,
    inputs: Annotated[
        Path | None, typer.Option(help="A model_io folder, or one sample in it; random inputs where none is given.")
    ] = None,
    tolerance: Tolerance = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder for the reproduction; MODEL.PASS.reduced if not given.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Find the smallest part of a model that a pass breaks, ready for a bug report. Exit 1 when it breaks something.

    Example: python -m graphsurgery reduce before.onnx --pass widen-maxpool --inputs model/model_io/shapes/0
    """
    from graphsurgery.debugging import reduce, reproduction
    from graphsurgery.debugging.compare_paths import parse_tolerances

    screen = screen_for(json_)
    configured = reduce.configured(pass_, option or [], plugin or [])
    folder = out_ or Path(f"{model.stem}.{pass_}.reduced")
    reproduction.check_place(folder)
    with Display() as display:
        found = reduce.reduce_file(model, configured, inputs, parse_tolerances(tolerance or []), display)
    if found is None:
        write_json(json_, {"verdict": "equal", "pass": pass_})
        screen.print(f"pass '{pass_}' breaks nothing on these inputs", highlight=False, markup=False)
        return
    given = {"--pass": [pass_], "--option": option, "--plugin": plugin, "--tolerance": tolerance}
    arguments = [str(each) for key, values in given.items() for value in values or () for each in (key, value)]
    reproduction.write(found, folder, arguments)
    write_json(json_, {"folder": str(folder), **found.to_json()})
    screen.print(reproduction.describe(found, arguments), highlight=False, markup=False)
    seen = f"pass '{pass_}' {found.broken.words}: {found.broken.reason}; {found.model.nodes} nodes in {folder} show it"
    err.print(Text.assemble(("broken: ", "bold red"), " ".join(seen.split())), highlight=False, soft_wrap=True)
    raise typer.Exit(1)
