"""inspect: what is in a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Operators
from graphsurgery.cli.screen import screen_for, warn_of_joined_ranges, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal
from graphsurgery.text import shortened


@app.command("inspect")
def inspect_command(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a folder of parts.")],
    cuts: Annotated[bool, typer.Option("--cuts", help="Show where it can be cut into parts, and which.")] = False,
    target: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="With --cuts: also where this accelerator cuts it.")
    ] = None,
    plugin: Operators = None,
    json_: JsonFile = None,
) -> None:
    """Show operators, inputs and outputs, what is not static, and on demand where it can be cut.

    Example: python -m graphsurgery inspect model/shapes/backbone_rpn.onnx
    """
    from graphsurgery.graph.model import Model
    from graphsurgery.parts.folder import read_parts

    screen = screen_for(json_)
    if target is not None and not cuts:
        raise InputError("--target goes with --cuts; what a target takes of a model, `support` shows")
    if path.is_dir():
        models = read_parts(path, lambda read: {path / part.file: Model.load(path / part.file) for part in read.parts})
    else:
        models = {path: Model.load(path)}
    described = {str(file): _inspect(model) for file, model in models.items()}
    for file, found in described.items():
        rows = [[kind, name, shape] for kind in ("inputs", "outputs") for name, shape in found[kind].items()]
        title = f"{file}: {found['nodes']} nodes, opset {found['opset']}"
        screen.print(title, highlight=False, markup=False, soft_wrap=True)  # a path stays in one piece
        screen.print(terminal.plain_table("", ["", "name", "shape"], rows))
        operators = ", ".join(f"{shortened(op, 60)} {count}" for op, count in found["ops"].items())
        dynamic = found["dynamic"]
        listed = ", ".join(f"{shortened(name, 200)} {shape}" for name, shape in list(dynamic.items())[:8])
        lines = f"operators: {operators}\ndynamic: {len(dynamic) or 'nothing'}{': ' if dynamic else ''}{listed}\n"
        screen.print(lines, highlight=False, markup=False)
        if cuts:
            found["cuts"] = _cuts(models[Path(file)], target, screen)
        warn_of_joined_ranges(found["joined"])
    write_json(json_, described)


def _cuts(model: Any, target: str | None, screen: terminal.Screen) -> dict[str, Any]:
    """Show the candidates for a cut, and return them as --json has them."""
    from graphsurgery.partition.candidates import candidate_by_target, candidates
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.targets.load import load_target
    from graphsurgery.targets.support import taker

    named = None if target is None else load_target(target, discover())
    try:
        found = candidates(model)
        if named is not None:
            own = named.target
            found.insert(0, candidate_by_target(model, taker(model.opset, own, own.precisions[0])))
    except InputError as error:
        screen.print(f"cuts: none; {error}\n", highlight=False, markup=False, soft_wrap=True)
        return {"candidates": [], "reason": str(error)}
    passes_for = discover().passes_for
    for candidate in found:
        needs = candidate.explain_needs(passes_for)
        how = "by: target" if candidate.at is None else f"at: {candidate.at}"
        lines = f"partition: {{{how}}}\n{needs}".rstrip()
        screen.print(lines, highlight=False, markup=False, soft_wrap=True)
        screen.print(terminal.cut_table(candidate), "")
    return {"candidates": [candidate.to_json() for candidate in found]}


def _inspect(model: Any) -> dict[str, Any]:
    from graphsurgery.graph.model import Model
    from graphsurgery.graph.protos import walk_protos
    from graphsurgery.partition.static import dynamic_values
    from graphsurgery.quantize.joined_ranges import told_by_structure
    from graphsurgery.rewrite import Editor
    from graphsurgery.rewrite.context import none_known
    from graphsurgery.rewrite.registry import discover

    view = model.graph()
    Editor(view, "inspect").infer_shapes()
    inferred = Model.of(view)
    interface = {
        kind: {t.name: "unknown" if t.shape is None else str(list(t.shape)).replace("'", "") for t in tensors}
        for kind, tensors in (("inputs", view.inputs), ("outputs", view.outputs))
    }
    ops = Counter(node.op_type for node in walk_protos(model.proto.graph))
    joined = told_by_structure(model)
    outputs_apart = discover().outputs_apart if joined else none_known
    return {
        "nodes": model.nodes,
        "opset": model.opset,
        "ops": dict(ops.most_common()),
        **interface,
        "dynamic": dict(dynamic_values(inferred)),
        "joined": [each.to_json(outputs_apart) for each in joined],
    }
