import numpy as np
import pytest

from graphsurgery.passes.lower_expand import LowerExpand
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

X, Y = "float[1, 3, 1] x", "float[1, 3, 5] y"


def model(nodes: str, weights: str = "", x: str = X, y: str = Y, opset: int = 17) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({x}) => ({y}) <{weights}> {{
            {nodes}
        }}"""


def expand(shape: str, x: str = X, y: str = Y, opset: int = 17) -> str:
    count = len(shape.split(",")) if shape else 0
    return model("y = Expand (x, s)", f"int64[{count}] s = {{{shape}}}", x, y, opset)


@pytest.mark.parametrize("shape", ["1, 3, 5", "1, 5", "5", "1, 1, 5"])
@pytest.mark.parametrize("opset", [8, 17])
def test_becomes_a_tile(shape: str, opset: int) -> None:
    after = model("y = Tile (x, y_repeats)", "int64[3] y_repeats = {1, 1, 5}", opset=opset)
    assert_rewrites(LowerExpand(), expand(shape, opset=opset), after)


def test_new_axes_come_by_a_reshape() -> None:
    y = "float[2, 1, 3, 5] y"
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Tile (y_reshape, y_repeats)"""
    weights = "int64[4] y_shape = {1, 1, 3, 1}, int64[4] y_repeats = {2, 1, 1, 5}"
    assert_rewrites(LowerExpand(), expand("2, 1, 3, 5", y=y), model(nodes, weights, y=y))


def test_a_scalar_fills_a_tensor() -> None:
    x, y = "float x", "float[2, 3] y"
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Tile (y_reshape, y_repeats)"""
    weights = "int64[2] y_shape = {1, 1}, int64[2] y_repeats = {2, 3}"
    assert_rewrites(LowerExpand(), expand("2, 3", x, y), model(nodes, weights, x, y))


def test_new_axes_alone_need_no_tile() -> None:
    y = "float[1, 1, 3, 1] y"
    after = model("y = Reshape (x, y_shape)", "int64[4] y_shape = {1, 1, 3, 1}", y=y)
    assert_rewrites(LowerExpand(), expand("1, 1, 3, 1", y=y), after)


def test_sizes_that_are_not_known_may_stay_so_where_the_shape_is_1() -> None:
    x, y = "float[n, 3, 1] x", "float[n, 3, 5] y"
    assert_rewrites(
        LowerExpand(),
        expand("1, 3, 5", x, y),
        model("y = Tile (x, y_repeats)", "int64[3] y_repeats = {1, 1, 5}", x, y),
    )
    y = "float[2, n, 3, 1] y"
    nodes = """y_reshape = Reshape (x, y_shape)
            y = Tile (y_reshape, y_repeats)"""
    weights = "int64[4] y_shape = {1, -1, 3, 1}, int64[4] y_repeats = {2, 1, 1, 1}"
    assert_rewrites(LowerExpand(), expand("2, 1, 1, 1", x, y), model(nodes, weights, x, y))


@pytest.mark.parametrize("shape", ["1, 3, 1", "3, 1", "1", ""])
def test_goes_where_it_does_nothing(shape: str) -> None:
    y = "float[1, 3, 1] y"
    count = len(shape.split(",")) if shape else 0
    before = model("r = Relu (x)\ne = Expand (r, s)\ny = Neg (e)", f"int64[{count}] s = {{{shape}}}", y=y)
    assert_rewrites(LowerExpand(), before, model("r = Relu (x)\ny = Neg (r)", y=y))


def test_goes_where_it_does_nothing_to_an_output() -> None:
    y = "float[1, 3, 1] y"
    before = model("r = Relu (x)\ny = Expand (r, s)", "int64[1] s = {1}", y=y)
    assert_rewrites(LowerExpand(), before, model("y = Relu (x)", y=y))


def test_goes_where_its_reader_broadcasts_anyway() -> None:
    x = "float[1, 3] x, float[2, 3] w"
    before = model("e = Expand (x, s)\ny = Add (e, w)", "int64[2] s = {2, 3}", x, "float[2, 3] y")
    assert_rewrites(LowerExpand(), before, model("y = Add (x, w)", "", x, "float[2, 3] y"))


def test_goes_where_all_operands_of_a_where_broadcast() -> None:
    x = "bool[2, 3] c, float[3] x, float[1] w"
    before = model("e = Expand (x, s)\ny = Where (c, e, w)", "int64[2] s = {2, 3}", x, "float[2, 3] y")
    assert_rewrites(LowerExpand(), before, model("y = Where (c, x, w)", "", x, "float[2, 3] y"))


@pytest.mark.parametrize(
    ("reader", "other"),
    [
        ("Add (e, w)", "float[1, 3] w"),
        ("Mul (e, e)", "float[2, 3] w"),
        ("Concat <axis = 1> (e, w)", "float[2, 3] w"),
        ("PRelu (e, w)", "float[2, 3] w"),
    ],
)
def test_stays_as_a_tile_where_its_reader_needs_the_shape(reader: str, other: str) -> None:
    x, y = f"float[1, 3] x, {other}", f"float[2, {6 if 'Concat' in reader else 3}] y"
    before = model(f"e = Expand (x, s)\ny = {reader}", "int64[2] s = {2, 3}", x, y)
    after = model(f"e = Tile (x, e_repeats)\ny = {reader}", "int64[2] e_repeats = {2, 1}", x, y)
    assert_rewrites(LowerExpand(), before, after)


def test_a_tile_stays_for_the_readers_that_need_it_and_for_outputs() -> None:
    x = "float[1, 3] x, float[2, 3] w"
    y = "float[2, 3] y, float[2, 3] z, float[2, 3] e"
    before = model("e = Expand (x, s)\ny = Add (w, e)\nz = Relu (e)", "int64[2] s = {2, 3}", x, y)
    after = model("e = Tile (x, e_repeats)\ny = Add (w, x)\nz = Relu (e)", "int64[2] e_repeats = {2, 1}", x, y)
    assert_rewrites(LowerExpand(), before, after)


def test_works_inside_an_if_body_and_for_readers_in_one() -> None:
    def body(nodes: str, outer: str, weights: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[1, 3] x, float[2, 3] w) => (float[2, 3] y) <int64[2] s = {{2, 3}}> {{
            {outer}
            y = If (c) <
                then_branch = t () => (float[2, 3] a) {weights} {{ {nodes} }},
                else_branch = f () => (float[2, 3] b) {{ b = ConstantOfShape (s) }}
            >
        }}"""

    after = body("a = Add (x, w)", "")
    assert_rewrites(LowerExpand(), body("e = Expand (x, s) a = Add (e, w)", ""), after)
    assert_rewrites(LowerExpand(), body("a = Add (e, w)", "e = Expand (x, s)"), after)
    tiled = body("a = Tile (x, a_repeats)", "", "<int64[2] a_repeats = {2, 1}>")
    assert_rewrites(LowerExpand(), body("a = Expand (x, s)", ""), tiled)


@pytest.mark.parametrize("x", [f"{X}, int64[3] s", f"{X}, int64[3] z"])
def test_leaves_a_shape_that_may_change_alone(x: str) -> None:
    nodes = "y = Expand (x, s)" if "] s" in x else "q = Abs (z)\ny = Expand (x, q)"
    text = model(nodes, "int64[3] s = {1, 3, 5}", x, "float[a, b, c] y")
    assert_untouched(LowerExpand(), text, "not constant")


def test_leaves_an_unknown_rank_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) <int64[1] s = {2}> {
            w = mine.Foo (x)
            y = Expand (w, s)
        }"""
    assert_untouched(LowerExpand(), text, "rank")


def test_leaves_a_size_alone_that_may_be_1() -> None:
    text = expand("1, 3, 5", "float[1, n, 1] x", "float[1, 3, 5] y")
    assert_untouched(LowerExpand(), text, "axis 1 is not known: it may be 1 or 3")


@pytest.mark.parametrize(
    ("shape", "x", "reason"),
    [
        ("1, 2, 1", "float[1, 3, 1] x", "size 2 of size 3"),
        ("1, 3, -1", "float[1, 3, 1] x", "size -1 of size 1"),
        ("0, 3, 1", "float[1, 3, 1] x", "size 0 of size 1"),
    ],
)
def test_leaves_shapes_that_do_not_fit_or_are_empty_alone(shape: str, x: str, reason: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g ({x}) => (float[a, b, c] y) <int64[3] s = {{{shape}}}> {{
            w = Expand (x, s)
            y = mine.Foo (w)
        }}"""
    assert_untouched(LowerExpand(), text, reason)


@pytest.mark.parametrize("x", ["float[n, m, 1] x", "float[0, 3, 1] x"])
def test_leaves_sizes_behind_a_new_axis_alone_that_a_reshape_can_not_tell(x: str) -> None:
    text = expand("2, 1, 1, 5", x, "float[2, a, b, 5] y")
    assert_untouched(LowerExpand(), text, "can't be written down")


def test_becomes_an_identity_that_gives_an_input_the_name_of_an_output() -> None:
    y = "float[1, 3, 1] y"
    assert_rewrites(LowerExpand(), expand("1", y=y), model("y = Identity (x)", y=y))


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1] x) => (float[4] y) <int64[1] i = {4}> {
            y = mine.Expand (x, i)
        }"""
    assert_untouched(LowerExpand(), text, None)


@fuzz(LowerExpand())
def test_any_expand_computes_the_same(build: Builder) -> list[str]:
    full = build.shape(rank=(0, 4), sizes=(1, 4))
    shape = [1 if build.chance(2) else size for size in full]
    while shape and build.chance(4):
        shape.pop(0)
    goals = [1 if build.chance(4) else size for size in full]
    while goals and build.chance(4):
        goals.pop(0)
    x = build.input(shape, build.dtype([np.float32, np.float16, np.int64]))
    data = build.node("Identity", [x]) if build.chance(2) else x
    y = build.node("Expand", [data, build.constant(np.array(goals, np.int64))])
    if build.chance(2):
        return [y]
    kind = np.broadcast_shapes(shape, goals)
    other = build.node("Cast", [build.input([1 if build.chance(4) else size for size in kind])], to=1)
    plain = build.node("Cast", [y], to=1) if build.chance(3) else None
    if plain is not None:
        return [build.node("Add", [plain, other])]
    like = build.node("CastLike", [other, x]) if build.opset >= 15 else None
    if like is None:
        return [y]
    return [build.node(build.choice(["Add", "Mul", "Sub"]), build.choice([[y, like], [like, y], [y, y]]))]
