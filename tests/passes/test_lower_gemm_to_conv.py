import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.lower_gemm_to_conv import LowerGemmToConv
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

W = "float[3, 8] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8}"
TAPS = "1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3, 4, 5, 6, 7, 8"
C = "float[3] c = {1, 2, 3}"
BIAS = "float[3] y_bias = {1, 2, 3}"
MATRIX = "float[n, 2] x"
SMALL = "float[2, 3] w = {1, 2, 3, 4, 5, 6}"


def conv(kernel: str) -> str:
    ones = "dilations: ints = [1, 1], group: int = 1"
    return f"Conv <{ones}, kernel_shape: ints = {kernel}, pads: ints = [0, 0, 0, 0], strides: ints = [1, 1]>"


def model(
    body: str, weights: str, inputs: str = "float[n, 2, 2, 2] x", y: str = "float[n, 3] y", opset: int = 17
) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g ({inputs}) => ({y}) <{weights}> {{
            {body}
        }}"""


CONV_OF_IMAGE = f"y_conv = {conv('[2, 2]')} (x, y_weight, y_bias)  y = Flatten <axis: int = 1> (y_conv)"
WEIGHTS_OF_IMAGE = f"float[3, 2, 2, 2] y_weight = {{{TAPS}}}, {BIAS}"


def test_a_layer_behind_a_flatten_becomes_a_conv_over_the_whole_image() -> None:
    before = model("f = Flatten (x)  y = Gemm <transB: int = 1> (f, w, c)", f"{W}, {C}")
    assert_rewrites(LowerGemmToConv(), before, model(CONV_OF_IMAGE, WEIGHTS_OF_IMAGE))


@pytest.mark.parametrize(
    "flatten",
    [
        "Flatten <axis: int = -3> (x)",
        "Reshape (x, size)",
        "Reshape <allowzero: int = 1> (x, size)",
        "s = Shape (x)  n = Gather (s, zero)  all = Concat <axis: int = 0> (n, eight)  f = Reshape (x, all)",
    ],
)
@pytest.mark.parametrize("layer", ["Gemm (f, v)", "MatMul (f, v)"])
def test_takes_whatever_makes_rows_of_images_for_a_flatten(flatten: str, layer: str) -> None:
    constants = "int64[2] size = {-1, 8}, int64[1] zero = {0}, int64[1] eight = {8}"
    flatten = flatten if "f = " in flatten else f"f = {flatten}"
    before = model(f"{flatten}  y = {layer}", f"float[8, 3] v = {{{TAPS}}}, {constants}")
    got = apply_pass(LowerGemmToConv(), Model(parse(before))).model.proto
    assert [node.op_type for node in got.graph.node] == ["Conv", "Flatten"]
    assert_same_outputs(parse(before), got)


def test_squeezed_images_are_rows_too() -> None:
    inputs, axes = "float[n, 2, 1, 1] x", "int64[2] axes = {2, 3}"
    after = f"y_conv = {conv('[1, 1]')} (x, y_weight)  y = Flatten <axis: int = 1> (y_conv)"
    assert_rewrites(
        LowerGemmToConv(),
        model("f = Squeeze (x, axes)  y = MatMul (f, w)", f"{SMALL}, {axes}", inputs),
        model(after, "float[3, 2, 1, 1] y_weight = {1, 4, 2, 5, 3, 6}", inputs),
    )


@pytest.mark.parametrize("image", ["float[n, 8, h, 1] x", "float[n, c, h, w] x", "float[n, 8] x"])
def test_rows_of_images_of_unknown_size_are_unsqueezed(image: str) -> None:
    before = model("f = Flatten (x)  y = MatMul (f, v)", f"float[8, 3] v = {{{TAPS}}}", image)
    got = apply_pass(LowerGemmToConv(), Model(parse(before))).model.proto
    assert [node.op_type for node in got.graph.node] == ["Flatten", "Unsqueeze", "Conv", "Flatten"]


@pytest.mark.parametrize(
    ("opset", "unsqueeze", "axes"),
    [
        (9, "Unsqueeze <axes: ints = [2, 3]> (x)", ""),
        (13, "Unsqueeze (x, y_axes)", ", int64[2] y_axes = {2, 3}"),
        (24, "Unsqueeze (x, y_axes)", ", int64[2] y_axes = {2, 3}"),
    ],
)
@pytest.mark.parametrize(
    ("layer", "c", "inputs", "bias"),
    [
        ("MatMul (x, w)", "", "", ""),
        ("Gemm (x, w, c)", ", float c = {2}", ", y_bias", ", float[3] y_bias = {2, 2, 2}"),
        ("Gemm (x, w, c)", ", float[1, 3] c = {1, 2, 3}", ", y_bias", f", {BIAS}"),
        ("Gemm <beta: float = 0.0> (x, w, c)", ", float[1, 3] c = {1, 2, 3}", "", ""),
    ],
)
def test_any_other_layer_becomes_a_conv_over_one_element(
    opset: int, unsqueeze: str, axes: str, layer: str, c: str, inputs: str, bias: str
) -> None:
    after = f"""
            y_image = {unsqueeze}
            y_conv = {conv("[1, 1]")} (y_image, y_weight{inputs})
            y = Flatten <axis: int = 1> (y_conv)"""
    weights = f"float[3, 2, 1, 1] y_weight = {{1, 4, 2, 5, 3, 6}}{bias}{axes}"
    before = model(f"y = {layer}", SMALL + c, MATRIX, opset=opset)
    assert_rewrites(LowerGemmToConv(), before, model(after, weights, MATRIX, opset=opset))


def box_head(sizes: tuple[int, int, int], hidden: int) -> onnx.ModelProto:
    """Return torchvision's TwoMLPHead and FastRCNNPredictor with random weights."""
    generator = np.random.default_rng(0)
    channels, height, width = sizes

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)

    layers = [("fc6", "flat", channels * height * width, hidden), ("fc7", "relu6", hidden, hidden)]
    layers += [("logits", "flat7", hidden, 4), ("deltas", "flat7", hidden, 16)]
    make = onnx.helper.make_node
    nodes = [make("Flatten", ["box_features"], ["flat"], axis=1)]
    nodes += [make("Gemm", [x, f"{y}.w", f"{y}.b"], [y], transB=1) for y, x, _, _ in layers]
    nodes[2:2] = [make("Relu", ["fc6"], ["relu6"])]
    nodes[4:4] = [make("Relu", ["fc7"], ["relu7"]), make("Flatten", ["relu7"], ["flat7"], axis=1)]
    weights = [w for y, _, k, m in layers for w in (weight(f"{y}.w", m, k), weight(f"{y}.b", m))]
    value = onnx.helper.make_tensor_value_info
    ends = [value("logits", 1, ["n", 4]), value("deltas", 1, ["n", 16])]
    graph = onnx.helper.make_graph(nodes, "head", [value("box_features", 1, ["n", *sizes])], ends, weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_box_head_is_convs_with_no_reshape_but_at_its_ends(rows: int) -> None:
    before = box_head((5, 7, 7), 6)
    after = apply_pass(LowerGemmToConv(), Model(before)).model.proto
    ops = [node.op_type for node in after.graph.node]
    assert ops == ["Conv", "Relu", "Conv", "Relu", "Conv", "Flatten", "Conv", "Flatten"]
    kernels = [list(a.ints) for n in after.graph.node for a in n.attribute if a.name == "kernel_shape"]
    assert kernels == [[7, 7], [1, 1], [1, 1], [1, 1]]
    given = {"box_features": np.random.default_rng(1).standard_normal((rows, 5, 7, 7)).astype(np.float32)}
    assert_same_outputs(before, after, given)
    assert session.run(after, given)["deltas"].shape == (rows, 16)


def test_multiplies_alpha_and_beta_into_weight_and_bias() -> None:
    layer = "y = Gemm <transB: int = 1, alpha: float = 2.0, beta: float = 3.0> (f, w, c)"
    before = model(f"f = Flatten (x)  {layer}", f"{W}, {C}")
    doubled = ", ".join(str(2 * int(tap)) for tap in TAPS.split(", "))
    weights = f"float[3, 2, 2, 2] y_weight = {{{doubled}}}, float[3] y_bias = {{3, 6, 9}}"
    assert_rewrites(LowerGemmToConv(), before, model(CONV_OF_IMAGE, weights))


def test_moves_an_activation_up_and_keeps_its_own_output() -> None:
    before = model(
        "f = Flatten (x)  r = Clip (f, zero, six)  y = Gemm <transB: int = 1> (r, w, c)",
        f"{W}, {C}, float zero = {{0}}, float six = {{6}}",
        y="float[n, 3] y, float[n, 8] r",
    )
    after = model(
        "r_image = Clip (x, zero, six)  r = Flatten (r_image)  " + CONV_OF_IMAGE.replace("(x,", "(r_image,"),
        f"float zero = {{0}}, float six = {{6}}, {WEIGHTS_OF_IMAGE}",
        y="float[n, 3] y, float[n, 8] r",
    )
    assert_rewrites(LowerGemmToConv(), before, after)


def test_leaves_an_activation_alone_without_a_layer_behind() -> None:
    before = model("f = Flatten (x)  r = Relu (f)  y = Softmax (r)", "float unused = {0}", y="float[n, 8] y")
    assert_untouched(LowerGemmToConv(), before, None)


@pytest.mark.parametrize("dropout", ["r, mask = Dropout (f)", "r = Dropout (f, half, yes)  mask = Not (yes)"])
def test_does_not_move_a_dropout_that_draws(dropout: str) -> None:
    weights = f"float[8, 3] v = {{{TAPS}}}, float half = {{0.5}}, bool yes = {{1}}"
    before = model(f"f = Flatten (x)  {dropout}  y = MatMul (r, v)", weights, y="float[n, 3] y, bool mask")
    before = before.replace("bool mask)", "bool[n, 8] mask)") if "r, mask" in dropout else before
    got = apply_pass(LowerGemmToConv(), Model(parse(before))).model.proto
    assert [node.op_type for node in got.graph.node if node.op_type != "Not"] == [
        *("Flatten", "Dropout", "Unsqueeze", "Conv", "Flatten")
    ]


def test_works_inside_an_if_body_on_an_image_from_outside() -> None:
    def body(outside: str, then: str, weights: str, above: str) -> str:
        return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (bool p, float[2, 2, 2, 2] x) => (float[2, 3] y) <{above}> {{
            {outside}
            y = If (p) <
                then_branch = t () => (float[2, 3] u) {weights} {{ {then} }},
                else_branch = e () => (float[2, 3] v) {{ v = ReduceSum <keepdims: int = 0> (x, axis) }}
            >
        }}"""

    axis = "int64[1] axis = {3}"
    before = body("f = Flatten (x)", "r = Relu (f)  u = Gemm <transB: int = 1> (r, w, c)", "", f"{W}, {C}, {axis}")
    then = "r_image = Relu (x)  " + CONV_OF_IMAGE.replace("y", "u").replace("(x,", "(r_image,")
    after = body("", then, f"<{WEIGHTS_OF_IMAGE.replace('y_', 'u_')}>", axis)
    before, after = (
        text.replace("[2, 3] y", "[a, b] y").replace("[2, 3] v", "[a, b, d] v") for text in (before, after)
    )
    assert_rewrites(LowerGemmToConv(), before, after, {"p": np.array(True), "x": np.ones((2, 2, 2, 2), np.float32)})


def test_leaves_a_shared_weight_to_the_others() -> None:
    both = "f = Flatten (x)  z = MatMul (w, k)  "
    weights, outputs = f"{W}, {C}", "float[n, 3] y, float[3, m] z"
    inputs = "float[n, 2, 2, 2] x, float[8, m] k"
    before = model(both + "y = Gemm <transB: int = 1> (f, w, c)", weights, inputs, outputs)
    after = model("z = MatMul (w, k)  " + CONV_OF_IMAGE, f"{W}, {WEIGHTS_OF_IMAGE}", inputs, outputs)
    assert_rewrites(LowerGemmToConv(), before, after)


GEMM = "y = Gemm (x, w, c)"


@pytest.mark.parametrize(
    ("body", "weights", "inputs", "reason"),
    [
        ("y = MatMul (x, w)", "float c = {1}", f"{MATRIX}, float[2, 3] w", "its weight is not constant"),
        ("y = MatMul (x, w)", SMALL, f"{MATRIX}, float[2, 3] w", "its weight is not constant"),
        (GEMM, SMALL, f"{MATRIX}, float[3] c", "what it adds is not constant"),
        ("y = Gemm <transA: int = 1> (x, w)", SMALL, "float[2, n] x", "it transposes its data"),
        (GEMM, f"{SMALL}, float[2, 1] c = {{1, 2}}", "float[2, 2] x", "another value to each row"),
        ("y = MatMul (x, w)", "int32[2, 3] w = {1, 2, 3, 4, 5, 6}", "int32[n, 2] x", "its weight is int32"),
        ("y = MatMul (x, w)", "float[0, 3] w = {}", "float[n, 0] x", "or none at all"),
        ("y = MatMul (x, w)", "float[2] w = {1, 2}", MATRIX, "its weight has rank 1"),
        ("y = MatMul (x, w)", SMALL, "float[n, 4, 2] x", "the rank of its input is 3"),
        ("y = MatMul (x, w)", SMALL, "float[2] x", "the rank of its input is 1"),
        ("y = Gemm <alpha = 1.2e-38> (x, w)", SMALL.replace("1, 2, 3, 4", "0.5, 2, 0, 4"), MATRIX, "alpha takes"),
        ("y = Gemm <beta: float = 1.0e38> (x, w, c)", f"{SMALL}, float[3] c = {{1, 2, 30}}", MATRIX, "beta takes"),
    ],
)
def test_leaves_other_products_alone(body: str, weights: str, inputs: str, reason: str) -> None:
    kind = "int32" if "int32" in inputs else "float"
    sizes = {"float[n, 4, 2] x": "[n, 4, 3]", "float[2] x": "[3]"}.get(inputs, "[n, 3]")
    sizes = "[n]" if "rank 1" in reason and "weight" in reason else sizes
    assert_untouched(LowerGemmToConv(), model(body, weights, inputs, f"{kind}{sizes} y"), reason)


def test_leaves_elements_alone_whose_number_nothing_tells() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2, 3] x) => (float[n, 3] y) <{SMALL}> {{
            a = mine.Split (x)
            y = MatMul (a, w)
        }}"""
    assert_untouched(LowerGemmToConv(), text, "the rank of its input is not known")


def test_leaves_an_old_operator_set_alone() -> None:
    before = model("y = Gemm <broadcast: int = 1> (x, w, c)", f"{SMALL}, {C}", MATRIX, opset=6)
    assert_untouched(LowerGemmToConv(), before, "operator set is below 7")


@fuzz(LowerGemmToConv())
def test_any_chain_of_layers_is_a_chain_of_convs(build: Builder) -> list[str]:
    dtype = build.dtype((np.float32, np.float32, np.float32, np.float16, np.int32))
    rows, size = build.integer(1, 3), build.integer(1, 6)
    if build.chance(3):
        x = build.input([rows, size], dtype)
    else:
        image = [rows, build.integer(1, 3), build.integer(1, 3), build.integer(1, 3)]
        axis = build.choice([None, 1, 1, 0, 2])
        cut = 1 if axis is None else axis
        rows, size = int(np.prod(image[:cut])), int(np.prod(image[cut:]))
        x = build.node("Relu" if build.chance(2) else "Identity", [build.input(image, dtype)])
        target = build.constant(np.array(build.choice([[-1, size], [rows, -1], [rows, size]]), np.int64))
        x = build.node("Flatten", [x], axis=axis) if build.chance(2) else build.node("Reshape", [x, target])
    ends = []
    for _ in range(build.integer(1, 3)):
        for _ in range(build.choice([0, 1, 1, 2])):
            op = build.choice(["Relu", "LeakyRelu", "Identity", "Sigmoid", "Neg", "Dropout", "Flatten"])
            x = build.node(op, [x])
        for _ in range(build.choice([1, 1, 2])):
            columns = build.integer(1, 4)
            turned = build.choice([None, 0, 1])
            factors = {name: build.choice([None, None, 1.0, 2.0, 0.0]) for name in ("alpha", "beta")}
            shapes = [[columns], [columns], [1, columns], [], [1], [rows, 1]]
            weight = build.weight([columns, size] if turned else [size, columns], dtype)
            if not turned and build.chance(3):
                ends.append(build.node("MatMul", [x, weight]))
            else:
                added = build.weight(build.choice(shapes), dtype)
                ends.append(build.node("Gemm", [x, weight, added], transB=turned, **factors))
        x, size = ends.pop(), columns
    return [*ends, x]
