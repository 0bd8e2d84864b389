from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.operators.operands import LAYERS
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.cut import find_cut
from graphsurgery.partition.islands import ACTIVATIONS, HOST_ONLY
from graphsurgery.partition.named_parts import extract_parts, find_named_cut
from graphsurgery.passes.inline_functions import InlineFunctions
from graphsurgery.rewrite import Editor, apply_pass
from graphsurgery.testing import parse
from partition.cutting import (
    BOXES,
    HEAD,
    POOL,
    TWO_STAGE,
    WEIGHTS,
    assert_parts_give_what_the_whole_gives,
    cut_of,
    described,
    parts_of,
    play,
)


def images(seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32), **BOXES}


# --- parts --------------------------------------------------------------------------------------------------------


def test_a_detector_with_one_pool_has_two_accelerator_parts() -> None:
    cut = cut_of(TWO_STAGE, weights=WEIGHTS)
    assert described(cut) == [
        "accelerator: image -> features",
        "host: batch,features,rois -> pooled",
        "accelerator: pooled -> logits",
        "host: logits -> scores",
    ]
    assert [tensor.name for tensor in cut.crossing()] == ["features", "pooled", "logits"]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_flatten_before_the_first_weight_and_relu_after_the_last_belong_to_the_part() -> None:
    cut = cut_of(TWO_STAGE.replace("scores = Softmax (logits)", "scores = Relu (logits)"), weights=WEIGHTS)
    assert described(cut)[2:] == ["accelerator: pooled -> scores"]
    assert [n.op_type for n in parts_of(cut)[2].model.proto.graph.node] == ["Flatten", "Gemm", "Relu", "Gemm", "Relu"]


def test_a_reshape_whose_sizes_are_computed_stays_on_the_host() -> None:
    text = TWO_STAGE.replace(
        "flat = Flatten (pooled)", "s = Shape (batch)  t = Concat <axis = 0> (s, k)  flat = Reshape (pooled, t)"
    )
    text = text.replace("(float[n, 5] scores)", "(float[n, 5] scores) <int64[1] k = {16}>")
    cut = cut_of(text, weights=WEIGHTS)
    assert described(cut)[2] == "accelerator: flat -> logits"
    assert_parts_give_what_the_whole_gives(cut, images())


def test_a_flatten_that_somebody_else_reads_too_stays_on_the_host() -> None:
    text = TWO_STAGE.replace("(float[n, 5] scores)", "(float[n, 5] scores, float[n, 16] other)")
    cut = cut_of(text.replace("scores = Softmax", "other = Softmax (flat)  scores = Softmax"), weights=WEIGHTS)
    assert described(cut)[2] == "accelerator: flat -> logits"


def test_sigmoid_behind_the_last_weight_belongs_to_the_part_only_when_it_is_included() -> None:
    text = TWO_STAGE.replace("scores = Softmax (logits)", "s = Sigmoid (logits)  r = Relu (s)  scores = Softmax (r)")
    assert described(cut_of(text, weights=WEIGHTS))[2] == "accelerator: pooled -> logits"
    cut = cut_of(text, [[], ["Sigmoid"]], weights=WEIGHTS)
    assert described(cut)[2:] == ["accelerator: pooled -> r", "host: r -> scores"]
    assert described(cut_of(text, [["Sigmoid"]], weights=WEIGHTS))[2] == "accelerator: pooled -> logits"
    assert_parts_give_what_the_whole_gives(cut, images())


def test_a_tensor_that_numpy_has_no_type_for_does_not_cross() -> None:
    text = SIGMOID.replace("s = Sigmoid (logits)", "half = Cast <to = 16> (logits)  low = Cast <to = 1> (half)")
    text = text.replace("scores = Softmax (s)", "s = Sigmoid (low)  scores = Softmax (s)")
    assert named(DEVICES, {}, text)["post"][0] == "Cast"  # inside a part it may be
    with pytest.raises(
        InputError, match=r"partition: 'half' would leave one part for another, but is bfloat16, .* cast"
    ):
        named(DEVICES, {"head": ["Cast"]}, text.replace("low = Cast <to = 1> (half)", "low = CastLike (half, hidden)"))


# --- what a graph keeps beside its nodes ---------------------------------------------------------------------------

THRESHOLD = """
    detector (float[1, 3, 8, 8] image, float t) => (float[1, 4, 8, 4] scores) <float t = {0.5}, int64[1] k = {4}> {
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        low = Relu (f)
        weighed = Mul (low, t)
        scores, places = TopK (weighed, k)
    }"""


def test_a_default_of_an_input_stays_one_that_a_caller_may_override() -> None:
    cut = cut_of(THRESHOLD, weights={"w1": [4, 3, 3, 3]})
    whole = Model.of(cut.graph).proto
    net, post = (part.model for part in parts_of(cut))
    assert (net.inputs, post.inputs) == (["image"], ["low"])
    assert [info.name for info in post.proto.graph.input] == ["t", "low"]
    image = {"image": images()["image"]}
    low = session.run(net.proto, image)
    for given in ({}, {"t": np.array(3, np.float32)}):
        got = session.run(post.proto, {**low, **given})["scores"]
        np.testing.assert_array_equal(got, session.run(whole, {**image, **given})["scores"])


@pytest.mark.parametrize("overridable", [False, True])
def test_a_sparse_initializer_goes_along_to_where_it_is_read(overridable: bool) -> None:
    text = """
    g (float[1, 3, 6, 6] image) => (float[1, 4, 4, 2] y) <int64[1] k = {2}> {
        f = Conv (image, w1)
        low = Relu (f)
        spread = Mul (low, S)
        y, places = TopK (spread, k)
    }"""
    proto = parse(f"{HEAD}\n{text}")
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "S")
    places = numpy_helper.from_array(np.array([0, 5, 7]), "S_places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 4]))
    if overridable:
        proto.graph.input.append(helper.make_tensor_value_info("S", TensorProto.FLOAT, [4, 4]))
    cut = cut_of(proto, weights={"w1": [4, 3, 3, 3]})
    net, post = (part.model for part in parts_of(cut))
    assert (net.inputs, post.inputs) == (["image"], ["low"])
    assert [len(model.proto.graph.sparse_initializer) for model in (net, post)] == [0, 1]
    image = {"image": np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)}
    got = session.run(post.proto, session.run(net.proto, image))["y"]
    np.testing.assert_array_equal(got, session.run(Model.of(cut.graph).proto, image)["y"])


def test_weights_that_a_caller_may_override_are_refused_with_what_helps() -> None:
    text = TWO_STAGE.replace("int64[n] batch", "int64[n] batch, float[4, 3, 3, 3] w1")
    with pytest.raises(InputError, match=r"\(Conv\) reads its weight from 'w1', .*drop-initializer-inputs"):
        cut_of(text, weights=WEIGHTS)


def test_a_weight_that_is_computed_from_what_a_caller_may_override_is_refused_with_what_helps() -> None:
    text = TWO_STAGE.replace("int64[n] batch", "int64[n] batch, float[4, 3, 3, 3] w1").replace(
        "(image, w1)", "(image, turned)"
    )
    text = text.replace("{", "{ turned = Transpose <perm = [0, 1, 3, 2]> (w1)", 1)
    with pytest.raises(InputError, match=r"\(Conv\) reads its weight from 'w1', .*drop-initializer-inputs"):
        cut_of(text, weights=WEIGHTS)


FUNCTIONS = """
    <ir_version: 9, opset_import: ["": 17, "own": 1]>
    g (float[1, 3, 8, 8] image, float[n, 4] boxes, int64[n] batch) => (float[n, 5] scores)
    <int64[1] last = {-1}> {
        low = own.Block (image, w1)
        rois = RoiAlign <output_height = 2, output_width = 2, spatial_scale = 1.0> (low, boxes, batch)
        high = own.Block (rois, w2)
        scores = own.Head (high, w3)
    }
    <domain: "own", opset_import: ["": 17]> Block (p, w) => (q) { t = Conv <pads = [1, 1, 1, 1]> (p, w)  q = Relu (t) }
    <domain: "own", opset_import: ["": 17]> Head (p, w) => (q) { f = Flatten (p)  q = Gemm (f, w) }"""
FUNCTION_WEIGHTS = {"w1": [4, 3, 3, 3], "w2": [4, 4, 3, 3], "w3": [16, 5]}


def test_layers_inside_functions_are_refused_with_what_helps() -> None:
    with pytest.raises(InputError, match=r"calls function 'Block' of domain 'own', in which Conv .*inline-functions"):
        cut_of(parse(FUNCTIONS), weights=FUNCTION_WEIGHTS)


def test_a_graph_is_cut_through_its_functions_once_they_are_inlined() -> None:
    cut = cut_of(apply_pass(InlineFunctions(), Model(parse(FUNCTIONS))).model.proto, weights=FUNCTION_WEIGHTS)
    assert cut.accelerator == [True, False, True]
    draw = np.random.default_rng(1)
    boxes = np.array([[0, 0, 4, 4], [1, 2, 6, 7]], np.float32)
    image = draw.standard_normal((1, 3, 8, 8)).astype(np.float32)
    given = {"image": image, "boxes": boxes, "batch": np.zeros(2, np.int64)}
    original = parse(FUNCTIONS)
    original.graph.initializer.extend(Model.of(cut.graph).proto.graph.initializer)
    np.testing.assert_allclose(
        play(parts_of(cut), given)["scores"], session.run(original, given)["scores"], rtol=1e-5, atol=1e-5
    )


# --- what a part takes along, by the part's name -------------------------------------------------------------------

SIGMOID = TWO_STAGE.replace("scores = Softmax (logits)", "s = Sigmoid (logits)  scores = Softmax (s)")
DEVICES = {"backbone": "npu", "pool": "cpu", "head": "npu", "post": "cpu"}


def named(
    devices: Mapping[str, str], include: Mapping[str, Sequence[str]], text: str = SIGMOID, at: str = "RoiAlign"
) -> dict[str, list[str]]:
    """Return the operators of each part of a model given as text."""
    proto = parse(text if text.lstrip().startswith("<") else f"{HEAD}\n{text}")
    for name, shape in WEIGHTS.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    graph = Model(proto).graph()
    Editor(graph).infer_shapes()
    parts = extract_parts(find_named_cut(graph, at, devices, include), devices)
    return {part.name: [node.op_type for node in part.model.proto.graph.node] for part in parts}


@pytest.mark.parametrize("device", ["npu", "cpu"])
def test_a_part_takes_along_what_its_name_says_wherever_the_parts_before_it_run(device: str) -> None:
    got = named({**DEVICES, "backbone": device}, {"head": ["Sigmoid"]})
    assert (got["head"][-1], got["post"]) == ("Sigmoid", ["Softmax"])


def test_a_part_with_weights_on_the_cpu_takes_along_what_is_named_too() -> None:
    got = named({**DEVICES, "head": "cpu"}, {"head": ["Sigmoid"]})
    assert (got["head"][-1], got["post"]) == ("Sigmoid", ["Softmax"])


def test_what_is_taken_along_may_leave_no_host_part_behind_it() -> None:
    three = {"backbone": "cpu", "pool": "cpu", "head": "npu"}
    assert named(three, {"head": ["Sigmoid", "Softmax"]})["head"][-2:] == ["Sigmoid", "Softmax"]
    with pytest.raises(InputError, match="the graph has: accelerator, host, accelerator, host; name one for each"):
        named(three, {"head": ["Sigmoid"]})


@pytest.mark.parametrize(
    ("include", "words"),
    [
        ({"head": ["Sigmod"]}, r"'Sigmod' is no operator of ONNX, .* Did you mean 'Sigmoid'\?"),
        ({"head": ["Softmax"]}, "no Softmax stands right behind the weights of part 'head'"),
        ({"head": ["Sigmoid", "Resize"]}, "no Resize stands right behind the weights of part 'head'"),
        ({"backbone": ["Sigmoid"]}, "no Sigmoid stands right behind the weights of part 'backbone'"),
        ({"pool": ["Sigmoid"]}, "part 'pool' has no weights, .* those that have are backbone, head"),
    ],
)
def test_what_no_part_can_take_along_is_refused(include: Mapping[str, Sequence[str]], words: str) -> None:
    with pytest.raises(InputError, match=rf"partition\.include: {words}"):
        named(DEVICES, include)


def test_an_operator_between_the_weights_is_not_behind_them() -> None:
    text = SIGMOID.replace("active = Relu (hidden)", "active = HardSigmoid (hidden)")
    with pytest.raises(InputError, match="no HardSigmoid stands right behind the weights of part 'head'"):
        named(DEVICES, {"head": ["HardSigmoid"]}, text)


def test_a_place_to_cut_at_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"partition\.at: 'RoiAlgin' is no operator of ONNX, .* Did you mean 'RoiAlign'"
    ):
        named(DEVICES, {}, at="RoiAlgin")


def test_a_known_place_to_cut_at_that_the_graph_lacks_leaves_it_in_one_stage() -> None:
    text = "g (float[1, 3, 8, 8] image) => (float[1, 4, 6, 6] y) { f = Conv (image, w1)  y = Softmax (f) }"
    assert named({"net": "npu", "post": "cpu"}, {}, text) == {"net": ["Conv"], "post": ["Softmax"]}


@pytest.mark.parametrize("name", ["Pool", "com.example.Pool"])
def test_an_operator_of_another_domain_can_be_named(name: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 17, "com.example": 1]>'
    text = f"{head}\n{SIGMOID}".replace("RoiAlign", "com.example.Pool").replace("Sigmoid (", "com.example.Sigmoid (")
    got = named(DEVICES, {"head": ["com.example.Sigmoid"]}, text, name)
    assert (got["pool"], got["head"][-1]) == (["Pool"], "Sigmoid")
    with pytest.raises(InputError, match="no Sigmoid stands right behind"):  # ONNX's is meant
        named(DEVICES, {"head": ["Sigmoid"]}, text, name)


def test_an_activation_right_behind_an_input_is_no_part_of_what_follows_later() -> None:
    """The Clip feeds the host, which feeds the Conv: in the Conv's part it would close a circle."""
    text = """
    g (float[1, 3, 8, 8] image) => (float[1, 4, 8, 4] y)
    <float lo = {0}, float hi = {1}, int64[4] index = {0, 2, 4, 6}> {
        c = Clip (image, lo, hi)
        t = Gather <axis = 3> (c, index)
        y = Conv <pads = [1, 1, 1, 1]> (t, w)
    }"""
    cut = cut_of(text, weights={"w": [4, 3, 3, 3]})
    assert described(cut) == ["host: image -> t", "accelerator: t -> y"]
    assert_parts_give_what_the_whole_gives(cut)


@pytest.mark.parametrize(
    "meet",
    [
        "m = Concat <axis = 0> (p1, p2)",
        "z = ConstantOfShape (size)  i = Expand (zero, size)  a = Mul (p1, half)  m = Concat <axis = 0> (a, p2)",
        "m0 = ScatterElements <axis = 0> (base, index, p1)  m = ScatterElements <axis = 0> (m0, index, p2)",
    ],
)
def test_pools_whose_outputs_meet_before_a_weight_are_one(meet: str) -> None:
    rows = "2" if "Scatter" in meet else "4"
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[{rows}, 6] y)
    <float[1] half = {{0.5}}, int64[4] size = {{2, 4, 2, 2}}, int64[1] zero = {{0}}> {{
        f1 = Conv <pads = [1, 1, 1, 1]> (image, w1)
        f2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (f1, w4)
        p1 = RoiAlign {POOL} (f1, rois, batch)
        p2 = RoiAlign {POOL} (f2, rois, batch)
        base = ConstantOfShape (size)
        index = Expand (zero, size)
        {meet}
        flat = Flatten (m)
        y = Gemm <transB = 1> (flat, w2)
    }}"""
    cut = cut_of(text, weights={**WEIGHTS, "w4": [4, 4, 3, 3]})
    assert described(cut) == [
        "accelerator: image -> f1,f2",
        "host: batch,f1,f2,rois -> m",
        "accelerator: m -> y",
    ]
    assert_parts_give_what_the_whole_gives(cut, {**images(), **BOXES})


def test_pools_one_behind_the_other_are_two_stages() -> None:
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[2, 4, 2, 2] y, float[2, 4] boxes) {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        p1 = RoiAlign {POOL} (f, rois, batch)
        flat = Flatten (p1)
        moves = Gemm <transB = 1> (flat, w2)
        near = Tanh (moves)
        boxes = Add (rois, near)
        p2 = RoiAlign {POOL} (f, boxes, batch)
        y = Conv <pads = [1, 1, 1, 1]> (p2, w3)
    }}"""
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w2": [4, 16], "w3": [4, 4, 3, 3]})
    assert described(cut) == [
        "accelerator: image -> f",
        "host: batch,f,rois -> p1",
        "accelerator: p1 -> moves",
        "host: batch,f,moves,rois -> boxes,p2",
        "accelerator: p2 -> y",
    ]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_two_heads_that_pool_apart_at_one_depth_share_a_part() -> None:
    """Neither needs the other, so both are stage 1."""
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[2, 4, 2, 2] y, float[2, 4, 2, 2] z) {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        p1 = RoiAlign {POOL} (f, rois, batch)
        y = Conv <pads = [1, 1, 1, 1]> (p1, w3)
        p2 = RoiAlign {POOL} (f, rois, batch)
        z = Conv <pads = [1, 1, 1, 1]> (p2, w3)
    }}"""
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w3": [4, 4, 3, 3]})
    assert described(cut)[1:] == ["host: batch,f,rois -> p1,p2", "accelerator: p1,p2 -> y,z"]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_a_pool_that_needs_another_is_not_merged_with_it_where_their_outputs_meet() -> None:
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[4, 4, 2, 2] y) {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        p1 = RoiAlign {POOL} (f, rois, batch)
        flat = Flatten (p1)
        moves = Gemm <transB = 1> (flat, w2)
        near = Tanh (moves)
        boxes = Add (rois, near)
        p2 = RoiAlign {POOL} (f, boxes, batch)
        both = Concat <axis = 0> (p1, p2)
        y = Conv <pads = [1, 1, 1, 1]> (both, w3)
    }}"""
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w2": [4, 16], "w3": [4, 4, 3, 3]})
    assert [kind for kind in cut.accelerator] == [True, False, True, False, True]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_pools_in_a_circle_are_refused() -> None:
    """a -> d and c -> b, where a and b meet and c and d meet: neither pool can come first."""
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[4, 4, 2, 2] y, float[4, 4, 2, 2] z) {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        a = RoiAlign {POOL} (f, rois, batch)
        a_flat = Flatten (a)
        a_rois = Gemm <transB = 1> (a_flat, w2)
        c = RoiAlign {POOL} (f, rois, batch)
        c_flat = Flatten (c)
        c_rois = Gemm <transB = 1> (c_flat, w2)
        b = RoiAlign {POOL} (f, c_rois, batch)
        d = RoiAlign {POOL} (f, a_rois, batch)
        ab = Concat <axis = 0> (a, b)
        cd = Concat <axis = 0> (c, d)
        y = Conv <pads = [1, 1, 1, 1]> (ab, w3)
        z = Conv <pads = [1, 1, 1, 1]> (cd, w3)
    }}"""
    with pytest.raises(ModelError, match="can't be cut at 'a', 'c', 'b', 'd'"):
        cut_of(text, weights={"w1": [4, 3, 3, 3], "w2": [4, 16], "w3": [4, 4, 3, 3]})


def test_a_graph_without_pools_has_one_accelerator_part() -> None:
    text = """
    g (float[1, 3, 8, 8] image) => (float[k] scores, int64[k] labels) <int64[1] many = {5}, int64[1] flat = {-1}> {
        a = Transpose <perm = [0, 1, 3, 2]> (image)
        b = Conv (a, w1)
        c = Sigmoid (b)
        d = Conv (c, w3)
        e = Reshape (d, flat)
        scores, labels = TopK (e, many)
    }"""
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w3": [2, 4, 3, 3]})
    assert described(cut) == ["host: image -> a", "accelerator: a -> d", "host: d -> labels,scores"]
    assert_parts_give_what_the_whole_gives(cut)


def test_a_graph_without_weights_is_refused() -> None:
    with pytest.raises(ModelError, match="no Conv, ConvTranspose, Gemm or MatMul"):
        cut_of("g (float[2, 2] x, float[2, 2] z) => (float[2, 2] y) { y = MatMul (x, z) }")


@pytest.mark.parametrize(
    "between",
    [
        "b = Gather <axis = 2> (a, index)",
        "c, i = TopK <axis = 2> (a, one)  b = Relu (c)",
        "s = Shape (a)  b = Expand (a, s)",
        "b = If (yes) <then_branch = t () => (p) {p = Tile (a, t4)}, else_branch = e () => (q) {q = Neg (a)}>",
    ],
)
def test_a_node_that_no_accelerator_runs_between_weights_is_named(between: str) -> None:
    text = f"""
    g (float[1, 3, 8, 8] image) => (float y)
    <int64[2] index = {{0, 1}}, int64[1] one = {{1}}, bool yes = {{1}}, int64[4] t4 = {{1, 1, 1, 1}}> {{
        a = Conv <pads = [1, 1, 1, 1]> (image, w1)
        {between}
        d = Conv <pads = [1, 1, 1, 1]> (b, w3)
        y = ReduceMax <keepdims = 0> (d)
    }}"""
    with pytest.raises(ModelError, match=r"node '[abcs]' \((Gather|TopK|Shape|If|If, Tile|Tile)\) stands between"):
        cut_of(text, weights={"w1": [4, 3, 3, 3], "w3": [4, 4, 3, 3]})


def test_weights_that_are_computed_from_constants_are_weights() -> None:
    text = """
    g (float[1, 3, 8, 8] image) => (float[1, 2, 6, 6] y)
    <float scale = {0.1}, int8[2, 3, 1, 1] q = {1, 2, 3, 4, 5, 6}> {
        unused = ReduceMax <axes = [2, 3]> (image)
        w = DequantizeLinear (q, scale)
        m = Conv (image, w)
        y = MaxPool <kernel_shape = [3, 3]> (m)
    }"""
    cut = cut_of(text)
    assert described(cut) == ["accelerator: image -> m", "host: m -> y"]
    assert [n.op_type for n in parts_of(cut)[0].model.proto.graph.node] == ["DequantizeLinear", "Conv"]


def test_finding_the_cut_does_not_read_the_weights(tmp_path: Path) -> None:
    proto = parse(f"{HEAD}\n{TWO_STAGE}")
    for name, shape in WEIGHTS.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = Model.load(path)
    (tmp_path / "m.bin").unlink()
    cut = find_cut(model.graph(), "RoiAlign")
    parts = extract_parts(cut, {"a": "npu", "b": "cpu", "c": "npu", "d": "cpu"}, model.folder)
    assert [part.model.folder for part in parts] == [tmp_path] * 4
    assert [t.data_location for t in parts[0].model.proto.graph.initializer] == [TensorProto.EXTERNAL]


# --- cut tensors --------------------------------------------------------------------------------------------------


def test_constants_and_what_depends_on_them_alone_are_repeated() -> None:
    text = TWO_STAGE.replace("f = Conv", "two = Constant <value = float[1] {2}> ()  four = Add (two, two)  f0 = Conv")
    text = text.replace("(image, w1)", "(image, w1)  f = Mul (f0, four)")
    text = text.replace("scores = Softmax (logits)", "s = Mul (logits, four)  scores = Softmax (s)")
    cut = cut_of(text, weights=WEIGHTS)
    assert described(cut)[3] == "host: logits -> scores"
    ops = [[n.op_type for n in part.model.proto.graph.node] for part in parts_of(cut)]
    assert [("Constant" in each, "Add" in each) for each in ops] == [
        (False,) * 2,
        (True,) * 2,
        (False,) * 2,
        (True,) * 2,
    ]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_a_cheap_node_is_run_again_rather_than_its_result_handed_over() -> None:
    """The boxes cross anyway, so their columns and sizes need not."""
    text = f"""
    g (float[1, 3, 8, 8] image, float[n, 4] rois, int64[n] batch) => (float[m, 4] boxes)
    <int64 zero = {{0}}, int64[1] first = {{0}}> {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        size = ReduceMax <keepdims = 0> (f)
        near = Tanh (size)
        b = Add (rois, near)
        column = Gather <axis = 1> (b, zero)
        big = Greater (column, half)
        kept = NonZero (big)
        row = Squeeze (kept, first)
        proposals = Gather <axis = 0> (b, row)
        left = Gather <axis = 1> (proposals, zero)
        twice = Add (left, left)
        extra = Unsqueeze (twice, last)
        one = Gather <axis = 0> (batch, row)
        p1 = RoiAlign {POOL} (f, proposals, one)
        flat = Flatten (p1)
        moves = Gemm <transB = 1> (flat, w2)
        wide = Add (moves, extra)
        boxes = Add (proposals, wide)
    }}""".replace("int64[1] first = {0}>", "int64[1] first = {0}, int64[1] last = {1}, float half = {0.5}>")
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w2": [4, 16]})
    assert described(cut) == [
        "accelerator: image -> f",
        "host: batch,f,rois -> p1,proposals",
        "accelerator: p1 -> moves",
        "host: moves,proposals -> boxes",
    ]
    assert_parts_give_what_the_whole_gives(cut, images())


def test_nothing_is_run_again_in_an_accelerator_part() -> None:
    """It reads x, and x[:, 0] could be had from that, but no accelerator gathers."""
    text = """
    g (float[2, 3] x) => (float[2, 4] y) <int64[1] first = {0}> {
        b = Gather <axis = 1> (x, first)
        a = MatMul (x, w1)
        c = Add (a, b)
        y = MatMul (c, w2)
    }"""
    cut = cut_of(text, weights={"w1": [3, 4], "w2": [4, 4]})
    assert described(cut) == ["host: x -> b", "accelerator: b,x -> y"]
    assert_parts_give_what_the_whole_gives(cut)


def test_an_output_that_is_constant_or_an_input_is_still_there() -> None:
    text = """
    g (float[2, 3] x) => (float[2, 4] y, float[1] k, int64[2] w, float[2, 3] x) <int64[2] w = {1, 2}> {
        y = MatMul (x, w1)
        k = Constant <value = float[1] {7}> ()
    }"""
    cut = cut_of(text, weights={"w1": [3, 4]})
    assert_parts_give_what_the_whole_gives(cut)


def test_an_output_that_a_later_part_reads_too_crosses_under_its_own_name() -> None:
    text = TWO_STAGE.replace("(float[n, 5] scores)", "(float[n, 5] scores, float[1, 4, 8, 8] features)")
    cut = cut_of(text, weights=WEIGHTS)
    assert described(cut)[:2] == ["accelerator: image -> features", "host: batch,features,rois -> pooled"]
    assert "features" not in [tensor.name for tensor in cut.crossing()]
    assert_parts_give_what_the_whole_gives(cut, images())


@pytest.mark.parametrize("yes", [True, False])
def test_what_the_bodies_of_an_if_read_crosses(yes: bool) -> None:
    text = TWO_STAGE.replace(
        "scores = Softmax (logits)",
        """scores = If (yes) <
            then_branch = t () => (float[n, 5] p) { m = ReduceMax <keepdims = 0> (features)  p = Add (logits, m) },
            else_branch = e () => (float[n, 5] q) { q = Neg (logits) }
        >""",
    ).replace("int64[n] batch)", "int64[n] batch, bool yes)")
    cut = cut_of(text, weights=WEIGHTS)
    assert described(cut)[3] == "host: features,logits,yes -> scores"
    assert_parts_give_what_the_whole_gives(cut, {**images(), "yes": np.array(yes)})


# --- the recipe's names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "devices",
    [
        {"a": "npu", "b": "cpu", "c": "npu"},
        {"a": "npu", "b": "cpu", "c": "npu", "d": "cpu", "e": "cpu"},
        {"a": "npu", "b": "npu", "c": "npu", "d": "cpu"},
        {},
    ],
)
def test_other_parts_than_there_are_are_refused(devices: dict[str, str]) -> None:
    cut = cut_of(TWO_STAGE, weights=WEIGHTS)
    with pytest.raises(InputError, match="the graph has: accelerator, host, accelerator, host; name one for each"):
        extract_parts(cut, devices)


def test_an_accelerator_part_may_be_put_on_the_cpu() -> None:
    cut = cut_of(TWO_STAGE, weights=WEIGHTS)
    parts = extract_parts(cut, {"a": "cpu", "b": "cpu", "c": "gpu", "d": "cpu"})
    assert [(p.name, p.device, p.accelerator, p.model.proto.graph.name) for p in parts] == [
        ("a", "cpu", True, "a"),
        ("b", "cpu", False, "b"),
        ("c", "gpu", True, "c"),
        ("d", "cpu", False, "d"),
    ]


def test_the_models_notes_go_with_every_part() -> None:
    proto = parse(f"{HEAD}\n{TWO_STAGE}")
    helper.set_model_props(proto, {"graphsurgery.normalisation": "{}"})
    parts = parts_of(cut_of(proto, weights=WEIGHTS))
    assert [part.model.proto.metadata_props[0].value for part in parts] == ["{}"] * 4


# --- random graphs ------------------------------------------------------------------------------------------------


def random_detector(seed: int) -> ModelProto:
    """A layered graph over [4, 6] tensors: some layers can go into an accelerator part, some can't, in any order."""
    generator = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {
        "one": np.array([0.3], np.float32),
        "rows": np.array([2, 0, 3, 1], np.int64),
        "boxes": np.array([[0, 0, 3, 3], [1, 0, 5, 2], [0, 1, 2, 3], [2, 0, 4, 3]], np.float32),
        "batch": np.zeros(4, np.int64),
        "image": np.array([1, 1, 4, 6], np.int64),
        "matrix": np.array([4, 6], np.int64),
        "six": np.array([4, 1, 2, 3], np.int64),
    }
    tensors, stage = ["x0", "x1"], 0
    layers: list[list[str]] = [tensors]

    def add(op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> str:
        names = [f"t{len(nodes)}_{i}" for i in range(outputs)]
        nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0]

    def pick() -> str:
        """Mostly what was made last, sometimes anything from before."""
        recent = layers[-1] if generator.random() < 0.6 else tensors
        return str(generator.choice(recent))

    for stage in range(generator.integers(1, 4)):
        if stage:
            pooled = []
            for _ in range(generator.integers(1, 3)):
                picture = add("Reshape", [pick(), "image"])
                pooled.append(add("RoiAlign", [picture, "boxes", "batch"], output_height=2, output_width=3))
            flat = [add("Reshape", [p, "matrix"]) for p in pooled]
            layers.append([add("Sum", flat)] if generator.random() < 0.5 else flat)
            tensors += layers[-1]
        made: list[str] = []
        for kind in (
            ["host"] * generator.integers(0, 4)
            + ["body"] * generator.integers(1, 5)
            + ["host"] * generator.integers(0, 4)
        ):
            if kind == "host":
                op = str(generator.choice(["Gather", "Softmax", "Where", "Shape", "Relu", "Neg", "Add"]))
                if op == "Gather":
                    new = add("Gather", [pick(), "rows"], axis=0)
                elif op == "Where":
                    new = add("Where", [add("Greater", [pick(), pick()]), pick(), pick()])
                elif op == "Shape":
                    size = add("Cast", [add("Shape", [pick()], start=1)], to=TensorProto.FLOAT)
                    new = add("Add", [pick(), size])
                else:
                    new = add(op, [pick(), pick()] if op == "Add" else [pick()])
            else:
                weight = f"w{len(constants)}"
                constants[weight] = generator.standard_normal((6, 6)).astype(np.float32) * 0.4
                last = made[-1] if made and generator.random() < 0.5 else pick()
                new = add("Relu" if generator.random() < 0.3 else "Tanh", [add("MatMul", [last, weight])])
                if generator.random() < 0.4:
                    new = add("Add", [new, "one"])
            made.append(new)
            layers.append([new])
            tensors.append(new)
    ends = list(dict.fromkeys([tensors[-1], *(str(t) for t in generator.choice(tensors[2:], 3))]))
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 6]) for name in ("x0", "x1")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 6]) for name in ends],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sound_cut(seed: int) -> Cut | None:
    """Cut the random graph; None where a host node between weights makes that impossible, which is then true."""
    model = Model(random_detector(seed))
    onnx.checker.check_model(model.proto, full_check=True)
    graph = model.graph()
    Editor(graph).infer_shapes()
    try:
        return find_cut(graph, "RoiAlign")
    except ModelError as error:
        if "stands between the weights" in str(error) or "no Conv" in str(error):
            return None
        raise


def test_parts_of_random_graphs_give_what_the_whole_gives() -> None:
    cuts = {seed: cut for seed in range(150) if (cut := sound_cut(seed)) is not None}
    assert len(cuts) >= 50
    assert {sum(cut.accelerator) for cut in cuts.values()} >= {1, 2, 3}
    for seed, cut in cuts.items():
        parts = parts_of(cut)
        for part in parts:
            ops = {node.op_type for node in part.model.proto.graph.node}
            weighted = any(
                n.op_type in LAYERS and any(t.name in n.input for t in part.model.proto.graph.initializer)
                for n in part.model.proto.graph.node
            )
            assert weighted == part.accelerator, (seed, part.name)
            assert not (part.accelerator and ops & HOST_ONLY), (seed, part.name, ops)
        generator = np.random.default_rng(1000 + seed)
        given = {name: generator.standard_normal((4, 6)).astype(np.float32) for name in ("x0", "x1")}
        played = play(parts, given)
        for name, value in session.run(Model.of(cut.graph).proto, given).items():
            np.testing.assert_array_equal(played[name], value, err_msg=f"seed {seed}: {name}")


def test_activations_are_none_of_what_only_a_host_runs() -> None:
    assert not HOST_ONLY & {*ACTIVATIONS, *LAYERS}
