"""What differs between two graphs, and how it is drawn."""

from __future__ import annotations

import pytest

from graphsurgery.graph.outline import Outline
from graphsurgery.picture.difference import difference
from graphsurgery.picture.places import Place, around_place, places
from picture.graphs import model, subject

KEPT = ["kept"]
WEIGHTS = "<float[2,2,1,1] w = {1, 2, 3, 4}>"


def became(before: str, after: str, constants: str = "", other: str | None = None) -> tuple[list[str], list[str]]:
    """Return what became of the nodes, those of either graph in their order."""
    found = difference(Outline(model(before, constants)), Outline(model(after, constants if other is None else other)))
    return [found.of_a[i] for i in sorted(found.of_a)], [found.of_b[i] for i in sorted(found.of_b)]


def found(before: str, after: str, constants: str = "", kinds: int = 9) -> list[Place]:
    return places(subject(before, constants), subject(after, constants), kinds)[0]


def test_equal_graphs_have_no_difference() -> None:
    assert found("a = Relu (x)  y = Neg (a)", "a = Relu (x)  y = Neg (a)") == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        # an operator of another kind writes the same tensor
        ("a = Relu (x)  y = Neg (a)", "a = Abs (x)  y = Neg (a)", (["gone", "kept"], ["new", "kept"])),
        # a node is dropped: who reads behind it is as it was
        ("a = Identity (x)  y = Neg (a)", "y = Neg (x)", (["gone", "kept"], ["kept"])),
        # names alone
        (
            "a = Relu (x)  b = Abs (a)  y = Neg (b)",
            "p = Relu (x)  q = Abs (p)  y = Neg (q)",
            (["kept"] * 3, ["kept"] * 3),
        ),
        # an attribute
        ("y = Elu <alpha = 1.0> (x)", "y = Elu <alpha = 2.0> (x)", (["changed"], ["changed"])),
        # another of two tensors that both are still there
        (
            "a = Relu (x)  b = Abs (x)  c = Neg (a)  y = Add (c, b)",
            "a = Relu (x)  b = Abs (x)  c = Neg (b)  y = Add (c, b)",
            (["kept", "kept", "changed", "kept"], ["kept", "kept", "changed", "kept"]),
        ),
    ],
)
def test_nodes_are_told_apart(before: str, after: str, told: tuple[list[str], list[str]]) -> None:
    assert became(before, after) == told


def test_other_weights_are_a_change_and_other_names_of_them_are_none() -> None:
    conv = "y = Conv (x, w)"
    assert became(conv, conv, WEIGHTS, WEIGHTS.replace("4", "5")) == (["changed"], ["changed"])
    assert became(conv, "y = Conv (x, v)", WEIGHTS, WEIGHTS.replace(" w ", " v ")) == (["kept"], ["kept"])


def test_places_that_look_alike_are_drawn_once() -> None:
    before = "a = Neg (x)  b = Relu (a)  c = Neg (b)  d = Relu (c)  y = Abs (d)"
    (neg,) = found(before, before.replace("Neg", "Sqrt"))
    assert (neg.title, neg.count, neg.nodes) == ("Neg -> Sqrt", 2, (1, 1))
    assert [(box.title, box.change) for box in neg.before.boxes] == [("x", ""), ("Neg", "gone"), ("Relu", "kept")]
    assert [(box.title, box.change) for box in neg.after.boxes] == [("x", ""), ("Sqrt", "new"), ("Relu", "kept")]


def test_what_came_stands_beside_what_went_in_its_place() -> None:
    (place,) = found("a = Neg (x)  b = Sqrt (a)  y = Abs (b)", "c = Sin (x)  d = Cos (c)  y = Abs (d)")
    assert (place.title, place.nodes) == ("Neg, Sqrt -> Sin, Cos", (2, 2))


def test_what_only_went_is_a_place_too() -> None:
    (place,) = found("a = Identity (x)  y = Neg (a)", "y = Neg (x)")
    assert place.title == "Identity -> nothing"
    assert [box.title for box in place.after.boxes] == ["x", "Neg", "y"]


def test_the_kinds_of_most_nodes_are_drawn_and_all_are_counted() -> None:
    before = "a = Neg (x)  b = Relu (a)  c = Neg (b)  d = Relu (c)  e = Sin (d)  y = Abs (e)"
    after = before.replace("Neg", "Sqrt").replace("Sin", "Cos")
    shown, kinds = places(subject(before), subject(after), 1)
    assert [place.title for place in shown] == ["Neg -> Sqrt"]
    assert kinds == 2


def test_a_large_place_is_folded() -> None:
    many = "  ".join(f"t{n + 1} = Neg (t{n})" for n in range(300)).replace("(t0)", "(x)") + "  y = Relu (t300)"
    (place,) = places(subject(many), subject(many.replace("Neg", "Sqrt").replace("t", "u")), 1, most=20)[0]
    assert place.nodes == (300, 300)
    assert len(place.before.boxes) <= 22
    assert {box.change for box in place.before.boxes if box.kind == "fold"} == {"gone"}
    assert [box.change for box in place.before.boxes if box.title == "Relu"] == ["kept"]


def test_the_first_difference_stands_out_in_both_graphs() -> None:
    before, after = subject("a = Relu (x)  b = Neg (a)  y = Abs (b)"), subject("a = Relu (x)  b = Sin (a)  y = Abs (b)")
    place = around_place(before, after, "b", most=20)
    assert place is not None
    for scene in (place.before, place.after):
        assert [box.change for box in scene.boxes if box.kind == "node"] == ["kept", "differs", "kept"]
    assert around_place(before, after, "nowhere", most=20) is None
