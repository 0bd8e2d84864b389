from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from nms_spellings import (
    BEST,
    HEADS,
    PROPOSALS,
    RPNS,
    C,
    M,
    N,
    Spelling,
    detectron2,
    detectron2_rpn,
    heads,
    mmdet,
    mmdet_rpn,
    rpn,
    shared,
    torchvision,
    torchvision_rpn,
)
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.expand_custom_operators import ExpandCustomOperators
from graphsurgery.passes.fuse_batch_multiclass_nms import FuseBatchMulticlassNms
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_same_outputs, assert_untouched, parse

Array = np.ndarray
OPERATORS = {"Reshape", "Cast", "BatchMultiClassNMS", "Add", "Sigmoid"}


def boxes(shape: tuple[int, ...], seed: int) -> Array:
    """Boxes of whole pixels, which float16 and all spellings hold exactly, many of which overlap."""
    random = np.random.default_rng(seed)
    corner = random.integers(0, 60, (*shape, 2))
    return np.concatenate([corner, corner + random.integers(8, 40, (*shape, 2))], axis=-1).astype(np.float32)


def scores(shape: tuple[int, ...], seed: int) -> Array:
    """Scores that float16 tells apart; a part is not above 0.05."""
    values = np.arange(1, np.prod(shape) + 1) * 2.0**-7
    return np.random.default_rng(seed).permutation(values).reshape(shape).astype(np.float32)


def of_heads(seed: int) -> dict[str, Array]:
    return {"boxes": boxes((N, C), seed), "scores": scores((N, C), seed)}


def of_rpn(model: ModelProto, seed: int) -> dict[str, Array]:
    """Each level stands in a place of its own, so that none suppresses another's boxes."""
    given = {"boxes": boxes((M,), seed), "scores": scores((M,), seed)}
    given["boxes"] += 120.0 * (np.arange(M) * 3 // M)[:, None].astype(np.float32)
    if len(model.graph.input) == 3:
        given["objectness"] = np.arange(M + 5, 0, -1).astype(np.float32) / 100
        # TopK(objectness) numbers the candidates in their order
    return given


def fused(text: str | ModelProto, **options: Any) -> ModelProto:
    """Return the model with one BatchMultiClassNMS in place of all that chooses."""
    applied = apply_pass(FuseBatchMulticlassNms(**options), Model(parse(text)))
    operators = {node.op_type for node in applied.model.proto.graph.node}
    assert operators <= OPERATORS | {"Concat", "Slice"}, applied.skips  # mmdet takes boxes out of dets
    applied.model.check("after")
    again = apply_pass(FuseBatchMulticlassNms(**options), applied.model)
    assert again.model.fingerprint == applied.model.fingerprint
    return applied.model.proto


def attributes(model: ModelProto) -> dict[str, Any]:
    (node,) = (node for node in model.graph.node if node.op_type == "BatchMultiClassNMS")
    assert node.domain == ""
    return {each.name: pytest.approx(onnx.helper.get_attribute_value(each), abs=1e-7) for each in node.attribute}


def shapes(model: ModelProto) -> list[list[int]]:
    return [[size.dim_value for size in out.type.tensor_type.shape.dim] for out in model.graph.output]


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("opset", [11, 12, 17])
@pytest.mark.parametrize("spelling", HEADS)
def test_the_detections_are_the_same_and_rows_behind_have_score_0(spelling: Spelling, opset: int, guard: bool) -> None:
    before = parse(heads(spelling(guard), opset))
    after = fused(before)
    assert attributes(after) == {
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "max_size_per_class": BEST,
        "max_total_size": BEST,
    }
    assert shapes(after) == [[BEST, 4], [BEST], [BEST]]
    for seed in range(5):
        given = of_heads(seed)
        given["scores"] *= 2.0 ** (seed - 3)  # of some most are below the threshold
        expected, got = session.run(before, given), session.run(after, given)
        found = int(np.count_nonzero(expected["out_scores"]))
        for name, value in expected.items():
            np.testing.assert_allclose(got[name][:found], value[:found], atol=1e-3, err_msg=f"{name} of {seed}")
        assert not got["out_scores"][found:].any()
        assert not got["out_boxes"][found:].any()


@pytest.mark.parametrize("guard", [True, False])
@pytest.mark.parametrize("opset", [11, 12, 17])
@pytest.mark.parametrize("spelling", RPNS)
def test_the_proposals_are_the_same_and_rows_behind_are_zeros(spelling: Spelling, opset: int, guard: bool) -> None:
    before = parse(rpn(spelling(guard), opset))
    after = fused(before)
    assert attributes(after) == {
        "score_threshold": 0.0,
        "iou_threshold": 0.7,
        "max_size_per_class": PROPOSALS,
        "max_total_size": PROPOSALS,
    }
    assert shapes(after) == [[PROPOSALS, 4]]
    for seed in range(5):
        given = of_rpn(before, seed)
        given["scores"][10 + seed * 10 :] = 0 if spelling is mmdet_rpn else given["scores"][10 + seed * 10 :]
        expected, got = session.run(before, given)["out_boxes"], session.run(after, given)["out_boxes"]
        np.testing.assert_array_equal(got[: len(expected)], expected)
        assert not got[len(expected) :].any()


@pytest.mark.parametrize("text", [heads(each(True)) for each in HEADS] + [rpn(each(True)) for each in RPNS])
def test_it_can_be_expanded_again(text: str) -> None:
    after = fused(text)
    expanded = apply_pass(ExpandCustomOperators(), Model(after)).model
    operators = [node.op_type for node in expanded.proto.graph.node]
    assert "BatchMultiClassNMS" not in operators
    assert "NonMaxSuppression" in operators
    given = of_heads(0) if "out_scores" in text else of_rpn(after, 0)
    assert_same_outputs(after, expanded.proto, given)


def test_boxes_that_classes_share_stay_shared() -> None:
    before = parse(shared())
    after = fused(before)
    assert attributes(after)["max_size_per_class"] == 2
    given = of_heads(0) | {"boxes": boxes((N,), 0)}
    expected, got = session.run(before, given), session.run(after, given)
    found = len(expected["out_scores"])
    assert 0 < found <= 2 * C
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name][:found], value, err_msg=name)
    assert not got["out_scores"][found:].any()


def test_what_depends_on_the_number_of_rows_is_computed() -> None:
    text = heads(detectron2(True)).replace("out_labels)\n", "out_labels, int64[2] size, float[n, 5] rois)\n", 1)
    text = text.replace(
        "pairs =", "size = Shape (out_boxes)  ones = Slice (size, z, o)  k = Concat <axis = 0> (ones, o)  pairs ="
    )
    text = text.replace(
        "pairs =", "image = ConstantOfShape (k)  rois = Concat <axis = 1> (image, out_boxes)  pairs =", 1
    )
    after = apply_pass(FuseBatchMulticlassNms(), Model(parse(text))).model.proto
    assert "Shape" not in {node.op_type for node in after.graph.node}
    assert shapes(after) == [[BEST, 4], [BEST], [BEST], [2], [BEST, 5]]
    assert session.run(after, of_heads(0))["size"].tolist() == [BEST, 4]


def test_rows_and_rows_of_a_class_have_limits() -> None:
    before = parse(heads(detectron2()))
    after = fused(before, max_total_size=6, max_size_per_class=1)
    assert attributes(after)["max_total_size"] == 6
    got, every = session.run(after, of_heads(0)), session.run(before, of_heads(0))
    assert got["out_boxes"].shape == (6, 4)
    found = got["out_scores"] > 0
    assert sorted(got["out_labels"][found]) == list(range(C))
    first = [int(np.argmax(every["out_labels"] == label)) for label in got["out_labels"][found]]
    np.testing.assert_array_equal(got["out_boxes"][found], every["out_boxes"][first])


@pytest.mark.parametrize("option", ["max_total_size", "max_size_per_class"])
@pytest.mark.parametrize("value", [0, 1001])
def test_limits_are_those_of_the_kernel(option: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 1 to 1000, not {value}"):
        FuseBatchMulticlassNms(**{option: value})


def test_levels_suppress_each_other() -> None:
    before = parse(rpn(detectron2_rpn()))
    given = of_rpn(before, 0)
    given["boxes"][:] = given["boxes"][0]
    assert session.run(before, given)["out_boxes"].shape == (3, 4)
    assert np.count_nonzero(session.run(fused(before), given)["out_boxes"].any(axis=1)) == 1


def test_logits_below_0_are_lost_but_behind_a_sigmoid() -> None:
    before = parse(rpn(detectron2_rpn()))
    given = of_rpn(before, 0)
    given["scores"] -= given["scores"].max() - 2.0**-5  # three are above 0
    expected = session.run(before, given)["out_boxes"]
    assert len(expected) == PROPOSALS
    got = session.run(fused(before), given)["out_boxes"]
    np.testing.assert_array_equal(got[:3], expected[:3])
    assert not got[4:].any()
    np.testing.assert_array_equal(session.run(fused(before, sigmoid=True), given)["out_boxes"], expected)


def test_a_probability_gets_no_sigmoid() -> None:
    for text in (rpn(torchvision_rpn()), rpn(mmdet_rpn()), heads(detectron2())):
        assert "Sigmoid" not in {node.op_type for node in fused(text, sigmoid=True).graph.node}


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


HEAD = heads(detectron2())
RPN = rpn(detectron2_rpn())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (changed(HEAD, ("float[14, 3, 4] boxes", "float[n, 3, 4] boxes")), "nothing tells how many boxes and scores"),
        (changed(HEAD, ("float[14, 3, 4] boxes", "float[14, 2, 4] boxes")), "are not rows of one image"),
        (
            changed(
                HEAD,
                ("(float[14, 3, 4]", "(float[14, 3] more, float[14, 3, 4]"),
                ("Greater (scores, least)", "Greater (scores, more)"),
            ),
            "does not follow from boxes and scores alone",
        ),
        (
            changed(HEAD, ("a_step = Add (a_largest, f1)", "a_step = Mul (a_largest, f0)")),
            "a box suppresses those of other",
        ),
        (changed(HEAD, ("float[1] iou = {0.5}", "float[1] iou = {1}")), "is no constant between 0 and 1"),
        (changed(HEAD, ("Greater (scores, least)", "Less (scores, least)")), "holds no chosen boxes"),
        (
            changed(
                HEAD,
                (
                    "above = Greater (scores, least)",
                    "up = Greater (scores, least)  a0 = Less (scores, odd)  "
                    "a1 = Greater (scores, even)  a2 = Or (a0, a1)  above = And (up, a2)",
                ),
                ("float[1] iou =", "float odd = {0.2}, float even = {0.4}, float[1] iou ="),
            ),
            "hangs on more than a threshold of the scores",
        ),
        (
            changed(
                HEAD, ("out_labels = Gather <axis = 1> (pairs, i1)", "out_labels = Gather <axis = 1> (pairs, zero)")
            ),
            "'out_labels', an output behind it, holds no chosen",
        ),
        (
            changed(
                HEAD,
                (
                    "out_boxes = Gather <axis = 0> (fb, a_first)",
                    "twice = Add (fb, fb)  out_boxes = Gather <axis = 0> (twice, a_first)",
                ),
            ),
            "'out_boxes', an output behind it, holds no chosen",
        ),
        (changed(RPN, ("float side = {0.01}", "float side = {2}")), "it drops boxes with a side of 1 pixel"),
        (heads(torchvision(False), 10), "from operator set 11 on, and the model has 10: put raise-opset before it"),
    ],
)
def test_what_chooses_in_another_way_is_refused(text: str, reason: str) -> None:
    assert_untouched(FuseBatchMulticlassNms(), text, reason)


def test_rows_that_the_file_numbers_are_not_cut() -> None:
    assert_untouched(FuseBatchMulticlassNms(max_total_size=7), heads(mmdet()), "has 10 rows by the file, not 7")


def test_scores_that_a_sigmoid_would_change_are_refused() -> None:
    text = changed(
        RPN,
        ("(float[n, 4] out_boxes)", "(float[n, 4] out_boxes, float[n] out_scores)"),
        ("out_boxes = Gather", "out_scores = Gather <axis = 0> (fs, a_first)  out_boxes = Gather"),
    )
    fused(text)
    assert_untouched(FuseBatchMulticlassNms(sigmoid=True), text, "its scores, which sigmoid would change, are read")


def test_without_nms_there_is_nothing_to_do() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }'
    assert_untouched(FuseBatchMulticlassNms(), text, None)
