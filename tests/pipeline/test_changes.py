"""What a pass changed, as run.json and the report have it."""

from __future__ import annotations

import json

from picture.graphs import model
from pydantic import TypeAdapter

from graphsurgery.debugging.bisect import bisect, from_mapping
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.picture.places import Place
from graphsurgery.pipeline.changes import changes, first_difference
from graphsurgery.report.run_file import _Changes
from graphsurgery.report.run_record import Step
from graphsurgery.runtime.random_inputs import random_inputs

NODES = "a = Relu (x)  b = Neg (a)  y = Abs (b)"
IF = """
    n = ReduceSum <keepdims = 0> (x)  z = Constant <value = float {-1e9}> ()  c = Greater (n, z)
    y = If (c) <then_branch = one () => (float[1,2,8,8] t) { inside = Neg (x)  t = Relu (inside) },
                else_branch = other () => (float[1,2,8,8] e) { e = Abs (x) }>"""


def test_a_pass_that_changes_nothing_tells_nothing() -> None:
    assert changes(model(NODES), model(NODES)) == {}
    assert "changes" not in Step("p").to_json()


def test_what_changed_goes_through_run_json_whole() -> None:
    told = changes(model(NODES), model(NODES.replace("Neg", "Sin")))
    step = Step("p", changes=told).to_json()
    read = TypeAdapter(_Changes).validate_python(json.loads(json.dumps(step["changes"])), strict=True)
    assert read["kinds"] == 1
    (place,) = map(Place.from_json, read["places"])
    assert (place.title, place.nodes) == ("Neg -> Sin", (1, 1))
    assert [box.title for box in place.after.boxes] == ["x", "Relu", "Sin", "Abs", "y"]


def test_the_record_of_a_large_change_stays_small() -> None:
    many = "  ".join(f"t{n + 1} = Neg (t{n})" for n in range(900)).replace("(t0)", "(x)") + "  y = Relu (t900)"
    told = changes(model(many), model(many.replace("Neg", "Sin")))
    assert len(json.dumps(told)) < 40_000
    assert told["places"][0]["nodes"] == [900, 900]


def found(before: Model, after: Model) -> Place:
    divergence = bisect(
        before, after, from_mapping(random_inputs(before.proto)), Tolerances(), lambda done, total: None
    ).divergences[0]
    told = first_difference(before, after, divergence)
    assert told is not None
    return Place.from_json(told)


def test_the_first_difference_is_told_with_its_surroundings() -> None:
    place = found(model(NODES), model(NODES.replace("Neg", "Sin")))
    assert place.title == "tensor 'b'"
    assert {box.title: box.change for box in place.after.boxes if box.kind == "node"} == {
        "Relu": "kept", "Sin": "differs", "Abs": "kept",
    }  # fmt: skip


def test_a_first_difference_in_a_body_is_told_in_that_body() -> None:
    place = found(model(IF), model(IF.replace("Neg", "Sin")))
    assert place.title.startswith("If 'y'")
    assert {box.title: box.change for box in place.before.boxes if box.kind == "node"} == {
        "Neg": "differs", "Relu": "kept",
    }  # fmt: skip
