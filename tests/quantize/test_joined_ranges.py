"""Tensors that join ranges too far apart for one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.split_detection_output import SplitDetectionOutput
from graphsurgery.quantize.joined_ranges import Joined, measured, told_by_structure
from graphsurgery.quantize.ranges import Range
from graphsurgery.rewrite import apply_pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# what boxes and scores are made of comes as it is, so that the samples say what the ranges are
DETECTOR = """
    g (float[1, 4, 8] box, float[1, 3, 8] cls) => (float[1, 7, 8] out) <float size = {640}> {
        share = Sigmoid (box)
        pixels = Mul (share, size)
        scores = Sigmoid (cls)
        both = Concat <axis = 1> (pixels, scores)
        out = Identity (both)
    }"""


known = discover().outputs_apart


class Feeds(list[Mapping[str, np.ndarray]]):
    @property
    def inputs(self) -> Sequence[str]:
        return tuple(self[0])


def normal(*shape: int, seed: int = 0, scale: float = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def told(text: str) -> list[Joined]:
    return told_by_structure(Model(parse(f"{HEAD}\n{text}")))


def seen(text: str, *feeds: Mapping[str, np.ndarray]) -> list[Joined]:
    return measured(parse(f"{HEAD}\n{text}"), Feeds(feeds))


def test_boxes_in_pixels_beside_scores_are_told_by_the_operators() -> None:
    (joined,) = told(DETECTOR)
    assert (joined.tensor, joined.ranges) == ("both", {"pixels": (0, 640), "scores": (0, 1)})
    assert joined.explain(known) == (
        "'both' joins pixels (0 to 640) and scores (0 to 1); one scale for all leaves little of the narrower; the pass "
        "split-detection-output gives each an output of its own, or partition.at: {tensors: ['pixels', 'scores']} "
        "cuts before they meet"
    )
    assert "pass" not in joined.explain()  # nothing tells which there are
    assert joined.to_json()["ranges"] == {"pixels": [0, 640], "scores": [0, 1]}
    assert "split-detection-output" in joined.to_json(known)["explanation"]


def test_scores_beside_what_has_no_known_range_are_told_as_such() -> None:
    (joined,) = told(DETECTOR.replace("share = Sigmoid (box)", "share = Exp (box)"))
    assert joined.ranges == {"pixels": None, "scores": (0, 1)}
    assert "pixels (of unknown range) and scores (0 to 1); if that is a wide one" in joined.explain()


@pytest.mark.parametrize(
    "text",
    [
        DETECTOR.replace("size = {640}", "size = {9}"),
        # features: nothing is known of either
        "g (float[1, 2, 4] x) => (float[1, 4, 4] y) { a = Relu (x)  y = Concat <axis = 1> (a, x) }",
        # zeros, which fill up: every scale has them
        "g (float[1, 2] x) => (y) <float[1, 2] z = {0, 0}> { a = Sigmoid (x)  y = Concat <axis = 1> (a, z) }",
        # places, not values
        "g (float[1, 2] x) => (int64[4] y) <int64[2] k = {9999, 1}> { s = Shape (x)  y = Concat <axis = 0> (s, k) }",
    ],
)
def test_what_fits_one_scale_or_has_no_scale_is_not_named(text: str) -> None:
    assert told(text) == []


def test_a_gate_inside_the_network_beside_features_is_not_named_without_samples() -> None:
    text = """
    g (float[1, 2, 4, 4] x) => (float[1, 1, 4, 4] y) <float[1, 4, 1, 1] w = {1, 2, 3, 4}> {
        a = Sigmoid (x)
        c = Concat <axis = 1> (a, x)
        y = Conv (c, w)
    }"""
    assert told(text) == []
    (joined,) = seen(text, {"x": normal(1, 2, 4, 4, scale=50)})
    assert joined.tensor == "c"
    assert "pass" not in joined.explain(known)


def test_samples_say_what_the_ranges_are() -> None:
    feeds = [{"box": normal(1, 4, 8, seed=seed), "cls": normal(1, 3, 8, seed=9)} for seed in (1, 2)]
    (joined,) = seen(DETECTOR, *feeds)  # once, not for the output that is the same
    low, high = joined.ranges["pixels"] or (0, 0)
    wanted = [640 / (1 + np.exp(-feed["box"])) for feed in feeds]
    assert (low, high) == pytest.approx((np.min(wanted), np.max(wanted)), rel=1e-5)
    quiet = DETECTOR.replace("size = {640}", "size = {2}")
    assert seen(quiet, *feeds) == []


def test_what_is_written_into_a_tensor_is_joined_with_it() -> None:
    text = """
    g (float[1, 4] x, float[1, 2] s) => (float[1, 4] y) <int64[1, 2] places = {2, 3}> {
        y = ScatterElements <axis = 1> (x, places, s)
    }"""
    (joined,) = seen(text, {"x": normal(1, 4, scale=300), "s": normal(1, 2)})
    assert (joined.tensor, joined.cut) == ("y", ("x", "s"))
    assert "pass" not in joined.explain(known)  # none takes a scatter apart


def test_an_output_in_one_piece_has_groups_of_columns() -> None:
    text = "g (float[5, 6] x) => (float[5, 6] rows) <float[6] k = {640, 640, 640, 640, 1, 1}> { rows = Mul (x, k) }"
    (joined,) = seen(text, {"x": np.ones((5, 6), np.float32)})
    assert joined.ranges == {"0 to 3 of axis 1": (0, 640), "4 to 5 of axis 1": (0, 1)}
    assert joined.explain(known).endswith("; partition.at: detections cuts before the decode")


def test_of_what_one_layer_makes_no_pass_and_no_cut_is_advised() -> None:
    text = """
    g (float[1, 2, 4, 4] x) => (float[1, 16, 6] rows)
    <float[6, 2, 1, 1] w = {640, 640, 640, 640, 640, 640, 640, 640, 1, 1, 1, 1}, int64[3] k = {1, 6, 16}> {
        head = Conv (x, w)
        flat = Reshape (head, k)
        rows = Transpose <perm = [0, 2, 1]> (flat)
    }"""
    (joined,) = seen(text, {"x": np.ones((1, 2, 4, 4), np.float32)})
    assert joined.ranges == {"0 to 3 of axis 2": (0, 1280), "4 to 5 of axis 2": (0, 2)}
    assert joined.explain(known).endswith(
        "; node 'head' makes all of it: leave that float, or give each a layer of its own"
    )


@pytest.mark.parametrize(
    "end",
    [
        "half = Mul (both, size)  out = Identity (half)",  # the Concat writes no output
        "out = Concat <axis = 1> (pixels, size_of_all)",  # one of the two is a constant
    ],
)
def test_a_pass_is_advised_where_it_fires_only(end: str) -> None:
    text = DETECTOR.replace("out = Identity (both)", end).replace("{640}>", "{640}, float[1, 3, 8] size_of_all>")
    proto = parse(f"{HEAD}\n{text}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 3, 8), np.float32), "size_of_all"))
    fires = apply_pass(SplitDetectionOutput(), Model(proto)).model.outputs != ["out"]
    said = [joined.explain(known) for joined in told_by_structure(Model(proto))]
    assert said
    assert not fires
    assert not any("split-detection-output" in each for each in said)


def test_of_a_map_the_channels_are_looked_at_and_not_the_places() -> None:
    text = "g (float[1, 9, 5, 8] x) => (float[1, 9, 5, 8] y) { y = Neg (x) }"
    places, channels = np.ones((1, 9, 5, 8), np.float32), np.ones((1, 9, 5, 8), np.float32)
    places[:, :, :3], channels[:, :4] = 100, 100
    assert seen(text, {"x": places}) == []
    (joined,) = seen(text, {"x": channels})
    assert joined.ranges == {"0 to 3 of axis 1": (-100, 0), "4 to 8 of axis 1": (-1, 0)}


@pytest.mark.parametrize(
    "columns",
    [
        [1, 100, 1, 100, 1, 100],  # they just differ
        [640, 640, 640, 640, 80, 80],
        [1, 2, 0, 0, 3, 1],  # a column of zeros is none of a range
    ],
)
def test_columns_that_are_no_groups_are_not_named(columns: list[int]) -> None:
    listed = ", ".join(map(str, columns))
    text = f"g (float[5, 6] x) => (float[5, 6] rows) <float[6] k = {{{listed}}}> {{ rows = Mul (x, k) }}"
    assert seen(text, {"x": np.ones((5, 6), np.float32)}) == []


def test_a_short_row_of_numbers_holds_no_box_and_more() -> None:
    text = "g (float[5, 4] x) => (float[5, 4] rows) <float[4] k = {640, 640, 1, 1}> { rows = Mul (x, k) }"
    assert seen(text, {"x": np.ones((5, 4), np.float32)}) == []


def test_many_joined_tensors_are_counted() -> None:
    said = Joined("y", {f"t{i}": Range(0, i) for i in range(9)}).explain()
    assert "t3 (0 to 3) and 5 more;" in said
