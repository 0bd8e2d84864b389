from typing import Any

import numpy as np
import onnx
import pytest
from drawn_layers import any_conv, any_gemm, any_window
from onnx import numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.passes.fold_batchnorm import FoldBatchnorm
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# scale 3 and 4 over a deviation of 2 and 4: times 1.5 and 1, plus 5 - 1.5 * 2 = 2 and 6 - 8 = -2
PARAMETERS = "float[2] s = {3, 4}, float[2] b = {5, 6}, float[2] m = {2, 8}, float[2] v = {4, 16}"
NORM = "BatchNormalization <epsilon = 0.0>"


def test_folds_into_the_conv_before_it() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 1, 3, 3] w = {{
            1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0, 1, 0, 1, 0, 1, 0, 1}}, float[2] c = {{10, 20}}, {PARAMETERS}> {{
            h = Conv <pads = [1, 1, 1, 1]> (x, w, c)
            n = {NORM} (h, s, b, m, v)
            y = Relu (n)
        }}""",
        f"""
        {HEAD}
        g (float[1, 1, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 1, 3, 3] w_folded = {{
            1.5, 3, 4.5, 6, 7.5, 9, 10.5, 12, 13.5, 1, 0, 1, 0, 1, 0, 1, 0, 1}}, float[2] w_bias = {{17, 18}}> {{
            h = Conv <pads = [1, 1, 1, 1]> (x, w_folded, w_bias)
            y = Relu (h)
        }}""",
    )


def test_gives_a_conv_without_bias_one_and_keeps_the_name_of_a_graph_output() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y) <float[2, 1, 1] w = {{2, 4}}, {PARAMETERS}> {{
            h = Conv (x, w)
            y = {NORM} (h, s, b, m, v)
        }}""",
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y) <
            float[2, 1, 1] w_folded = {{3, 4}}, float[2] w_bias = {{2, -2}}
        > {{
            y = Conv (x, w_folded, w_bias)
        }}""",
    )


def test_counts_the_output_channels_of_a_grouped_conv_transpose_group_by_group() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 4, 3, 3] x) => (float[1, 2, 3, 3] y) <float[4, 1, 1, 1] w = {{2, 4, 2, 4}}, {PARAMETERS}> {{
            h = ConvTranspose <group = 2> (x, w)
            y = {NORM} (h, s, b, m, v)
        }}""",
        f"""
        {HEAD}
        g (float[1, 4, 3, 3] x) => (float[1, 2, 3, 3] y) <
            float[4, 1, 1, 1] w_folded = {{3, 6, 2, 4}}, float[2] w_bias = {{2, -2}}
        > {{
            y = ConvTranspose <group = 2> (x, w_folded, w_bias)
        }}""",
    )


@pytest.mark.parametrize("transposed", [0, 1])
def test_folds_into_a_gemm_whose_bias_is_counted_half_and_broadcast(transposed: int) -> None:
    shape, values, folded = [
        ("3, 2", "2, 4, 6, 8, 0, 2", "3, 4, 9, 8, 0, 2"),
        ("2, 3", "2, 6, 0, 4, 8, 2", "3, 9, 0, 4, 8, 2"),
    ][transposed]
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[5, 3] x) => (float[5, 2] y) <float[{shape}] w = {{{values}}}, float[1] c = {{8}}, {PARAMETERS}> {{
            h = Gemm <alpha = 2.0, beta = 0.5, transB = {transposed}> (x, w, c)
            y = {NORM} (h, s, b, m, v)
        }}""",
        f"""
        {HEAD}
        g (float[5, 3] x) => (float[5, 2] y) <float[{shape}] w_folded = {{{folded}}}, float[2] w_bias = {{8, 2}}> {{
            y = Gemm <alpha = 2.0, beta = 1.0, transB = {transposed}> (x, w_folded, w_bias)
        }}""",
    )


def test_folds_into_the_conv_behind_it_where_that_does_not_pad() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 2, 4, 4] x) => (float[1, 1, 4, 4] y) <
            float[1, 2, 1, 1] w = {{2, 3}}, float[1] c = {{1}}, {PARAMETERS}
        > {{
            n = {NORM} (x, s, b, m, v)
            y = Conv <auto_pad = "SAME_UPPER"> (n, w, c)
        }}""",
        f"""
        {HEAD}
        g (float[1, 2, 4, 4] x) => (float[1, 1, 4, 4] y) <
            float[1, 2, 1, 1] w_folded = {{3, 3}}, float[1] w_bias = {{-1}}
        > {{
            y = Conv <auto_pad = "SAME_UPPER"> (x, w_folded, w_bias)
        }}""",
    )


def test_a_scale_alone_reaches_a_conv_that_pads() -> None:
    only = "float[2] s = {3, 4}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {4, 16}"
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 2, 4] x) => (float[1, 2, 6] y) <float[2, 1, 1] w = {{2, 3}}, {only}> {{
            n = {NORM} (x, s, b, m, v)
            y = Conv <group = 2, pads = [1, 1]> (n, w)
        }}""",
        f"""
        {HEAD}
        g (float[1, 2, 4] x) => (float[1, 2, 6] y) <float[2, 1, 1] w_folded = {{3, 3}}> {{
            y = Conv <group = 2, pads = [1, 1]> (x, w_folded)
        }}""",
    )


def test_the_conv_before_is_taken_where_there_is_one_on_either_side() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 1, 4] y) <
            float[2, 1, 1] w = {{2, 4}}, float[1, 2, 1] u = {{1, 1}}, {PARAMETERS}
        > {{
            h = Conv (x, w)
            n = {NORM} (h, s, b, m, v)
            y = Conv (n, u)
        }}""",
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 1, 4] y) <
            float[1, 2, 1] u = {{1, 1}}, float[2, 1, 1] w_folded = {{3, 4}}, float[2] w_bias = {{2, -2}}
        > {{
            h = Conv (x, w_folded, w_bias)
            y = Conv (h, u)
        }}""",
    )


def test_weights_that_another_conv_shares_stay_as_they_are_for_it() -> None:
    assert_rewrites(
        FoldBatchnorm(),
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y, float[1, 2, 4] z) <float[2, 1, 1] w = {{2, 4}}, {PARAMETERS}> {{
            h = Conv (x, w)
            y = {NORM} (h, s, b, m, v)
            z = Conv (x, w)
        }}""",
        f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y, float[1, 2, 4] z) <
            float[2, 1, 1] w = {{2, 4}}, float[2, 1, 1] w_folded = {{3, 4}}, float[2] w_bias = {{2, -2}}
        > {{
            y = Conv (x, w_folded, w_bias)
            z = Conv (x, w)
        }}""",
    )


def test_works_inside_an_if_body() -> None:
    def body(nodes: str, weights: str) -> str:
        return f"""
        {HEAD}
        g (bool t, float[1, 1, 4] x) => (float[1, 2, 4] y) {{
            y = If (t) <
                then_branch = a () => (float[1, 2, 4] p) <{weights}> {{ {nodes} }},
                else_branch = e () => (float[1, 2, 4] q) {{ q = Concat <axis = 1> (x, x) }}
            >
        }}"""

    assert_rewrites(
        FoldBatchnorm(),
        body(f"h = Conv (x, w) p = {NORM} (h, s, b, m, v)", f"float[2, 1, 1] w = {{2, 4}}, {PARAMETERS}"),
        body("p = Conv (x, w_folded, w_bias)", "float[2, 1, 1] w_folded = {3, 4}, float[2] w_bias = {2, -2}"),
    )


def test_parameters_of_another_type_than_the_data_are_folded_in_the_type_of_the_weights() -> None:
    model = parse(
        f"""
        {HEAD}
        g (float16[1, 1, 4] x) => (float16[1, 2, 4] y) <{PARAMETERS}> {{
            w = Constant <value = float16[2, 1, 1] {{16384, 17408}}> ()
            h = Conv (x, w)
            y = {NORM} (h, s, b, m, v)
        }}"""
    )
    model.graph.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(np.float16([2, 4]).reshape(2, 1, 1)))
    after = apply_pass(FoldBatchnorm(), Model(model)).model.proto
    onnx.checker.check_model(after, full_check=True)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    assert weights["w_folded"].dtype == weights["w_bias"].dtype == np.float16
    assert (weights["w_folded"].ravel().tolist(), weights["w_bias"].tolist()) == ([3, 4], [2, -2])


@pytest.mark.parametrize(("scale", "fits"), [(2.0, True), (1e5, False), (1e-6, False), (0.0, True)])
def test_leaves_half_precision_alone_where_the_weights_would_not_fit_it(scale: float, fits: bool) -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    half = np.float16([1.5, 0.7]).reshape(1, 2, 1)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["h"]),
        onnx.helper.make_node("BatchNormalization", ["h", "s", "zero", "zero", "one"], ["y"], epsilon=0.0),
    ]
    values = {"w": half, "s": np.float32([scale]), "one": one, "zero": zero}
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, None) for name in "xy"]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if not fits:
        return assert_untouched(FoldBatchnorm(), model, "leave the range of float16")
    after = apply_pass(FoldBatchnorm(), Model(model)).model.proto
    assert [node.op_type for node in after.graph.node] == ["Conv"]


def test_a_dead_channel_is_folded_although_its_weights_vanish() -> None:
    text = f"""
        {HEAD}
        g (float[1, 1, 4] x) => (float[1, 2, 4] y) <float[2, 1, 1] w = {{2, 3.3e-20}}, float[2] s = {{1, 1.7e-25}},
            float[2] b = {{1, 1}}, float[2] m = {{0, 0}}, float[2] v = {{1, 1}}> {{
            h = Conv (x, w)
            y = BatchNormalization (h, s, b, m, v)
        }}"""
    before = Model(parse(text))
    after = apply_pass(FoldBatchnorm(), before).model
    assert [node.op_type for node in after.proto.graph.node] == ["Conv"]
    assert_same_outputs(before.proto, after.proto)


WEIGHTS = f"float[2, 1, 1] w = {{2, 4}}, {PARAMETERS}"
PAIR = f"h = Conv (x, w) y = {NORM} (h, s, b, m, v)"
TRAINING = "h = Conv (x, w) y, k, l = BatchNormalization <training_mode = 1> (h, s, b, m, v)"


@pytest.mark.parametrize(
    ("inputs", "outputs", "weights", "nodes", "reason"),
    [
        ("", ", float[2] k, float[2] l", WEIGHTS, TRAINING, "it is in training mode"),
        (", float[2] s", "", WEIGHTS.replace("float[2] s = {3, 4}, ", ""), PAIR, "its parameters are not constant"),
        ("", "", WEIGHTS.replace("{4, 16}", "{4, 0}"), PAIR, "its scale or shift is not finite"),
        ("", "", PARAMETERS, f"h = Concat <axis = 1> (x, x) y = {NORM} (h, s, b, m, v)", "before it: no Conv, Conv"),
        ("", ", float[1, 2, 4] z", WEIGHTS, f"{PAIR} z = Relu (h)", "read elsewhere too"),
        ("", ", float[1, 2, 4] h", WEIGHTS, PAIR, "or is a graph output"),
        (", float[2, 1, 1] w", "", PARAMETERS, PAIR, "the weights of the Conv are not constant"),
        (", float[2, 1, 1] w = {2, 4}", "", PARAMETERS, PAIR, "the weights of the Conv are not constant"),
        (", float[2] c", "", WEIGHTS, PAIR.replace("w)", "w, c)"), "the bias of the Conv is not constant"),
    ],
)
def test_leaves_a_conv_before_it_alone(inputs: str, outputs: str, weights: str, nodes: str, reason: str) -> None:
    text = f"{HEAD} g (float[1, 1, 4] x{inputs}) => (float[1, 2, 4] y{outputs}) <{weights}> {{ {nodes} }}"
    assert_untouched(FoldBatchnorm(), text, reason)


def test_an_epsilon_that_is_left_out_counts() -> None:
    text = PARAMETERS.replace("{4, 16}", "{0, 0.0001}")
    before = Model(
        parse(
            f"""
            {HEAD} g (float[1, 1, 4] x) => (float[1, 2, 4] y) <float[2, 1, 1] w = {{2, 4}}, {text}> {{
                h = Conv (x, w)
                y = BatchNormalization (h, s, b, m, v)
            }}"""
        )
    )
    after = apply_pass(FoldBatchnorm(), before).model
    assert [node.op_type for node in after.proto.graph.node] == ["Conv"]
    assert_same_outputs(before.proto, after.proto)


WIDE = "float[1, 2, 3] w = {1, 2, 3, 4, 5, 6}, "
POINT = "float[1, 2, 1] w = {1, 2}, "


@pytest.mark.parametrize(
    ("inputs", "outputs", "weights", "nodes", "reason"),
    [
        ("", "", WIDE, "y = Conv <pads = [1, 1]> (n, w)", "the Conv pads with zeros"),
        ("", "", WIDE, 'y = Conv <auto_pad = "SAME_LOWER"> (n, w)', "the Conv pads with zeros"),
        ("", ", float[1, 2, N] z", POINT, "y = Conv (n, w) z = Relu (n)", "others than the Conv read it too"),
        ("", ", float[1, 2, N] n", POINT, "y = Conv (n, w)", "or it is a graph output"),
        (", float[1, 2, 1] w", "", "", "y = Conv (n, w)", "the weights of the Conv are not constant"),
        ("", "", "", "y = ReduceMax <axes = [1]> (n)", "behind it: no Conv"),
    ],
)
def test_leaves_a_conv_behind_it_alone(inputs: str, outputs: str, weights: str, nodes: str, reason: str) -> None:
    text = f"""{HEAD} g (float[1, 2, N] x{inputs}) => (float[1, 1, N] y{outputs}) <{weights}
        {PARAMETERS}> {{ n = {NORM} (x, s, b, m, v) {nodes} }}"""
    assert_untouched(FoldBatchnorm(), text, reason)


@pytest.mark.parametrize(("annotated", "left"), [({"h": "w"}, []), ({"h": "w", "y": "b"}, [("h", "b")])])
def test_an_annotation_of_what_the_layer_wrote_before_does_not_hold_any_more(
    annotated: dict[str, str], left: list[tuple[str, str]]
) -> None:
    proto = parse(f"{HEAD} g (float[1, 1, 4] x) => (float[1, 2, 4] z) <{WEIGHTS}> {{ {PAIR} z = Relu (y) }}")
    for name, scale in annotated.items():
        note = proto.graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    after = apply_pass(FoldBatchnorm(), Model(proto)).model.proto
    assert len(after.graph.node) == 2
    notes = after.graph.quantization_annotation
    assert [(note.tensor_name, note.quant_parameter_tensor_names[0].value) for note in notes] == left


def test_leaves_a_normalisation_that_is_the_weight_of_a_conv_alone() -> None:
    text = f"""
        {HEAD}
        g (float[1, 2, 4] u, float[1, 2, 9] x) => (float[1, 1, 6] y) <{PARAMETERS}> {{
            n = {NORM} (u, s, b, m, v)
            y = Conv (x, n)
        }}"""
    assert_untouched(FoldBatchnorm(), text, "behind it: no Conv")


@pytest.mark.parametrize(
    ("opset", "norm", "reason"),
    [
        (6, "y = BatchNormalization (h, s, b, m, v)", "it trains: is_test is 0"),
        (6, "y = BatchNormalization <is_test = 0> (h, s, b, m, v)", "it trains: is_test is 0"),
        (1, "y = BatchNormalization <consumed_inputs = [0, 0, 0, 1, 1]> (h, s, b, m, v)", "it trains: is_test is 0"),
        (7, "y = BatchNormalization <spatial = 0> (h, s, b, m, v)", "spatial is 0"),
        (8, "y, k, l, p, q = BatchNormalization (h, s, b, m, v)", "as in training mode"),
        (9, "y, k, l = BatchNormalization (h, s, b, m, v)", "as in training mode"),
    ],
)
def test_leaves_the_modes_of_old_operator_sets_alone(opset: int, norm: str, reason: str) -> None:
    head = f'<ir_version: 3, opset_import: ["": {opset}]>'
    # in this IR version weights are inputs; Constant nodes can't be overridden
    weights = "w = Constant <value = float[2, 1, 1] {2, 4}> () " + " ".join(
        f"{name} = Constant <value = float[2] {{1, 2}}> ()" for name in "sbmv"
    )
    text = f"{head} g (float[1, 1, 4] x) => (float[1, 2, 4] y) {{ {weights} h = Conv (x, w) {norm} }}"
    assert_untouched(FoldBatchnorm(), text, reason)


def test_folds_one_before_operator_set_7_that_says_it_is_for_inference() -> None:
    head = '<ir_version: 8, opset_import: ["": 6]>'

    def text(weights: str, nodes: str) -> str:
        return f"{head} g (float[1, 1, 4] x) => (float[1, 2, 4] y) <{weights}> {{ {nodes} }}"

    before = text(WEIGHTS, PAIR.replace("BatchNormalization <", "BatchNormalization <is_test = 1, "))
    after = apply_pass(FoldBatchnorm(), Model(parse(before))).model  # no runtime at hand has a kernel for it
    assert [node.op_type for node in after.proto.graph.node] == ["Conv"]
    assert [numpy_helper.to_array(w).ravel().tolist() for w in after.proto.graph.initializer] == [[3, 4], [2, -2]]


@pytest.mark.parametrize("opset", [7, 8, 9, 13, 14, 15, 22])
def test_folds_in_every_operator_set(opset: int) -> None:
    def text(weights: str, nodes: str) -> str:
        head = f'<ir_version: 8, opset_import: ["": {opset}]>'
        return f"{head} g (float[1, 1, 4] x) => (float[1, 2, 4] y) <{weights}> {{ {nodes} }}"

    before = text(WEIGHTS, PAIR)
    folded = "float[2, 1, 1] w_folded = {3, 4}, float[2] w_bias = {2, -2}"
    assert_rewrites(FoldBatchnorm(), before, text(folded, "y = Conv (x, w_folded, w_bias)"))


def any_type(build: Builder) -> np.dtype[Any]:
    # before opset 14 the reference evaluator takes every norm to be in training (onnx pull request 8442), and only it
    # runs other types
    return build.dtype() if build.opset >= 14 else np.dtype(np.float32)


def runs_dilated_same(build: Builder) -> bool:
    return build.opset >= 14  # for the same reason


def any_norm(build: Builder, x: str, channels: int, dtype: np.dtype[Any]) -> str:
    kinds = [dtype, dtype]  # of scale and bias, and of mean and variance
    if build.opset >= 15:
        kinds = [build.choice([dtype, np.dtype(np.float32)]) for _ in kinds]
    scale, bias = (build.weight([channels], kinds[0]) for _ in range(2))
    mean = build.weight([channels], kinds[1])
    epsilon = build.choice([0.0, 0.75])
    deviation = np.array([build.choice([1, 2, 4]) for _ in range(channels)])
    variance = build.constant((deviation**2 - epsilon).astype(kinds[1]))
    return build.node("BatchNormalization", [x, scale, bias, mean, variance], epsilon=epsilon)


@fuzz(FoldBatchnorm())
def test_any_norm_behind_a_layer_computes_the_same(build: Builder) -> list[str]:
    dtype = any_type(build)
    x, _, channels = any_gemm(build, dtype) if build.chance(4) else any_conv(build, dtype, runs_dilated_same(build))
    return [any_norm(build, x, channels, dtype)]


@fuzz(FoldBatchnorm())
def test_any_norm_before_a_conv_computes_the_same(build: Builder) -> list[str]:
    dtype = any_type(build)
    spatial, group = build.integer(1, 3), build.choice([1, 1, 2, 3])
    inputs, outputs = group * build.integer(1, 2), group * build.integer(1, 2)
    x = build.input([build.integer(1, 2), inputs, *(build.integer(3, 6) for _ in range(spatial))], dtype)
    window = any_window(build, spatial, runs_dilated_same(build))
    if build.chance(2):
        window |= {"pads": None, "auto_pad": None}
    weights = [build.weight([outputs, inputs // group, *window["kernel_shape"]], dtype)]
    if build.chance(2):
        weights.append(build.weight([outputs], dtype))
    return [build.node("Conv", [any_norm(build, x, inputs, dtype), *weights], group=group, **window)]
