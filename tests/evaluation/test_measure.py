"""From detections to AP: what is kept from before, what is left out, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bars import Quiet, bars, change, write_images, write_parts

from graphsurgery.errors import InputError
from graphsurgery.evaluation.columns import Loaded, PartsColumn
from graphsurgery.evaluation.dataset import open_dataset
from graphsurgery.evaluation.measure import BadImages, measure
from graphsurgery.evaluation.store import FileStore
from graphsurgery.evaluation.tasks import Task
from graphsurgery.evaluation.workers import Done, InProcess
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.parts.ap_protocol import ApProtocol

pytest.importorskip("pycocotools")


class Stopped(Exception):
    pass


class StoppingAfter(InProcess):
    def __init__(self, count: int) -> None:
        self.count = count

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        yield from super().do(tasks[: self.count])
        raise Stopped


def test_columns_are_compared_on_the_same_images(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    shorter = PartsColumn.of("int8", write_parts(tmp_path / "shorter", high=3))
    watcher = Quiet()
    evaluation = measure([column, shorter], dataset, watcher, classes=["background", "bar"]).evaluation
    assert set(evaluation) == {"samples", "ap", "lines", "seconds_per_image"}
    assert evaluation["samples"] == 4
    # a box of 3 of 4 pixels is found at the thresholds 0.50, 0.55, .. 0.75: six of ten
    assert evaluation["ap"]["bbox"] == {"parts": pytest.approx(1), "int8": pytest.approx(0.6)}
    # a mask of 2 x 2 pixels is pasted with soft edges, which counts in so small a box
    assert 0 < evaluation["ap"]["segm"]["int8"] < evaluation["ap"]["segm"]["parts"] < 1
    assert len(evaluation["lines"]["segm"]["int8"]) == 12
    assert all(seconds > 0 for seconds in evaluation["seconds_per_image"].values())
    assert watcher.seen[0] == (0, 8)
    assert (8, 8) in watcher.seen
    assert json.loads(json.dumps(evaluation)) == evaluation


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    store, out = FileStore(tmp_path / "out"), tmp_path / "out"
    with pytest.raises(Stopped):
        measure([column], dataset, Quiet(), store=store, runner=StoppingAfter(3), results=out)
    assert not (out / "summary.json").exists()
    watcher = Quiet()
    second = measure([column], dataset, watcher, store=FileStore(out), results=out)
    assert (second.computed, second.reused) == (1, 3)
    assert watcher.seen[0] == (3, 4)
    whole = measure([column], dataset, Quiet(), results=tmp_path)
    assert (whole.computed, whole.reused) == (4, 0)
    assert (out / "results_parts.json").read_bytes() == (tmp_path / "results_parts.json").read_bytes()
    third = measure([column], dataset, Quiet(), store=FileStore(out), results=out)
    assert (third.computed, third.reused) == (0, 4)
    assert third.evaluation == second.evaluation


def test_more_images_take_over_what_fewer_found(tmp_path: Path) -> None:
    column, _ = bars(tmp_path, 5)
    images, annotations = write_images(tmp_path, 5)
    store = FileStore(tmp_path / "out")
    assert measure([column], open_dataset(images, annotations, 3), Quiet(), store=store).computed == 3
    assert measure([column], open_dataset(images, annotations), Quiet(), store=store).computed == 2


def test_annotations_that_changed_are_judged_anew_without_detecting_again(tmp_path: Path) -> None:
    column, _ = bars(tmp_path, 2)
    images, annotations = write_images(tmp_path, 2)
    store = FileStore(tmp_path / "out")
    assert measure([column], open_dataset(images, annotations), Quiet(), store=store).evaluation["ap"]["bbox"][
        "parts"
    ] == pytest.approx(1)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    change(annotations, annotations=[{**entry, "bbox": [0, 4, 2, 2]} for entry in content["annotations"]])
    again = measure([column], open_dataset(images, annotations), Quiet(), store=store)
    assert again.computed == 0
    assert again.evaluation["ap"]["bbox"]["parts"] == 0


def test_results_are_written_as_coco_has_them(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    column, dataset = bars(tmp_path)
    measured = measure([column], dataset, Quiet(), results=tmp_path)
    truth = coco.COCO(str(tmp_path / "instances.json"))
    truth.dataset.setdefault("info", {})  # pycocotools 2.0.10 wants it
    assert len(truth.loadRes(str(tmp_path / "results_parts.json")).anns) == 7  # image 3 has one bar, the others two
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == measured.evaluation
    assert not list(tmp_path.glob(".*"))


def test_labels_become_the_categories_of_the_same_name(tmp_path: Path) -> None:
    column, _ = bars(tmp_path)
    images, annotations = write_images(tmp_path, 4)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    numbered = [{**entry, "category_id": 70} for entry in content["annotations"]]
    change(annotations, categories=[{"id": 70, "name": "Bar"}], annotations=numbered)
    dataset = open_dataset(images, annotations)
    measured = measure([column], dataset, Quiet(), classes=["background", "bar"], results=tmp_path, per_category=True)
    assert measured.evaluation["ap"]["bbox"]["parts"] == pytest.approx(1)
    assert measured.evaluation["per_category"]["bbox"] == {"parts": {"Bar": pytest.approx(1)}}
    written = json.loads((tmp_path / "results_parts.json").read_text(encoding="utf-8"))
    assert {each["category_id"] for each in written} == {70}
    with pytest.raises(InputError, match="the model doesn't know category 70 'Bar'"):
        measure([column], dataset, Quiet(), classes=["background", "rod"])


def test_labels_that_are_no_category_are_left_out(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    opened = column.open(1)

    def mistaken(placed: CanvasImage, image: Path) -> dict[str, Any]:
        found = dict(opened.detect(placed, image))
        return {**found, "labels": found["labels"] + 5}

    wrong = Loaded("int4", opened.canvas, mistaken)
    evaluation = measure([column, wrong], dataset, Quiet(), classes=["background", "bar"]).evaluation
    assert evaluation["ap"]["bbox"] == {"parts": pytest.approx(1), "int4": 0}


def test_images_that_can_not_be_read_are_told_of_at_the_end(tmp_path: Path) -> None:
    column, _ = bars(tmp_path, 4)
    images, annotations = write_images(tmp_path, 4)
    whole = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(whole[:60])  # the header is whole, so that only a worker notices
    (images / "3.png").write_bytes(b"text")
    store = FileStore(tmp_path / "out")
    with pytest.raises(BadImages, match=r"2 of its images can't be read \(image 2, 2\.png, .*--skip-bad") as raised:
        measure([column], open_dataset(images, annotations), Quiet(), store=store)
    assert [each.id for each in raised.value.images] == [2, 3]
    measured = measure([column], open_dataset(images, annotations), Quiet(), store=store, skip_bad=True)
    assert (measured.computed, measured.reused) == (1, 2)  # it tried the one again
    assert measured.evaluation["samples"] == 2
    assert measured.evaluation["ap"]["bbox"]["parts"] == pytest.approx(1)
    assert [each["image"] for each in measured.evaluation["skipped"]] == [2, 3]
    (images / "2.png").write_bytes(whole)
    repaired = measure([column], open_dataset(images, annotations), Quiet(), store=store, skip_bad=True)
    assert (repaired.computed, repaired.evaluation["samples"]) == (1, 3)


def test_nothing_but_bad_images_is_refused(tmp_path: Path) -> None:
    column, _ = bars(tmp_path, 1)
    images, annotations = write_images(tmp_path, 1)
    (images / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its images can be read \(not an image, or none of PNG"):
        measure([column], open_dataset(images, annotations), Quiet(), skip_bad=True)


def test_masks_are_left_out_where_the_annotations_have_none(tmp_path: Path) -> None:
    column, _ = bars(tmp_path)
    images, annotations = write_images(tmp_path, 4)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    for entry in content["annotations"]:
        del entry["segmentation"]
    change(annotations, annotations=content["annotations"])
    evaluation = measure([column], open_dataset(images, annotations), Quiet()).evaluation
    assert list(evaluation["ap"]) == ["bbox"]


def test_a_protocol_says_what_is_compared_and_which_detections_count(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    protocol = ApProtocol(iou=("bbox",), max_detections=(2, 3, 4), published={"bbox_ap": 0.5, "bbox_ar4": 0.6})
    evaluation = measure([column], dataset, Quiet(), protocol=protocol).evaluation
    assert evaluation["ap"] == {"bbox": {"parts": pytest.approx(1)}}
    assert {"AR2", "AR3", "AR4"} < set(evaluation["lines"]["bbox"]["parts"])
    assert evaluation["published"] == {"bbox": {"AP": 0.5, "AR4": 0.6}}
    assert "published" not in measure([column], dataset, Quiet(), protocol=ApProtocol(iou=("bbox",))).evaluation
    nothing = measure([column], dataset, Quiet(), protocol=ApProtocol(min_score=1.0)).evaluation
    assert nothing["ap"]["bbox"] == {"parts": 0}


def test_a_protocol_that_asks_for_what_is_not_there_is_refused(tmp_path: Path) -> None:
    column, dataset = bars(tmp_path)
    with pytest.raises(InputError, match=r"evaluate\.iou asks for keypoints, and the detections and .* bbox, segm"):
        measure([column], dataset, Quiet(), protocol=ApProtocol(iou=("keypoints",)))
