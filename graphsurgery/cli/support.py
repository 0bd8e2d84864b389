"""support: what of a model an accelerator takes, and why not the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Plugins, recipe_of
from graphsurgery.cli.screen import screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal
from graphsurgery.report.support_rows import contradicted, left_by_reason, share

if TYPE_CHECKING:
    from graphsurgery.graph.model import Model
    from graphsurgery.targets.support import Support

_ALL = "all"


@app.command("support")
def support_command(
    model: Annotated[str, typer.Argument(metavar="MODEL|FOLDER|RECIPE", help="An ONNX file, parts, or their recipe.")],
    target: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="The accelerator; `all` for a line of each.")],
    precision: Annotated[
        str | None, typer.Option(help="In which it computes; the target's usual one if not given.")
    ] = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify", help="Exit 2 for what the target's tool stops at, and 0 for what is left to the CPU."
        ),
    ] = False,
    plugin: Plugins = None,
    json_: JsonFile = None,
) -> None:
    """Show what an accelerator takes of a model, why not the rest, and which pass helps. Exit 1 when it takes not all.

    Of a folder of parts, those for an accelerator are looked at.

    Example: python -m graphsurgery support model/shapes --target rk3588
    """
    from graphsurgery.pipeline.certify import require_no_stop
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.targets.find import names
    from graphsurgery.targets.load import load_target
    from graphsurgery.targets.support import support

    screen = screen_for(json_)
    registry = discover(plugin or [])
    if target == _ALL and precision is not None:
        raise InputError("--precision goes with one target: the targets have no precisions in common")
    if target == _ALL and certify:
        raise InputError("--certify goes with one target; name the one that the parts are for")
    targets = [load_target(name, registry) for name in (names() if target == _ALL else [target])]
    models = _models(model, plugin)
    if not models:
        none = f"{model}: none of its parts is for an accelerator"
        if not certify:
            raise InputError(f"{none}; give the file of one")
        screen.print(Text(none))
    found = [(part, support(each, named, precision)) for named in targets for part, each in models.items()]
    if target == _ALL:
        several = len(models) > 1
        rows = [
            [each.target, each.precision, *([part] if several else []), *_shares(each, of=False)]
            for part, each in found
        ]
        columns = ["target", "precision", *(["part"] if several else []), *_COLUMNS]
        screen.print(Text(f"{model} on {len(targets)} targets", "bold"))
        screen.print(terminal.plain_table("", columns, rows))
    for part, each in found if target != _ALL else []:
        title = f"{part} on {each.title}, {each.precision}"
        screen.print(Text(title, "bold"))
        screen.print(terminal.plain_table("", _COLUMNS, [_shares(each)]))
        if each.left:
            left = left_by_reason(each.to_json()["left"])
            rows = [[row.nodes, row.outcome, row.why, row.helps or "-"] for row in left]
            screen.print(terminal.plain_table("", ["nodes", "outcome", "why", "what helps"], rows))
            sources = [[source] for source in dict.fromkeys(row.source for row in left)]
            screen.print(terminal.plain_table("", ["source"], sources))
        if each.contradicted:
            rows = [list(row) for row in contradicted(each.to_json()["contradicted"])]
            columns = ["nodes", "document", "measured"]
            screen.print(terminal.plain_table("Measured, and otherwise than documented", columns, rows))
        screen.print()
    write_json(json_, [{"model": part, **each.to_json()} for part, each in found])
    if certify:
        for part, each in found:
            require_no_stop(part, each)
    elif any(each.left for _, each in found):
        raise typer.Exit(1)


_COLUMNS = ["nodes taken", "multiply-adds taken", "islands"]


def _shares(found: Support, *, of: bool = True) -> list[str]:
    """Return the cells of `_COLUMNS`; `of` says with the total of multiply-adds."""
    told = found.to_json()
    total, unknown = told["multiply_adds"], told["unknown_multiply_adds"]
    of_all = f" of {terminal.rounded_count(total)}" if of and total else ""
    more = f" ({unknown} unknown)" if unknown else ""
    return [f"{told['nodes_taken']} of {told['nodes']}", share(told) + of_all + more, str(told["islands"])]


def _models(model: str, plugins: list[Path] | None) -> dict[str, Model]:
    """Return the model, or the parts for an accelerator, by what they are called."""
    from graphsurgery.graph.model import Model
    from graphsurgery.parts.folder import read_parts

    path = Path(model)
    if not path.is_dir() and not path.is_file():
        try:
            made = Path("model") / recipe_of(model, None, None, plugins).name
        except InputError as error:
            raise InputError(f"{model}: no model, no folder of parts and no recipe ({error})") from error
        if not made.is_dir():
            raise InputError(f"{made}: there are no parts yet; make them: python -m graphsurgery apply {model}")
        path = made
    if path.is_file():
        return {model: Model.load(path)}

    def read(manifest: Any) -> dict[str, Model]:
        return {part.name: Model.load(path / part.file) for part in manifest.parts if part.accelerator}

    return read_parts(path, read)
