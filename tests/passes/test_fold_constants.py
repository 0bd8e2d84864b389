from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.fold_constants import FoldConstants
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# made dynamic by hand: of c the old size is still written down


def test_folds_a_chain_into_one_initializer_of_the_last_name() -> None:
    assert_rewrites(
        FoldConstants(),
        f"""
        {HEAD}
        g (float[2] x) => (float[2] y) {{
            a = Constant <value_ints = [2, 3]> ()
            b = Cast <to = 1> (a)
            three = Constant <value_float = 3.0> ()
            c = Mul (b, three)
            y = Add (x, c)
        }}""",
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] c = {{6, 9}}> {{ y = Add (x, c) }}",
    )


def test_lifts_a_constant_node_into_an_initializer() -> None:
    assert_rewrites(
        FoldConstants(),
        f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Constant <value = float[2] {{1, 2}}> () y = Add (x, a) }}",
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] a = {{1, 2}}> {{ y = Add (x, a) }}",
    )


def test_folds_the_shape_of_a_tensor_whose_shape_is_known() -> None:
    assert_rewrites(
        FoldConstants(),
        f"""
        {HEAD}
        g (float[2, 3, 4, 5] x) => (int64 s, float[1, 120] y) <int64[1] one = {{1}}> {{
            s = Size (x)
            end = Shape <start = -2> (x)
            start = Shape <start = 0, end = 2> (x)
            a = ReduceProd <keepdims = 1> (start)
            b = ReduceProd <keepdims = 1> (end)
            c = Mul (a, b)
            shape = Concat <axis = 0> (one, c)
            y = Reshape (x, shape)
        }}""",
        f"""
        {HEAD}
        g (float[2, 3, 4, 5] x) => (int64 s, float[1, 120] y) <int64[2] shape = {{1, 120}}> {{
            y = Reshape (x, shape)
            s = Constant <value = int64 {{120}}> ()
        }}""",
    )


def test_leaves_the_shape_of_a_tensor_that_is_not_fully_known_alone() -> None:
    text = f"{HEAD} g (float[N, 3] x) => (int64[2] y) {{ y = Shape (x) }}"
    assert_untouched(FoldConstants(), text, None)


def test_a_graph_output_stays_the_output_of_a_constant_node() -> None:
    assert_rewrites(
        FoldConstants(),
        f"""
        {HEAD}
        g (float[2] x) => (float[2] s, float[2] y) <float[2] w = {{1, 2}}> {{
            s = Add (w, w)
            y = Mul (x, s)
        }}""",
        f"""
        {HEAD}
        g (float[2] x) => (float[2] s, float[2] y) <float[2] s_2 = {{2, 4}}> {{
            y = Mul (x, s_2)
            s = Constant <value = float[2] {{2, 4}}> ()
        }}""",
    )


def test_a_node_with_one_output_read_and_one_promised_gives_both() -> None:
    assert_rewrites(
        FoldConstants(),
        f"""
        {HEAD}
        g (float[2] x) => (int64[1] i, float[1] y) <float[3] w = {{1, 5, 2}}, int64[1] k = {{1}}> {{
            v, i = TopK (w, k)
            y = ReduceSum (x)
            unused, j = TopK (w, k)
        }}""",
        f"""
        {HEAD}
        g (float[2] x) => (int64[1] i, float[1] y) {{
            y = ReduceSum (x)
            i = Constant <value = int64[1] {{1}}> ()
        }}""",
    )


def test_folds_inside_bodies_with_what_is_constant_around_them() -> None:
    assert_rewrites(
        FoldConstants(),
        f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
            v = Add (w, w)
            y = If (c) <
                then_branch = t () => (float[2] a) {{ m = Mul (v, v) a = Add (x, m) }},
                else_branch = e () => (float[2] b) {{ b = Neg (v) }}
            >
        }}""",
        f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] a) <float[2] m = {{4, 16}}> {{ a = Add (x, m) }},
                else_branch = e () => (float[2] b) {{ b = Constant <value = float[2] {{-2, -4}}> () }}
            >
        }}""",
        {"c": np.array(True), "x": np.float32([1, 2])},
    )


def test_leaves_an_initializer_that_is_also_an_input_alone() -> None:
    text = f"{HEAD} g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}> {{ a = Neg (w) y = Add (x, a) }}"
    assert_untouched(FoldConstants(), text, None)


def test_leaves_random_numbers_alone() -> None:
    text = f"""
    {HEAD}
    g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ a = RandomNormalLike (w) y = Add (x, a) }}"""
    assert_untouched(FoldConstants(), text, "random")


def test_leaves_control_flow_alone() -> None:
    text = f"""
    {HEAD}
    g (float[2] x) => (float[2] y) <bool c = {{1}}> {{
        a = If (c) <
            then_branch = t () => (float[2] p) {{ p = Neg (x) }},
            else_branch = e () => (float[2] q) {{ q = Abs (x) }}
        >
        y = Add (x, a)
    }}"""
    assert_untouched(FoldConstants(), text, "control flow")


def test_leaves_sequences_alone() -> None:
    text = f"""
    {HEAD}
    g (int64 i) => (float[2] y) <float[2] w = {{1, 2}}> {{ s = SequenceConstruct (w, w) y = SequenceAt (s, i) }}"""
    assert_untouched(FoldConstants(), text, "sequence")


def test_leaves_string_constants_alone() -> None:
    text = f"""
    {HEAD}
    g (float[1] x) => (string[1] y) {{ a = Constant <value_strings = ["b"]> () y = Identity (a) }}"""
    assert_untouched(FoldConstants(), text, None)


@pytest.mark.parametrize("zero", ["int8", "uint8"])
def test_leaves_quantized_weights_quantized(zero: str) -> None:
    text = f"""
    {HEAD}
    g (float[2] x) => (float[2] y) <{zero}[2] w = {{1, 2}}, float s = {{0.5}}, {zero} z = {{0}}> {{
        a = DequantizeLinear (w, s, z)
        y = Add (x, a)
    }}"""
    assert_untouched(FoldConstants(), text, "undo the quantization")


def test_leaves_operators_of_other_domains_alone() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "my": 1]>
    g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = my.Neg (w) y = Add (x, a) }"""
    assert_untouched(FoldConstants(), text, "domain my")


def test_leaves_a_custom_operator_of_constants_alone() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17, "mmcv": 1]>
    g (int64[1] x) => (int64[n] y) <float[1, 4] b = {0, 0, 4, 4}, float[1] s = {1}> {
        k = mmcv.NonMaxSuppression <iou_threshold = 0.5> (b, s)
        y = Add (x, k)
    }"""
    assert_untouched(FoldConstants(), text, "domain mmcv")


@pytest.mark.parametrize("limit", [99, 100])
def test_a_value_larger_than_the_limit_and_than_its_inputs_is_not_stored(limit: int) -> None:
    before = f"""
    {HEAD}
    g (float[10, 10] x) => (float[10, 10] y) <float[1] w = {{1}}, int64[2] s = {{10, 10}}> {{
        a = Expand (w, s)
        y = Add (x, a)
    }}"""
    if limit == 99:
        assert_untouched(FoldConstants(limit), before, "100 elements, more than 99")
    else:
        ones = ", ".join(["1"] * 100)
        after = f"{HEAD} g (float[10, 10] x) => (float[10, 10] y) <float[10, 10] a = {{{ones}}}> {{ y = Add (x, a) }}"
        assert_rewrites(FoldConstants(limit), before, after)


def test_a_size_that_is_itself_computed_is_known_before_anything_of_that_size_is_made() -> None:
    text = f"""
    {HEAD}
    g (float[1] x) => (float[1] y) <float[2] s = {{1e6, 1e6}}> {{
        n = Cast <to = 7> (s)
        a = ConstantOfShape (n)
        b = ReduceSum <keepdims = 0> (a)
        y = Add (x, b)
    }}"""
    applied = apply_pass(FoldConstants(), Model(parse(text)))
    assert [node.op_type for node in applied.model.proto.graph.node] == ["ConstantOfShape", "ReduceSum", "Add"]
    assert [skip.node for skip in applied.skips] == ["a"]


def test_a_weight_above_the_limit_is_transposed_since_it_does_not_grow() -> None:
    assert_rewrites(
        FoldConstants(max_elements=1),
        f"{HEAD} g (float[2] x) => (float[1] y) <float[1, 2] w = {{1, 2}}> {{ a = Transpose (w) y = MatMul (x, a) }}",
        f"{HEAD} g (float[2] x) => (float[1] y) <float[2, 1] a = {{1, 2}}> {{ y = MatMul (x, a) }}",
    )


def test_a_shape_is_never_too_large() -> None:
    assert_rewrites(
        FoldConstants(max_elements=1),
        f"""
        {HEAD}
        g (float x) => (float[2] y) <float[0] w = {{}}> {{
            a = NonZero (w)
            b = Shape (a)
            c = Cast <to = 1> (b)
            y = Add (x, c)
        }}""",
        f"{HEAD} g (float x) => (float[2] y) <float[2] c = {{1, 0}}> {{ y = Add (x, c) }}",
    )


@pytest.fixture
def unknown_operator() -> Iterator[str]:
    """Make known to onnx, not to ONNX Runtime, an operator of ONNX's own domain: no version of it has a kernel."""
    schema = onnx.defs.OpSchema(
        "Untold",
        "",
        1,
        inputs=[onnx.defs.OpSchema.FormalParameter("X", "T")],
        outputs=[onnx.defs.OpSchema.FormalParameter("Y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
    )
    onnx.defs.register_schema(schema)
    yield schema.name
    onnx.defs.deregister_schema(schema.name, schema.since_version, schema.domain)


def test_a_node_that_onnx_runtime_has_no_kernel_for_does_not_keep_the_others(unknown_operator: str) -> None:
    text = f"""
    {HEAD}
    g (float[2] x) => (float[2] y, float[2] z) <float[2] w = {{1, 2}}> {{
        a = {unknown_operator} (w)
        y = Add (x, a)
        b = Neg (w)
        c = Exp (b)
        z = Mul (x, c)
    }}"""
    applied = apply_pass(FoldConstants(), Model(parse(text)))
    assert {node.op_type for node in applied.model.proto.graph.node} == {unknown_operator, "Add", "Mul"}
    (skip,) = applied.skips
    assert skip.node == "a"
    assert unknown_operator in skip.reason


def test_a_model_of_ir_version_3_becomes_one_of_4_where_initializers_need_not_be_inputs() -> None:
    text = """
    <ir_version: 3, opset_import: ["": 9]>
    g (float[2] x) => (float[2] y) { a = Constant <value = float[2] {1, 2}> () b = Neg (a) y = Add (x, b) }"""
    proto = apply_pass(FoldConstants(), Model(parse(text))).model.proto
    assert (proto.ir_version, [info.name for info in proto.graph.input]) == (4, ["x"])
    onnx.checker.check_model(proto, full_check=True)


def test_reads_external_data_only_for_what_it_folds(tmp_path: Path) -> None:
    model = parse(f"""
    {HEAD}
    g (float[2] x) => (float[2] y) <float[2] v = {{1, 2}}, float[2] w = {{3, 4}}> {{
        a = Neg (v)
        b = Add (x, a)
        y = Mul (b, w)
    }}""")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    folded = apply_pass(FoldConstants(), Model.load(path)).model
    assert {t.name: t.data_location for t in folded.proto.graph.initializer} == {
        "w": onnx.TensorProto.EXTERNAL,
        "a": onnx.TensorProto.DEFAULT,
    }
    folded.save(path)
    np.testing.assert_array_equal(session.run(path, {"x": np.float32([5, 6])})["y"], [12, 16])


def test_a_thousand_folded_nodes_cost_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [onnx.helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(1000)]
    nodes.append(onnx.helper.make_node("Add", ["x", "t1000"], ["y"]))
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.float32([3]), "t0")
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    runs = []
    run = session.run
    monkeypatch.setattr(session, "run", lambda *args, **options: runs.append(1) or run(*args, **options))
    proto = apply_pass(FoldConstants(), Model(model)).model.proto
    assert (len(proto.graph.node), len(runs)) == (1, 1)


def test_refuses_a_limit_below_one() -> None:
    with pytest.raises(ValueError, match="max_elements"):
        FoldConstants(0)


UNARY = ["Neg", "Abs", "Relu", "Identity", "Sign", "Floor"]
RANKED = ["Gather", "Concat", "TopK", "NonZero"]
MORE = ["Transpose", "Reshape", "Unsqueeze", "Cast", "Shape", "Size", "Expand", "ConstantOfShape", "Clip", "Split"]
REFUSED = ["RandomUniformLike", "QuantizeLinear"]


def any_step(build: Builder, x: str, shape: list[int], dtype: np.dtype[Any]) -> tuple[str, list[int]]:
    """Add nodes that compute something from `x` alone; return its name and shape."""
    op = build.choice([build.choice(UNARY), build.choice(MORE), build.choice([*MORE, *(RANKED if shape else [])])])
    if build.chance(12):
        op = build.choice(REFUSED)
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)

    def typed(name: str) -> str:
        return build.node("Cast", [name], to=kind)

    if op == "Transpose":
        return build.node(op, [x], perm=build.choice([None, [*range(len(shape))][::-1] or None])), shape[::-1]
    if op == "Reshape":
        return build.node(op, [x, build.constant(np.array([int(np.prod(shape))]))]), [int(np.prod(shape))]
    if op == "Unsqueeze":
        if build.opset < 13:
            return build.node(op, [x], axes=[0]), [1, *shape]
        return build.node(op, [x, build.constant(np.array([0]))]), [1, *shape]
    if op == "Cast":
        other = build.choice([np.float32, np.float64, np.int32, np.bool_])
        return typed(build.node(op, [x], to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(other)))), shape
    if op == "Shape":
        start, end = (build.choice([None, None, 0, 1, -1]) if build.opset >= 15 else None for _ in range(2))
        return typed(build.node(op, [x], start=start, end=end)), [len(shape[slice(start, end)])]
    if op == "Size":
        return typed(build.node(op, [x])), []
    if op == "Expand":
        return build.node(op, [x, build.constant(np.array([2, *shape]))]), [2, *shape]
    if op == "ConstantOfShape":
        value = onnx.numpy_helper.from_array(np.array([3], dtype))
        return build.node(op, [build.node("Shape", [x])], value=value), shape
    if op == "Clip":
        if build.opset < 11:
            return build.node(op, [x], max=2.0), shape
        return build.node(op, [x, "", build.constant(np.array(2, dtype))]), shape
    if op == "Split":
        axis = next((axis for axis, size in enumerate(shape) if size % 2 == 0), None)
        if axis is None or build.opset < 13:
            return x, shape
        half = [size // 2 if place == axis else size for place, size in enumerate(shape)]
        sizes = build.constant(np.array([half[axis]] * 2))
        return build.choice(build.node(op, [x, sizes], outputs=2, axis=axis)), half
    if op == "Gather":
        if not shape[0]:
            return x, shape
        return build.node(op, [x, build.constant(np.array(0))], axis=build.choice([0, None])), shape[1:]
    if op == "Concat":
        return build.node(op, [x, x], axis=0), [2 * shape[0], *shape[1:]]
    if op == "TopK":
        if not shape[-1]:
            return x, shape
        k = {"k": 1} if build.opset < 10 else {}
        values, indices = build.node(op, [x] if k else [x, build.constant(np.array([1]))], outputs=2, **k)
        return build.choice([values, typed(indices)]), [*shape[:-1], 1]
    if op == "NonZero":
        return build.node("ReduceSum", [typed(build.node(op, [x]))], keepdims=0), []
    if op == "RandomUniformLike":
        return build.node(op, [x], low=2.0, high=2.0), shape
    if op == "QuantizeLinear" and build.opset >= 10 and dtype == np.float32:
        scale, zero = build.constant(np.array(0.5, dtype)), build.constant(np.array(0, np.int8))
        return build.node("DequantizeLinear", [build.node(op, [x, scale, zero]), scale, zero]), shape
    return build.node(op if op in UNARY else "Neg", [x]), shape


@fuzz(lambda build: FoldConstants(build.choice([2**20, 2**20, 1, 6])))
def test_any_constant_folds_to_its_value(build: Builder) -> list[str]:
    dtype = build.dtype()
    shape = build.shape(rank=(1, 3), sizes=(0, 4))
    x, single = build.input(shape, dtype), build.input([1], dtype)
    drawn = [(x, shape)]
    for _ in range(build.integer(1, 2)):
        weight = build.shape(rank=(0, 3), sizes=(build.choice([1, 0]), 4))
        drawn.append((build.weight(weight, dtype), weight))
    if build.opset >= 12:
        value = build.choice([{"value_floats": [1.0, 2.0]}, {"value_float": 3.0}, {"value_ints": [4, -5]}])
        name = build.node("Cast", [build.node("Constant", [], **value)], to=onnx.helper.np_dtype_to_tensor_dtype(dtype))
        drawn.append((name, [] if "value_float" in value else [2]))
    for _ in range(build.integer(1, 6)):
        name, known = build.choice(drawn[1:] if build.chance(2) else drawn[-2:])
        drawn.append(any_step(build, name, known, dtype))
        if build.chance(3):
            name, known = drawn[-1]
            other = build.choice([name, *(other for other, size in drawn if size in ([], known))])
            # squares of squares leave the range of float16, in which ONNX Runtime does not keep what is in between
            ops = ["Add", "Sub"] if dtype == np.float16 else ["Add", "Mul", "Sub"]
            drawn.append((build.node(build.choice(ops), [name, other]), known))
    last, *read = {drawn[-1][0]: None, **{name: None for name, _ in drawn[1:] if build.chance(3)}}
    constants = [name for name in read if name.startswith("t")]
    return [build.node("Mul", [single, name]) for name in (last, *read)] + constants[:1]
