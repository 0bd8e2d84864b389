"""COCO annotation files: what COCO has is read, what would hang or crash pycocotools is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import InputError
from graphsurgery.images.annotations import read_annotations, read_listed, refuse_mask
from graphsurgery.images.run_lengths import compress_rle, encode_rle


def content(**of_the_object: object) -> dict[str, Any]:
    square = [1, 1, 21, 1, 21, 21, 1, 21]
    thing = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 20, 20], "segmentation": [square]}
    return {
        "info": {"year": 2017},
        "images": [{"id": 7, "file_name": "7.png", "height": 64, "width": 80, "license": 3}],
        "annotations": [thing | of_the_object],
        "categories": [{"id": 1, "name": "circle", "supercategory": "shape"}],
    }


def written(folder: Path, what: object) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(what), encoding="utf-8")
    return path


def test_what_is_compared_is_read_and_the_rest_left_out(tmp_path: Path) -> None:
    read = read_annotations(written(tmp_path, content(area=400, iscrowd=0, score=1)))
    assert read["images"] == [{"id": 7, "file_name": "7.png", "height": 64, "width": 80}]
    assert read["annotations"][0]["bbox"] == [1, 1, 20, 20]
    assert set(read["annotations"][0]) == {"image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}
    assert read["categories"] == [{"id": 1, "name": "circle"}]
    assert read_listed(tmp_path / "instances.json") == [(7, "7.png")]


@pytest.mark.parametrize(
    "fields",
    [
        {"iscrowd": True},
        {"segmentation": None},  # a file of boxes
        {"segmentation": []},
        {"segmentation": {"size": [64, 80], "counts": [0, 5120]}},
        {"segmentation": {"size": [64, 80], "counts": "PP5"}},
        {"keypoints": [1, 2, 2.0] * 17, "num_keypoints": 17},
    ],
)
def test_all_forms_that_coco_files_have_are_read(tmp_path: Path, fields: dict[str, object]) -> None:
    entry: Any = read_annotations(written(tmp_path, content(**fields)))["annotations"][0]
    assert {name: entry[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("area", value) for value in (None, "9", [9], float("nan"), 10**400, True)),
        *(("iscrowd", value) for value in (None, "1", 2, -1, 0.5)),
        *(("bbox", value) for value in (None, [[1], 2, 3, 4], [1, 2, 3], [1, 2, 3, float("inf")], "1234")),
        *(("segmentation", value) for value in ("x", [1, 2], [[[1]]], [["1"]], {"counts": [1]}, {"size": [1, 1]})),
        ("segmentation", {"size": [64, 80, 3], "counts": [1]}),
        ("segmentation", {"size": [64, 80], "counts": [-1, 5121]}),
        *(("keypoints", value) for value in (None, "x", [None] * 51)),
        *(("image_id", value) for value in ("7", 7.0, 2**63)),
    ],
)
def test_a_field_of_another_kind_is_named_in_one_line(tmp_path: Path, name: str, value: object) -> None:
    path = written(tmp_path, content(**{name: value}))
    with pytest.raises(InputError, match=rf"instances\.json: annotations\[0\]\.{name}") as raised:
        read_annotations(path)
    assert len(str(raised.value).removeprefix(str(path))) < 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["images"][0].update(height=2**40), r"images\[0\]\.height: Input should be less than"),
        (lambda d: d["images"][0].update(file_name="x" * 2000), r"images\[0\]\.file_name: String should have at most"),
        (lambda d: d.update(categories=[{"id": i} for i in range(5001)]), "5001 categories; AP is computed of 5000"),
        (lambda d: d["images"][0].pop("id"), r"images\[0\]\.id: Field required"),
        (lambda d: d["categories"][0].update(id=None), r"categories\[0\]\.id"),
    ],
)
def test_what_has_no_end_or_no_name_is_refused(tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    broken = content()
    change(broken)
    with pytest.raises(InputError, match=said):
        read_annotations(written(tmp_path, broken))


def test_text_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000 + "]" * 200_000, encoding="utf-8")
    for read in (read_annotations, read_listed):
        with pytest.raises(InputError, match="can't be read as JSON"):
            read(path)


def rle(mask: Any) -> dict[str, Any]:
    return compress_rle(encode_rle(mask))


def test_a_mask_of_its_picture_is_taken_in_all_forms() -> None:
    mask = np.zeros((48, 64), bool)
    mask[3:40, 5:50] = True
    for segmentation in (encode_rle(mask), rle(mask), [[1, 1, 9, 1, 9, 9]], [[-5, 0, 70, 0, 60, 50]]):
        refuse_mask(segmentation, (48, 64))
    refuse_mask([[x % 64 + 0.5 for x in range(100_000)]], (48, 64))  # rugged, as a contour of single pixels


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [48, 64], "counts": "~" * 18}, "no compressed RLE"),  # pycocotools hangs
        ({"size": [48, 64], "counts": "P"}, "no compressed RLE"),  # and reads on behind the text
        ({"size": [48, 64], "counts": ""}, "no compressed RLE"),
        ({"size": [48, 64], "counts": "o" * 40 + "0"}, "no compressed RLE"),
        ({"size": [48, 64], "counts": "\N{SNOWMAN}"}, "no compressed RLE"),
        ({"size": [48, 64], "counts": "O"}, "below 0"),
        ({"size": [48, 64], "counts": "5"}, "cover 5 pixels of 48 x 64"),
        ({"size": [48, 64], "counts": [48 * 64 + 1]}, "cover 3073 pixels of 48 x 64"),
        ({"size": [48, 64], "counts": []}, "cover 0 pixels"),
        ({"size": [64, 48], "counts": [3072]}, "a mask of 64 x 48 in a picture of 48 x 64"),
        ([], "no polygon"),
        ([[]], "has 0 numbers"),
        ([[1, 2, 3, 4, 5]], "has 5 numbers"),
        ([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]], "has 4 numbers"),
        ([[2, 0, 1, 4]], "has 4 numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far out of a picture"),  # pycocotools takes 20 GB
        ([[0, -1e300, 5, 0, 9, 9]], "far out of a picture"),
        ([[0, 0, 64, 48] * 20_000], "longer than 2000000 pixels"),
    ],
)
def test_what_pycocotools_would_not_survive_is_no_mask(segmentation: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refuse_mask(segmentation, (48, 64))


def test_a_mask_of_more_pixels_than_32_bits_count_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        refuse_mask({"size": [2**20, 2**12], "counts": [2**32]}, (2**20, 2**12))
