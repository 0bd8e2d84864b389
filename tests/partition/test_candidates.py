"""Where a graph can be cut, by its structure."""

import time

import numpy as np
import pytest
from onnx import helper, numpy_helper

from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.partition.candidates import Candidate, candidates
from partition.cutting import POOL, cut_of, described, with_weights
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


def found(text: str, weights: dict[str, list[int]]) -> dict[str, Candidate]:
    return {str(candidate.at): candidate for candidate in candidates(with_weights(text, weights))}


def test_the_heads_of_a_detector_of_one_stage_with_what_each_part_costs() -> None:
    detections = found(YOLO_DFL, YOLO_WEIGHTS)["detections"]
    accelerator, host = detections.parts
    assert (accelerator.accelerator, accelerator.nodes, accelerator.reads, accelerator.bytes_read) == (True, 8, (), 0)
    # outputs x [inputs x window] of the stem, the step down, and both heads at 16 and 4 cells
    assert accelerator.multiply_adds == 64 * 48 + 16 * 16 + (16 + 4) * (16 + 3) * 4
    assert (host.accelerator, host.nodes, host.multiply_adds) == (False, 18, 80 * 4)
    assert host.reads == ("box3", "cls3", "box4", "cls4")
    assert host.bytes_read == detections.bytes_crossing == (16 + 4) * (16 + 3) * 4
    assert detections.needs == ()


def test_a_tensor_behind_the_last_weight_is_no_candidate() -> None:
    assert "{tensors: ['r']}" not in found(YOLO, YOLO_PLAIN_WEIGHTS)


def test_a_network_of_one_layer_has_no_tensor_to_cut_at() -> None:
    text = "g (float[1, 3, 8, 8] image) => (float[1, 4, 6, 6] y) { y = Conv (image, w) }"
    assert list(found(text, {"w": [4, 3, 3, 3]})) == ["detections"]


def test_what_the_encoder_gives_the_decoder() -> None:
    cuts = found(DETR, DETR_WEIGHTS)
    assert next(iter(cuts)) == "detections"
    memory = cuts["{tensors: ['memory']}"]
    assert [part.accelerator for part in memory.parts] == [True, True, False]
    assert memory.bytes_crossing == 16 * 4 * 4 + 3 * 4 * 4


def test_operators_between_weights_alone_where_each_leaves_a_part_and_the_tensors_that_such_nodes_read() -> None:
    cuts = found(RT_DETR, RT_DETR_WEIGHTS)
    assert cuts["detections"].needs == ("Gather", "GatherElements", "Tile", "TopK")
    assert [part.accelerator for part in cuts["GatherElements"].parts] == [True, False]
    assert "{tensors: ['best', 'memory', 'h']}" in cuts or "{tensors: ['best', 'h']}" in cuts


def test_a_candidate_is_what_a_recipe_can_say_and_gives_the_parts_that_it_shows() -> None:
    for text, weights in ((YOLO_DFL, YOLO_WEIGHTS), (DETR, DETR_WEIGHTS)):
        for candidate in found(text, weights).values():
            cut = cut_of(text, weights=weights, at=candidate.at)
            assert cut.accelerator == [part.accelerator for part in candidate.parts], described(cut)
            assert [len(nodes) for nodes in cut.nodes] == [part.nodes for part in candidate.parts]


def test_the_pools_of_a_detector_of_two_stages_and_nothing_else() -> None:
    text = f"""
    g (float[1, 3, 8, 8] image, float[2, 4] rois, int64[2] batch) => (float[2, 5] y) <int64[1] one = {{1}}> {{
        f = Conv <pads = [1, 1, 1, 1]> (image, w1)
        best, places = TopK <axis = 2> (f, one)
        p = RoiAlign {POOL} (f, rois, batch)
        flat = Flatten (p)
        y = Gemm (flat, w2)
    }}"""
    (candidate,) = candidates(with_weights(text, {"w1": [4, 3, 3, 3], "w2": [16, 5]}))
    assert str(candidate.at) == "RoiAlign"
    assert [part.accelerator for part in candidate.parts] == [True, False, True]


def test_a_pool_of_another_domain_is_found() -> None:
    text = RT_DETR.replace("g = Gather <axis = 1> (h, order)", "g = acme.RoiAlign (h, order)")
    proto = with_weights(text, RT_DETR_WEIGHTS).proto
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    at = [str(candidate.at) for candidate in candidates(Model(proto))]
    assert at[0] == "acme.RoiAlign"


def test_what_is_not_static_is_unknown() -> None:
    text = DETR.replace("float[1, 3, 16, 16] image", "float[1, 3, h, 16] image")
    accelerator = found(text, DETR_WEIGHTS)["detections"].parts[0]
    assert accelerator.multiply_adds is None


def test_computed_shapes_are_to_be_frozen_before_the_rest_is_cut() -> None:
    text = YOLO_DFL.replace("p4 = Conv", "size = Shape (p3)  bigger = Expand (p3, size)  p4 = Conv").replace(
        "(p3, down)", "(bigger, down)"
    )
    cuts = found(text, YOLO_WEIGHTS)
    assert cuts["detections"].needs == ("Expand", "Shape")
    assert "freeze the shapes and simplify first" in cuts["detections"].explain_needs(lambda op: ["p"])


def test_needs_name_the_passes_that_look_at_them() -> None:
    candidate = found(RT_DETR, RT_DETR_WEIGHTS)["detections"]
    said = candidate.explain_needs(lambda op: ["lower-gather"] if op == "Gather" else [])
    assert said == (
        "between the weights then stand Gather, GatherElements, Tile, TopK: passes that look at Gather: lower-gather; "
        "or partition.supported, if the target runs them"
    )


def test_a_graph_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match="no Conv, ConvTranspose, Gemm or MatMul"):
        candidates(with_weights("g (float[2, 2] x) => (float[2, 2] y) { y = MatMul (x, x) }"))


def test_a_large_graph_takes_seconds() -> None:
    """3,000 layers, with a table read between each 30."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    order = numpy_helper.from_array(np.array([1, 0, 3, 2]), "order")
    nodes, last = [], "x"
    for place in range(3000):
        nodes.append(helper.make_node("MatMul", [last, "w"], [f"m{place}"]))
        last = f"m{place}"
        if place % 30 == 29:
            nodes.append(helper.make_node("Gather", [last, "order"], [f"g{place}"], axis=1))
            last = f"g{place}"
    ends = [helper.make_tensor_value_info(name, 1, [2, 4]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:], [weight, order])
    begin = time.perf_counter()
    cuts = candidates(Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    assert time.perf_counter() - begin < 60
    assert [str(candidate.at) for candidate in cuts][:2] == ["detections", "Gather"]
