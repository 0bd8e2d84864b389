"""Cuts at tensors, at several operators and behind the raw outputs of the heads of a detector."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from graphsurgery.errors import InputError, ModelError
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.named_parts import extract_parts, find_named_cut
from graphsurgery.partition.stages import CutPoints
from graphsurgery.rewrite import Editor
from partition.cutting import assert_parts_give_what_the_whole_gives, cut_of, described, parts_of, with_weights
from partition.networks import (
    DETR,
    DETR_WEIGHTS,
    RT_DETR,
    RT_DETR_WEIGHTS,
    YOLO,
    YOLO_DFL,
    YOLO_PLAIN_WEIGHTS,
    YOLO_WEIGHTS,
)


def at_tensors(*names: str) -> CutPoints:
    return CutPoints.of((), names)


def operators(cut: Cut, part: int) -> set[str]:
    return {node.op_type for node in parts_of(cut)[part].model.proto.graph.node}


# --- one stage ----------------------------------------------------------------------------------------------------


def test_detections_are_cut_behind_the_raw_outputs_and_the_decode_is_the_hosts() -> None:
    cut = cut_of(YOLO, weights=YOLO_PLAIN_WEIGHTS, at="detections")
    assert described(cut) == ["accelerator: image -> raw", "host: raw -> out"]
    assert_parts_give_what_the_whole_gives(cut)


def test_a_layer_that_takes_the_mean_of_a_distribution_pulls_no_decode_into_the_accelerator_part() -> None:
    assert described(cut_of(YOLO_DFL, weights=YOLO_WEIGHTS))[0] == "accelerator: image -> cls,mean"
    cut = cut_of(YOLO_DFL, weights=YOLO_WEIGHTS, at="detections")
    assert described(cut) == ["accelerator: image -> box3,box4,cls3,cls4", "host: box3,box4,cls3,cls4 -> out"]
    assert_parts_give_what_the_whole_gives(cut)


def test_a_quantized_mean_is_one_too() -> None:
    text = YOLO_DFL.replace("float[1, 4, 1, 1] place", "int8[1, 4, 1, 1] stored").replace(
        "mean = Conv (p, place)", "place = DequantizeLinear (stored, anchor)  mean = Conv (p, place)"
    )
    assert described(cut_of(text, weights=YOLO_WEIGHTS, at="detections"))[1].startswith("host: box3,box4,cls3")


def test_a_layer_of_the_network_behind_a_softmax_is_none_of_the_decode() -> None:
    """Another one reads it: the weights of a gate, say."""
    text = YOLO.replace("raw = Conv (a, head)", "p = Softmax <axis = 1> (a)  e = Conv (p, gate)  raw = Conv (e, head)")
    cut = cut_of(text, weights={**YOLO_PLAIN_WEIGHTS, "gate": [4, 4, 1, 1]}, at="detections")
    assert described(cut)[0] == "accelerator: image -> raw"


def test_a_matrix_of_learned_numbers_is_a_layer_of_the_network() -> None:
    text = YOLO.replace("-0.5, 0, 0.5, 0, 0, -0.5, 0, 0.5", "-0.5, 0, 0.5, 0, 0, -0.5, 0, 0.51")
    cut = cut_of(text, weights=YOLO_PLAIN_WEIGHTS, at="detections")
    assert "MatMul" in operators(cut, 0)


def test_what_a_recipe_names_by_a_pattern_is_one_cut_and_what_depends_on_it_another() -> None:
    cut = cut_of(YOLO_DFL, weights=YOLO_WEIGHTS, at=at_tensors("cat_*"))
    assert described(cut) == ["accelerator: image -> cat_3,cat_4", "host: cat_3,cat_4 -> out"]
    assert_parts_give_what_the_whole_gives(cut)


def test_what_computes_a_tensor_is_the_last_before_the_cut() -> None:
    cut = cut_of(YOLO, weights=YOLO_PLAIN_WEIGHTS, at=at_tensors("boxes"))
    assert described(cut) == ["accelerator: image -> boxes,cls", "host: boxes,cls -> out"]
    assert_parts_give_what_the_whole_gives(cut)


# --- transformers -------------------------------------------------------------------------------------------------


def test_the_encoder_of_detr_is_cut_from_its_decoder() -> None:
    cut = cut_of(DETR, weights=DETR_WEIGHTS, at=at_tensors("memory"))
    assert described(cut) == [
        "accelerator: image -> memory",
        "accelerator: memory -> logits,mb",
        "host: mb -> pred_boxes",
    ]
    assert "Add" in operators(cut, 1)  # memory + position, between the cut and the first weight
    assert_parts_give_what_the_whole_gives(cut)


def test_a_bias_behind_the_last_product_belongs_to_its_layer() -> None:
    cut = cut_of(DETR, weights=DETR_WEIGHTS, at="detections")
    assert described(cut) == ["accelerator: image -> logits,mb", "host: mb -> pred_boxes"]
    assert_parts_give_what_the_whole_gives(cut)


def test_tensors_of_which_one_needs_the_other_are_two_cuts() -> None:
    cut = cut_of(DETR, weights=DETR_WEIGHTS, at=at_tensors("f", "memory"))
    assert described(cut)[:2] == ["accelerator: image -> f", "accelerator: f -> memory"]
    assert_parts_give_what_the_whole_gives(cut)


def test_several_operators_cut_each_head_of_rt_detr_apart() -> None:
    at = CutPoints.of(["TopK", "Tile", "GatherElements", "Gather"])
    cut = cut_of(RT_DETR, weights=RT_DETR_WEIGHTS, at=at)
    assert described(cut) == [
        "accelerator: image -> memory,seen",
        "host: memory,seen -> queries",
        "accelerator: queries -> h",
        "host: h -> n",
        "accelerator: n -> logits,m",
        "host: m -> pred_boxes",
    ]
    assert_parts_give_what_the_whole_gives(cut)


def test_operators_and_tensors_cut_together() -> None:
    at = CutPoints.of(["TopK"], ["h"])
    cut = cut_of(RT_DETR, weights=RT_DETR_WEIGHTS, at=at, supported=["Tile"])
    assert described(cut)[2:5] == ["accelerator: queries -> h", "host: h -> n", "accelerator: n -> logits,m"]


# --- what no accelerator runs -------------------------------------------------------------------------------------


def refusal(at: str | CutPoints, passes: Mapping[str, Sequence[str]] | None = None) -> str:
    graph = with_weights(RT_DETR, RT_DETR_WEIGHTS).graph()
    Editor(graph).infer_shapes()
    with pytest.raises(ModelError) as caught:
        find_named_cut(graph, at, {"net": "npu"}, {}, (), lambda op: (passes or {}).get(op, ()))
    return str(caught.value)


def test_a_node_between_weights_is_named_with_the_cut_that_goes_there() -> None:
    said = refusal("detections", {"Gather": ["lower-gather"]})
    assert said == (
        "node 'scores' (TopK) stands between the weights of one part, and no accelerator runs it; "
        "cut there: partition.at: {tensors: ['best']}; partition.supported: [TopK], if the target runs it"
    )
    cut = cut_of(RT_DETR, weights=RT_DETR_WEIGHTS, at=at_tensors("best"), supported=["Gather", "GatherElements"])
    assert cut.accelerator == [True, False, True, False]


def test_passes_that_look_at_it_are_named_and_a_cut_is_added_to_the_others() -> None:
    said = refusal(at_tensors("best"), {"Gather": ["lower-gather", "mine"]})
    assert "node 'g' (Gather) stands between" in said
    assert "passes that look at Gather: lower-gather, mine; cut there too: add 'h' to the tensors of part" in said


def test_a_node_that_reads_several_tensors_is_cut_off_from_all_that_do_not_follow_from_the_others() -> None:
    text = RT_DETR.replace("n = Relu (g)", "less = IsNaN (h)  other = MatMul (h, wh)  n = Where (less, h, other)")
    at = CutPoints.of(["TopK", "Tile", "GatherElements", "Gather"])
    with pytest.raises(ModelError, match=r"node 'n' \(Where\) .* tensors: \['h', 'other'\]\}"):
        cut_of(text, weights=RT_DETR_WEIGHTS, at=at)


def test_what_the_target_runs_may_stand_between_the_weights() -> None:
    ran = ["TopK", "Tile", "GatherElements", "Gather"]
    cut = cut_of(RT_DETR, weights=RT_DETR_WEIGHTS, at="detections", supported=ran)
    assert described(cut) == ["accelerator: image -> logits,m", "host: m -> pred_boxes"]
    assert_parts_give_what_the_whole_gives(cut)


def test_a_supported_operator_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match=r"partition\.supported: 'Gathre' is no operator of ONNX"):
        cut_of(RT_DETR, weights=RT_DETR_WEIGHTS, at="detections", supported=["Gathre"])


def test_shapes_that_are_computed_are_to_be_frozen_first() -> None:
    text = YOLO.replace("a = Relu (f)", "s = Shape (f)  a = Expand (f, s)")
    with pytest.raises(ModelError, match=r"node 's' \(Shape\) .* runs it; freeze the shapes and simplify first; cut"):
        cut_of(text, weights=YOLO_PLAIN_WEIGHTS, at="detections")


def test_a_stage_that_no_accelerator_runs_is_the_hosts_where_the_recipe_says_so() -> None:
    graph = with_weights(RT_DETR, RT_DETR_WEIGHTS).graph()
    Editor(graph).infer_shapes()
    devices = {"encoder": "npu", "decoder": "cpu"}
    at = at_tensors("memory")
    cut = find_named_cut(graph, at, devices, {})
    assert described(cut) == ["accelerator: image -> memory", "host: memory -> logits,pred_boxes"]
    assert [part.accelerator for part in extract_parts(cut, devices)] == [True, False]
    assert_parts_give_what_the_whole_gives(cut)
    with pytest.raises(ModelError, match=r"node 'scores' \(TopK\) stands between the weights"):
        find_named_cut(graph, at, {"encoder": "npu", "decoder": "npu"}, {})
    with pytest.raises(ModelError, match=r"node 'scores' \(TopK\) stands between the weights"):
        find_named_cut(graph, at, {"encoder": "npu", "decoder": "cpu", "more": "cpu"}, {})


def test_a_part_before_such_a_stage_takes_operators_along() -> None:
    graph = with_weights(RT_DETR, RT_DETR_WEIGHTS).graph()
    Editor(graph).infer_shapes()
    devices = {"encoder": "npu", "decoder": "cpu"}
    assert described(find_named_cut(graph, "GatherElements", devices, {}))[0] == "accelerator: image -> memory,seen"
    cut = find_named_cut(graph, "GatherElements", devices, {"encoder": ["ReduceMax"]})
    assert described(cut) == ["accelerator: image -> best,memory", "host: best,memory -> logits,pred_boxes"]
    with pytest.raises(ModelError, match=r"node 'g' \(Gather\) stands between the weights"):
        find_named_cut(graph, "GatherElements", {"encoder": "npu", "head": "npu"}, {"encoder": ["ReduceMax"]})


# --- what a recipe may name ---------------------------------------------------------------------------------------


def test_a_tensor_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"partition\.at: no tensor .* called 'memry' .* Did you mean 'memory'\?"):
        cut_of(DETR, weights=DETR_WEIGHTS, at=at_tensors("memry"))
    with pytest.raises(InputError, match="no tensor that the graph computes of its inputs is called 'wq'"):
        cut_of(DETR, weights=DETR_WEIGHTS, at=at_tensors("wq"))


def test_a_name_that_looks_like_a_pattern_is_taken_by_itself() -> None:
    proto = with_weights(DETR, DETR_WEIGHTS).proto
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = {"memory": "x[1]*", "q": "x1a"}.get(name, name)
    assert described(cut_of(proto, at=at_tensors("x[1]*")))[0] == "accelerator: image -> x[1]*"
    assert "x[1]*" in described(cut_of(proto, at=at_tensors("x[?]*")))[0]


@pytest.mark.parametrize(
    ("points", "shown"),
    [
        (CutPoints.of("RoiAlign"), "RoiAlign"),
        (CutPoints.of(["TopK", "detections"]), "[TopK, detections]"),
        (CutPoints.of((), ["a", "it's"]), "{tensors: ['a', 'it''s']}"),
        (CutPoints.of(["TopK"], ["a"]), "{operators: [TopK], tensors: ['a']}"),
        (CutPoints.of("detections").and_tensors(["a", "a"]), "{tensors: ['a']}"),
    ],
)
def test_a_cut_is_shown_as_a_recipe_has_it(points: CutPoints, shown: str) -> None:
    assert str(points) == shown


def test_random_cuts_at_tensors_give_what_the_whole_gives() -> None:
    generator = np.random.default_rng(0)
    tried = 0
    for text, weights in ((YOLO_DFL, YOLO_WEIGHTS), (DETR, DETR_WEIGHTS), (RT_DETR, RT_DETR_WEIGHTS)):
        names = [name for node in with_weights(text, weights).proto.graph.node for name in node.output]
        for _ in range(25):
            chosen = [str(name) for name in generator.choice(names, generator.integers(1, 4), replace=False)]
            ran = ["TopK", "Tile", "GatherElements", "Gather"]
            cut = cut_of(text, weights=weights, at=at_tensors(*chosen), supported=ran)
            assert_parts_give_what_the_whole_gives(cut)
            tried += 1
    assert tried == 75
