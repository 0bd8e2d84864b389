"""Parts as a target's word cuts them: convex islands around the weights that it runs, and nothing else."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.devices import session
from graphsurgery.errors import ModelError
from graphsurgery.partition.by_target import ByTarget
from graphsurgery.partition.islands import HOST_ONLY
from graphsurgery.partition.named_parts import extract_parts, find_named_cut
from graphsurgery.passes.freeze_nms import FreezeNms
from graphsurgery.rewrite import Editor, apply_pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.targets.load import load_target
from graphsurgery.targets.support import taker
from partition.cutting import (
    BOXES,
    TWO_STAGE,
    WEIGHTS,
    assert_parts_give_what_the_whole_gives,
    cut_of,
    described,
    parts_of,
    play,
    with_weights,
)

CONSTANTS = """<int64[3] sb = {1, 64, 4}, int64[3] sc = {1, 1, 64}, int64 m = {20}, float i = {0.75}, float t = {0.6},
    int64[1] zero = {0}, int64 two = {2}, float[4] off = {0, 0, 3, 3}>"""
IMAGE = {"image": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def without(*ops: str, smallest: int = 0, static: bool = False) -> ByTarget:
    """A target that runs all operators but these; where it wants them `static`, only with known sizes."""

    def takes(node: gs.Node, open_sizes: bool) -> bool:
        known = all(isinstance(size, int) for tensor in node.outputs for size in tensor.shape or [None])
        return node.op not in ops and (open_sizes or known or not static)

    return ByTarget(takes, smallest)


def ops_of(part: int, cut: object) -> list[str]:
    return [node.op_type for node in parts_of(cut)[part].model.proto.graph.node]  # type: ignore[arg-type]


def test_a_target_that_runs_what_all_run_cuts_where_the_operator_does() -> None:
    by_target = cut_of(TWO_STAGE, weights=WEIGHTS, at=without(*HOST_ONLY))
    assert described(by_target) == described(cut_of(TWO_STAGE, weights=WEIGHTS))
    assert_parts_give_what_the_whole_gives(by_target, {**IMAGE, **BOXES})


def test_a_node_between_weights_that_it_lacks_ends_a_part() -> None:
    text = TWO_STAGE.replace("active = Relu (hidden)", "active = Sigmoid (hidden)")
    assert described(cut_of(text, weights=WEIGHTS, at=without("RoiAlign", "Sigmoid"))) == [
        "accelerator: image -> features",
        "host: batch,features,rois -> pooled",
        "accelerator: pooled -> hidden",
        "host: hidden -> active",
        "accelerator: active -> logits",
        "host: logits -> scores",
    ]


def test_a_node_that_it_lacks_before_or_behind_all_weights_makes_no_further_part() -> None:
    text = TWO_STAGE.replace("f = Conv <pads = [1, 1, 1, 1]> (image, w1)", "i = Neg (image)  f = Conv (i, w1)")
    cut = cut_of(text, weights=WEIGHTS, at=without("RoiAlign", "Neg", "Softmax", "Relu"))
    assert described(cut)[:2] == ["host: image -> i", "accelerator: i -> f"]
    # a Relu that the target lacks isn't taken along, and cuts between two weights
    assert [line.split(":")[0] for line in described(cut)] == ["host", "accelerator"] * 3 + ["host"]


def test_a_layer_that_it_lacks_is_the_hosts() -> None:
    text = TWO_STAGE.replace("hidden = Gemm <transB = 1> (flat, w2)", "hidden = MatMul (flat, w4)")
    cut = cut_of(text, weights={**WEIGHTS, "w4": [16, 6]}, at=without("RoiAlign", "MatMul"))
    assert described(cut) == [
        "accelerator: image -> features",
        "host: batch,features,rois -> active",
        "accelerator: active -> logits",
        "host: logits -> scores",
    ]


def test_what_no_accelerator_runs_as_a_rule_goes_into_the_part_where_the_target_runs_it() -> None:
    cut = cut_of(TWO_STAGE, weights=WEIGHTS, at=without("Softmax"))
    assert described(cut) == ["accelerator: batch,image,rois -> logits", "host: logits -> scores"]
    # behind a node that it lacks, it stands before the first weights of its part
    text = TWO_STAGE.replace("(features, rois, batch)", "(features, kept, batch)")
    kept = "near = Ceil (features)  m = ReduceMax <keepdims = 0> (near)  kept = Mul (rois, m)"
    text = text.replace("pooled = RoiAlign", f"{kept}  pooled = RoiAlign")
    cut = cut_of(text, weights=WEIGHTS, at=without("Ceil", "Softmax"))
    assert described(cut) == [
        "accelerator: image -> features",
        "host: features,rois -> kept",
        "accelerator: batch,features,kept -> logits",
        "host: logits -> scores",
    ]
    assert "RoiAlign" in ops_of(2, cut)
    assert_parts_give_what_the_whole_gives(cut, {**IMAGE, **BOXES})


def test_what_no_accelerator_runs_as_a_rule_is_the_hosts_where_its_sizes_are_open() -> None:
    by_target = without("Softmax", static=True)
    assert described(cut_of(TWO_STAGE, weights=WEIGHTS, at=by_target)) == described(cut_of(TWO_STAGE, weights=WEIGHTS))
    text = TWO_STAGE.replace("float[n, 4] rois, int64[n] batch", "float[2, 4] rois, int64[2] batch")
    cut = cut_of(text.replace("float[n, 5]", "float[2, 5]"), weights=WEIGHTS, at=by_target)
    assert described(cut) == ["accelerator: batch,image,rois -> logits", "host: logits -> scores"]


def test_a_result_that_the_graph_gives_out_is_not_taken_along() -> None:
    text = TWO_STAGE.replace("(float[n, 5] scores)", "(float[n, 5] scores, float[n, 4, 2, 2] pooled)")
    text = text.replace("(features, rois, batch)", "(far, rois, batch)").replace(
        "pooled =", "far = Ceil (features) pooled ="
    )
    cut = cut_of(text, weights=WEIGHTS, at=without("Ceil"))
    assert described(cut)[1] == "host: batch,features,rois -> pooled"


@pytest.mark.parametrize(("smallest", "parts"), [(0, 2), (3000, 1), (100, 2)])
def test_a_part_of_few_multiply_adds_is_given_back_to_the_host(smallest: int, parts: int) -> None:
    text = TWO_STAGE.replace("float[n, 4] rois, int64[n] batch", "float[2, 4] rois, int64[2] batch")
    text = text.replace("float[n, 5] scores", "float[2, 5] scores")
    cut = cut_of(text, weights=WEIGHTS, at=without("RoiAlign", smallest=smallest))  # 6912 and 2 * (96 + 30)
    assert sum(cut.accelerator) == parts
    assert_parts_give_what_the_whole_gives(cut, {**IMAGE, **BOXES})


def test_a_part_whose_rows_are_open_is_kept_whatever_its_size() -> None:
    assert sum(cut_of(TWO_STAGE, weights=WEIGHTS, at=without("RoiAlign", smallest=3000)).accelerator) == 2


@pytest.mark.parametrize(("ops", "smallest", "said"), [
    (("Conv", "Gemm"), 0, "the target takes none of the layers"),
    (("RoiAlign", "Gemm"), 10**9, "no part for the target would have 1000000000 multiply-adds"),
])  # fmt: skip
def test_a_target_that_runs_none_of_the_weights_is_told(ops: Collection[str], smallest: int, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        cut_of(TWO_STAGE, weights=WEIGHTS, at=without(*ops, smallest=smallest))


def test_two_branches_that_do_not_need_each_other_are_one_part() -> None:
    text = """
        branches (float[1, 3, 8, 8] image) => (float[1, 4, 8, 8] one, float[1, 4, 8, 8] two) {
            i = Neg (image)
            one = Conv (image, w1)
            two = Conv (i, w1)
        }"""
    cut = cut_of(text, weights={"w1": [4, 3, 1, 1]}, at=without("Neg"))
    assert described(cut) == ["host: image -> i", "accelerator: i,image -> one,two"]


# --- by the files of targets ---------------------------------------------------------------------------------------


def by(name: str, precision: str) -> ByTarget:
    return ByTarget(taker(17, load_target(name, discover()).target, precision))


def test_htp_has_roialign_in_its_part_once_the_number_of_boxes_is_fixed() -> None:
    open_rows = described(cut_of(TWO_STAGE, weights=WEIGHTS, at=by("qnn-htp", "float16")))
    assert open_rows[1] == "host: batch,features,rois -> pooled"
    fixed = TWO_STAGE.replace("float[n, 4] rois, int64[n]", "float[7, 4] rois, int64[7]").replace("[n, 5]", "[7, 5]")
    assert described(cut_of(fixed, weights=WEIGHTS, at=by("qnn-htp", "float16"))) == [
        "accelerator: batch,image,rois -> logits",
        "host: logits -> scores",
    ]


@pytest.mark.parametrize(("precision", "parts"), [("xint8", 2), ("a8w8", 1)])
def test_a_sigmoid_between_weights_is_the_hosts_in_xint8_alone(precision: str, parts: int) -> None:
    fixed = "kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1], dilations = [1, 1], group = 1"
    nodes = f"a = Conv <{fixed}> (x, w1)  s = Sigmoid (a)  y = Conv <{fixed}> (s, w2)"
    text = f"g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y) {{ {nodes} }}"
    cut = cut_of(text, weights={"w1": [4, 3, 3, 3], "w2": [4, 4, 3, 3]}, at=by("ryzen-ai", precision))
    assert sum(cut.accelerator) == parts


def test_htp_takes_a_frozen_nms_along_and_leaves_the_mask_to_the_host() -> None:
    text = TWO_STAGE.replace("(float[1, 3, 8, 8] image, float[n, 4] rois, int64[n] batch)", "(float[1, 3, 8, 8] image)")
    text = text.replace("=> (float[n, 5] scores) {", f"=> (float[n, 5] scores) {CONSTANTS} {{")
    proposals = """
        d = Conv (features, w4)  ds = Sigmoid (d)  dt = Transpose <perm = [0, 2, 3, 1]> (ds)
        corners = Reshape (dt, sb)  boxes = Add (corners, off)
        o = Conv (features, w5)  chance = Sigmoid (o)  chances = Reshape (chance, sc)
        chosen = NonMaxSuppression (boxes, chances, m, i, t)
        k = Gather <axis = 1> (chosen, two)  rows = Squeeze (boxes, zero)  rois = Gather (rows, k)
        more = Mul (k, two)  batch = Sub (more, more)
        pooled ="""
    weights = {**WEIGHTS, "w4": [4, 4, 1, 1], "w5": [1, 4, 1, 1]}
    original = with_weights(text.replace("pooled =", proposals), weights)
    frozen = apply_pass(FreezeNms(), original).model
    graph = frozen.graph()
    Editor(graph).infer_shapes()
    parts = {"rpn": "npu", "choose": "cpu", "head": "npu", "post": "cpu"}
    along = ["Transpose", "Reshape", "Sigmoid", "Add", "NonMaxSuppression", "Concat", "Slice"]
    cut = find_named_cut(graph, by("qnn-htp", "float16"), parts, {"rpn": along})
    rpn, host, *_ = extract_parts(cut, parts)
    assert "NonMaxSuppression" in {node.op_type for node in rpn.model.proto.graph.node}
    assert "Compress" in {node.op_type for node in host.model.proto.graph.node}
    crossing = {info.name: info.type.tensor_type.shape.dim for info in rpn.model.proto.graph.output}
    assert [size.dim_value for size in crossing["chosen_box"]] == [20, 1]
    expected = session.run(original.proto, IMAGE)["scores"]
    assert 1 < len(expected) < 20
    np.testing.assert_allclose(play(extract_parts(cut, parts), IMAGE)["scores"], expected, rtol=1e-5, atol=1e-6)
