import copy
import json
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.errors import GraphSurgeryError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.view import table
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.passes.freeze_batch import FreezeBatch
from graphsurgery.recipe.plugin_options import plugin_options
from graphsurgery.rewrite import BATCH_NOTE, PassContext, apply_pass
from graphsurgery.runtime.player import PartPlayer
from graphsurgery.testing import assert_rewrites, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed
from graphsurgery.testing.fuzzing.builder import Draw
from graphsurgery.testing.fuzzing.twists import Rejected, with_types

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def with_weights(text: str, **shapes: list[int]) -> ModelProto:
    model = parse(text)
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = generator.standard_normal(shape).astype(np.float32) * 0.2
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def box_head(n: str, flatten: str = "f = Flatten <axis = 1> (r)") -> ModelProto:
    """The box head of a Mask R-CNN: the classes and the boxes of each region."""
    text = f"""
        {HEAD}
        g (float[{n}, 4, 3, 3] features) => (float[{n}, 5] logits, float[{n}, 8] boxes) {{
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (features, w1)
            r = Relu (c)
            {flatten}
            h = Gemm <transB = 1> (f, w2, b2)
            k = Relu (h)
            logits = Gemm <transB = 1> (k, w3)
            boxes = Gemm (k, w4)
        }}"""
    return with_weights(text, w1=[4, 4, 3, 3], w2=[16, 36], b2=[16], w3=[5, 16], w4=[16, 8])


def mask_head(n: str) -> ModelProto:
    text = f"""
        {HEAD}
        g (float[{n}, 4, 3, 3] features) => (float[{n}, 2, 6, 6] masks) {{
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (features, w1)
            r = Relu (c)
            d = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (r, w2)
            e = Relu (d)
            masks = Conv (e, w3)
        }}"""
    return with_weights(text, w1=[4, 4, 3, 3], w2=[4, 3, 2, 2], w3=[2, 3, 1, 1])


def rows(body: str, x: str = "float[n, 4, 6] x", y: str = "float[a, b, c] y", constants: str = "") -> str:
    return f"""
        {HEAD}
        g ({x}) => ({y}) <int64[1] m1 = {{-1}}, int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i2 = {{2}},
                int64 s0 = {{0}}, int64 s1 = {{1}}, float one = {{1}}{constants}> {{
            {body}
        }}"""


def random(shape: list[int]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("head", [box_head, mask_head])
def test_fixes_the_batch_of_a_head(head: Any) -> None:
    applied = assert_rewrites(FreezeBatch(5), head("n"), head("5"), {"features": random([5, 4, 3, 3])})
    assert table(applied.model.graph()).metadata == {BATCH_NOTE: json.dumps({"size": 5})}
    again = apply_pass(FreezeBatch(5), applied.model).model
    assert again.fingerprint == applied.model.fingerprint


class Rows:
    """A sample in memory, with so many features."""

    id = "0"

    def __init__(self, count: int) -> None:
        self.values = {"features": np.zeros((count, 4, 3, 3), np.float32)}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def load(self, name: str) -> np.ndarray:
        return self.values[name]


@pytest.mark.parametrize(("counts", "size"), [([3, 37], 50), ([1], 1), ([1000], 1000), ([1001], 2000), ([0], None)])
def test_suits_a_head_with_a_size_that_the_samples_fill(counts: list[int], size: int | None) -> None:
    suited = FreezeBatch.suited(Model(box_head("n")), PassContext(samples=[Rows(count) for count in counts]))
    assert suited == (None if size is None else FreezeBatch(size))
    assert FreezeBatch.suited(Model(box_head("7")), PassContext(samples=[Rows(7)])) is None
    assert FreezeBatch.suited(Model(box_head("n")), PassContext()) is None


def test_has_no_option_that_changes_nothing() -> None:
    """`mode` (pad, loop) was one: the runtime takes slices and fills up the last one, whatever it said."""
    assert list(plugin_options(FreezeBatch)) == ["size", "inputs"]


@pytest.mark.parametrize("head", [box_head, mask_head])
def test_padded_rows_do_not_touch_the_others(head: Any) -> None:
    frozen = apply_pass(FreezeBatch(5), Model(head("n"))).model.proto
    few = random([3, 4, 3, 3])
    padded = np.concatenate([few, np.full((2, 4, 3, 3), 1e3, np.float32)])
    expected, got = session.run(head("n"), {"features": few}), session.run(frozen, {"features": padded})
    for name, value in expected.items():
        np.testing.assert_allclose(got[name][:3], value, rtol=1e-6, atol=1e-6)


def test_folds_the_target_of_a_reshape_that_asks_for_the_batch() -> None:
    asks = """s = Shape (r)
            n = Gather (s, zero)
            n1 = Unsqueeze (n, first)
            target = Concat <axis = 0> (n1, rest)
            f = Reshape (r, target)"""
    constant = """target = Constant <value = int64[2] value {5, -1}> ()
            f = Reshape (r, target)"""
    before = box_head("n", asks)
    for name, value in (("zero", np.array(0)), ("first", np.array([0])), ("rest", np.array([-1]))):
        before.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    assert_rewrites(FreezeBatch(5), before, box_head("5", constant), {"features": random([5, 4, 3, 3])})


def test_leaves_a_note_for_the_runtime() -> None:
    metadata = table(apply_pass(FreezeBatch(7), Model(mask_head("n"))).model.graph()).metadata
    assert json.loads(metadata[BATCH_NOTE]) == {"size": 7}


def test_leaves_inputs_without_batch_alone() -> None:
    def model(n: str) -> str:
        return rows("y = Mul (x, scale)", f"float[{n}, 4, 6] x, float[4, 1] scale", f"float[{n}, 4, 6] y")

    inputs = {"x": random([5, 4, 6]), "scale": random([4, 1])}
    applied = assert_rewrites(FreezeBatch(5), model("n"), model("5"), inputs)
    assert list(applied.model.graph().inputs[1].shape) == [4, 1]
    assert json.loads(table(applied.model.graph()).metadata[BATCH_NOTE]) == {"size": 5, "parameters": ["scale"]}


def test_a_second_run_knows_a_parameter_of_the_same_size_again() -> None:
    text = rows("y = MatMul (x, z)", "float[n, 4, 6] x, float[6, 6] z")
    once = apply_pass(FreezeBatch(6), Model(parse(text))).model
    again = apply_pass(FreezeBatch(6), once).model
    assert again.fingerprint == once.fingerprint
    assert json.loads(table(again.graph()).metadata[BATCH_NOTE]) == {"size": 6, "parameters": ["z"]}
    played = PartPlayer.open(once.proto, describe_part(Part("head", "npu", True, once)), optimise=False)
    x, z = random([8, 4, 6]), random([6, 6])
    np.testing.assert_allclose(played.play({"x": x, "z": z})["y"], x @ z, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_fixed_to_the_size_only_gets_the_note() -> None:
    applied = assert_rewrites(FreezeBatch(5), box_head("5"), box_head("5"), {"features": random([5, 4, 3, 3])})
    assert BATCH_NOTE in table(applied.model.graph()).metadata


def test_a_second_run_takes_what_the_first_folded_for_no_parameter() -> None:
    def model(n: str, fill: str) -> str:
        return rows(f"{fill} y = Add (x, f)", f"float[{n}, 2] x", f"float[{n}, 2] y")

    open_, fixed = "s = Shape (x) f = ConstantOfShape (s)", "f = Constant <value = float[2, 2] value {0, 0, 0, 0}> ()"
    assert_rewrites(FreezeBatch(2), model("n", open_), model("2", fixed), {"x": random([2, 2])})
    frozen = apply_pass(FreezeBatch(2), Model(parse(model("n", open_)))).model
    metadata = table(apply_pass(FreezeBatch(2), frozen).model.graph()).metadata
    assert json.loads(metadata[BATCH_NOTE]) == {"size": 2}


def test_takes_only_the_inputs_that_it_is_given() -> None:
    text = rows("y = Mul (x, z)", "float[n, 4, 6] x, float[k, 6] z")
    with pytest.raises(PassError, match="broadcasting moves the rows of 'z'"):
        apply_pass(FreezeBatch(3), Model(parse(text)))
    got = apply_pass(FreezeBatch(3, inputs=("x",)), Model(parse(text))).model.graph()
    assert [list(tensor.shape) for tensor in got.inputs] == [[3, 4, 6], ["k", 6]]


KEEP_ROWS = {
    "a constant per channel": ("y = Add (x, c)", ", float[4, 1] c = {1, 2, 3, 4}"),
    "a constant with a leading one": ("y = Add (x, c)", ", float[1, 4, 1] c = {1, 2, 3, 4}"),
    "a sum of rows of two paths": ("a = Relu (x) b = Sigmoid (x) y = Add (a, b)", ""),
    "a condition": ("a = Greater (x, one) y = Where (a, x, one)", ""),
    "a matrix product with a constant": ("y = MatMul (x, c)", ", float[6, 1] c = {1, 2, 3, 4, 5, 6}"),
    "a matrix product with a constant before it": ("y = MatMul (c, x)", ", float[1, 4] c = {1, 2, 3, 4}"),
    "a matrix product row by row": ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", ""),
    "a softmax over the last axis": ("y = Softmax <axis = -1> (x)", ""),
    "a normalisation over the last axis": ("y = LayerNormalization (x, c)", ", float[6] c = {1, 2, 3, 4, 5, 6}"),
    "a mean over the elements of each row": ("y = ReduceMean <axes = [-1, 1]> (x)", ""),
    "a sum over the elements of each row": ("y = ReduceSum <keepdims = 1> (x, i2)", ""),
    "a running sum along the rows": ("y = CumSum (x, s1)", ""),
    "a concatenation of channels": ("a = Relu (x) y = Concat <axis = -2> (x, a)", ""),
    "a split of channels": ("a, b = Split <axis = 1> (x) y = Sub (a, b)", ""),
    "a slice of each row": ("y = Slice (x, i1, i2, m1)", ""),
    "a slice that takes all rows": ("y = Slice (x, i0, end, i0)", ", int64[1] end = {9223372036854775807}"),
    "the first channels": ("y = Gather <axis = 1> (x, i1)", ""),
    "the largest elements of each row": ("y, i = TopK (x, i2)", ""),
    "a padding of each row": ("y = Pad (x, p)", ", int64[6] p = {0, 1, 0, 0, 0, 2}"),
    "a reshape with a zero for the rows": ("y = Reshape (x, t)", ", int64[3] t = {0, 12, 2}"),
    "a reshape with the rest for the rows": ("y = Reshape (x, t)", ", int64[3] t = {-1, 12, 2}"),
    "a new axis that goes again": ("a = Unsqueeze (x, i1) y = Squeeze (a, i1)", ""),
    "a larger size": ("y = Resize (x, , s)", ", float[3] s = {1, 1, 2}"),
    "copies of each row": ("y = Tile (x, t)", ", int64[3] t = {1, 1, 3}"),
    "zeros for each row": ("s = Shape (x) z = ConstantOfShape (s) y = Concat <axis = 2> (x, z)", ""),
    "a constant repeated for each row": ("s = Shape (x) e = Expand (one, s) y = Mul (x, e)", ""),
    "the size of a row": ("s = Shape <start = 2> (x) f = Cast <to = 1> (s) r = Sqrt (f) y = Div (x, r)", ""),
    "numbers quantized with one scale": (
        "q = QuantizeLinear (x, one) y = DequantizeLinear (q, one)",
        "",
    ),
}


@pytest.mark.parametrize("case", KEEP_ROWS)
def test_accepts(case: str) -> None:
    body, constants = KEEP_ROWS[case]
    before = Model(parse(rows(body, constants=constants)))
    after = apply_pass(FreezeBatch(5), before).model
    onnx.checker.check_model(after.proto, full_check=True)
    assert after.proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 5
    assert "Shape" not in {node.op_type for node in after.proto.graph.node}
    few = random([2, 4, 6])
    expected = session.run(before.proto, {"x": few})["y"]
    got = session.run(after.proto, {"x": np.concatenate([few, 9 * random([3, 4, 6])])})["y"]
    np.testing.assert_array_equal(got[:2], expected)


MIX_ROWS = {
    "a softmax over the batch": ("y = Softmax <axis = 0> (x)", "", "Softmax: .*leading"),
    "a mean over everything": ("y = ReduceMean (x)", "", "ReduceMean: .*axes are not known"),
    "a mean over the batch": ("y = ReduceMean <axes = [-3]> (x)", "", "ReduceMean: .*leading"),
    "a concatenation of rows": ("a = Relu (x) y = Concat <axis = 0> (x, a)", "", "Concat: .*leading"),
    "a row put before": (
        "y = Concat <axis = 1> (x, c)",
        ", float[1, 1, 6] c = {1, 2, 3, 4, 5, 6}",
        "Concat: 'c' is no part",
    ),
    "a constant per row": ("y = Add (x, c)", ", float[2, 1, 1] c = {1, 2}", "Add: .*'c' differs from row to row"),
    "a constant of higher rank": ("y = Add (x, c)", ", float[1, 1, 1, 1] c = {1}", "Add: .*moves the rows of 'x'"),
    "a transposition": ("y = Transpose <perm = [1, 0, 2]> (x)", "", "Transpose: .*moves"),
    "a transposition by default": ("y = Transpose (x)", "", "Transpose: .*moves"),
    "a reshape across rows": ("y = Reshape (x, t)", ", int64[3] t = {1, -1, 6}", "Reshape: .*is not the batch"),
    "a flattening of rows": ("a = Flatten <axis = 2> (x) y = Unsqueeze (a, i0)", "", "Flatten: .*is not the batch"),
    "an axis before the batch": ("y = Unsqueeze (x, i0)", "", "Unsqueeze: .*is not the batch"),
    "a squeeze of whatever is one": ("y = Squeeze (x)", "", "Squeeze: .*batch of one"),
    "the first row": ("y = Slice (x, i0, i1)", "", "Slice: .*leading"),
    "the rows backwards": ("y = Slice (x, m1, e, i0, m1)", ", int64[1] e = {-99}", "Slice: .*leading"),
    "a row by its number": ("y = Gather (x, i0)", "", "Gather: .*leading"),
    "padding with rows": ("y = Pad (x, p)", ", int64[6] p = {1, 0, 0, 0, 0, 0}", "Pad: .*leading"),
    "the largest of all rows": ("y, i = TopK <axis = 0> (x, i1)", "", "TopK: .*leading"),
    "a running sum over rows": ("y = CumSum (x, s0)", "", "CumSum: .*leading"),
    "a product of rows with rows": ("a = Flatten (x) t = Transpose (a) y = MatMul (a, t)", "", "Transpose: .*moves"),
    "more rows": ("y = Tile (x, t)", ", int64[3] t = {2, 1, 1}", "Tile: .*leading"),
    "an Einsum": ('y = Einsum <equation = "abc->cba"> (x)', "", "Einsum: .*not known to keep"),
    "a division by the number of rows": (
        "s = Shape <end = 1> (x) f = Cast <to = 1> (s) y = Div (x, f)",
        "",
        "Div: .*computed from the number of rows",
    ),
    "the number of each row": (
        "s = Shape (x) n = Gather (s, s0) r = Range (s0, n, s1) f = Cast <to = 1> (r) "
        "a = Unsqueeze (f, e) y = Add (x, a)",
        ", int64[2] e = {1, 2}",
        "Add: .*computed from the number of rows",
    ),
    "a table of all pairs": (
        "s = Shape <end = 1> (x) t = Concat <axis = 0> (s, s, i1) a = ReduceMax <axes = [1, 2]> (x) y = Expand (a, t)",
        "",
        "Expand: .*leading",
    ),
}


@pytest.mark.parametrize("case", MIX_ROWS)
@pytest.mark.parametrize("size", [1, 5])
def test_refuses(case: str, size: int) -> None:
    body, constants, complaint = MIX_ROWS[case]
    op, reason = complaint.split(": ")
    with pytest.raises(PassError, match=rf"node '\w' \({op}\) mixes rows: {reason}"):
        apply_pass(FreezeBatch(size), Model(parse(rows(body, y="float[] y", constants=constants))))


def test_refuses_an_if_that_sees_the_rows() -> None:
    body = """y = If (c) <then_branch = t () => (float[p] a) { a = Relu (x) },
                else_branch = e () => (float[q] b) { b = Abs (x) }>"""
    with pytest.raises(PassError, match=r"\(If\) mixes rows: it is not known"):
        apply_pass(FreezeBatch(5), Model(parse(rows(body, "float[n, 4, 6] x, bool c"))))


def test_refuses_a_custom_operator() -> None:
    text = rows("y = mine.Relu (x)").replace('"": 17', '"": 17, "mine": 1')
    with pytest.raises(PassError, match=r"\(Relu\) mixes rows: it is not known"):
        apply_pass(FreezeBatch(5), Model(parse(text)))


def test_refuses_batch_statistics() -> None:
    text = rows(
        "y, m, v = BatchNormalization <training_mode = 1> (x, c, c, c, c)", constants=", float[4] c = {1, 2, 3, 4}"
    )
    with pytest.raises(PassError, match="training mode"):
        apply_pass(FreezeBatch(5), Model(parse(text)))


@pytest.mark.parametrize(
    ("opset", "node", "reason"),
    [
        (6, "y = BatchNormalization (x, c, c, c, c)", "is_test is 0"),
        (9, "y, m, v, k, l = BatchNormalization (x, c, c, c, c)", "as in training mode"),
        (6, "y = Dropout (x)", "is_test is 0"),
    ],
)
def test_refuses_what_trains_in_an_old_operator_set(opset: int, node: str, reason: str) -> None:
    text = rows(node, constants=", float[4] c = {1, 2, 3, 4}").replace('"": 17', f'"": {opset}')
    with pytest.raises(PassError, match=reason):
        apply_pass(FreezeBatch(5), Model(parse(text)))


def test_refuses_a_transposed_gemm() -> None:
    text = rows("y = Gemm <transA = 1> (x, c)", "float[n, 2] x", "float[a, b] y", ", float[2, 1] c = {1, 2}")
    with pytest.raises(PassError, match="batch transposed"):
        apply_pass(FreezeBatch(5), Model(parse(text)))


def test_refuses_an_output_without_rows() -> None:
    text = rows("y = Relu (x) z = Shape (x)", y="float[a, b, c] y, int64[3] z")
    with pytest.raises(PassError, match="output 'z' does not depend on the rows of x"):
        apply_pass(FreezeBatch(5), Model(parse(text)))


@pytest.mark.parametrize(
    ("x", "inputs", "message"),
    [
        ("float[7, 4, 6] x", (), r"no batch to set to 5; inputs: x \[7, 4, 6\]"),
        ("float[7, 4, 6] x", ("x",), r"input 'x' \[7, 4, 6\] is fixed already, not to 5"),
        ("float[n, 4, 6] x", ("z",), "no input 'z'; the model has x"),
        ("float x", (), "no batch to set to 5; inputs: none with a known rank"),
        ("float[n, n, 6] x", (), r"dimension 'n' is the batch, but also in input 'x'"),
        ("float[n, 4, 6] x, float[n] z", ("x",), r"dimension 'n' is the batch, but also in input 'z' \[n\]"),
    ],
)
def test_refuses_a_batch_that_it_can_t_fix(x: str, inputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(PassError, match=message):
        apply_pass(FreezeBatch(5, inputs=inputs), Model(parse(rows("y = Relu (x)", x))))


def test_refuses_to_freeze_no_rows() -> None:
    with pytest.raises(ValueError, match="size must be"):
        FreezeBatch(0)


ROWS = 3


def any_layer(build: Builder, x: str, shape: list[int]) -> tuple[str, list[int]]:
    """Add something behind `x` that may or may not keep its rows apart; return its name and shape."""
    rank, axis = len(shape), build.integer(0, len(shape) - 1)
    kinds = ["Relu", "Add", "Softmax", "Mean", "Transpose", "Concat", "Flatten", "Reshape", "Asked", "Gather", "MatMul"]
    kinds += ["Slice", "Divide", "TopK", "Expand", "Conv"]
    kind = build.choice(kinds)
    axis = build.choice([max(1, axis), axis]) if rank > 1 else axis
    written = axis - rank if build.opset >= 13 and build.chance(2) else axis

    def axes_of(op: str, since: int, inputs: list[str], axes: list[int], **attributes: int) -> str:
        if build.opset < since:
            return str(build.node(op, inputs, axes=axes, **attributes))
        return str(build.node(op, [*inputs, build.constant(np.array(axes))], **attributes))

    if kind == "Add":
        other = [size if build.chance(2) else 1 for size in shape][build.choice([0, 0, 1]) if rank > 1 else 0 :]
        return build.node(build.choice([kind, "Mul", "Sub"]), [x, build.weight(other)]), shape
    if kind == "Softmax":
        return build.node(kind, [x], axis=written), shape
    if kind == "Mean":
        keepdims = build.choice([0, 1])
        rest = [1] if keepdims else []
        op = build.choice(["ReduceMean", "ReduceMax", "ReduceSum"])
        x = axes_of(op, 13 if op == "ReduceSum" else 18, [x], [written], keepdims=keepdims)
        return x, [*shape[:axis], *rest, *shape[axis + 1 :]]
    if kind == "Transpose":
        perm = [0, *[*range(1, rank)][::-1]] if build.chance(2) else [*range(rank)][::-1]
        return build.node(kind, [x], perm=perm), [shape[place] for place in perm]
    if kind == "Concat":
        other = build.choice([x, build.node("Neg", [x]), build.weight(shape)])
        return build.node(kind, [x, other], axis=axis), [2 * s if place == axis else s for place, s in enumerate(shape)]
    if kind == "Flatten":
        kept = [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
        return build.node(kind, [x], axis=axis), kept
    if kind == "Reshape":
        rest = int(np.prod(shape[1:]))
        target = build.choice([[0, -1], [-1, rest], [shape[0], -1], [0, 1, -1], [-1, shape[-1]], [-1]])
        computed = [shape[0], rest] if target[0] == 0 or (len(target) > 1 and target[1] in (-1, rest)) else [-1]
        if target == [0, 1, -1]:
            computed = [shape[0], 1, rest]
        elif computed == [-1]:
            computed = [int(np.prod(shape[:-1])), shape[-1]] if len(target) == 2 else [int(np.prod(shape))]
        return build.node(kind, [x, build.constant(np.array(target))]), computed
    if kind in ("Asked", "Divide"):
        count = build.node("Gather", [build.node("Shape", [x]), build.constant(np.array([0]))], axis=0)
        if kind == "Divide":
            return build.node("Div", [x, build.node("Cast", [count], to=1)]), shape
        target = build.node("Concat", [count, build.constant(np.array([-1]))], axis=0)
        return build.node("Reshape", [x, target]), [shape[0], int(np.prod(shape[1:]))]
    if kind == "Gather":
        picked = np.array(build.choice([[0], [shape[axis] - 1, 0], 0]))
        return build.node(kind, [x, build.constant(picked)], axis=written), [
            *shape[:axis],
            *picked.shape,
            *shape[axis + 1 :],
        ]
    if kind == "MatMul" and rank >= 2:
        if build.chance(3):
            return build.node(kind, [build.weight([2, shape[-2]]), x]), [*shape[:-2], 2, shape[-1]]
        return build.node(kind, [x, build.weight([shape[-1], 2])]), [*shape[:-1], 2]
    if kind == "Slice" and build.opset >= 10:
        start, end = build.choice([0, 1]) if shape[axis] > 1 else 0, build.choice([shape[axis], 2**31 - 1, 2**63 - 1])
        bounds = [build.constant(np.array([number])) for number in (start, end, written)]
        return build.node(kind, [x, *bounds]), [s - start if place == axis else s for place, s in enumerate(shape)]
    if kind == "TopK" and build.opset >= 10:
        one = build.constant(np.array([1]))
        values, _ = build.node(kind, [x, one], outputs=2, axis=axis)
        return values, [1 if place == axis else size for place, size in enumerate(shape)]
    if kind == "Expand":
        like = build.node("Shape", [x])
        filled = build.choice([build.node("ConstantOfShape", [like]), build.node(kind, [build.weight([1]), like])])
        return build.node("Add", [x, filled]), shape
    if kind == "Conv" and rank == 4:
        shape = [shape[0], 2, *shape[2:]]
        op = build.choice([kind, "ConvTranspose"])
        return build.node(op, [x, build.weight([2, 2, 1, 1])]), shape
    return build.node("Relu", [x]), shape


def any_head(build: Builder) -> list[str]:
    shape = [ROWS, *build.shape(rank=(1, 3), sizes=(1, 4))]
    if len(shape) == 4:
        shape[1] = 2
    x = build.input(shape)
    if build.chance(4):
        x = build.node("Add", [x, build.input(shape)])
    for _ in range(build.integer(1, 4)):
        if shape:
            x, shape = any_layer(build, x, shape)
    return [x]


def opened(model: ModelProto) -> ModelProto:
    """Return the model with the number of rows left open; raises Rejected where its outputs have no type then."""
    model = copy.deepcopy(model)
    del model.graph.value_info[:]
    for info in model.graph.input:
        if info.name in row_inputs(model):
            info.type.tensor_type.shape.dim[0].dim_param = "n"
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    return with_types(model)


def row_inputs(model: ModelProto) -> list[str]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [i.name for i in model.graph.input if i.name not in defaults and i.type.tensor_type.shape.dim]


def keeps_rows_apart(draw: Draw) -> str:
    """Draw a model; where the pass takes it, assert that other rows and other places don't change a row."""
    target = Fuzzed(lambda build: FreezeBatch(build.integer(ROWS, 6)), any_head)
    pass_, case = target.draw(draw)
    assert isinstance(pass_, FreezeBatch)
    if case is None:
        return "no valid model"
    model, is_open = case.model, pass_.size > ROWS or draw(0, 1) == 1
    try:
        model = opened(model) if is_open else model
        expected = session.run(model, case.inputs)
    except (GraphSurgeryError, Rejected):
        return "no valid model"
    try:
        applied = apply_pass(pass_, Model(model))
    except PassError as error:
        if error.__cause__ is not None:  # the pass did not say so itself: it crashed
            raise AssertionError(f"{error}\n{case}") from error
        return "refused"
    story = f"{pass_}\n{case}\n--- after\n{onnx.printer.to_text(applied.model.proto)}"
    onnx.checker.check_model(applied.model.proto, full_check=True)
    assert apply_pass(pass_, applied.model).model.fingerprint == applied.model.fingerprint, story
    generator = np.random.default_rng(draw(0, 99))
    places = generator.permutation(pass_.size)[:ROWS]
    # without room for other rows, the last of its own gives way to one
    kept = ROWS if pass_.size > ROWS else ROWS - 1
    given = dict(case.inputs)
    for name in row_inputs(model):
        rows = generator.integers(-99, 99, [pass_.size, *given[name].shape[1:]]).astype(np.float32)
        rows[places[:kept]] = given[name][:kept]
        given[name] = rows
    got = session.run(applied.model.proto, given)
    for name, value in expected.items():
        assert len(got[name]) == pass_.size, f"{name} has {len(got[name])} rows\n{story}"
        np.testing.assert_allclose(got[name][places[:kept]], value[:kept], 1e-4, 1e-4, err_msg=f"{name}\n{story}")
    return "frozen"


def test_any_head_that_is_frozen_keeps_its_rows_apart() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def explore(data: st.DataObject) -> None:
        outcomes[keeps_rows_apart(lambda low, high: data.draw(st.integers(low, high)))] += 1

    explore()
    assert min(outcomes["frozen"], outcomes["refused"]) > 10, outcomes


@pytest.mark.parametrize(("batch", "size"), [(None, 4), (4, 1), (4, 8)])
def test_the_whole_graph_of_a_recipe_takes_as_many_images_as_its_source_feeds(batch: int | None, size: int) -> None:
    model = Model(parse(f"{HEAD} g (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {{ y = Relu (x) }}"))
    whole = PassContext(canvas=(8, 8), batch=batch)
    said = rf"the whole graph would take {size} images .* the source feeds {batch or 1}: write source\.batch: {size}"
    with pytest.raises(PassError, match=said):
        apply_pass(FreezeBatch(size), model, whole)
    fed = apply_pass(FreezeBatch(batch or 1), model, whole).model
    assert fed.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == (batch or 1)
    assert apply_pass(FreezeBatch(size), model).model != model, "a part takes any number"
