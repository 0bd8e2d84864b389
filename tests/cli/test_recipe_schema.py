"""recipe-schema: where it writes, and that it knows the passes of plug-ins."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Cli

from graphsurgery.recipe.page import page

PLUGIN = '''\
"""Do nothing, slowly."""

from dataclasses import dataclass

from graphsurgery.rewrite import GraphPass


@dataclass(frozen=True)
class Idle(GraphPass):
    name = "idle-a-while"
    effect = "exact"

    seconds: float
'''


def test_prints_the_schema_and_nothing_else(cli: Cli) -> None:
    outcome = cli("recipe-schema")
    assert (outcome.code, outcome.err) == (0, "")
    schema = json.loads(outcome.out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "idle-a-while" not in outcome.out


def test_a_file_has_the_passes_of_a_plug_in_with_their_options(cli: Cli, tmp_path: Path) -> None:
    plugin, out = tmp_path / "idle.py", tmp_path / "recipe.schema.json"
    plugin.write_text(PLUGIN, encoding="utf-8")
    outcome = cli("recipe-schema", "--plugin", plugin, "--out", out)
    assert (outcome.code, outcome.out) == (0, "")
    names, with_options = json.loads(out.read_text(encoding="utf-8"))["$defs"]["PassItem"]["anyOf"]
    idle = with_options["properties"]["idle-a-while"]
    assert idle["description"] == "Do nothing, slowly.\n\nIt is exact."
    assert (idle["properties"], idle["required"]) == ({"seconds": {"type": "number"}}, ["seconds"])
    assert "idle-a-while" not in {one["const"] for one in names["anyOf"]}
    assert {file.name for file in tmp_path.iterdir()} >= {"idle.py", "recipe.schema.json"}
    assert not list(tmp_path.glob(".graphsurgery*"))


def test_prints_the_page_for_people(cli: Cli) -> None:
    assert cli("recipe-schema", "--markdown").out == page()


def test_a_file_that_can_not_be_written_is_named(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("recipe-schema", "--out", tmp_path / "nowhere" / "x.json")
    assert outcome.code == 2
    assert outcome.last_line.startswith("error: ")
    assert "x.json: can't be written" in outcome.last_line
