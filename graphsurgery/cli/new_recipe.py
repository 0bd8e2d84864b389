"""new-recipe: a recipe for a model and an accelerator, found by trying what helps and proven by running it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import Overrides, Plugins, Weights
from graphsurgery.cli.screen import Display, err, out
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

_KINDS = ("torchvision", "demo")


@app.command("new-recipe")
def new_recipe_command(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx|torchvision:NAME|demo:NAME", help="What it is for.")],
    target: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="The accelerator.")],
    file: Annotated[Path, typer.Option("--out", "-o", help="The recipe to write, a new .yaml file.")],
    precision: Annotated[str | None, typer.Option(help="In which it computes; its usual one if not given.")] = None,
    weights: Weights = None,
    set_: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Write a recipe that takes a model to an accelerator, with what stays on the CPU, and why, in comments.

    What the target's file says helps is tried and kept where it does; the recipe is then run, each pass compared with
    the original model, and what breaks something left out. --set adds to it what a file doesn't say of itself, for
    example --set image=ultralytics --set detections=ultralytics.

    Example: python -m graphsurgery new-recipe detector.onnx --target rk3588 -o detector_rk3588.yaml
    """
    from graphsurgery.files.temporary import temporary_folder, written_whole
    from graphsurgery.pipeline.new_recipe import grown, new_recipe
    from graphsurgery.recipe.load import load_recipe
    from graphsurgery.report.recipe_text import as_yaml
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.targets.find import USUAL

    if file.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"--out {file}: a recipe ends in .yaml")
    if file.exists():
        raise InputError(f"{file}: is there already; give another name, or remove it")
    if not file.parent.is_dir():
        raise InputError(f"{file.parent}: no such folder; make it first")
    kind, _, name = model.partition(":")
    source = {kind: name} if kind in _KINDS and name else {"onnx": str(Path(model).absolute())}
    if "onnx" in source and not Path(model).is_file():
        raise InputError(f"{model}: no such file; a detector of torchvision is written torchvision:NAME")
    wanted = {"name": target, **({"precision": precision} if precision else {})}
    if target.lower().endswith((".yaml", ".yml")):
        wanted["name"] = str(Path(target).absolute())
    registry = discover(plugin or [])
    with temporary_folder() as folder:
        base = folder / f"{file.stem}.yaml"
        base.write_text(as_yaml({"source": source, "target": wanted}), encoding="utf-8")
        recipe = load_recipe(str(base), set_ or [], registry=registry, weights=weights)
        with Display() as display:
            made = new_recipe(recipe, registry, USUAL, file.parent, display)
    with written_whole(file) as path:
        path.write_text(made.text, encoding="utf-8")
    proposal = made.proposal
    found = {part: each.to_json() for part, each in proposal.support.items() if proposal.parts[part] != "cpu"}
    assert recipe.target is not None
    out.print(terminal.support_table(f"What {recipe.target.target.name} takes", {"parts": found}))
    if text := grown(proposal):
        err.print(f"larger: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for each in made.broken:
        err.print(f"left out: {each}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{file}", highlight=False, markup=False, soft_wrap=True)
