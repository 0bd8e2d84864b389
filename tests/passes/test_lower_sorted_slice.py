import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_sorted_slice import LowerSortedSlice
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'
BOUNDS = "int64[1] zero = {0}, int64[1] three = {3}, int64[1] one = {1}"


def model(
    nodes: str,
    k: int | None = 10,
    x: str = "float[2, 10] x",
    y: str = "float[2, 3] y, int64[2, 3] i",
    weights: str = BOUNDS,
    name: str = "k",
) -> str:
    held = weights if k is None else f"int64[1] {name} = {{{k}}}, {weights}"
    return f"{HEAD} g ({x}) => ({y}) <{held}> {{ {nodes} }}"


def sliced(tensor: str, out: str, end: str = "three", axis: str = "one") -> str:
    return f"{out} = Slice ({tensor}, zero, {end}, {axis})"


TOPK = "v, w = TopK (x, k)"


@pytest.mark.parametrize("attributes", ["", "<axis = 1>", "<largest = 0, sorted = 1>"])
def test_values_and_indices_of_the_first_come_from_a_smaller_topk(attributes: str) -> None:
    before = model(f"v, w = TopK {attributes} (x, k)  {sliced('v', 'y')}  {sliced('w', 'i')}")
    after = model(f"y, i = TopK {attributes} (x, v_k)", 3, name="v_k")
    assert_rewrites(LowerSortedSlice(), before, after.replace(f", {BOUNDS}", ""))


def test_one_of_the_two_may_be_unread() -> None:
    before = model(f"{TOPK}  {sliced('w', 'i')}", y="int64[2, 3] i")
    after = model("v, i = TopK (x, v_k)", 3, y="int64[2, 3] i", name="v_k", weights="int64[1] unused = {0}")
    assert_rewrites(LowerSortedSlice(), before, after.replace(", int64[1] unused = {0}", ""))


def test_the_longest_slice_decides_and_a_shorter_one_stays() -> None:
    weights = f"{BOUNDS}, int64[1] five = {{5}}"
    before = model(
        f"{TOPK}  {sliced('v', 'y', 'five')}  {sliced('w', 'i')}", y="float[2, 5] y, int64[2, 3] i", weights=weights
    )
    after = model(
        f"y, w = TopK (x, v_k)  {sliced('w', 'i')}", 5, y="float[2, 5] y, int64[2, 3] i", weights=BOUNDS, name="v_k"
    )
    assert_rewrites(LowerSortedSlice(), before, after)


def test_a_slice_of_two_axes_stays() -> None:
    weights, y = "int64[2] corner = {0, 0}, int64[2] ends = {1, 3}, int64[2] both = {0, 1}", "float[1, 3] y"
    nodes = "y = Slice (v, corner, ends, both)"
    after = model(f"v, w = TopK (x, v_k)  {nodes}", 3, y=y, weights=weights, name="v_k")
    assert_rewrites(LowerSortedSlice(), model(f"{TOPK}  {nodes}", y=y, weights=weights), after)


def test_a_slice_that_takes_all_goes() -> None:
    weights = "int64[1] zero = {0}, int64[1] three = {30}, int64[1] one = {1}"
    nodes = f"v, w = TopK <sorted = 0> (x, k)  {sliced('v', 'y')}  {sliced('w', 'i')}"
    after = f"""{HEAD} g (float[2, 10] x) => (float[2, 10] y, int64[2, 10] i) <int64[1] k = {{10}}> {{
        y, i = TopK <sorted = 0> (x, k)
    }}"""
    assert_rewrites(LowerSortedSlice(), model(nodes, y="float[2, 10] y, int64[2, 10] i", weights=weights), after)


def test_a_slice_from_the_middle_needs_what_stands_before_it() -> None:
    weights, y = "int64[1] three = {3}, int64[1] one = {1}", "float[2, 2] y"
    nodes = "y = Slice (v, one, three, one)"
    before = model(f"{TOPK}  {nodes}", y=y, weights=weights)
    assert_rewrites(
        LowerSortedSlice(), before, model(f"v, w = TopK (x, v_k)  {nodes}", 3, y=y, weights=weights, name="v_k")
    )


def test_an_end_counted_from_the_back_is_taken_of_k() -> None:
    weights = "int64[1] zero = {0}, int64[1] three = {-7}, int64[1] one = {-1}"
    before = model(f"{TOPK}  {sliced('v', 'y')}", y="float[2, 3] y", weights=weights)
    after = f"{HEAD} g (float[2, 10] x) => (float[2, 3] y) <int64[1] v_k = {{3}}> {{ y, w = TopK (x, v_k) }}"
    assert_rewrites(LowerSortedSlice(), before, after)


def test_k_is_an_attribute_in_older_operator_sets() -> None:
    def text(nodes: str) -> str:
        return f'<ir_version: 4, opset_import: ["": 9]> g (float[2, 10] x) => (float[2, 3] y) {{ {nodes} }}'

    before = text("v, w = TopK <k = 10> (x)  y = Slice <axes = [1], ends = [3], starts = [0]> (v)")
    assert_rewrites(LowerSortedSlice(), before, text("y, w = TopK <k = 3> (x)"))


@pytest.mark.parametrize("size", [12, 700, 5000])
@pytest.mark.parametrize("largest", [0, 1])
def test_ties_keep_their_indices_whatever_algorithm_is_chosen_for_k(size: int, largest: int) -> None:
    """ONNX Runtime heaps for a small K and sorts for a larger one: the order of equals must not depend on it."""
    values = np.random.default_rng(size).integers(0, 4, (2, size)).astype(np.float32)
    for first in {1, 5, size // 2, size - 1}:
        text = f"""
            {HEAD} g (float[2, {size}] x) => (float[2, n] y, int64[2, n] i)
            <int64[1] k = {{{size}}}, int64[1] zero = {{0}}, int64[1] end = {{{first}}}, int64[1] one = {{1}}> {{
                v, w = TopK <largest = {largest}> (x, k)
                y = Slice (v, zero, end, one)
                i = Slice (w, zero, end, one)
            }}"""
        before = Model(parse(text))
        after = apply_pass(LowerSortedSlice(), before).model
        assert after.fingerprint != before.fingerprint
        expected, got = (session.run(each.proto, {"x": values}) for each in (before, after))
        np.testing.assert_array_equal(got["i"], expected["i"])
        np.testing.assert_array_equal(got["y"], expected["y"])


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (f"{TOPK}  {sliced('v', 'y')}  i = Neg (w)", "all of 'w' is read, by Neg 'i'"),
        (f"v, i = TopK (x, k)  {sliced('v', 'y')}", "all of 'i' is read: it is a graph output"),
        (f"{TOPK}  {sliced('v', 'y', axis='zero')}", "its Slice cuts another axis"),
        (f"{TOPK}  m = Size (v)  e = Unsqueeze (m, zero)  {sliced('v', 'y', 'e')}", "is read, by Size"),
        (f"{TOPK}  s = Neg (three)  {sliced('v', 'y', 's')}", "bounds of the Slice of 'v' are not constant"),
        (f"j = Abs (k)  v, w = TopK (x, j)  {sliced('v', 'y')}", "its K is not constant"),
        (f"v, w = TopK <sorted = 0> (x, k)  {sliced('v', 'y')}", "not sorted"),
        (f"{TOPK}  y = Slice (v, three, zero, one, back)", "goes backwards"),
        (f"{TOPK}  {sliced('v', 'y')}  i = Slice (x, w, three, zero)", "all of 'w' is read, by Slice 'i'"),
        (f"{TOPK}  {sliced('v', 'y', 'six')}  i = Slice (w, zero, early, one)", "counts from the back"),
        (f"{TOPK}  y = Slice (v, corner, ends, both)", "a Slice that stays counts from the back of it"),
        (f"u = my.Custom (x)  v, w = TopK (u, k)  {sliced('v', 'y')}", "rank of its input is not known"),
    ],
)
def test_leaves_alone_what_needs_more_than_the_first(nodes: str, reason: str) -> None:
    weights = f"{BOUNDS}, int64[1] back = {{-1}}, int64[1] six = {{6}}, int64[1] early = {{-8}}"
    weights += ", int64[2] corner = {0, 0}, int64[2] ends = {1, -7}, int64[2] both = {0, 1}"
    outputs = [name for name in ("y", "i") if f"{name} = " in nodes or f", {name} = " in nodes]
    kinds = {"y": "float[a, b] y", "i": "int64[c, d] i"}
    text = model(nodes, y=", ".join(kinds[name] for name in outputs), weights=weights)
    assert_untouched(LowerSortedSlice(), text, reason)


@pytest.mark.parametrize("nodes", ["y, i = TopK (x, three)", f"v, i = my.TopK (x, k)  {sliced('v', 'y')}"])
def test_leaves_a_topk_that_nothing_slices_alone(nodes: str) -> None:
    assert_untouched(LowerSortedSlice(), model(nodes), None)


@fuzz(LowerSortedSlice())
def test_any_topk_computes_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(1, 3), sizes=(2, 6))
    axis = build.integer(0, len(shape) - 1)
    count = build.integer(2, shape[axis])
    x = build.input(shape, build.choice([np.float32, np.float64]))
    written = build.choice([axis, axis - len(shape) if build.opset >= 11 else axis])
    attrs = {"largest": build.choice([None, 0, 1])} if build.opset >= 11 else {}
    if build.opset < 10:
        build.reject()
    values, indices = build.node("TopK", [x, build.constant(np.array([count]))], outputs=2, axis=written, **attrs)
    ends = []
    for tensor in (values, indices):
        start, end = build.choice([0, 0, 0, 1]), build.choice([1, 1, build.integer(1, count), -1])
        bounds = [build.constant(np.array([number])) for number in (start, end, axis)]
        ends.append(build.node("Slice", [tensor, *bounds]))
    return ends if build.chance(2) else ends[:1]
