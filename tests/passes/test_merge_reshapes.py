import numpy as np
import pytest

from graphsurgery.passes.merge_reshapes import MergeReshapes
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz


def model(nodes: str, x: str, y: str, weights: str = "", opset: int = 17) -> str:
    held = f"<{weights}>" if weights else ""
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x}) => ({y}) {held} {{ {nodes} }}'


def ints(name: str, *values: int) -> str:
    return f"int64[{len(values)}] {name} = {{{', '.join(map(str, values))}}}"


CONSTANTS = {"first": (0,), "one": (1,), "two": (2,), "s": (0, -1)}


def named(nodes: str) -> str:
    """Return the constants that `nodes` read: an initializer that nothing reads would stay."""
    return ", ".join(ints(name, *values) for name, values in CONSTANTS.items() if f", {name})" in nodes)


def test_a_shape_that_says_all_is_read_by_one_reshape() -> None:
    x, y, weights = "float[2, 3, 4] x", "float[6, 4] y", f"{ints('s', 4, 6)}, {ints('t', -1, 4)}"
    before = model("a = Reshape (x, s) b = Flatten (a) y = Reshape (b, t)", x, y, weights)
    assert_rewrites(MergeReshapes(), before, model("y = Reshape (x, t)", x, y, ints("t", -1, 4)))


@pytest.mark.parametrize(
    ("nodes", "y", "shape"),
    [
        ("a = Flatten (x) y = Unsqueeze (a, two)", "float[N, 12, 1] y", (-1, 12, 1)),
        ("a = Unsqueeze (x, one) y = Flatten <axis = 3> (a)", "float[M, 4] y", (-1, 4)),
        ("a = Flatten <axis = 0> (x) y = Squeeze (a, first)", "float[M] y", (-1,)),
        ("a = Unsqueeze (x, first) y = Unsqueeze (a, first)", "float[1, 1, N, 3, 4] y", (1, 1, -1, 3, 4)),
        ("a = Reshape (x, s) y = Unsqueeze (a, one)", "float[N, 1, 12] y", (-1, 1, 12)),
    ],
)
def test_one_dimension_may_be_open(nodes: str, y: str, shape: tuple[int, ...]) -> None:
    x = "float[N, 3, 4] x"
    before = model(nodes, x, y, named(nodes))
    after = model("y = Reshape (x, y_shape)", x, y, ints("y_shape", *shape))
    assert_rewrites(MergeReshapes(), before, after, {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)})


def test_an_open_batch_may_be_empty() -> None:
    x, y = "float[N, 3, 4] x", "float[N, 12, 1] y"
    before = model("a = Flatten (x) y = Unsqueeze (a, two)", x, y, ints("two", 2))
    after = model("y = Reshape (x, y_shape)", x, y, ints("y_shape", -1, 12, 1))
    assert_rewrites(MergeReshapes(), before, after, {"x": np.zeros((0, 3, 4), np.float32)})


def test_axes_may_be_an_attribute() -> None:
    x, y = "float[2, 3] x", "float[1, 2, 3, 1] y"
    before = model("a = Unsqueeze <axes = [0]> (x) y = Unsqueeze <axes = [3]> (a)", x, y, opset=11)
    after = model("y = Reshape (x, y_shape)", x, y, ints("y_shape", 1, 2, 3, 1), 11)
    assert_rewrites(MergeReshapes(), before, after)


def test_what_undoes_the_other_goes_whatever_the_sizes_are() -> None:
    x, y = "float[N, M, K] x", "float[N, M, K] y"
    before = model("r = Relu (x) a = Unsqueeze (r, two) b = Squeeze (a, two) y = Neg (b)", x, y, ints("two", 2))
    assert_rewrites(MergeReshapes(), before, model("r = Relu (x) y = Neg (r)", x, y))


def test_open_dimensions_are_copied_where_they_stand_at_the_same_place() -> None:
    x, y, axis = "float[N, M, 6] x", "float[N, M, 2, 3] y", ints("three", 3)
    before = model("a = Unsqueeze (x, three) y = Reshape (a, s)", x, y, f"{axis}, {ints('s', 0, 0, 2, 3)}")
    after = model("y = Reshape (x, y_shape)", x, y, ints("y_shape", 0, 0, 2, 3))
    assert_rewrites(MergeReshapes(), before, after)


def test_one_to_the_same_shape_goes() -> None:
    x = "float[2, 3] x"
    for node in ("Reshape (x, s)", "Flatten (x)", "Squeeze (x)"):
        before = model(f"a = {node} y = Neg (a)", x, "float[2, 3] y", ints("s", 2, -1) if "s)" in node else "")
        assert_rewrites(MergeReshapes(), before, model("y = Neg (x)", x, "float[2, 3] y"))


def test_one_to_the_same_shape_goes_where_that_is_open() -> None:
    x = "float[N, M, 5] x"
    before = model("a = Reshape (x, s) y = Neg (a)", x, "float[N, M, 5] y", ints("s", 0, 0, -1))
    assert_rewrites(MergeReshapes(), before, model("y = Neg (x)", x, "float[N, M, 5] y"))


def test_between_an_input_and_an_output_an_identity_stays() -> None:
    x, y = "float[2, 3] x", "float[2, 3] y"
    assert_rewrites(MergeReshapes(), model("y = Flatten (x)", x, y), model("y = Identity (x)", x, y))


def test_an_output_keeps_its_name() -> None:
    x, y = "float[2, 3] x", "float[2, 3] y"
    before = model("r = Relu (x) a = Flatten <axis = 0> (r) y = Reshape (a, s)", x, y, ints("s", 2, 3))
    assert_rewrites(MergeReshapes(), before, model("y = Relu (x)", x, y))


def test_several_in_one_graph() -> None:
    """The first is dropped on what is written down alone; for the second, shapes must still be inferred."""
    x, y, s = "float[2, 3] x", "float[2, 3] y", ints("s", 2, 3)
    before = model("a = Reshape (x, s) b = Neg (a) c = Reshape (b, s) y = Neg (c)", x, y, f"float[2, 3] a, {s}")
    assert_rewrites(MergeReshapes(), before, model("b = Neg (x) y = Neg (b)", x, y))


def test_the_first_stays_for_what_else_reads_it() -> None:
    x, y = "float[2, 6] x", "float[3, 4] y, float[12] z"
    weights = f"{ints('s', 12)}, {ints('t', 3, 4)}"
    for z in ("z = Reshape (x, s) y = Reshape (z, t)", "a = Reshape (x, s) y = Reshape (a, t) z = Neg (a)"):
        after = z.replace("(z, t)", "(x, t)").replace("(a, t)", "(x, t)")
        assert_rewrites(MergeReshapes(), model(z, x, y, weights), model(after, x, y, weights))


def test_works_inside_a_body() -> None:
    def nested(outer: str, then: str, weights: str, own: str = "") -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 6] x) => (float[3, 4] y) <{weights}> {{
            {outer}
            y = If (c) <
                then_branch = t () => (float[3, 4] p) {own} {{ {then} }},
                else_branch = e () => (float[3, 4] q) {{ q = Reshape (x, t) }}
            >
        }}"""

    both = f"{ints('s', 12)}, {ints('t', 3, 4)}"
    assert_rewrites(
        MergeReshapes(),
        nested("a = Reshape (x, s)", "p = Reshape (a, t)", both),
        nested("", "p = Reshape (x, t)", ints("t", 3, 4)),
    )
    assert_rewrites(
        MergeReshapes(),
        nested("", "a = Reshape (x, s) b = Unsqueeze (a, s0) p = Reshape (b, t)", f"{both}, {ints('s0', 0)}"),
        nested("", "p = Reshape (x, t)", ints("t", 3, 4)),
    )


def test_a_shape_of_zeros_that_mean_zero_is_written_so() -> None:
    x, y = "float[0, 3] x", "float[3, 1, 0] y"
    before = model(
        "a = Reshape <allowzero = 1> (x, s) y = Unsqueeze (a, one)", x, y, f"{ints('s', 3, 0)}, {ints('one', 1)}"
    )
    after = model("y = Reshape <allowzero = 1> (x, y_shape)", x, y, ints("y_shape", 3, 1, 0))
    assert_rewrites(MergeReshapes(), before, after)


def test_before_opset_14_no_zero_can_be_written() -> None:
    x, y = "float[0, 3] x", "float[1, 0, 1, 3] y"
    text = model("a = Unsqueeze <axes = [0]> (x) y = Unsqueeze <axes = [2]> (a)", x, y, opset=11)
    assert_untouched(MergeReshapes(), text, "is zero")


def test_two_open_dimensions_that_move_stop_it() -> None:
    x, y = "float[N, M] x", "float[1, N, M, 1] y"
    text = model("a = Unsqueeze (x, first) y = Unsqueeze (a, three)", x, y, f"{ints('first', 0)}, {ints('three', 3)}")
    assert_untouched(MergeReshapes(), text, "more than one dimension")


def test_a_zero_that_copies_a_size_of_the_first_stops_it() -> None:
    x, y = "float[N, M, K] x", "float[P, Q, 1] y"
    text = model("a = Reshape (x, s) y = Reshape (a, t)", x, y, f"{ints('s', 0, -1)}, {ints('t', 0, 0, 1)}")
    assert_untouched(MergeReshapes(), text, "more than one dimension")


def test_a_zero_is_replaced_by_the_size_that_it_copies() -> None:
    x, y = "float[N, 6] x", "float[4, M] y"
    before = model("a = Reshape (x, s) y = Reshape (a, t)", x, y, f"{ints('s', 4, -1)}, {ints('t', 0, -1)}")
    after = model("y = Reshape (x, y_shape)", x, y, ints("y_shape", 4, -1))
    assert_rewrites(MergeReshapes(), before, after)


def test_a_shape_that_is_computed_stops_it_unless_zero_means_zero() -> None:
    x, y = "float[2, 6] x, int64[2] s", "float[P, Q] y"
    text = model("a = Flatten <axis = 0> (x) y = Reshape (a, s)", x, y)
    assert_untouched(MergeReshapes(), text, "shape of its output is not known")
    before = model("a = Flatten <axis = 0> (x) y = Reshape <allowzero = 1> (a, s)", x, y)
    after = model("y = Reshape <allowzero = 1> (x, s)", x, y)
    given = {"x": np.ones((2, 6), np.float32), "s": np.int64([3, 4])}
    assert_rewrites(MergeReshapes(), before, after, given)


def test_a_shape_that_a_caller_may_override_stops_it() -> None:
    x, y = "float[N, 6] x, int64[2] t", "float[P, Q] y"
    text = model("a = Flatten <axis = 0> (x) y = Reshape (a, t)", x, y, ints("t", 3, 4))
    assert_untouched(MergeReshapes(), text, "shape of its output is not known")


def test_an_unknown_rank_stops_it() -> None:
    x, y = "float[24] x, int64[r] s", "float[P, Q] y"
    nodes = "a = Reshape (x, s) b = Unsqueeze (a, first) c = Unsqueeze (b, first) y = ReduceSum (c)"
    text = model(nodes, x, y, ints("first", 0))
    assert_untouched(MergeReshapes(), text, "shape of its output is not known")


def test_a_squeeze_with_an_empty_list_of_axes_stops_it() -> None:
    x, y = "float[1, 6] x", "float[P, Q, 1] y"
    text = model("a = Squeeze (x, none) y = Unsqueeze (a, two)", x, y, f"int64[0] none = {{}}, {ints('two', -1)}")
    assert_untouched(MergeReshapes(), text, "empty list of axes")


def test_a_lone_one_stays() -> None:
    assert_untouched(MergeReshapes(), model("y = Flatten (x)", "float[2, 3, 4] x", "float[2, 12] y"), None)


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = model("a = mine.Reshape (x, s) y = mine.Flatten (a)", "float[2] x", "float[2, 1] y", ints("s", 2))
    assert_untouched(MergeReshapes(), text.replace('"": 17', '"": 17, "mine": 1'), None)


@fuzz(MergeReshapes())
def test_any_chain_of_relayouts_gives_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(0, 4), sizes=(1, 4))
    if shape and build.chance(8):
        shape[build.integer(0, len(shape) - 1)] = 0
    x = build.input(shape, build.dtype((np.float32, np.int64)))
    written = []
    for _ in range(build.integer(1, 5)):
        x, shape = relayout(build, x, shape)
        written.append(x)
    return [x, build.choice(written)]


def relayout(build: Builder, x: str, shape: list[int]) -> tuple[str, list[int]]:
    """Draw one of the four operators on `x`; return what it writes, and of what shape."""
    op = build.choice(["Reshape", "Reshape", "Flatten", "Squeeze", "Unsqueeze"])
    rank = len(shape)
    if op == "Reshape":
        return reshape(build, x, shape)
    if op == "Flatten":
        axis = build.integer(0, rank)
        size = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        written = axis - rank if build.opset >= 11 and axis < rank and build.chance(3) else axis
        return build.node(op, [x], axis=None if axis == 1 and build.chance(2) else written), size
    if op == "Squeeze":
        ones = [axis for axis in range(rank) if shape[axis] == 1]
        chosen = [axis for axis in ones if build.chance(2)]
        if not chosen:
            return build.node(op, [x]), [size for size in shape if size != 1]
        new = [size for axis, size in enumerate(shape) if axis not in chosen]
    else:
        chosen = sorted({build.integer(0, rank) for _ in range(build.integer(1, 2))})
        rank += len(chosen)
        rest = iter(shape)
        new = [1 if axis in chosen else next(rest) for axis in range(rank)]
    axes = [axis - rank if build.chance(4) and build.opset >= 11 else axis for axis in chosen]
    if build.opset < 13:
        return build.node(op, [x], axes=axes), new
    return build.node(op, [x, build.constant(np.int64(axes), overridable=True)]), new


def reshape(build: Builder, x: str, shape: list[int]) -> tuple[str, list[int]]:
    """Draw a Reshape of `x`: into factors, in another order, with zeros and -1 in it where they fit."""
    total = int(np.prod(shape))
    if total == 0:
        new = build.choice([shape, shape[::-1]])
        if build.opset >= 14 and build.chance(2):
            return build.node("Reshape", [x, build.constant(np.int64(new))], allowzero=1), new
        return build.node("Reshape", [x, build.constant(np.zeros(len(shape), np.int64))]), shape
    new = [size for size in shape if size != 1] if build.chance(2) else list(shape)
    if new and build.chance(2):
        place = build.integer(0, len(new) - 1)
        factor = build.choice([n for n in range(1, new[place] + 1) if new[place] % n == 0])
        new[place : place + 1] = [factor, new[place] // factor]
    if build.chance(3):
        new = new[::-1]
    written = list(new)
    for axis, size in enumerate(new[: len(shape)]):
        if size == shape[axis] and build.chance(3):
            written[axis] = 0
    if written and build.chance(3):
        written[build.integer(0, len(written) - 1)] = -1
    return build.node("Reshape", [x, build.constant(np.array(written, np.int64), overridable=True)]), new
