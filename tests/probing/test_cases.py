"""Cases inside, at and beyond the limits of a target, which the target's own reading of the nodes confirms."""

from __future__ import annotations

import numpy as np
import pytest
from targets.nodes import registry, target

from graphsurgery.probing.build import build
from graphsurgery.probing.cases import Case, Unmeasured, cases_of, forms_of, lines_of
from graphsurgery.probing.one_node import NotBuilt
from graphsurgery.targets.find import names
from graphsurgery.targets.load import load_target
from graphsurgery.targets.schema import Target

ANY = target(precisions=["float16", "int8"])


def cases(found: Target, op: str, precision: str = "float16") -> list[Case | Unmeasured]:
    return [each for line in lines_of(found, frozenset({op})) for each in cases_of(found, line, precision)]


def told(found: Target, op: str, precision: str = "float16") -> list[str]:
    listed = cases(found, op, precision)
    return [f"{c.side}: {c.what} {c.verdict.outcome}" if isinstance(c, Case) else f"not: {c.limit}" for c in listed]


def of(op: str, rules: object, **keys: object) -> Target:
    return target(precisions=["float16", "int8"], others="refused", operators={op: rules}, **keys)


def test_a_range_is_tried_at_both_ends_and_beyond() -> None:
    assert told(of("Conv", {"kernel": "2..5", "else": "cpu"}), "Conv") == [
        "inside: inside taken",
        *("at: kernel 2 taken", "at: kernel 5 taken"),
        *("beyond: kernel 1 cpu", "beyond: kernel 6 cpu", "beyond: kernel 7 cpu"),
    ]


def test_the_words_of_an_attribute_are_tried_one_by_one() -> None:
    found = told(of("Resize", {"nearest_mode": ["floor", "ceil"], "else": "wrong"}), "Resize")
    assert "at: nearest_mode ceil taken" in found
    assert "beyond: nearest_mode round_prefer_floor wrong" in found


def test_a_flag_is_tried_with_0_and_1_alone() -> None:
    found = told(of("TopK", {"largest": 1, "else": "cpu"}), "TopK")
    assert [each for each in found if each.startswith("beyond")] == ["beyond: largest 0 cpu"]


def test_a_stored_input_is_fed_where_it_must_be_constant() -> None:
    found = [each for each in cases(of("Slice", {"constant": ["starts", "steps"]}), "Slice") if isinstance(each, Case)]
    fed = {each.limit: each.node for each in found if each.side == "beyond"}
    assert set(fed) == {"starts", "steps"}
    assert fed["steps"].operands[4].given
    assert not fed["starts"].operands[4].given


def test_a_later_line_gets_a_node_that_no_line_before_it_is_for() -> None:
    rules = [{"when": {"depthwise": True}, "kernel": "1..8"}, {"when": {"kernel": 1}}, {"stride": 1, "else": "cpu"}]
    found = of("Conv", rules)
    per_line = {each.line.number for each in cases(found, "Conv") if isinstance(each, Case)}
    assert per_line == {0, 1, 2}
    assert "beyond: stride 2 cpu" in told(found, "Conv")


def test_a_line_of_a_precision_is_tried_in_that_alone() -> None:
    found = of("Relu", [{"when": {"precision": "int8"}, "taken": False}, {}])
    assert told(found, "Relu") == ["inside: inside taken"]
    assert told(found, "Relu", "int8") == ["inside: inside refused"]


def test_a_precision_that_a_line_leaves_out_is_beyond_it() -> None:
    assert told(of("Relu", {"precisions": ["float16"]}), "Relu", "int8") == ["beyond: precision int8 refused"]


def test_what_has_no_float_is_tried_in_the_first_precision_alone() -> None:
    found = of("And", "taken")
    assert told(found, "And") == ["inside: inside taken"]
    assert told(found, "And", "int8") == []


def test_a_limit_of_which_no_case_can_be_made_is_told_with_the_reason() -> None:
    left = [each for each in cases(of("Relu", {"alpha * beta": "..4"}), "Relu") if isinstance(each, Unmeasured)]
    assert [each.limit for each in left] == ["alpha * beta", "alpha * beta"]
    assert all(each.reason for each in left)


def test_an_operator_without_a_node_is_told() -> None:
    (left,) = cases(of("Loop", "taken"), "Loop")
    assert isinstance(left, Unmeasured)
    assert left.reason == "a node with bodies is more than one node"


def test_forms_say_what_the_file_says_of_them() -> None:
    found = of("Add", {"ranks": "..4", "else": "cpu"})
    said = {each.what: each.verdict.outcome for each in forms_of(found, "Add", "float16")}
    assert said["rank 4"] == "taken"
    assert said["rank 5"] == "cpu"
    assert {"type int64", "broadcast channels", "second_is_constant true", "static false"} <= set(said)


def test_cases_are_the_same_each_time() -> None:
    found = of("Conv", {"kernel": "1..3"})
    one, other = ([c for c in cases(found, "Conv") if isinstance(c, Case)] for _ in range(2))
    assert [c.node.proto.SerializeToString() for c in one] == [c.node.proto.SerializeToString() for c in other]


@pytest.mark.parametrize(("op", "wish"), [("Conv", ("rank", 2)), ("Gather", ("rank", 0)), ("Loop", ("rank", 4))])
def test_a_node_that_cant_be_is_refused_and_not_bent(op: str, wish: tuple[str, int]) -> None:
    with pytest.raises(NotBuilt):
        build(op, dict([wish]), ANY, "float16")


def test_random_values_are_such_that_float16_holds_them() -> None:
    value = build("Relu", {}, ANY, "float16").node.feeds["x0"]
    assert np.array_equal(value, value.astype(np.float16))


def test_axes_differ_in_size_where_a_converter_tells_them_apart_by_that() -> None:
    assert build("Relu", {}, ANY, "float16").node.feeds["x0"].shape == (1, 8, 8, 8)
    found = of("Relu", {"channels": "..16"})
    made = [
        case for line in lines_of(found, frozenset({"Relu"})) for case in cases_of(found, line, "int8", unequal=True)
    ]
    made += forms_of(found, "Relu", "int8", unequal=True)
    shapes = {case.what: case.node.feeds["x0"].shape for case in made if isinstance(case, Case)}
    assert (shapes["inside"], shapes["channels 16"]) == ((1, 8, 10, 12), (1, 16, 10, 12))
    assert (shapes["rank 2"], shapes["rank 3"]) == ((10, 12), (1, 8, 12))


@pytest.mark.parametrize("name", ["qnn-htp", "rk3588", "ethos-u55"])
def test_most_lines_of_a_target_have_a_case(name: str) -> None:
    found = load_target(name, registry()).target
    lines, without = 0, []
    for line in lines_of(found):
        if line.rule.conditions.get("precision") is None:
            lines += 1
            tried = cases_of(found, line, found.precisions[0])
            if not isinstance(next(tried, None), Case):
                without.append(line.name)
    assert name in names()
    assert len(without) <= lines // 5, without
