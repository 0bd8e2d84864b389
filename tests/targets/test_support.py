"""A graph held against a target: what becomes of each node, why, and in how many islands."""

from __future__ import annotations

import pytest

from graphsurgery.errors import InputError
from targets.nodes import judged, model, supported, target

CONV = "g (float[1, 4, 8, 8] x, float[4, 4, 3, 3] w) => (float[1, 4, 6, 6] y) { y = Conv (x, w) }"
OPEN = "g (float[1, 4, h, 8] x, float[4, 4, 3, 3] w) => (float[1, 4, a, 6] y) { y = Conv (x, w) }"
RELU = "g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }"


def test_a_node_within_its_limits_is_taken() -> None:
    found = judged(CONV, target(operators={"Conv": {"kernel": "1..3", "at": "table 2"}}))
    assert (found.outcome, found.limit, found.reason, found.at) == ("taken", None, "", "table 2")


@pytest.mark.parametrize(
    ("rule", "outcome", "reason", "fixes"),
    [
        ({"kernel": "..2", "else": "refused"}, "refused", "kernel 3, where at most 2 is taken", ()),
        ({"kernel": [1, 2], "else": "crash"}, "crash", "kernel 3, where 1 or 2 is taken", ()),
        ({"kernel": 1, "fix": "lower-gemm"}, "cpu", "kernel 3, where 1 is taken", ("lower-gemm",)),
        ({"kernel": 1, "fix": {"kernel": ["a", "b"], "stride": "c"}}, "cpu", "kernel 3, where 1 is taken", ("a", "b")),
        ({"kernel": 1, "fix": {"stride": "c"}}, "cpu", "kernel 3, where 1 is taken", ()),
        ({"kernel": 1, "else": {"kernel": "crash", "stride": "refused"}}, "crash", "kernel 3, where 1 is taken", ()),
        ({"kernel": 1, "else": {"stride": "refused"}}, "cpu", "kernel 3, where 1 is taken", ()),
        ({"depthwise": True}, "cpu", "not depthwise", ()),
        ({"square_kernel": False}, "cpu", "square kernel", ()),
        ({"is_layer": False}, "cpu", "layer", ()),
        ({"auto_pad": ["SAME_UPPER"]}, "cpu", "auto_pad NOTSET, where SAME_UPPER is taken", ()),
        ({"channels": "multiple of 8"}, "cpu", "channels 4, where a multiple of 8 is taken", ()),
        ({"width * channels": "..31"}, "cpu", "width * channels 32, where at most 31 is taken", ()),
        ({"constant": "W"}, "cpu", "W isn't constant", ()),
        ({"omitted": "W"}, "cpu", "W is given", ()),
        ({"written": ["W", "strides"], "else": "crash"}, "crash", "strides isn't written out", ()),
        ({"taken": False}, "cpu", "never taken", ()),
        ({"taken": False, "else": "refused", "note": "not yet"}, "refused", "not yet", ()),
        ({"taken": False, "else": "unknown"}, "unknown", "not known", ()),
        ({"taken": False, "else": "wrong", "note": "other numbers"}, "wrong", "other numbers", ()),
    ],
)
def test_a_node_beyond_a_limit(rule: dict[str, object], outcome: str, reason: str, fixes: tuple[str, ...]) -> None:
    found = judged(CONV, target(others="cpu", operators={"Conv": rule}))
    assert (found.outcome, found.reason, found.fixes) == (outcome, reason, fixes)


def test_the_first_rule_counts_whose_conditions_hold() -> None:
    rules = [
        {"when": {"kernel": 1}, "taken": False, "else": "crash"},
        {"when": {"kernel": 3, "stride": "2.."}, "taken": False, "else": "refused"},
        {"kernel": "..2", "else": "unknown"},
    ]
    found = judged(CONV, target(operators={"Conv": rules}))
    assert (found.outcome, found.limit) == ("unknown", "kernel")
    assert (
        judged(CONV.replace("Conv (", "Conv <strides = [2, 2]> ("), target(operators={"Conv": rules})).outcome
        == "refused"
    )


def test_a_node_that_no_rule_is_for() -> None:
    rules = [{"when": {"kernel": 1}}, {"when": {"kernel": 5, "stride": 1}, "else": "refused"}]
    found = judged(CONV, target(operators={"Conv": rules}))
    assert (found.outcome, found.reason) == ("refused", "kernel 3, where 1 or 5 is taken")
    clip = "g (float[2] x) => (float[2] y) <float l = {-1}> { y = Clip (x, , l) }"
    found = judged(clip, target(others="cpu", operators={"Clip": [{"when": {"min": 0}}, {"when": {"min": -1}}]}))
    assert (found.outcome, found.reason) == ("cpu", "min none, where 0 or -1 is taken")


def test_what_is_not_known_is_unknown_and_keeps_its_fixes() -> None:
    rule = {"height": "..8", "else": "refused", "fix": {"height": "freeze-shapes"}}
    found = judged(OPEN, target(operators={"Conv": rule}))
    assert (found.outcome, found.limit, found.fixes) == ("unknown", "height", ("freeze-shapes",))
    assert found.reason == "height isn't known, where at most 8 is taken"
    assert judged(OPEN, target(operators={"Conv": {"width": 8}})).outcome == "taken"
    found = judged(OPEN, target(operators={"Conv": [{"when": {"height": 8}}, {"kernel": 3}]}))
    assert (found.outcome, found.limit) == ("unknown", "height")


def test_a_limit_of_what_a_node_has_not_is_kept() -> None:
    assert judged(RELU, target(operators={"Relu": {"kernel": 1, "step": 1}})).outcome == "taken"


def test_precisions() -> None:
    found = target(
        precisions=["int8", "float16"], operators={"Relu": {"precisions": "float16", "fix": {"precisions": "a"}}}
    )
    assert judged(RELU, found, "float16").outcome == "taken"
    verdict = judged(RELU, found, "int8")
    assert (verdict.outcome, verdict.reason) == ("unknown", "precision int8, where float16 is taken")
    assert verdict.fixes == ("a",)
    by_precision = target(
        precisions=["int8", "float16"],
        operators={"Relu": [{"when": {"precision": "int8"}, "width": "..2"}, {"width": "..4"}]},
    )
    assert [judged(RELU, by_precision, each).outcome for each in ("int8", "float16")] == ["unknown", "taken"]


def test_limits_of_all_tensors_go_before_but_for_what_a_rule_says_itself() -> None:
    tensors = {"static": True, "ranks": "..3", "else": {"static": "refused"}, "fix": {"static": "freeze-shapes"}}
    found = target(tensors=tensors, others="cpu", operators={"Relu": {}, "Conv": {"ranks": "..4"}})
    assert judged(RELU, found).outcome == judged(CONV, found).outcome == "taken"
    verdict = judged(OPEN, found)
    assert (verdict.outcome, verdict.reason, verdict.fixes) == ("refused", "not static", ("freeze-shapes",))
    deep = judged("g (float[1, 1, 1, 1] x) => (float[1, 1, 1, 1] y) { y = Relu (x) }", found)
    assert (deep.outcome, deep.reason) == ("cpu", "ranks 4, where at most 3 is taken")


def test_others_and_what_is_beyond_a_limit_where_nothing_is_said() -> None:
    assert judged(RELU, target(others="taken")).outcome == "taken"
    found = judged(RELU, target(others="unknown"))
    assert (found.outcome, found.reason) == ("unknown", "the source doesn't list it")
    assert judged(RELU, target(others={"taken": False, "else": "refused", "note": "no"})).reason == "no"
    cases = {"taken": "unknown", "cpu": "cpu", "refused": "refused"}
    for others, beyond in cases.items():
        assert judged(RELU, target(others=others, operators={"Relu": {"rank": 4}})).outcome == beyond
    assert judged(RELU, target(others="cpu", operators={"Relu": {"rank": 4}}, **{"else": "crash"})).outcome == "crash"


def test_each_line_has_its_source() -> None:
    sources = {"list": {"title": "A list", "date": "2026", "basis": "document"}}
    sources["page"] = {"title": "A page", "date": "2026", "basis": "code"}
    found = target(sources=sources, operators={"Relu": {"source": "page"}, "Conv": {"kernel": 1, "at": 5}})
    assert str(judged(RELU, found).source) == "A page, 2026 (code)"
    assert (str(judged(CONV, found).source), judged(CONV, found).at) == ("A list, 2026 (document)", "5")


def test_an_operator_of_another_domain_goes_by_its_full_name() -> None:
    body = "g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu (x) }"
    proto = model(body, domains=', "com.microsoft": 1')
    found = target(others="cpu", operators={"com.microsoft.Gelu": "taken", "Gelu": "refused"})
    assert supported(proto, found).to_json()["nodes_taken"] == 1


# --- graphs -------------------------------------------------------------------------------------------------------


def test_what_constants_alone_decide_is_not_counted() -> None:
    body = """g (float[2] x) => (float[2] y) <float[2] k = {1, 2}> {
        c = Constant <value_floats = [1.0, 2.0]> ()
        d = Add (c, k)
        y = Mul (x, d)
    }"""
    found = supported(model(body), target())
    assert [node.op for node in found.nodes] == ["Mul"]


def test_multiply_adds_are_counted() -> None:
    found = supported(model(CONV), target(others="cpu", operators={"Conv": {"kernel": 1}})).to_json()
    assert (found["nodes"], found["nodes_taken"], found["islands"]) == (1, 0, 0)
    assert (found["multiply_adds"], found["multiply_adds_taken"]) == (4 * 4 * 9 * 36, 0)
    assert supported(model(OPEN), target()).to_json()["unknown_multiply_adds"] == 1
    left = found["left"][0]
    assert (left["op"], left["outcome"], left["limit"], left["seen"], left["allowed"]) == (
        "Conv",
        "cpu",
        "kernel",
        "3",
        "1",
    )
    assert left["source"] == "a list, 2026 (document)"


def test_a_precision_that_the_target_has_not() -> None:
    with pytest.raises(InputError, match="target 'mine' has no precision 'int4', but int8"):
        supported(model(RELU), target(precisions=["int8"]), "int4")


# a letter is a node that is taken, one in capitals isn't: what it reads, then what it writes
ISLANDS = [
    ("a: x > 1\nb: 1 > y", 1),
    ("a: x > 1\nB: 1 > 2\nc: 2 > y", 2),
    ("A: x > y", 0),
    ("a: x > 1\nb: x > 2\nC: 1 2 > y", 2),  # they run one after another or at once, but not as one
    ("A: x > 1\nb: 1 > 2\nc: 1 > 3\nd: 2 3 > y", 1),
    ("a: x > 1\nB: 1 > 2\nc: 1 2 > y", 2),  # c is beside a, and yet waits for B, which reads of a
    ("a: x > 1\nB: 1 > 2\nc: 1 > 3\nd: 3 2 > y", 2),
    ("A: x > 1\nb: 1 > 2\nc: x > 3\nd: 2 3 > y", 1),
    ("a: x > 1\nB: x > 2\nc: 1 2 > y", 1),  # nothing of a goes through B
    ("a: x > 1\nB: 1 > 2\nc: 2 > 3\nD: 3 > 4\ne: 4 1 > y", 3),
]


@pytest.mark.parametrize(("drawn", "islands"), ISLANDS)
def test_islands(drawn: str, islands: int) -> None:
    lines = []
    for line in drawn.splitlines():
        name, _, wires = line.partition(": ")
        reads, _, writes = wires.partition(" > ")
        one, *more = [wire if wire == "x" else f"t{wire}" for wire in reads.split()]
        op = ("Add" if name.islower() else "Sub") if more else "Neg" if name.islower() else "Exp"
        lines.append(f"{writes if writes == 'y' else f't{writes}'} = {op} ({', '.join([one, *more])})")
    body = "g (float[2] x) => (float[2] y) {\n" + "\n".join(lines) + "\n}"
    assert supported(model(body), target(operators={"Exp": "cpu", "Sub": "cpu"})).islands == islands
