"""Which slice of which output has which role, and which axes rows lie along."""

from __future__ import annotations

from typing import Any

import pytest

from graphsurgery.detections.postprocessing import Column, Postprocessing
from graphsurgery.errors import InputError

RAW: dict[str, Any] = {
    "boxes": {"tensor": 0, "axis": 1, "columns": [0, 4], "form": "cxcywh"},
    "scores": {"tensor": 0, "axis": 1, "columns": [4]},
}


def test_one_tensor_has_slices_of_several_roles() -> None:
    read = Postprocessing.from_json(RAW)
    shapes = {"output0": (1, 84, 8400)}
    assert read.columns(shapes) == {"output0": (Column("boxes", 1, 0, 4), Column("scores", 1, 4, 84))}
    assert [dict(rows.axes) for rows in read.rows(shapes)] == [{"output0": (2,)}]


def test_rows_of_an_end_to_end_export_lie_behind_the_batch() -> None:
    read = Postprocessing.from_json({"boxes": {"columns": [0, 4]}, "scores": {"columns": 4}, "labels": {"columns": 5}})
    for shape in ((1, 300, 6), (300, 6)):
        last = len(shape) - 1
        assert read.columns({"y": shape})["y"][1:] == (Column("scores", last, 4, 5), Column("labels", last, 5, 6))
        assert read.rows({"y": shape})[0].axes == {"y": (last - 1,)}


def test_tensors_of_one_value_a_row_share_the_rows_of_the_boxes() -> None:
    read = Postprocessing.from_json(
        {
            "boxes": {"tensor": "dets", "columns": [0, 4]},
            "scores": {"tensor": "dets", "columns": -1},
            "labels": {"tensor": 1},
            "masks": {"tensor": "masks", "form": "pasted"},
        }
    )
    shapes = {"dets": (1, 100, 5), "labels": (1, 100), "masks": (1, 100, 64, 96)}
    assert read.columns(shapes) == {
        "dets": (Column("boxes", 2, 0, 4), Column("scores", 2, 4, 5)),
        "labels": (Column("labels", 1, 0, 100),),
        "masks": (Column("masks", 3, 0, 96),),
    }
    assert [dict(rows.axes) for rows in read.rows(shapes)] == [{"dets": (1,), "labels": (1,), "masks": (1,)}]
    one = {"dets": (1, 1, 5), "labels": (1, 1), "masks": (1, 1, 64, 96)}
    assert read.rows(one)[0].axes["masks"] == (0,)


def test_each_level_has_rows_of_its_own_and_each_anchor_a_slice() -> None:
    level = {"stride": 8, "sizes": [[32, 32], [64, 32]]}
    read = Postprocessing.from_json(
        {
            "scores": {"tensor": [0, 1], "axis": 1, "per_cell": 2},
            "boxes": {"tensor": [2, 3], "axis": 1, "per_cell": 2, "columns": [1, 5], "form": "deltas"},
            "anchors": {"levels": [level, {**level, "stride": 16}]},
        }
    )
    shapes = {"c3": (1, 10, 8, 8), "c4": (1, 10, 4, 4), "b3": (1, 12, 8, 8), "b4": (1, 12, 4, 4)}
    columns = read.columns(shapes)
    assert columns["c4"] == (Column("scores", 1, 0, 10),)
    assert columns["b3"] == (Column("boxes", 1, 1, 5), Column("boxes", 1, 7, 11))
    assert [dict(rows.axes) for rows in read.rows(shapes)] == [
        {"c3": (2, 3), "b3": (2, 3)},
        {"c4": (2, 3), "b4": (2, 3)},
    ]


def test_prototypes_have_no_rows() -> None:
    masks = {"form": "prototypes", "tensor": 1, "coefficients": {"axis": 1, "columns": [-32]}}
    read = Postprocessing.from_json(
        {**RAW, "scores": {"axis": 1, "columns": [4, -32]}, "masks": masks},
    )
    shapes = {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)}
    assert read.columns(shapes) == {
        "output0": (Column("boxes", 1, 0, 4), Column("scores", 1, 4, 84), Column("coefficients", 1, 84, 116)),
        "output1": (Column("prototypes", 3, 0, 160),),
    }
    assert [dict(rows.axes) for rows in read.rows(shapes)] == [{"output0": (2,)}]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "detections.boxes: there is no output number 0; the network gives nothing"),
        ({"y": (1,)}, r"detections.boxes: 'y' \[1\] has no axis 1 for columns"),
        ({"y": (1, 3, 9)}, r"detections.boxes: 'y' \[1, 3, 9\] has 3 columns, and not those of \[0, 4\]"),
    ],
)
def test_another_shape_is_told_with_what_was_expected(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    for asked in (Postprocessing.from_json(RAW).columns, Postprocessing.from_json(RAW).rows):
        with pytest.raises(InputError, match=said):
            asked(shapes)
