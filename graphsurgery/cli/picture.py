"""picture: a graph, a region of it, or what differs between two, as SVG or HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Plugins
from graphsurgery.cli.screen import err, save, screen_for, write_json
from graphsurgery.errors import InputError, ModelError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.graph.model import Model
    from graphsurgery.picture.page import Figure
    from graphsurgery.picture.plain import Subject
    from graphsurgery.targets.load import Named

_SUFFIXES = (".svg", ".html")
_MOST_KINDS = 20  # of differences that are drawn


@app.command("picture")
def picture_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file, or a folder of parts.")],
    after: Annotated[
        Path | None, typer.Argument(metavar="AFTER", help="Another ONNX file: draw what differs, side by side.")
    ] = None,
    *,
    out_: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.svg|.html", help="Where the picture goes.")],
    around: Annotated[
        str | None, typer.Option(metavar="TENSOR|NODE", help="Draw the region around this, instead of the whole.")
    ] = None,
    depth: Annotated[int, typer.Option(min=0, max=1000, help="How many steps a region goes, both ways.")] = 4,
    most: Annotated[int, typer.Option(min=2, max=1000, help="Boxes at most; of more nodes some become one.")] = 200,
    target: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Colour the nodes by what this accelerator takes.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="In which the target computes; its usual one if not given.")
    ] = None,
    plugin: Plugins = None,
    json_: JsonFile = None,
) -> None:
    """Draw a graph with the shapes of its tensors, for a browser. Needs the extra `picture`.

    Example: python -m graphsurgery picture model/shapes/backbone_rpn.onnx --target rk3588 -o backbone.svg
    Example: python -m graphsurgery picture before.onnx after.onnx -o difference.html
    """
    from graphsurgery.picture.page import html_page, svg_page
    from graphsurgery.processes import graphviz_process
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.targets.load import load_target

    if out_.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--out {out_}: a picture is an .svg or an .html file; name one")
    if precision is not None and target is None:
        raise InputError("--precision goes with --target")
    graphviz_process.require()
    graphviz_process.running.start()
    registry = discover(plugin or [])
    named = None if target is None else load_target(target, registry)
    screen = screen_for(json_)
    if after is None:
        figures, told = _one(model, around, depth, most, named, precision)
    elif around is not None:
        raise InputError("--around goes with one model: of two, the places that differ are drawn")
    else:
        figures, told = _two(model, after, most, named, precision, screen)
    write_json(json_, [figure.to_json() for figure in figures])
    if not figures:
        screen.print(told[0], highlight=False, markup=False, soft_wrap=True)
        return
    write = svg_page if out_.suffix.lower() == ".svg" else html_page
    page = write(model.name if after is None else f"{model.name} -> {after.name}", told, figures)
    save(out_, lambda path: path.write_text(page, encoding="utf-8"))
    screen.print(str(out_), highlight=False, markup=False, soft_wrap=True)


def _one(
    path: Path, name: str | None, depth: int, most: int, named: Named | None, precision: str | None
) -> tuple[list[Figure], list[str]]:
    """Return a figure for the model, or for each of the parts in a folder, and what is to be said of them."""
    from graphsurgery.picture.page import Figure
    from graphsurgery.picture.plain import around, whole

    models, hosts = _models(path)
    subjects = {part: _subject(model, None if part in hosts else named, precision) for part, model in models.items()}
    figures, drawn, errors = [], 0, []
    for part, subject in subjects.items():
        try:
            scene = whole(subject, most) if name is None else around(subject, name, depth, most)
        except InputError as error:  # in a folder, one of the parts has it
            errors.append(error)
            continue
        figures.append(Figure(part, [("", scene)]))
        drawn += sum(box.kind in ("node", "weights", "fold") for box in scene.boxes)
    if not figures:
        raise errors[0]
    nodes = sum(model.nodes for model in models.values())
    told = [f"{nodes:,} nodes" if name is None else f"{drawn:,} of {nodes:,} nodes, around {name}"]
    if name is None and drawn < 0.9 * sum(len(subject.outline.order) for subject in subjects.values()):
        told[0] += f" in {drawn:,} boxes"
    if named is not None:
        chosen = precision or named.target.precisions[0]
        told.append(f"on {named.target.title}, {chosen}")
    return figures, told


def _two(
    path: Path, other: Path, most: int, named: Named | None, precision: str | None, screen: terminal.Screen
) -> tuple[list[Figure], list[str]]:
    """Return a figure for each kind of place where two models differ, and what is to be said; no figure without one."""
    from graphsurgery.graph.model import Model
    from graphsurgery.picture.page import figure_of
    from graphsurgery.picture.places import places

    before, after = (_subject(Model.load(each), named, precision) for each in (path, other))
    found, kinds = places(before, after, _MOST_KINDS, most)
    if not found:
        return [], [f"{path} and {other} have the same nodes: there is no difference to draw"]
    rows = [[str(place.count), place.title] for place in found]
    screen.print(terminal.plain_table("", ["places", "before -> after"], rows))
    sizes = [len(subject.outline.nodes) for subject in (before, after)]
    told = [f"{sizes[0]:,} nodes before, {sizes[1]:,} after"]
    if kinds > len(found):
        told.append(f"the {len(found)} largest of {kinds} kinds of difference")
    if named is not None:
        told.append(f"on {named.target.title}, {precision or named.target.precisions[0]}")
    return [figure_of(place) for place in found], told


def _models(path: Path) -> tuple[dict[str, Model], set[str]]:
    """Return the model, or the parts in a folder by their names, and which of these are for no accelerator."""
    from graphsurgery.graph.model import Model
    from graphsurgery.parts.folder import read_parts

    if path.is_dir():
        return read_parts(
            path,
            lambda manifest: (
                {part.name: Model.load(path / part.file) for part in manifest.parts},
                {part.name for part in manifest.parts if not part.accelerator},
            ),
        )
    return {"": Model.load(path)}, set()


def _subject(model: Model, named: Named | None, precision: str | None) -> Subject:
    """Return the model with the shapes that follow from its inputs, and what the target makes of its nodes."""
    from graphsurgery.graph.model import Model
    from graphsurgery.graph.shapes import infer_shapes
    from graphsurgery.picture.plain import Outcome, Subject
    from graphsurgery.targets.support import support

    verdicts = support(model, named, precision).nodes if named is not None else []
    outcomes = {
        node.number: Outcome(node.verdict.outcome, node.verdict.reason, ", ".join(node.verdict.fixes))
        for node in verdicts
    }
    try:
        view = model.graph()
        infer_shapes(view, model.folder)
        model = Model.of(view, model.folder)
    except ModelError as error:
        err.print(
            f"no shapes but those in the file: {error}", markup=False, highlight=False, soft_wrap=True, style="yellow"
        )
    return Subject.of(model, outcomes)
