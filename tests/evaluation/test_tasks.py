"""One image of one column."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bars import bars, write_parts

from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Loaded, PartsColumn
from graphsurgery.evaluation.tasks import Task, TaskRunner
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.images.pasting import paste_masks

pytest.importorskip("pycocotools")


def test_a_task_gives_coco_results_in_pixels_of_the_image(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    found = TaskRunner().do(Task(column, dataset.pictures[0], 1))
    assert found.kinds == ("bbox", "segm")
    assert found.seconds > 0
    assert [(each["image_id"], each["category_id"], each["bbox"]) for each in found.results] == [
        (1, 1, [1, 0, 1, 4]),
        (1, 1, [5, 0, 1, 4]),
    ]
    assert found.results[0]["segmentation"]["size"] == [8, 12]


def test_masks_that_the_graph_pasted_are_measured_too(tmp_path: Path) -> None:
    inner, dataset = bars(tmp_path)
    canvas, detect = inner.open(1)

    def pasted(placed: CanvasImage, image: Path) -> dict[str, np.ndarray]:
        found = dict(detect(placed, image))
        masks = list(paste_masks(found.pop("masks"), found["boxes"], (canvas.height, canvas.width)))
        return {**found, "masks_pasted": np.stack(masks)[:, None]}

    found, expected = (
        TaskRunner().do(Task(column, dataset.pictures[0], 1)) for column in (Loaded("pasted", canvas, pasted), inner)
    )
    assert found.kinds == ("bbox", "segm")
    assert found.results == expected.results


def test_a_detector_stays_open_until_another_column_comes(tmp_path: Path) -> None:
    column, _ = bars(tmp_path)
    other = PartsColumn.of("other", write_parts(tmp_path / "other", high=3))
    runner = TaskRunner()
    first = runner.prepare(column, 1)
    assert runner.prepare(column, 1) is first
    assert runner.prepare(column, 2) is not first
    second = runner.prepare(other, 1)
    assert runner.prepare(other, 1) is second
    assert runner.prepare(column, 1) is not first


def test_a_damaged_image_is_told_and_not_raised(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    picture = dataset.pictures[0]
    picture.path.write_bytes(picture.path.read_bytes()[:60])
    import hashlib

    cut = replace(picture, sha256=hashlib.sha256(picture.path.read_bytes()).hexdigest())
    found = TaskRunner().do(Task(column, cut, 1))
    assert found.unreadable is not None
    assert "can't be read as an image" in found.unreadable
    assert found.results == []


def test_an_image_that_changed_or_went_is_refused(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    picture = dataset.pictures[0]
    picture.path.write_bytes(dataset.pictures[1].path.read_bytes())
    with pytest.raises(InputError, match=r"1\.png: is another file than when this began"):
        TaskRunner().do(Task(column, picture, 1))
    picture.path.unlink()
    with pytest.raises(InputError, match=r"1\.png: can't be read any more, or not from here"):
        TaskRunner().do(Task(column, picture, 1))
