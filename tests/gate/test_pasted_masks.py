"""A mask that a box on the edge of a pixel moves is no fault; any other difference of pasted masks is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gate.usual_rows import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison
from graphsurgery.images.pasting import paste_masks

Array = NDArray[Any]
SIZE = (80, 140)
TOLERANCES = Tolerances.parse({"boxes": 0.02, "masks_pasted": 0.005})
MASKS = np.random.default_rng(0).uniform(0, 1, (2, 1, 28, 28)).astype(np.float32)
# grown by 30 / 28, the first ends at y = 60.00003, and 0.0002 px further up at 59.9998
BOXES = np.array([[84.70656, 40.854073, 130.57333, 59.339806], [10, 10, 50, 50]], np.float32)
MOVED = np.array([[84.70672, 40.854103, 130.57332, 59.33976], [10.001, 10, 50, 50]], np.float32)


def detections(boxes: Array, masks: Array = MASKS, at: Array | None = None) -> dict[str, Array]:
    """Return detections at `boxes` whose masks are pasted there, or at other boxes."""
    return {
        "boxes": boxes,
        "labels": np.arange(1, len(boxes) + 1),
        "scores": np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        "masks_pasted": np.stack(list(paste_masks(masks, boxes if at is None else at, SIZE)))[:, None],
    }


def compared(candidate: dict[str, Array], aside: dict[str, Array] | None = None) -> Comparison:
    given = {"masks": MASKS} if aside is None else aside
    return compare(detections(BOXES), candidate, TOLERANCES, aside=given)


def failed(comparison: Comparison) -> list[str]:
    return [report.name for report in comparison.tensors if report.verdict == "failed"]


def test_a_box_on_the_edge_of_a_pixel_moves_its_mask() -> None:
    one, other = detections(BOXES)["masks_pasted"], detections(MOVED)["masks_pasted"]
    assert np.abs(one - other)[0].max() > 0.1
    assert compared(detections(MOVED)).verdict == "passed"
    order = np.array([1, 0])
    assert compared({name: value[order] for name, value in detections(MOVED).items()}).verdict == "passed"


def test_without_the_masks_that_were_pasted_it_is_a_difference() -> None:
    assert failed(compared(detections(MOVED), {})) == ["masks_pasted"]
    assert failed(compared(detections(MOVED), {"masks": MASKS[:1]})) == ["masks_pasted"]


def test_another_mask_at_such_a_box_is_a_difference() -> None:
    masks = MASKS.copy()
    masks[0, 0, 14, 14] += 0.5
    assert failed(compared(detections(MOVED, masks))) == ["masks_pasted"]
    masks[0, 0, 14, 14] = np.nan
    assert failed(compared(detections(MOVED, masks))) == ["masks_pasted"]


def test_a_mask_at_another_place_than_its_box_is_a_difference() -> None:
    assert failed(compared(detections(BOXES, at=MOVED))) == ["masks_pasted"]
    assert failed(compared(detections(BOXES, at=BOXES + 1))) == ["masks_pasted"]


def test_a_box_that_is_off_itself_excuses_no_mask() -> None:
    assert failed(compared(detections(BOXES + np.float32(0.5)))) == ["boxes", "masks_pasted"]
