"""passes and new-pass: which rewrites there are, and the beginning of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile, Plugins
from graphsurgery.cli.screen import out, screen_for, write_json, write_out
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from graphsurgery.rewrite.registry import Registry


@app.command("passes")
def passes_command(
    name: Annotated[str | None, typer.Argument(help="Show this pass: what it does, its options, its effect.")] = None,
    op: Annotated[
        str | None, typer.Option("--op", metavar="OPERATOR", help="List the passes that look at this operator.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME|FILE.yaml", help="List what helps on this accelerator.")
    ] = None,
    plugin: Plugins = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write all there is to say of them to standard output, as a page.")
    ] = False,
    json_: JsonFile = None,
) -> None:
    """List the passes, or show one.

    Example: python -m graphsurgery passes widen-maxpool
    Example: python -m graphsurgery passes --op Resize
    Example: python -m graphsurgery passes --target rk3588
    """
    from graphsurgery.report.passes import describe_pass, paragraphs, reference, text_of
    from graphsurgery.rewrite.registry import discover

    screen = screen_for(json_)
    registry = discover(plugin or [])
    if name is not None and op is not None:
        raise InputError("--op lists passes, and a name shows one; give one of them")
    if target is not None:
        if markdown or name is not None or op is not None:
            raise InputError("--target lists what helps there; give it without a name, --op and --markdown")
        write_json(json_, _show_what_helps(target, registry, screen))
        return
    names = registry.names() if op is None else registry.looking_at(op)
    if markdown:
        if json_ is not None:
            raise InputError("--markdown and --json say the same; give one of them")
        write_out(reference([registry.get(each) for each in ([name] if name else names)]))
        return
    if name is None:
        described = [describe_pass(registry.get(each)) for each in names]
        rows = [[each["name"], each["effect"], each["summary"]] for each in described]
        screen.print(terminal.plain_table("Passes", ["pass", "effect", "what it does"], rows))
        write_json(json_, described)
        return
    pass_ = registry.get(name)
    described_pass = describe_pass(pass_)
    screen.print(f"{name} ({described_pass['effect']})\n", style="bold", highlight=False)
    if described_pass["matches"]:
        screen.print(f"Looks at: {', '.join(described_pass['matches'])}\n", highlight=False)
    screen.print(paragraphs(text_of(pass_)), highlight=False, markup=False)
    if described_pass["options"]:
        rows = [[o["name"], o["type"], o["default"]] for o in described_pass["options"]]
        screen.print()
        screen.print(terminal.plain_table("Options", ["option", "type", "default"], rows))
        if described_pass["about"]:
            screen.print(f"\n{paragraphs(described_pass['about'])}", highlight=False, markup=False)
    write_json(json_, described_pass)


def _show_what_helps(target: str, registry: Registry, screen: Console) -> list[dict[str, Any]]:
    """Show each line of a target that names passes; return them as --json has them."""
    from graphsurgery.targets.helps import helps
    from graphsurgery.targets.load import load_target

    named = load_target(target, registry)
    found = helps(named)
    rows = [["\n".join(each.passes), ", ".join(each.operators), each.taken, each.outcome] for each in found]
    columns = ["pass", "operators", "what is taken", "else"]
    screen.print(terminal.plain_table(f"What helps on {named.target.title}", columns, rows))
    sources = [[source] for source in dict.fromkeys(each.source for each in found)]
    screen.print(terminal.plain_table("", ["source"], sources))
    return [each.to_json() for each in found]


@app.command("new-pass")
def new_pass_command(
    name: Annotated[str, typer.Argument(help="What the pass is called: a verb and what it acts on, lower-foo.")],
    matches: Annotated[str, typer.Option(metavar="OPERATOR", help="The ONNX operator that it looks for.")],
    plugin: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this Python file, in place of one in the checkout.")
    ] = None,
    effect: Annotated[
        Literal["exact", "approximate"], typer.Option(help="Whether what is computed stays the same.")
    ] = "exact",
) -> None:
    """Write the file of a new pass and its test, to be filled in; docs/write-a-pass.md says how.

    Example: python -m graphsurgery new-pass lower-det --matches Det --plugin lower_det.py
    """
    from graphsurgery.testing.new_pass import new_pass

    written = new_pass(name, matches, effect, plugin)
    written.write()
    shown = f" --plugin {written.file}" if written.plugin else ""
    lines = (
        f"{written.file}\n{written.test}\n\n"
        f"It is a pass already: python -m graphsurgery passes {name}{shown}\n"
        f"What is left to do:   python -m pytest {written.test}"
    )
    out.print(lines, highlight=False, markup=False, soft_wrap=True)
