import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.passes.simplify import Simplify
from graphsurgery.processes import onnxsim_process
from graphsurgery.processes.worker import Worker
from graphsurgery.rewrite import Applied, apply_pass
from graphsurgery.testing import assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
PLAIN = f"""
    {HEAD}
    g (float[2, 3] x) => (float[1, 6] y) <int64[1] first = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}> {{
        a = Identity (x)
        shape = Shape (a)
        rows = Gather (shape, zero)
        columns = Gather (shape, one)
        all = Mul (rows, columns)
        new = Concat <axis = 0> (first, all)
        b = Reshape (a, new)
        y = Relu (b)
    }}"""
# evaluating it takes 6.4 GB and seconds
HUGE = f"""
    {HEAD}
    g (float[1] x) => (float[1] y) <int64[2] n = {{40000, 40000}}> {{
        a = ConstantOfShape (n)
        b = ReduceSum <keepdims = 0> (a)
        y = Add (x, b)
    }}"""


def apply(text: str | onnx.ModelProto, pass_: Simplify | None = None) -> Applied:
    return apply_pass(pass_ or Simplify(), Model(parse(text)))


def worker() -> psutil.Process:
    assert onnxsim_process.running.worker is not None
    return psutil.Process(onnxsim_process.running.worker.pid)


def ops(model: Model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_folds_a_shape_chain_and_a_second_run_changes_nothing() -> None:
    model = parse(PLAIN)
    once = apply(model).model
    assert ops(once) == ["Reshape", "Relu"]
    onnx.checker.check_model(once.proto, full_check=True)
    assert_same_outputs(model, once.proto)
    assert apply_pass(Simplify(), once).model.fingerprint == once.fingerprint


def test_a_second_run_changes_nothing_though_onnxsim_turns_constant_nodes_around() -> None:
    text = f"""
    {HEAD}
    g (float[2, 3] x) => (float[2, 3] y) {{
        one = Constant <value = float[1] {{1}}> ()
        two = Constant <value = float[1] {{2}}> ()
        a = Mul (x, two)
        uno = Constant <value = float[1] {{1}}> ()
        b = Sub (a, one)
        c = Div (b, two)
        y = Sub (c, uno)
    }}"""
    once = apply(text).model
    assert ops(once) == ["Mul", "Sub", "Div", "Sub"]
    assert apply_pass(Simplify(), once).model.fingerprint == once.fingerprint


def test_a_second_run_changes_nothing_where_constants_are_outputs() -> None:
    text = f"""
        {HEAD}
        g (float[2, 2, 4, 1] x) => (float[2, 2, 4, 1] y, float[2] b, float[2, 2, 1, 1] w, float[1] n, float[1] m) {{
            w = Constant <value = float[2, 2, 1, 1] {{2, -1, -3, 1}}> ()
            k = Constant <value = float[1] {{4}}> ()
            b = Constant <value = float[2] {{-1, -1}}> ()
            n = Add (k, k)
            m = Identity (n)
            c = Conv (x, w, b)
            y = Mul (c, n)
        }}"""
    once = apply(text).model
    assert apply_pass(Simplify(), once).model.fingerprint == once.fingerprint


def test_takes_nodes_in_any_order() -> None:
    model = parse(PLAIN)
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert ops(apply(model).model) == ["Reshape", "Relu"]


def test_a_model_of_ir_version_3_becomes_one_of_4_where_initializers_need_not_be_inputs() -> None:
    text = """
    <ir_version: 3, opset_import: ["": 9]>
    g (float[2] x) => (float[2] y) { a = Constant <value = float[2] {1, 2}> () b = Neg (a) y = Add (x, b) }"""
    simplified = apply(text).model
    assert (ops(simplified), simplified.proto.ir_version) == (["Add"], 4)
    onnx.checker.check_model(simplified.proto, full_check=True)


def test_writes_the_shapes_it_inferred() -> None:
    (info,) = (info for info in apply(PLAIN).model.proto.graph.value_info if info.name == "b")
    assert [dim.dim_value for dim in info.type.tensor_type.shape.dim] == [1, 6]


def test_fuses_a_batch_normalization_unless_told_not_to() -> None:
    text = f"""
    {HEAD}
    g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
    <float[1, 1, 1, 1] w = {{2}}, float[1] s = {{3}}, float[1] b = {{4}}, float[1] m = {{5}}, float[1] v = {{6}}> {{
        a = Conv <kernel_shape = [1, 1]> (x, w)
        y = BatchNormalization (a, s, b, m, v)
    }}"""
    fused = apply(text).model
    assert ops(fused) == ["Conv"]
    assert_same_outputs(parse(text), fused.proto)
    assert ops(apply(text, Simplify(skip=("fuse_bn_into_conv",))).model) == ["Conv", "BatchNormalization"]


ATTENTION = f"""
    {HEAD} g (float[1, 5, 8] x) => (float[1, 5, 8] y)
    <int64[4] heads = {{1, 5, 2, 4}}, int64[3] all = {{1, 5, 8}}, float scale = {{0.5}}> {{
        q0 = MatMul (x, wq)  q1 = Add (bq, q0)  q2 = Reshape (q1, heads)  q = Transpose <perm = [0, 2, 1, 3]> (q2)
        k0 = MatMul (x, wk)  k1 = Add (bk, k0)  k2 = Reshape (k1, heads)  k = Transpose <perm = [0, 2, 3, 1]> (k2)
        v0 = MatMul (x, wv)  v1 = Add (bv, v0)  v2 = Reshape (v1, heads)  v = Transpose <perm = [0, 2, 1, 3]> (v2)
        s0 = MatMul (q, k)  s1 = Mul (s0, scale)  s = Softmax <axis = -1> (s1)
        c0 = MatMul (s, v)  c1 = Transpose <perm = [0, 2, 1, 3]> (c0)  y = Reshape (c1, all)
    }}"""


def test_attention_is_fused_into_an_operator_of_another_domain_when_asked_only() -> None:
    model, draw = parse(ATTENTION), np.random.default_rng(0)
    for name in "qkv":
        for kind, shape in (("w", [8, 8]), ("b", [8])):
            value = draw.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(value, f"{kind}{name}"))
    left = apply(model).model
    assert [entry.domain for entry in left.proto.opset_import] == [""]
    assert {"MatMul", "Softmax"} <= {*ops(left)}
    fused = apply(model, Simplify(contrib=True)).model
    assert "com.microsoft" in {node.domain for node in fused.proto.graph.node}
    for each in (left, fused):
        assert_same_outputs(model, each.proto)
    assert apply_pass(Simplify(contrib=True), Model(parse(PLAIN))).model.proto.opset_import == parse(PLAIN).opset_import


def with_large_weights(nodes: str, **weights: float) -> onnx.ModelProto:
    """Return a model of `nodes` from x [1,128,4,4] to y, with weights [128,128,2,2] that count up from a number."""
    model = parse(f"""{HEAD} g (float[1, 128, 4, 4] x) => (float y) <float[128] s = {{{", ".join(["2"] * 128)}}}> {{
        {nodes}
    }}""")
    for name, first in weights.items():
        values = first + np.linspace(0, 1, 128 * 128 * 4, dtype=np.float32).reshape(128, 128, 2, 2)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("a = Conv (x, w) y = BatchNormalization (a, s, s, s, s)", ["Conv"]),
        # only when the Identity is gone
        ("a = Conv (x, w) b = Identity (a) y = BatchNormalization (b, s, s, s, s)", ["Conv"]),
        # only when the shape is known to be a constant
        ("a = Shape (x) b = ConstantOfShape (a) c = Conv (b, w) d = Conv (x, v) y = Add (c, d)", ["Conv"]),
        ("a = Conv (x, w) b = Conv (x, v) y = Add (a, b)", ["Conv", "Conv", "Add"]),
    ],
)
def test_large_weights_fold_as_small_ones_do(nodes: str, left: list[str]) -> None:
    model = with_large_weights(nodes, w=0, v=1)
    applied = apply(model)
    assert ops(applied.model) == left
    assert_same_outputs(model, applied.model.proto)
    again = apply_pass(Simplify(), applied.model)
    assert again.model.fingerprint == applied.model.fingerprint


def test_two_large_weights_of_the_same_values_become_one() -> None:
    applied = apply(with_large_weights("a = Conv (x, w) b = Relu (a) c = Conv (x, v) y = Add (b, c)", w=0, v=0))
    assert len(applied.model.proto.graph.initializer) == 1


def test_a_large_weight_that_nothing_folds_into_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def measure(model: onnx.ModelProto, **limits: Any) -> onnxsim_process.Simplified:
        sizes.append(model.ByteSize())
        return simplify(model, **limits)

    simplify = onnxsim_process.simplify
    monkeypatch.setattr(onnxsim_process, "simplify", measure)
    model = with_large_weights("a = Conv (x, w) b = Identity (a) y = Relu (b)", w=0)
    applied = apply(model)
    assert max(sizes) < 10_000 < model.ByteSize()
    assert applied.model.proto.graph.initializer[0] == model.graph.initializer[-1]


def test_what_is_not_the_nodes_business_comes_out_as_it_went_in() -> None:
    model = parse(PLAIN)
    model.metadata_props.add(key="graphsurgery.note", value="kept")
    model.producer_name, model.doc_string = "an exporter", "about the model"
    model.graph.doc_string = "about the graph"
    model.graph.metadata_props.add(key="of", value="the graph")
    model.graph.input[0].doc_string = "about x"
    model.graph.node[-1].metadata_props.add(key="of", value="the last node")
    model.functions.append(
        onnx.parser.parse_function('<domain: "my", opset_import: ["": 17]> Twice (x) => (y) { y = Add (x, x) }')
    )
    model.opset_import.append(onnx.helper.make_opsetid("my", 1))
    after = apply(model).model.proto
    for field in ("ir_version", "opset_import", "metadata_props", "producer_name", "doc_string", "functions"):
        assert getattr(after, field) == getattr(model, field), field
    for field in ("input", "output", "name", "doc_string", "metadata_props"):
        assert getattr(after.graph, field) == getattr(model.graph, field), field
    assert after.graph.node[-1].metadata_props == model.graph.node[-1].metadata_props


def test_keeps_names_apart_that_look_like_those_of_onnxsim() -> None:
    # it calls the weights that it fuses in a body _v_N, N being the values it has seen, whatever is called so outside
    names = [f"_v_{number}" for number in range(1, 40)]
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2, 3, 3] x, bool condition) => ({", ".join(f"float[1, 2, 3, 3] {name}" for name in names)})
        {{
            _v_1 = If (condition) <
                then_branch = a () => (float[1, 2, 3, 3] d) {{
                    w = Constant <value = float[2, 2, 1, 1] {{1, 2, 3, 4}}> ()
                    one = Constant <value = float[2] {{1, 1}}> ()
                    two = Constant <value = float[2] {{2, 2}}> ()
                    c = Conv (x, w)
                    d = BatchNormalization (c, two, one, one, two)
                }},
                else_branch = b () => (float[1, 2, 3, 3] e) {{ e = Relu (x) }}
            >
            {chr(10).join(f"{after} = Add ({before}, x)" for before, after in itertools.pairwise(names))}
        }}"""
    model = parse(text)
    simplified = apply(model).model
    assert "BatchNormalization" not in {node.op_type for node in walk_protos(simplified.proto.graph)}
    assert [info.name for info in simplified.proto.graph.output] == names
    onnx.checker.check_model(simplified.proto, full_check=True)
    assert_same_outputs(model, simplified.proto)


def test_two_draws_of_random_numbers_stay_two() -> None:
    text = f"""
    {HEAD}
    g (float[3] x) => (float[3] y) {{ a = RandomUniformLike (x) b = RandomUniformLike (x) y = Sub (a, b) }}"""
    simplified = apply(text).model
    assert ops(simplified).count("RandomUniformLike") == 2
    assert np.any(session.run(simplified.proto, {"x": np.zeros(3, np.float32)})["y"] != 0)


def test_does_not_store_a_tensor_above_the_limit() -> None:
    text = f"""
    {HEAD}
    g (float[1000] x) => (float[1000] y) <float v = {{1}}, int64[1] n = {{1000}}> {{
        a = Expand (v, n)
        y = Add (x, a)
    }}"""
    assert ops(apply(text, Simplify(largest_mb=0.003)).model) == ["Expand", "Add"]
    assert ops(apply(text, Simplify(largest_mb=0.005)).model) == ["Add"]


def test_takes_weights_from_outside_the_file(tmp_path: Path) -> None:
    model = parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Neg (w) y = Add (x, a) }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1, 2]), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="m.bin", size_threshold=0)
    simplified = apply_pass(Simplify(), Model.load(path)).model
    assert ops(simplified) == ["Add"]
    np.testing.assert_array_equal(session.run(simplified.proto, {"x": np.float32([5, 6])})["y"], [4, 4])


def test_leaves_a_model_alone_whose_initializer_is_also_an_input() -> None:
    text = f"{HEAD} g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}> {{ a = Neg (w) y = Add (x, a) }}"
    assert_untouched(Simplify(), text, "override (1 such); put drop-initializer-inputs before it")


def test_leaves_a_model_with_training_information_alone() -> None:
    model = parse(PLAIN)
    model.training_info.add().algorithm.name = "step"
    assert_untouched(Simplify(), model, "training information")


def test_leaves_a_model_with_quantization_annotations_alone() -> None:
    model = parse(PLAIN)
    model.graph.quantization_annotation.add().tensor_name = "a"
    assert_untouched(Simplify(), model, "quantization annotations")


def test_leaves_a_model_of_an_operator_set_that_onnx_runtime_does_not_know_alone() -> None:
    assert_untouched(Simplify(), PLAIN.replace('"": 17', '"": 999'), "does not know operator set ai.onnx 999")


@pytest.mark.parametrize(
    "nodes",
    [
        "a = my.Relu (x)  y = Relu (a)",
        "a = my.Identity (x)  y = Relu (a)",
        "a = my.Transpose (x)  b = my.Transpose (a)  y = Relu (b)",
        "a = my.Shape (x)  b = Cast <to = 1> (a)  y = Add (x, b)",
        """y = If (c) <
            then_branch = t () => (float[2] p) { a = my.Relu (x)  p = Relu (a) },
            else_branch = e () => (float[2] q) { q = Neg (x) }
        >""",
    ],
)
def test_leaves_a_model_alone_whose_custom_operators_have_names_of_onnx(nodes: str) -> None:
    head = HEAD.replace("17", '17, "my": 1')
    text = f"{head} g (bool c, float[2] x) => (float[2] y) {{ {nodes} }}"
    assert_untouched(Simplify(), text, "of domain 'my' for the operator of ONNX of that name")


CUSTOM = '<ir_version: 8, opset_import: ["": 17, "mmcv": 1]>'


@pytest.mark.parametrize(
    ("custom", "op"),
    [
        ("k = mmcv.NonMaxSuppression <iou_threshold = 0.5> (p, s)", "NonMaxSuppression"),  # of an operator's name
        ("k = mmcv.NonMaxSuppression <iou_threshold = 0.5> (b, t)", "NonMaxSuppression"),  # of constants alone
        (
            """n = Unsqueeze (p, two)  m = Unsqueeze (n, zero)  u = Unsqueeze (s, two)  v = Unsqueeze (u, zero)
            w = Cast <to = 10> (m)  z = Cast <to = 10> (v)
            _, k = BatchMultiClassNMS <score_threshold = 0.5, iou_threshold = 0.5, max_size_per_class = 3,
                                       max_total_size = 3> (w, z)""",
            "BatchMultiClassNMS",
        ),
    ],
)
def test_custom_operators_stay_and_what_is_around_them_is_simplified(custom: str, op: str) -> None:
    text = f"""{CUSTOM}
        g (float[4, 4] x, float[4] s) => (int64[n] y) <
            int64[1] two = {{1}}, int64[1] zero = {{0}}, float[4] t = {{1, 2, 3, 4}},
            float[2, 2] half = {{1, 2, 3, 4}}, int64[2] size = {{4, 1}}
        > {{
            b = Expand (x0, size)
            i = Identity (x)
            p = Relu (i)
            {custom}
            r = Cast <to = 7> (k)
            q = Identity (r)
            y = Reshape (q, minus)
        }}"""
    model = parse(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[0, 0, 4, 4]], np.float32), "x0"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "minus"))
    applied = apply(model)
    found = next(node for node in applied.model.proto.graph.node if node.op_type == op)
    assert not applied.skips
    assert found.domain == ("mmcv" if op == "NonMaxSuppression" else "")
    assert "Identity" not in ops(applied.model)
    random = np.random.default_rng(0)
    given = {"x": random.uniform(0, 9, (4, 4)).astype(np.float32), "s": random.uniform(0, 1, 4).astype(np.float32)}
    assert_same_outputs(model, applied.model.proto, given)


def test_leaves_a_local_function_of_an_operators_name_alone_as_its_own_body_says_what_it_does() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) { a = my.Relu (x)  y = Relu (a) }
        <domain: "my", opset_import: ["": 17]> Relu (a) => (b) { b = Neg (a) }"""
    assert_untouched(Simplify(), text, "'Relu' of domain 'my'")


def test_a_local_function_of_a_name_of_its_own_is_no_hindrance() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x) => (float[2] y) { a = Identity (x)  b = my.Flip (a)  y = Relu (b) }
        <domain: "my", opset_import: ["": 17]> Flip (a) => (b) { b = Neg (a) }"""
    assert ops(apply(text).model) == ["Flip", "Relu"]
    assert_same_outputs(parse(text), apply(text).model.proto)


@pytest.mark.parametrize(
    "nodes",
    [
        "s = SequenceConstruct (x, z)  y = SequenceAt (s, i)",
        "s = Optional (x)  y = OptionalGetElement (s)",
        """y = If (c) <
            then_branch = t () => (float[2] p) { s = SequenceConstruct (x, z)  p = SequenceAt (s, i) },
            else_branch = e () => (float[2] q) { q = Neg (x) }
        >""",
        """y = If (c) <
            then_branch = t () => (float[2] p) { s = Optional (x)  p = OptionalGetElement (s) },
            else_branch = e () => (float[2] q) { q = Neg (x) }
        >""",
    ],
)
def test_leaves_a_model_alone_whose_sequences_and_optionals_onnxsim_would_undo(nodes: str) -> None:
    text = f"{HEAD} g (bool c, float[2] x, float[2] z) => (float[2] y) <int64 i = {{0}}> {{ {nodes} }}"
    assert_untouched(Simplify(), text, "onnxsim joins them")


def test_simplifies_around_sequences_that_onnxsim_leaves_alone() -> None:
    text = f"""
        {HEAD}
        g (float[4] x) => (float[n] y) {{
            a = Identity (x)
            s = SplitToSequence (a)
            y = ConcatFromSequence <axis = 0> (s)
        }}"""
    once = apply(text).model
    assert ops(once) == ["SplitToSequence", "ConcatFromSequence"]
    assert_same_outputs(parse(text), once.proto)


def test_leaves_a_model_with_a_sparse_constant_alone() -> None:
    model = parse(
        f"{HEAD} g (float[2] x) => (float[2] y) {{ k = Constant <value = float[2] {{0, 3}}> ()  y = Add (x, k) }}"
    )
    values, where = (numpy_helper.from_array(np.array([3], kind)) for kind in (np.float32, np.int64))
    sparse = helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, where, [2]))
    model.graph.node[0].attribute[0].CopyFrom(sparse)
    assert_untouched(Simplify(), model, "can't read the sparse tensor of a Constant")


def test_leaves_a_model_alone_whose_outputs_onnxsim_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(model: onnx.ModelProto, **_: object) -> onnxsim_process.Simplified:
        other = onnx.ModelProto()
        other.CopyFrom(model)
        other.graph.output[0].name = "other"
        return onnxsim_process.Simplified(other, None)

    monkeypatch.setattr(onnxsim_process, "simplify", rename)
    assert_untouched(Simplify(), PLAIN, "onnxsim made the outputs ['other'] of ['y']")


@pytest.mark.parametrize(
    ("opset", "nodes"),
    [
        (6, "c = Conv <kernel_shape = [1, 1]> (x, w)  y = BatchNormalization (c, s, b, b, s)"),
        (8, "c = Conv <kernel_shape = [1, 1]> (x, w)  y = BatchNormalization <spatial = 0> (c, t, t, t, t)"),
        (6, "c = Neg (x)  y = Dropout (c)"),
    ],
)
def test_leaves_alone_what_trains_in_an_old_operator_set(opset: int, nodes: str) -> None:
    weights = "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] s = {2, 3}, float[2] b = {1, 4}, float[2, 1, 1] t = {1, 2}"
    head = f'<ir_version: 8, opset_import: ["": {opset}]>'
    text = f"{head} g (float[1, 2, 1, 1] x) => (float[1, 2, 1, 1] y) <{weights}> {{ {nodes} }}"
    assert ops(apply(text).model) == ops(Model(parse(text)))


def test_what_is_written_down_of_a_custom_operator_stays_and_is_not_believed() -> None:
    head = HEAD.replace("17", '17, "com.microsoft": 1')
    text = f"""{head} g (float[2, 3] x) => (float[2, 3] y, int64[2] s) <float[2, 3] a> {{
        a = com.microsoft.QuickGelu (x)
        b = Identity (a)
        s = Shape (b)
        y = Relu (a)
    }}"""
    after = apply(text).model.proto.graph
    assert "Shape" in [node.op_type for node in after.node]
    written = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in after.value_info}
    assert written["a"] == [2, 3]


def test_reports_what_onnxsim_says_when_it_fails() -> None:
    head = HEAD.replace("17", '17, "ai.onnx.ml": 3')
    text = f"{head} g (float[2] x) => (float[2] y) {{ y = ai.onnx.ml.No (x) }}"
    with pytest.raises(PassError, match=r"onnxsim failed: No Op registered for No .*; leave the pass out"):
        apply(text)
    assert ops(apply(PLAIN).model) == ["Reshape", "Relu"]


def test_one_process_serves_one_model_after_the_other() -> None:
    apply(PLAIN)
    first = worker().pid
    apply(PLAIN)
    assert worker().pid == first


def test_a_process_above_its_memory_limit_is_stopped_and_replaced() -> None:
    apply(PLAIN)
    over = worker()
    with pytest.raises(PassError, match=r"above its limit memory_mb=1500; raise the limit"):
        apply(HUGE, Simplify(memory_mb=1500))
    assert not over.is_running()
    assert ops(apply(PLAIN).model) == ["Reshape", "Relu"]


def test_a_process_above_its_time_limit_is_stopped() -> None:
    apply(PLAIN)
    over = worker()
    with pytest.raises(PassError, match=r"stopped after 0\.1 s, its limit seconds=0\.1; raise the limit"):
        apply(HUGE, Simplify(seconds=0.1, memory_mb=100_000))
    assert not over.is_running()


def test_a_process_that_dies_at_work_is_an_error_and_not_the_end() -> None:
    apply(PLAIN)
    victim = worker()
    threading.Timer(0.2, victim.kill).start()
    with pytest.raises(PassError, match=r"onnxsim crashed \(.*\); leave the pass out"):
        apply(HUGE, Simplify(memory_mb=100_000))
    assert ops(apply(PLAIN).model) == ["Reshape", "Relu"]


def test_a_process_that_died_between_two_models_is_replaced() -> None:
    apply(PLAIN)
    victim = worker()
    victim.kill()
    victim.wait()
    assert ops(apply(PLAIN).model) == ["Reshape", "Relu"]


def test_an_interruption_leaves_no_process_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    apply(PLAIN)
    over = worker()

    def interrupt(self: Worker) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_resident_mb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        apply(HUGE)
    assert not over.is_running()


@pytest.mark.parametrize("end", ["pass", "import os, signal; os.kill(os.getpid(), 9)"], ids=["exits", "is killed"])
def test_the_process_ends_with_the_one_that_started_it(end: str) -> None:
    if "kill" in end and sys.platform == "win32":
        end = "import os; os.kill(os.getpid(), 15)"
    code = (
        "import json, psutil, graphsurgery.processes.onnxsim_process as s; "
        "s.running.start(); w = s.running.worker;"
        f"print(json.dumps([w.pid, psutil.Process(w.pid).create_time()]), flush=True); {end}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=60)
    pid, created = json.loads(done.stdout)

    def gone() -> bool:
        try:
            process = psutil.Process(pid)
            return process.create_time() != created or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    assert soon(gone)


def test_equal_nodes_beside_a_dropout_that_goes_are_merged_in_the_first_run() -> None:
    text = """
        <ir_version: 6, opset_import: ["": 11]>
        g (float[2] x) => (float[2] y) {
            a = Relu (x)
            b = Exp (a)
            c = Exp (a)
            d = Sub (b, c)
            y = Dropout (d)
        }"""
    once = apply_pass(Simplify(), Model(parse(text))).model
    assert [node.op_type for node in once.proto.graph.node] == ["Relu", "Exp", "Sub"]
    assert apply_pass(Simplify(), once).model.fingerprint == once.fingerprint


def test_native_noise_on_stdout_does_not_reach_the_protocol(tmp_path: Path) -> None:
    code = (
        "import os, sys, types; m = types.ModuleType('onnxsim'); m.__version__ = '0';"
        "import onnx; m.import_onnx_schemas = lambda: 0;"
        "m.simplify = lambda path, **_: (os.write(1, b'noise'), print('more'), (onnx.load(path), True))[-1];"
        "sys.modules['onnxsim'] = m;"
        "from graphsurgery.processes.onnxsim_process import serve; serve()"
    )
    onnx.save(parse(PLAIN), str(tmp_path / "before.onnx"))
    request = {"before": str(tmp_path / "before.onnx"), "after": str(tmp_path / "after.onnx")}
    request |= {"seconds": 60, "largest": "1MB", "skip": [], "opsets": [["", 17]], "ir_version": 8}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    out, _ = process.communicate(json.dumps(request) + "\n", timeout=60)
    assert [json.loads(line) for line in out.splitlines()] == [{"ready": True}, {"done": True, "note": None}]
    assert onnx.load(str(tmp_path / "after.onnx")) == parse(PLAIN)


@pytest.mark.parametrize("option", ["seconds", "memory_mb", "largest_mb"])
def test_refuses_a_limit_of_zero(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Simplify(**{option: 0})


def any_layer(build: Builder, x: str, shape: list[int]) -> tuple[str, list[int]]:
    """Add what onnxsim likes to rewrite behind `x`, which is of rank 4; return its name and shape."""
    batch, channels, height, width = shape
    kind = build.choice(["Conv", "BatchNormalization", "Idle", "Transpose", "Reshape", "Pad", "Concat", "Twice", "Mul"])
    if kind == "Conv":
        weights = [build.weight([2, channels, 1, 1])] + ([build.weight([2])] if build.chance(2) else [])
        x = build.node("Conv", [x, *weights])
        shape = [batch, 2, height, width]
        if build.chance(2):
            kind, channels = "BatchNormalization", 2
    if kind == "BatchNormalization":
        statistics = [build.weight([channels]), build.weight([channels]), build.weight([channels])]
        variance = build.constant(np.abs(build.values([channels])) + 1)
        return build.node(kind, [x, *statistics, variance], epsilon=build.choice([None, 1.0])), shape
    if kind == "Idle":
        op = build.choice(["Identity", "Dropout", "Cast", "Relu"])
        return build.node(op, [x], to=1 if op == "Cast" else None), shape
    if kind == "Transpose":
        first, second = (build.choice([[0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0]]) for _ in range(2))
        x = build.node(kind, [build.node(kind, [x], perm=first)], perm=second)
        return x, [[shape[axis] for axis in first][axis] for axis in second]
    if kind == "Reshape":
        size = build.node("Gather", [build.node("Shape", [x]), build.constant(np.array([build.integer(0, 1)]))], axis=0)
        flat = build.node("Concat", [size, build.constant(np.array([-1]))], axis=0)
        return build.node(kind, [build.node(kind, [x, flat]), build.constant(np.array(shape))]), shape
    if kind == "Pad":
        pads = [0, 0, build.integer(0, 1), 0, 0, 0, 0, build.integer(0, 1)]
        if build.opset < 11:
            x = build.node(kind, [x], pads=pads)
        else:
            x = build.node(kind, [x, build.constant(np.array(pads))])
        return x, [batch, channels, height + pads[2], width + pads[7]]
    if kind == "Concat":
        return build.node(kind, [x, build.node("Neg", [x])], axis=1), [batch, 2 * channels, height, width]
    if kind == "Twice":
        return build.node(
            build.choice(["Add", "Mul", "Sub"]), [build.node("Relu", [x]), build.node("Relu", [x])]
        ), shape
    factor = build.node("Add", [build.weight([1]), build.constant(np.float32([2]))])
    return build.node("Mul", [x, factor]), shape


@fuzz(Simplify(), examples=15)
def test_any_network_computes_the_same(build: Builder) -> list[str]:
    shape = [build.integer(1, 2), build.integer(1, 3), build.integer(1, 4), build.integer(1, 4)]
    x = build.input(shape)
    for _ in range(build.integer(1, 5)):
        x, shape = any_layer(build, x, shape)
    return [x]
