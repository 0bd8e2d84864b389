from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from graphsurgery import graph as graphs
from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.passes.freeze_shapes import FreezeShapes
from graphsurgery.rewrite import PassContext, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

if TYPE_CHECKING:
    from conftest import Cli

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def relu(x: str, y: str = "float[a, b, c, d] y", head: str = HEAD) -> str:
    return f"""
        {head}
        g ({x}) => ({y}) {{
            y = Relu (x)
        }}"""


def given(shape: list[int]) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def shapes(model: Model) -> dict[str, list[Any]]:
    graph = model.graph()
    tensors = [*graph.inputs, *(t for node in graphs.walk_nodes(graph) for t in node.outputs)]
    return {tensor.name: tensor.shape for tensor in tensors}


def test_fixes_batch_height_and_width_of_an_image() -> None:
    assert_rewrites(
        FreezeShapes(batch=2, height=4, width=6),
        relu("float[n, 3, h, w] x"),
        relu("float[2, 3, 4, 6] x", "float[2, 3, 4, 6] y"),
        given([2, 3, 4, 6]),
    )


def test_fixes_height_and_width_of_an_image_without_batch() -> None:
    applied = assert_rewrites(
        FreezeShapes(batch=1, height=4, width=6),
        relu("float[3, h, w] x", "float[a, b, c] y"),
        relu("float[3, 4, 6] x", "float[3, 4, 6] y"),
        given([3, 4, 6]),
    )
    assert [skip.reason for skip in applied.skips] == ["input 'x' [3, h, w] has no batch dimension"]


@pytest.mark.parametrize("dim", ["0", "-1"])
def test_takes_the_zero_or_minus_one_of_some_exporters_for_unknown(dim: str) -> None:
    model = parse(relu("float[1, 3, 7, 7] x"))
    for place in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = int(dim)
    got = apply_pass(FreezeShapes(batch=1, height=4, width=6), Model(model)).model
    assert shapes(got) == {"x": [1, 3, 4, 6], "y": [1, 3, 4, 6]}


def test_gives_every_input_with_a_dimension_of_that_name_the_same_size() -> None:
    def model(n: str, w: str, out: str) -> str:
        return f"""
        {HEAD}
        g (float[{n}, 3, 4, {w}] x, float[{n}, 1] scale, float[k] other) => (float[{out}] y, float[k] z) {{
            s = Unsqueeze <axes = [2, 3]> (scale)
            y = Mul (x, s)
            z = Relu (other)
        }}""".replace("17]", "11]")

    assert_rewrites(
        FreezeShapes(batch=5, width=6),
        model("n", "w", "a, b, c, d"),
        model("5", "6", "5, 3, 4, 6"),
        given([5, 3, 4, 6]) | {"scale": np.ones((5, 1), np.float32), "other": np.ones(2, np.float32)},
    )


def test_fixes_whole_shapes_and_named_dimensions() -> None:
    assert_rewrites(
        FreezeShapes(dims={"rows": 3}, inputs={"x": [2, 5]}),
        relu("float[n, m] x, float[rows, m] unused", "float[a, b] y"),
        relu("float[2, 5] x, float[3, 5] unused", "float[2, 5] y"),
        given([2, 5]) | {"unused": np.zeros((3, 5), np.float32)},
    )


def test_fixes_the_shape_of_an_input_of_unknown_rank() -> None:
    model = parse(relu("float[n, 3, h, w] x"))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    got = apply_pass(FreezeShapes(inputs={"x": [1, 2, 3]}), Model(model)).model
    assert shapes(got) == {"x": [1, 2, 3], "y": [1, 2, 3]}


RESIZE_TO_OTHER = f"""
        {HEAD}
        g (float[n, 3, h, w] x) => (float[a, b, c, d] y)
                <int64 at2 = {{2}}, int64 at3 = {{3}}, int64[1] zero = {{0}}, int64[1] two = {{2}}> {{
            p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            s = Shape (x)
            h2 = Gather (s, at2)
            w2 = Gather (s, at3)
            h3 = Unsqueeze (h2, zero)
            w3 = Unsqueeze (w2, zero)
            q = Shape (p)
            nc = Slice (q, zero, two, zero)
            sizes = Concat <axis = 0> (nc, h3, w3)
            y = Resize <mode = "linear"> (p, , , sizes)
        }}"""


def test_folds_the_arithmetic_behind_the_size_of_a_resize() -> None:
    after = f"""
        {HEAD}
        g (float[1, 3, 8, 10] x) => (float[1, 3, 8, 10] y) {{
            p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            sizes = Constant <value = int64[4] value {{1, 3, 8, 10}}> ()
            y = Resize <mode = "linear"> (p, , , sizes)
        }}"""
    pass_ = FreezeShapes(batch=1, height=8, width=10, strict=True)
    applied = assert_rewrites(pass_, RESIZE_TO_OTHER, after, given([1, 3, 8, 10]))
    assert apply_pass(pass_, applied.model).model.fingerprint == applied.model.fingerprint


def test_folds_the_static_sizes_of_a_shape_that_is_dynamic_elsewhere() -> None:
    text = f"""
        {HEAD}
        g (float[1, 3, h, w] x) => (float[b, c, d] y)
                <int64 at = {{1}}, int64[1] zero = {{0}}, int64[1] rest = {{-1}}> {{
            s = Shape (x)
            c = Gather (s, at)
            c1 = Unsqueeze (c, zero)
            target = Concat <axis = 0> (c1, zero, rest)
            y = Reshape (x, target)
        }}"""
    got = apply_pass(FreezeShapes(), Model(parse(text))).model
    assert [node.op_type for node in got.proto.graph.node] == ["Constant", "Reshape"]
    assert onnx.numpy_helper.to_array(got.proto.graph.node[0].attribute[0].t).tolist() == [3, 0, -1]
    assert shapes(got)["y"] == [3, 3, "d"]


@pytest.mark.parametrize(
    ("attributes", "value"),
    [("start = 2", [8, 10]), ("start = -2, end = -1", [8]), ("end = 2", [1, 3]), ("", [1, 3, 8, 10])],
)
def test_folds_a_part_of_a_shape(attributes: str, value: list[int]) -> None:
    text = f"""
        {HEAD}
        g (float[1, 3, h, w] x) => (int64[r] y) {{
            y = Shape <{attributes}> (x)
        }}""".replace(" <>", "")
    got = apply_pass(FreezeShapes(height=8, width=10), Model(parse(text))).model
    assert [node.op_type for node in got.proto.graph.node] == ["Constant"]
    assert session.run(got.proto, given([1, 3, 8, 10]))["y"].tolist() == value


def test_folds_float_arithmetic_as_onnxruntime_computes_it() -> None:
    text = f"""
        {HEAD}
        g (float[1, 3, h, w] x) => (int64[2] y, int64 n) <float factor = {{0.7}}> {{
            s = Shape <start = 2> (x)
            f = Cast <to = 1> (s)
            m = Mul (f, factor)
            r = Reciprocal (m)
            d = Div (f, r)
            e = Floor (d)
            y = Cast <to = 7> (e)
            n = Size (x)
        }}"""
    model = Model(parse(text))
    got = apply_pass(FreezeShapes(height=33, width=127), model).model
    assert [node.op_type for node in got.proto.graph.node] == ["Constant", "Constant"]
    expected, values = (session.run(m.proto, given([1, 3, 33, 127])) for m in (model, got))
    assert values["y"].tolist() == expected["y"].tolist()
    assert values["n"].tolist() == 3 * 33 * 127


def test_forgets_stale_sizes_and_keeps_names_that_it_can_t_better() -> None:
    model = parse(
        f"""
        {HEAD}
        g (float[1, 3, h, w] x) => (int64[r, found] y) {{
            a = Relu (x)
            y = NonZero (a)
        }}"""
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 3, 7, "w"]))
    got = apply_pass(FreezeShapes(height=8, width=10), Model(model)).model
    assert shapes(got) == {"x": [1, 3, 8, 10], "a": [1, 3, 8, 10], "y": [4, "found"]}
    onnx.checker.check_model(got.proto, full_check=True)


def test_keeps_the_shape_that_a_custom_operator_was_given() -> None:
    model = parse(
        """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1, 3, h, w] x) => (float[c, d] y) {
            a = mine.Top (x)
            y = Relu (a)
        }"""
    )
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [100, 4]))
    assert shapes(apply_pass(FreezeShapes(height=8, width=10), Model(model)).model)["y"] == [100, 4]


def test_folds_inside_a_body_what_asks_for_an_outer_shape() -> None:
    def model(then: str, x: str, out: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[{x}] x) => (float[{out}] y) <int64 at = {{2}}, int64[1] zero = {{0}}, int64[1] all = {{-1}}> {{
            y = If (c) <
                then_branch = t () => (float[p, q] a) {{ {then} a = Reshape (x, target) }},
                else_branch = e () => (float[r, s] b) {{ b = Flatten <axis = 3> (x) }}
            >
        }}"""

    arithmetic = "s = Shape (x) h = Gather (s, at) h1 = Unsqueeze (h, zero) target = Concat <axis = 0> (h1, all)"
    folded = apply_pass(FreezeShapes(height=8, width=10), Model(parse(model(arithmetic, "1, 3, h, w", "u, v")))).model
    ops = Counter(node.op for node in graphs.walk_nodes(folded.graph()))
    assert ops == {"If": 1, "Constant": 1, "Reshape": 1, "Flatten": 1}
    assert shapes(folded)["a"] == [8, 30]
    before = parse(model(arithmetic, "1, 3, h, w", "u, v"))
    for condition in (True, False):
        inputs = given([1, 3, 8, 10]) | {"c": np.array(condition)}
        np.testing.assert_array_equal(session.run(folded.proto, inputs)["y"], session.run(before, inputs)["y"])


def test_folds_inside_a_loop_what_asks_for_an_outer_shape() -> None:
    text = f"""
        {HEAD}
        g (int64 trips, float[1, 3, h, w] x) => (float[1, 3, e, f] y) <bool true = {{1}}> {{
            y = Loop (trips, true, x) <
                body = b (int64 i, bool go, float[1, 3, p, q] state) => (bool on, float[1, 3, r, s] next) {{
                    on = Identity (go)
                    size = Shape (x)
                    zeros = ConstantOfShape (size)
                    less = Sub (state, zeros)
                    next = Add (less, state)
                }}
            >
        }}"""
    before = Model(parse(text))
    after = apply_pass(FreezeShapes(height=2, width=5), before).model
    assert "Shape" not in {node.op for node in graphs.walk_nodes(after.graph())}
    inputs = given([1, 3, 2, 5]) | {"trips": np.array(3)}
    np.testing.assert_array_equal(session.run(after.proto, inputs)["y"], session.run(before.proto, inputs)["y"])


def test_does_not_divide_by_a_dimension_of_zero() -> None:
    text = f"""
        {HEAD}
        g (float[0, 3] x, float[n] z) => (int64[1] y) <int64[1] six = {{6}}> {{
            s = Shape <end = 1> (x)
            y = Div (six, s)
        }}"""
    got = apply_pass(FreezeShapes(dims={"n": 2}), Model(parse(text))).model
    assert [node.op_type for node in got.proto.graph.node] == ["Constant", "Div"]


def test_leaves_arithmetic_that_can_t_be_computed_and_says_so() -> None:
    text = f"""
        {HEAD}
        g (float[1, 3, h, w] x, bool c) => (int64 y) <int64 beyond = {{7}}, int64 last = {{3}}> {{
            s = Shape (x)
            y = If (c) <
                then_branch = t () => (int64 a) {{ a = Gather (s, beyond) }},
                else_branch = e () => (int64 b) {{ b = Gather (s, last) }}
            >
        }}"""
    applied = apply_pass(FreezeShapes(height=8, width=10), Model(parse(text)))
    assert any("can't be computed" in skip.reason for skip in applied.skips)
    got = session.run(applied.model.proto, given([1, 3, 8, 10]) | {"c": np.array(False)})
    assert got["y"].tolist() == 10


def test_keeps_the_model_s_notes() -> None:
    model = parse(relu("float[n, 3, h, w] x"))
    onnx.helper.set_model_props(model, {"note": json.dumps({"mean": [0, 0, 0]})})
    got = apply_pass(FreezeShapes(batch=1), Model(model)).model.proto
    assert list(got.metadata_props) == list(model.metadata_props)


@pytest.mark.parametrize(
    "pass_", [FreezeShapes(), FreezeShapes(batch=1, height=4, width=6), FreezeShapes(dims={"n": 3})]
)
def test_leaves_a_static_model_alone(pass_: FreezeShapes) -> None:
    model = Model(parse(relu("float[1, 3, 4, 6] x", "float[1, 3, 4, 6] y")))
    applied = apply_pass(pass_, model)
    assert applied.model.fingerprint == model.fingerprint
    assert_untouched(pass_, model.proto, "no node asks for a shape")


def test_notes_a_name_that_no_input_has() -> None:
    assert_untouched(
        FreezeShapes(dims={"height": 3}), relu("float[1, 3, h, w] x"), "no input has a dimension called 'height'"
    )


def test_leaves_weights_that_are_inputs_too_alone() -> None:
    text = """
        <ir_version: 3, opset_import: ["": 8]>
        g (float[1, 3, h, w] x, float[2, 3, 1, 1] k) => (float[1, 2, a, b] y)
                <float[2, 3, 1, 1] k = {1, 2, 3, 4, 5, 6}> {
            y = Conv <kernel_shape = [1, 1]> (x, k)
        }"""
    got = apply_pass(FreezeShapes(batch=1, height=8, width=10), Model(parse(text))).model
    assert (shapes(got)["k"], shapes(got)["y"]) == ([2, 3, 1, 1], [1, 2, 8, 10])


@pytest.mark.parametrize(
    ("pass_", "x", "message"),
    [
        (FreezeShapes(height=4), "float[1, 3, 7, w] x", "height: dimension 2 of input 'x' .* is fixed to 7, not 4"),
        (FreezeShapes(batch=2), "float[1, 3, h, w] x", "batch: dimension 0 of input 'x' .* is fixed to 1, not 2"),
        (FreezeShapes(inputs={"x": [1, 3, 4, 5]}), "float[1, 3, 7, w] x", "inputs.x: dimension 2 .* fixed to 7, not 4"),
        (FreezeShapes(height=4, width=6), "float[1, 3, s, s] x", "would be 4 by height and 6 by width"),
        (
            FreezeShapes(height=4, inputs={"x": [1, 3, 5, 6]}),
            "float[n, 3, h, w] x",
            "would be 5 by inputs.x and 4 by height",
        ),
        (FreezeShapes(height=4, dims={"h": 5}), "float[n, 3, h, w] x", "would be 4 by height and 5 by dims.h"),
        (FreezeShapes(inputs={"z": [1]}), "float[n, 3, h, w] x", "no input 'z'; the model has x"),
        (
            FreezeShapes(inputs={"x": [1, 3]}),
            "float[n, 3, h, w] x",
            r"'x' is \[n, 3, h, w\], which \[1, 3\] does not fit",
        ),
        (FreezeShapes(batch=1), "float[n, 256] x", r"batch: no input is an image .* x \[n, 256\]"),
        (FreezeShapes(height=4), "float[n, 256, h, w] x", "height: no input is an image"),
        (FreezeShapes(height=4), "int64[n, 3, h, w] x", "height: no input is an image"),
        (FreezeShapes(height=4), "float[n, h, w, 3] x", "channels came last"),
    ],
)
def test_refuses_what_can_t_be_granted(pass_: FreezeShapes, x: str, message: str) -> None:
    kind = x.split("[")[0]
    with pytest.raises(PassError, match=message):
        apply_pass(pass_, Model(parse(relu(x, f"{kind}[a] y"))))


def test_strict_lists_what_is_dynamic_still() -> None:
    text = f"""
        {HEAD}
        g (float[1, 3, h, w] x) => (int64[4, n] y) {{
            y = NonZero (x)
        }}"""
    apply_pass(FreezeShapes(height=8, width=10), Model(parse(text)))
    with pytest.raises(PassError, match=r"1 values are dynamic still: y \[4, n\];"):
        apply_pass(FreezeShapes(height=8, width=10, strict=True), Model(parse(text)))
    with pytest.raises(PassError, match=r"2 values are dynamic still: x \[1, 3, 8, w\]; y \[4, n\];"):
        apply_pass(FreezeShapes(height=8, strict=True), Model(parse(text)))


def test_strict_lists_no_more_than_eight() -> None:
    chain = " ".join(f"a{i} = Relu ({f'a{i - 1}' if i else 'x'})" for i in range(10))
    text = f"{HEAD} g (float[n, 4] x) => (float[m, k] y) {{ {chain} y = Relu (a9) }}"
    with pytest.raises(PassError, match=r"12 values are dynamic still: x \[n, 4\]; .* and 4 more") as error:
        apply_pass(FreezeShapes(strict=True), Model(parse(text)))
    assert str(error.value).count("; a") == 7


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"height": -1}, {"width": 0}, {"inputs": {"x": [1, 0]}}, {"dims": {"n": 0}}]
)
def test_refuses_sizes_below_one(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* must be 1 or more"):
        FreezeShapes(**options)


def test_freezes_what_torch_exports_with_dynamic_axes(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Pyramid(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.c1 = nn.Conv2d(3, 4, 3, 2, 1)
            self.c2 = nn.Conv2d(4, 4, 3, 2, 1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Any) -> tuple[Any, ...]:
            one = self.c1(x)
            two = self.c2(one)
            top = one + functional.interpolate(two, size=one.shape[-2:], mode="nearest")
            half = functional.interpolate(top, size=(x.shape[-2] // 2, x.shape[-1] // 3), mode="bilinear")
            logits = [self.head(level) for level in (top, two, half)]
            flat = [level.view(level.shape[0], 2, -1).permute(0, 2, 1) for level in logits]
            grid = torch.arange(one.shape[-1]).expand(one.shape[-2], one.shape[-1])
            return torch.cat(flat, 1), two.flatten(1), grid

    torch.manual_seed(0)
    path = tmp_path / "pyramid.onnx"
    torch.onnx.export(
        Pyramid().eval(),
        (torch.rand(2, 3, 32, 48),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        output_names=["logits", "flat", "grid"],
        dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch", 1: "anchors"}},
    )
    before = Model.load(path)
    assert "Shape" in {node.op_type for node in before.proto.graph.node}
    after = apply_pass(FreezeShapes(batch=3, height=40, width=56, strict=True), before).model
    assert "Shape" not in {node.op_type for node in after.proto.graph.node}
    onnx.checker.check_model(after.proto, full_check=True)
    inputs = given([3, 3, 40, 56])
    expected, got = session.run(before.proto, inputs), session.run(after.proto, inputs)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
        assert shapes(after)[name] == list(value.shape)
    again = apply_pass(FreezeShapes(batch=3, height=40, width=56, strict=True), after).model
    assert again.fingerprint == after.fingerprint


IMAGE = [2, 3, 4, 6]


def any_freezing(build: Builder) -> FreezeShapes:
    """Draw options for a model whose first input, x0, is an image of that size, with some dimensions named."""
    strict = build.chance(6)
    if build.chance(2):
        return FreezeShapes(inputs={"x0": IMAGE}, strict=strict)
    if build.chance(2):
        names = [axis for axis in range(4) if not build.chance(4)]
        return FreezeShapes(dims={f"x0_{axis}": IMAGE[axis] for axis in names}, strict=strict)
    batch, _, height, width = (None if build.chance(4) else size for size in IMAGE)
    return FreezeShapes(batch, height, width, strict=strict)


def any_arithmetic(build: Builder, drawn: list[tuple[str, np.ndarray]]) -> tuple[str, np.ndarray]:
    """Add nodes that compute something from one of `drawn` or from two; return its name and value."""
    name, value = build.choice(drawn)
    number = build.integer(1, 3)
    many = value.ndim == 1 and len(value) > 0
    op = build.choice(
        ["Gather", "Slice", "Concat", "Squeeze", "ReduceProd", "Mul", "Where", "Div"] if many else ["Mul"]
    )
    if value.ndim == 0:
        op = build.choice(["Unsqueeze", "Add", "Mul", "Floor", "Div", "Sub", "Max", "Range", "Unsqueeze"])
    if op == "Gather":
        at = build.integer(-len(value), len(value) - 1)
        index = np.array(build.choice([at, [at]]))
        return build.node(op, [name, build.constant(index)], axis=build.choice([0, None])), value[index]
    if op == "Slice":
        start, end = build.integer(0, len(value)), build.choice([1, 2, -1, 2**31 - 1])
        if build.opset < 10:
            return build.node(op, [name], starts=[start], ends=[end]), value[start:end]
        bounds = [build.constant(np.array([number])) for number in (start, end, 0)]
        return build.node(op, [name, *bounds]), value[start:end]
    if op == "Concat":
        more, others = build.choice([pair for pair in drawn if pair[1].ndim == 1])
        return build.node(op, [name, more], axis=0), np.concatenate([value, others])
    if op in ("Squeeze", "Unsqueeze"):
        if op == "Squeeze" and len(value) != 1:
            return name, value
        moved = value.reshape([1] if op == "Unsqueeze" else [])
        if build.opset < 13:
            return build.node(op, [name], axes=[0]), moved
        return build.node(op, [name, build.constant(np.array([0]))]), moved
    if op == "ReduceProd":
        keepdims = build.choice([0, 1])
        return build.node(op, [name], keepdims=keepdims), np.prod(value, keepdims=bool(keepdims))
    if op == "Range":
        if build.opset < 11 or value > 20:
            return name, value
        start, step = build.constant(np.array(0)), build.constant(np.array(number))
        return build.node(op, [start, name, step]), np.arange(0, value, number)
    if op == "Floor":
        as_float = build.node("Cast", [name], to=1)
        part = build.node("Mul", [as_float, build.constant(np.array(number / 4, np.float32))])
        return build.node("Cast", [build.node(op, [part])], to=7), np.floor(value * number / 4).astype(np.int64)
    if op == "Where":
        if build.opset < 11:
            return name, value
        same = build.node("Equal", [name, build.constant(np.array([IMAGE[number]]))])
        return build.node(op, [same, build.constant(np.array([1])), name]), np.where(value == IMAGE[number], 1, value)
    if op == "Max" and build.opset < 12:
        return name, value
    computed = {"Add": value + number, "Sub": value - number, "Mul": value * number, "Max": np.maximum(value, number)}
    # both round towards zero
    computed["Div"] = np.trunc(value / number).astype(np.int64)
    return build.node(op, [name, build.constant(np.array(number))]), computed[op]


@fuzz(any_freezing)
def test_any_arithmetic_on_shapes_gives_the_same(build: Builder) -> list[str]:
    x, shape = build.input(IMAGE), IMAGE
    front = build.choice(["Relu", "MaxPool", "Transpose", "Conv", ""])
    y = x
    if front == "MaxPool":
        y, shape = build.node(front, [x], kernel_shape=[2, 2], strides=[2, 2]), [2, 3, 2, 3]
    elif front == "Transpose":
        y, shape = build.node(front, [x], perm=[0, 2, 3, 1]), [2, 4, 6, 3]
    elif front == "Conv":
        y, shape = build.node(front, [x, build.weight([5, 3, 3, 3])], strides=[1, 2]), [2, 5, 2, 2]
    elif front:
        y = build.node(front, [x])
    start, end = (build.choice([None, None, 1, 2, -1]) if build.opset >= 15 else None for _ in range(2))
    drawn = [(build.node("Shape", [y], start=start, end=end), np.array(shape[slice(start, end)], np.int64))]
    if build.chance(3):
        drawn.append((build.node("Shape", [x]), np.array(IMAGE)))
    if build.chance(4):
        drawn.append((build.node("Size", [y]), np.array(np.prod(shape))))
    for _ in range(build.integer(1, 7)):
        drawn.append(any_arithmetic(build, drawn[-3:] if build.chance(2) else drawn))
    outputs = [drawn[-1][0]] if build.chance(3) else []
    lists = [(name, value) for name, value in drawn if value.ndim == 1 and (value > 0).all() and len(value)]
    for name, value in lists[::-1][: build.integer(1, 2)]:
        uses = ["ConstantOfShape", "Expand"] if np.prod(value) <= 500 else []
        uses += ["Reshape"] if np.prod(shape) % np.prod(value) == 0 else []
        uses += ["Slice"] if len(value) == 1 and build.opset >= 10 else []
        uses += ["Resize"] if len(value) == 2 and build.opset >= 11 and max(value) <= 20 else []
        use = build.choice(uses) if uses else ""
        if use == "ConstantOfShape":
            outputs.append(build.node(use, [name]))
        elif use == "Expand":
            outputs.append(build.node(use, [build.weight([1]), name]))
        elif use == "Reshape":
            rest = build.constant(np.array([-1]))
            outputs.append(build.node(use, [y, build.node("Concat", [name, rest], axis=0)]))
        elif use == "Slice":
            axis = build.constant(np.array([build.integer(0, 3)]))
            outputs.append(build.node(use, [y, build.constant(np.array([0])), name, axis]))
        elif use == "Resize":
            bounds = [build.constant(np.array([number])) for number in (0, 2, 0)]
            whole = build.node("Slice", [build.node("Shape", [y]), *bounds])
            sizes = build.node("Concat", [whole, name], axis=0)
            none = "" if build.opset >= 13 else build.constant(np.zeros(0, np.float32))
            outputs.append(build.node(use, [y, none, none, sizes], mode="nearest"))
    return outputs or [drawn[-1][0], y] if y != x else outputs or [drawn[-1][0]]


# --- a batch that the graph holds too -----------------------------------------------------------------------------


def reshaped(target: str, size: str = "4, 4", batch: str = "n") -> str:
    length = target.count(",") + 1
    return f"""
        {HEAD}
        g (float[{batch}, 3, {size}] x) => (y) <int64[{length}] target = {{{target}}}> {{
            a = Relu (x)
            [flat] y = Reshape (a, target)
        }}"""


@pytest.mark.parametrize(("target", "batch"), [("1, -1", 4), ("1, 0, -1", 4), ("2, 48", 4), ("2, 48", 1), ("2, -1", 3)])
def test_a_reshape_that_holds_another_batch_is_named(target: str, batch: int) -> None:
    with pytest.raises(
        PassError, match=rf"node 'flat' \(Reshape\) has the target .*fits no batch of {batch}: the model"
    ):
        apply_pass(FreezeShapes(batch=batch), Model(parse(reshaped(target))))


@pytest.mark.parametrize(("target", "batch"), [("1, -1", 1), ("-1, 48", 4), ("0, -1", 4), ("4, 48", 4), ("3, -1", 1)])
def test_a_reshape_that_fits_the_batch_is_fine(target: str, batch: int) -> None:
    model = Model(parse(reshaped(target)))
    after = apply_pass(FreezeShapes(batch=batch), model).model
    assert_same_outputs(model.proto, after.proto, given([batch, 3, 4, 4]))


# --- in a recipe --------------------------------------------------------------------------------------------------

IN_A_RECIPE = PassContext(canvas=(8, 6))


def test_an_image_gets_the_size_of_the_canvas_in_a_recipe() -> None:
    model = Model(parse(relu("float[n, 3, h, w] x, float[h] other", "float[a, b, c, d] y")))
    after = apply_pass(FreezeShapes(batch=1), model, IN_A_RECIPE)
    assert shapes(after.model) == {"x": [1, 3, 8, 6], "other": [8], "y": [1, 3, 8, 6]}
    assert after.skips == ()
    stays = apply_pass(FreezeShapes(batch=1), model)
    assert shapes(stays.model)["x"] == [1, 3, "h", "w"]
    assert [skip.reason for skip in stays.skips] == [
        "input 'x' [1, 3, h, w] stays open: no option gives it a size",
        "input 'other' [h] stays open: no option gives it a size",
    ]


def test_a_size_that_an_option_gives_goes_before_the_canvas() -> None:
    model = Model(parse(relu("float[n, 3, h, w] x", "float[a, b, c, d] y")))
    after = apply_pass(FreezeShapes(batch=1, dims={"h": 4}), model, IN_A_RECIPE).model
    assert shapes(after)["x"] == [1, 3, 4, 6]
    assert shapes(apply_pass(FreezeShapes(height=4), model, IN_A_RECIPE).model)["x"] == ["n", 3, 4, 6]


def test_a_batch_that_the_file_has_fixed_is_fed_as_it_is() -> None:
    model = Model(parse(relu("float[4, 3, 8, 6] x", "float[4, b, c, d] y")))
    after = apply_pass(FreezeShapes(), model, IN_A_RECIPE)
    assert shapes(after.model)["x"] == [4, 3, 8, 6]
    with pytest.raises(PassError, match="is fixed to 4, not 1"):
        apply_pass(FreezeShapes(batch=1), model, IN_A_RECIPE)


@pytest.mark.parametrize(
    "pass_", [FreezeShapes(batch=2), FreezeShapes(dims={"n": 2}), FreezeShapes(inputs={"x": [2, 3, 8, 6]})]
)
def test_a_recipe_feeds_one_image_at_a_time(pass_: FreezeShapes) -> None:
    with pytest.raises(
        PassError,
        match=r"'x' \[2, 3, 8, 6\] would take 2 images at once, and the source feeds 1: "
        r"write source\.batch: 2, or 1 here; .*freeze-batch",
    ):
        apply_pass(pass_, Model(parse(relu("float[n, 3, h, w] x", "float[a, b, c, d] y"))), IN_A_RECIPE)


FOUR_AT_ONCE = PassContext(canvas=(8, 6), batch=4)


def test_an_image_gets_the_batch_of_the_source_in_a_recipe() -> None:
    model = Model(parse(relu("float[n, 3, h, w] x, float[n, 2] other", "float[a, b, c, d] y")))
    for pass_ in (FreezeShapes(), FreezeShapes(batch=4), FreezeShapes(dims={"n": 4})):
        after = apply_pass(pass_, model, FOUR_AT_ONCE)
        assert shapes(after.model) == {"x": [4, 3, 8, 6], "other": [4, 2], "y": [4, 3, 8, 6]}
    assert shapes(apply_pass(FreezeShapes(), model, IN_A_RECIPE).model)["x"] == ["n", 3, 8, 6]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_another_batch_than_the_source_feeds_is_refused(batch: int) -> None:
    model = Model(parse(relu("float[n, 3, h, w] x", "float[a, b, c, d] y")))
    with pytest.raises(
        PassError, match=rf"would take {batch} images at once, and the source feeds 4: write source\.batch"
    ):
        apply_pass(FreezeShapes(batch=batch), model, FOUR_AT_ONCE)


def test_a_recipe_needs_no_size_but_that_of_its_source(cli: Cli, tmp_path: Path) -> None:
    open_ = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, h, w] image) => (float[n, 1, h2, w2] y) <float[1, 3, 1, 1] weight = {1, 2, 3}> {
            y = Conv <strides = [2, 2]> (image, weight)
        }""")
    onnx.save(open_, tmp_path / "open.onnx")
    recipe = tmp_path / "open.yaml"
    recipe.write_text(
        """\
source: {onnx: open.onnx, size: [16, 24]}
passes: [{freeze-shapes: {batch: 1}}]
partition: {at: RoiAlign, parts: {net: npu}}
""",
        "utf-8",
    )
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "model_io")
    assert outcome.code == 0, outcome.err
    (output,) = onnx.load(tmp_path / "parts" / "net.onnx").graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [1, 1, 8, 12]
