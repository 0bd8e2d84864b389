import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_scatter_elements import LowerScatterElements
from graphsurgery.passes.pool_levels_by_gather import PoolLevelsByGather
from graphsurgery.rewrite import apply_pass, apply_passes
from graphsurgery.testing import assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

INPUTS = "int64[rows] level, float[a, 2, 3] u0, float[b, 2, 3] u1, float[c, 2, 3] u2"
WEIGHTS = "int64 k0 = {0}, int64 k1 = {1}, int64 k2 = {2}, int64[2] rest = {2, 3}, int64[3] column = {-1, 1, 1}"
BASE = "n = Shape (level)  size = Concat <axis = 0> (n, rest)  s = ConstantOfShape (size)"


def by_element(level: int, into: str, out: str, attributes: str = "<axis = 0>") -> str:
    """What torchvision exports for one level."""
    return f"""
        e{level} = Equal (level, k{level})
        z{level} = NonZero (e{level})
        r{level} = Reshape (z{level}, column)
        w{level} = Shape (u{level})
        i{level} = Expand (r{level}, w{level})
        {out} = ScatterElements {attributes} ({into}, i{level}, u{level})"""


def by_row(level: int, into: str, out: str, attributes: str = "") -> str:
    """What detectron2 exports for one level."""
    return f"""
        e{level} = Equal (level, k{level})
        z{level} = NonZero (e{level})
        r{level} = Transpose (z{level})
        {out} = ScatterND {attributes} ({into}, r{level}, u{level})"""


def model(
    body: str, weights: str = WEIGHTS, inputs: str = INPUTS, y: str = "float[rows, 2, 3] y", opset: int = 17
) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({y}) <{weights}> {{ {body} }}'


def levels(kind: object, base: str = BASE, last: str = "y") -> str:
    return base + kind(0, "s", "s0") + kind(1, "s0", "s1") + kind(2, "s1", last)  # type: ignore[operator]


def feeds(level: list[int]) -> dict[str, np.ndarray]:
    given: dict[str, np.ndarray] = {"level": np.array(level, np.int64)}
    draw = np.random.default_rng(0).standard_normal
    return given | {f"u{k}": draw((level.count(k), 2, 3)).astype(np.float32) for k in range(3)}


@pytest.mark.parametrize("kind", [by_element, by_row])
@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_rows_of_all_levels_are_gathered_from_one_concat(kind: object, opset: int) -> None:
    before = parse(model(levels(kind), opset=opset))
    after = apply_pass(PoolLevelsByGather(), Model(before)).model
    after.check("after")
    operators = [node.op_type for node in after.proto.graph.node]
    assert not {"ScatterElements", "ScatterND", "ConstantOfShape", "Expand"} & {*operators}
    assert operators.count("Concat") == 3  # the rows, their numbers, and the size
    assert apply_pass(PoolLevelsByGather(), after).model.fingerprint == after.fingerprint
    # the last has boxes that no level takes, which stay zero
    for level in ([0, 1, 2, 1, 0], [2, 2, 2], [0], [], [7, 1, -1, 0, 7]):
        assert_same_outputs(before, after.proto, feeds(level))


def test_it_fires_behind_lower_scatter_elements() -> None:
    before = parse(model(levels(by_element)))
    after = apply_passes([LowerScatterElements(), PoolLevelsByGather()], Model(before)).model.proto
    assert "ScatterND" not in [node.op_type for node in after.graph.node]
    assert_same_outputs(before, after, feeds([0, 1, 2, 1, 0]))


def test_a_later_level_overwrites_an_earlier_one() -> None:
    """The levels need not be disjoint."""
    before = parse(model(levels(by_row), WEIGHTS.replace("k2 = {2}", "k2 = {0}")))
    after = apply_pass(PoolLevelsByGather(), Model(before)).model.proto
    assert "ScatterND" not in [node.op_type for node in after.graph.node]
    given = feeds([0, 1, 0]) | {"u2": np.ones((2, 2, 3), np.float32)}
    assert_same_outputs(before, after, given)


def test_shapes_asked_of_a_level_in_between_are_those_of_the_whole() -> None:
    more = "asked = Shape (s0)"
    before = parse(model(levels(by_element) + more, y="float[rows, 2, 3] y, int64[3] asked"))
    after = apply_pass(PoolLevelsByGather(), Model(before)).model.proto
    assert "ScatterElements" not in [node.op_type for node in after.graph.node]
    assert_same_outputs(before, after, feeds([0, 1, 2, 1, 0]))


def test_what_is_written_into_may_be_any_one_value() -> None:
    held = "s = ConstantOfShape <value = float[1] {2.5}> (size)"
    before = parse(model(levels(by_row, BASE.replace("s = ConstantOfShape (size)", held))))
    after = apply_pass(PoolLevelsByGather(), Model(before)).model.proto
    assert "ScatterND" not in [node.op_type for node in after.graph.node]
    assert_same_outputs(before, after, feeds([7, 0, 1]))


def test_rows_written_into_other_data_are_refused() -> None:
    body = levels(by_row, "").replace("(s,", "(data,")
    text = model(body, inputs=f"{INPUTS}, float[rows, 2, 3] data")
    assert_untouched(PoolLevelsByGather(), text, "written into is not the same everywhere")


def test_a_level_in_between_that_is_read_elsewhere_is_refused() -> None:
    text = model(levels(by_row) + "z = Neg (s0)", y="float[rows, 2, 3] y, float[rows, 2, 3] z")
    assert_untouched(PoolLevelsByGather(), text, "'s0', a level in between, is read elsewhere too")
    text = model(levels(by_row), y="float[rows, 2, 3] y, float[rows, 2, 3] s1")
    assert_untouched(PoolLevelsByGather(), text, "'s1', a level in between, is read elsewhere too")


def test_row_numbers_that_may_be_negative_are_refused() -> None:
    body = f"{BASE} {by_row(0, 's', 's0')}  r1 = Identity (given)  y = ScatterND (s0, r1, u1)"
    text = model(body, inputs=f"{INPUTS}, int64[b, 1] given")
    assert_untouched(PoolLevelsByGather(), text, "nothing tells that the row numbers 'r1' are not negative")


def test_what_combines_values_is_refused() -> None:
    body = BASE + by_row(0, "s", "s0") + by_row(1, "s0", "y", '<reduction = "add">')
    assert_untouched(PoolLevelsByGather(), model(body, opset=18), "it combines what is written with what is there")


def test_one_level_alone_is_refused() -> None:
    assert_untouched(PoolLevelsByGather(), model(BASE + by_row(0, "s", "y")), "it writes one level alone")


def test_what_scatternd_writes_at_row_numbers_is_whole_rows() -> None:
    before = parse(model(levels(by_row), inputs=INPUTS.replace("2, 3", "2, w")))
    after = apply_pass(PoolLevelsByGather(), Model(before)).model.proto
    assert "ScatterND" not in [node.op_type for node in after.graph.node]
    assert_same_outputs(before, after, feeds([0, 1, 2, 1, 0, 7]))


def test_rows_of_unknown_size_are_refused() -> None:
    text = model(levels(by_element), inputs=INPUTS.replace("2, 3", "2, w"))
    assert_untouched(PoolLevelsByGather(), text, "the rows that it writes are not known to be as large")


@fuzz(PoolLevelsByGather())
def test_any_levels_compute_the_same(build: Builder) -> list[str]:
    if build.opset < 11:
        build.reject()
    rank, count = build.integer(1, 4), build.integer(1, 5)
    kind = build.dtype([np.float32, np.float16, np.float64])
    row = build.shape(rank=(rank - 1, rank - 1), sizes=(1, 3))
    which = [build.integer(0, 3) for _ in range(count)]
    level = build.constant(np.array(which, np.int64))
    fill = build.choice([0, 0, 2])
    x = build.constant(np.full([count, *row], fill, kind))
    if build.chance(2):
        value = onnx.numpy_helper.from_array(np.array([fill], kind))
        x = build.node("ConstantOfShape", [build.constant(np.array([count, *row]))], value=value)
    for number in range(build.integer(2, 3)):
        own = build.node("NonZero", [build.node("Equal", [level, build.constant(np.array(number))])])
        sizes = [which.count(number), *row]
        updates = build.input(sizes, kind)
        if build.chance(2):
            x = build.node("ScatterND", [x, build.node("Transpose", [own]), updates])
        else:
            column = build.node("Reshape", [own, build.constant(np.array([-1, *[1] * len(row)]))])
            x = build.node(
                "ScatterElements", [x, build.node("Expand", [column, build.constant(np.array(sizes))]), updates]
            )
    return [x]
