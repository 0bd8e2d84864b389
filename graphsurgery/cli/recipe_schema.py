"""recipe-schema: what a recipe may say, for editors and for docs/recipes.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import Plugins
from graphsurgery.cli.screen import save, write_out


@app.command("recipe-schema")
def recipe_schema_command(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this file in place of standard output.")
    ] = None,
    plugin: Plugins = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A page for people in place of the JSON schema.")
    ] = False,
) -> None:
    """Print the JSON schema of a recipe, with every pass that there is: an editor completes and checks with it.

    Example: python -m graphsurgery recipe-schema --plugin my_passes.py --out recipe.schema.json
    """
    from graphsurgery.recipe.json_schema import json_schema
    from graphsurgery.recipe.page import page
    from graphsurgery.rewrite.registry import discover

    text = page() if markdown else json.dumps(json_schema(discover(plugin or [])), indent=1) + "\n"
    if out is None:
        write_out(text)
    else:
        save(out, lambda path: path.write_text(text, encoding="utf-8"))
