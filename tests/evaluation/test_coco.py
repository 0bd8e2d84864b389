"""COCO average precision on a hand-made data set whose numbers are known."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import InputError, MissingTool
from graphsurgery.evaluation.coco import AveragePrecision, coco_results, describe_detections, evaluate
from graphsurgery.images.annotations import read_annotations
from graphsurgery.images.canvas import CanvasImage

HEIGHT, WIDTH = 100, 120
# Per image: boxes x0, y0, x1, y1 and their categories; the first of each is medium-sized, the second small.
OBJECTS = {
    7: [((10, 10, 70, 60), 1), ((80, 70, 100, 90), 2)],
    3: [((20, 20, 90, 80), 2), ((5, 5, 15, 25), 1)],
}


def needs_coco() -> None:
    pytest.importorskip("pycocotools")


def dataset() -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image_id, objects in OBJECTS.items():
        for (x0, y0, x1, y1), category in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in OBJECTS],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    return written(tmp_path, dataset())


def written(folder: Path, content: object) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def perfect(image_id: int, count: int = 2) -> dict[str, Any]:
    boxes = [box for box, _ in OBJECTS[image_id]][:count]
    masks = np.zeros((count, 1, HEIGHT, WIDTH), np.float32)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[0, y0:y1, x0:x1] = 0.9
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array([category for _, category in OBJECTS[image_id]][:count], np.int64),
        "scores": np.linspace(0.9, 0.8, count, dtype=np.float32),
        "masks": masks,
    }


def everything() -> list[dict[str, Any]]:
    return [result for image_id in OBJECTS for result in coco_results(image_id, perfect(image_id))]


def test_perfect_detections_have_an_average_precision_of_one(instances: Path) -> None:
    needs_coco()
    precision = evaluate(instances, everything())
    assert list(precision) == ["bbox", "segm"]
    for found in precision.values():
        assert found.ap == pytest.approx(1)
        assert " ".join(found.lines) == "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl"
        assert found.lines["APl"] is None
        assert found.lines["ARl"] is None
        assert found.lines["APs"] == pytest.approx(1)
        assert found.lines["APm"] == pytest.approx(1)


def test_only_so_many_of_the_best_detections_of_an_image_count(instances: Path) -> None:
    needs_coco()
    # image 7 has two objects of different categories, and before each comes one that is nowhere
    wrong = [{**result, "bbox": [0, 90, 5, 5], "score": 0.99} for result in coco_results(7, perfect(7))]
    results = [*wrong, *coco_results(7, perfect(7))]
    only_one = evaluate(instances, results, ("bbox",), [7], (1, 2, 3))["bbox"]
    assert " ".join(only_one.lines) == "AP AP50 AP75 APs APm APl AR1 AR2 AR3 ARs ARm ARl"
    assert only_one.lines["AR1"] == 0
    assert only_one.lines["AR2"] == only_one.lines["AR3"] == pytest.approx(1)
    assert only_one.ap == only_one.lines["AP50"] == evaluate(instances, results, ("bbox",), [7])["bbox"].ap > 0.4


def test_nothing_found_has_an_average_precision_of_zero(instances: Path) -> None:
    needs_coco()
    empty = {name: array[:0] for name, array in perfect(7).items()}
    assert coco_results(7, empty) == []
    precision = evaluate(instances, coco_results(7, empty))
    assert precision["bbox"].ap == 0
    assert precision["segm"].ap == 0
    assert precision["segm"].lines["AR100"] == 0


def test_half_of_the_objects_found_is_half_the_recall(instances: Path) -> None:
    """Each category has two objects and one is found, first: precision 1 at 51 of the 101 recall points."""
    needs_coco()
    results = [result for image_id in OBJECTS for result in coco_results(image_id, perfect(image_id, 1))]
    precision = evaluate(instances, results)
    for found in precision.values():
        assert found.ap == pytest.approx(51 / 101)
        assert found.lines["AR100"] == pytest.approx(0.5)
        assert found.lines["APs"] == 0
        assert found.lines["APm"] == pytest.approx(1)


def test_a_box_of_iou_three_quarters_counts_at_the_thresholds_below(instances: Path) -> None:
    needs_coco()
    detections = perfect(3, 1)
    detections["boxes"] = np.array([(20, 20, 90, 65)], np.float32)  # IoU 45 / 60
    precision = evaluate(instances, coco_results(3, detections), ("bbox",), [3])["bbox"]
    # Of two categories only one is found, at 0.50, 0.55, .. 0.75: six thresholds of ten.
    assert precision.ap == pytest.approx(0.5 * 0.6)
    assert precision.lines["AP50"] == pytest.approx(0.5)
    assert precision.lines["AP75"] == pytest.approx(0.5)


def test_box_and_mask_are_judged_apart(instances: Path) -> None:
    needs_coco()
    results = []
    for image_id in OBJECTS:
        detections = perfect(image_id)
        detections["masks"] = np.zeros_like(detections["masks"])
        results += coco_results(image_id, detections)
    precision = evaluate(instances, results)
    assert precision["bbox"].ap == pytest.approx(1)
    assert precision["segm"].ap == 0


def test_the_size_of_a_mask_is_the_masks_own_and_not_its_boxes(instances: Path) -> None:
    """A small mask where nothing is stays a mistake among small objects, however large the box around it."""
    needs_coco()
    real = perfect(3)
    mistaken = np.zeros_like(real["masks"][1:])
    mistaken[:, :, 80:, 100:] = 0.9
    found = {
        "boxes": np.array([(5, 5, 15, 25), (0, 0, WIDTH, HEIGHT)], np.float32),
        "labels": np.array([1, 1]),
        "scores": np.array([0.5, 0.9]),
        "masks": np.concatenate([real["masks"][1:], mistaken]),
    }
    precision = evaluate(instances, coco_results(3, found), ("segm",), [3])
    assert precision["segm"].lines["APs"] == pytest.approx(0.5)


def test_an_object_with_id_zero_can_be_found(instances: Path) -> None:
    """COCOeval stores the id of the object that a detection matched, and takes 0 for none."""
    needs_coco()
    data = dataset()
    data["annotations"] = data["annotations"][:1]
    assert data["annotations"][0]["id"] == 0
    assert evaluate(data, coco_results(7, perfect(7, 1)), image_ids=[7])["bbox"].ap == pytest.approx(1)


def test_imperfect_detections_have_the_numbers_of_a_plain_run_of_pycocotools(tmp_path: Path) -> None:
    needs_coco()
    rng, data, results = np.random.default_rng(4), dataset(), []
    for entry in data["annotations"]:
        entry["id"] += 1
    for image_id in OBJECTS:
        real = perfect(image_id)
        boxes = np.repeat(real["boxes"], 6, 0) + rng.normal(0, 5, (12, 4)).astype(np.float32)
        moved = np.stack([np.roll(mask, rng.integers(-4, 5), 2) for mask in np.repeat(real["masks"], 6, 0)])
        noisy = {"boxes": boxes, "labels": rng.integers(1, 3, 12), "scores": rng.random(12), "masks": moved}
        results += coco_results(image_id, noisy)
    path = written(tmp_path, {"info": {}, **data})
    precision = evaluate(path, results)
    for kind, compared in (("bbox", "bbox"), ("segm", "segmentation")):
        kept = ("image_id", "category_id", "score", compared)
        truth = importlib.import_module("pycocotools.coco").COCO(str(path))
        found = truth.loadRes([{name: result[name] for name in kept} for result in copy.deepcopy(results)])
        plain = importlib.import_module("pycocotools.cocoeval").COCOeval(truth, found, kind)
        plain.evaluate()
        plain.accumulate()
        plain.summarize()
        assert 0.05 < plain.stats[0] < 0.95
        assert list(precision[kind].lines.values()) == [None if value < 0 else value for value in plain.stats]


def test_only_the_images_asked_for_count(instances: Path) -> None:
    needs_coco()
    results = coco_results(7, perfect(7))
    assert evaluate(instances, results, image_ids=[7])["segm"].ap == pytest.approx(1)
    assert evaluate(instances, results)["segm"].ap == pytest.approx(51 / 101)
    assert evaluate(instances, results, image_ids=[3])["segm"].ap == 0


def test_masks_as_the_network_gives_them_are_pasted(instances: Path) -> None:
    needs_coco()
    detections = perfect(7)
    detections["masks"] = np.ones((2, 1, 28, 28), np.float32)
    results = coco_results(7, detections, size=(HEIGHT, WIDTH))
    assert all(result["segmentation"]["size"] == [HEIGHT, WIDTH] for result in results)
    precision = evaluate(instances, results, image_ids=[7])
    assert precision["segm"].lines["AP75"] == pytest.approx(1)


def test_masks_that_lie_on_the_canvas_are_scaled_to_the_image(instances: Path) -> None:
    needs_coco()
    detections = perfect(7)
    expected = coco_results(7, detections)
    placed = CanvasImage(np.zeros((3, HEIGHT * 2 + 6, WIDTH * 2), np.float32), HEIGHT * 2, WIDTH * 2, (HEIGHT, WIDTH))
    large = np.pad(detections.pop("masks").repeat(2, axis=2).repeat(2, axis=3), ((0, 0), (0, 0), (0, 6), (0, 0)))
    on_canvas = {**detections, "boxes": detections["boxes"] * 2, "masks_pasted": large}
    restored = placed.restore(on_canvas, paste=False)
    assert coco_results(7, restored, size=(HEIGHT, WIDTH)) == expected
    assert coco_results(7, placed.restore(on_canvas)) == expected


def test_results_are_what_torchvisions_reference_prepares() -> None:
    needs_coco()
    mask = importlib.import_module("pycocotools.mask")
    results = json.loads(json.dumps(coco_results(7, perfect(7))))
    assert [result["bbox"] for result in results] == [[10, 10, 60, 50], [80, 70, 20, 20]]
    assert [result["category_id"] for result in results] == [1, 2]
    assert [result["score"] for result in results] == pytest.approx([0.9, 0.8])
    for result, expected in zip(results, perfect(7)["masks"], strict=True):
        assert np.array_equal(mask.decode(result["segmentation"]), expected[0] > 0.5)


def test_labels_are_mapped_and_those_without_a_category_left_out(instances: Path) -> None:
    needs_coco()
    detections = perfect(7)
    detections["labels"] = np.array([10, 99])
    results = coco_results(7, detections, {10: 1, 11: 2})
    assert [result["category_id"] for result in results] == [1]
    assert evaluate(instances, results, ("bbox",), [7])["bbox"].ap == pytest.approx(0.5)


def test_labels_that_are_no_categories_at_all_are_reported(instances: Path) -> None:
    needs_coco()
    detections = {**perfect(7), "labels": np.array([0, 80])}
    with pytest.raises(InputError, match=r"categories 1, 2, but 0, 80; map labels"):
        evaluate(instances, coco_results(7, detections))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_detections_that_are_not_finite_are_false_positives(instances: Path, bad: float) -> None:
    needs_coco()
    detections = {**perfect(7), "masks": np.full((2, 1, 28, 28), 0.9, np.float32)}
    detections["boxes"][:, 2] = bad
    precision = evaluate(instances, coco_results(7, detections, size=(HEIGHT, WIDTH)), image_ids=[7])
    assert precision["bbox"].ap == 0
    assert precision["segm"].ap == 0
    detections = perfect(7)
    detections["scores"][:] = bad
    assert [result["score"] for result in coco_results(7, detections)] == [0, 0]


def test_a_crowd_is_neither_missed_nor_a_mistake() -> None:
    needs_coco()
    data = dataset()
    data["annotations"][1]["iscrowd"] = 1
    one = coco_results(7, perfect(7, 1))
    assert evaluate(data, one, ("bbox",), [7])["bbox"].ap == pytest.approx(1)
    assert evaluate(data, coco_results(7, perfect(7)), ("bbox",), [7])["bbox"].ap == pytest.approx(1)


def test_areas_and_crowd_flags_that_are_not_there_are_filled_in() -> None:
    needs_coco()
    data = dataset()
    for entry in data["annotations"]:
        del entry["area"], entry["iscrowd"], entry["id"]
    kept = copy.deepcopy(data)
    precision = evaluate(data, everything())
    assert precision == evaluate(dataset(), everything())
    assert data == kept


def test_neither_the_file_nor_the_results_are_changed_and_nothing_is_printed(
    instances: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_coco()
    before, results = instances.read_bytes(), everything()
    kept = copy.deepcopy(results)
    first = evaluate(instances, results)
    assert evaluate(instances, results) == first
    assert instances.read_bytes() == before
    assert results == kept
    assert capsys.readouterr() == ("", "")


def people() -> tuple[dict[str, Any], dict[str, Any]]:
    points = np.random.default_rng(0).uniform(20, 80, (17, 2))
    keypoints = np.concatenate([points, np.full((17, 1), 2)], 1)
    data = dataset()
    data["annotations"] = [{**data["annotations"][0], "keypoints": keypoints.ravel().tolist()}]
    found = {name: array for name, array in perfect(7, 1).items() if name != "masks"}
    return data, {**found, "keypoints": keypoints[None].astype(np.float32)}


def test_keypoints_have_their_ten_numbers() -> None:
    needs_coco()
    data, found = people()
    precision = evaluate(data, coco_results(7, found), ("bbox", "keypoints"), [7])
    assert " ".join(precision["keypoints"].lines) == "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl"
    assert precision["keypoints"].ap == pytest.approx(1)
    assert precision["bbox"].ap == pytest.approx(1)
    found["keypoints"][0, :, 0] += 60
    assert evaluate(data, coco_results(7, found), ("keypoints",), [7])["keypoints"].ap == 0
    found["keypoints"][:] = np.nan
    assert evaluate(data, coco_results(7, found), ("keypoints",), [7])["keypoints"].ap == 0
    assert evaluate(data, [], ("keypoints",), [7])["keypoints"].ap == 0


def test_keypoints_that_coco_does_not_know_are_refused() -> None:
    needs_coco()
    data, found = people()
    found["keypoints"] = found["keypoints"][:, :5]
    with pytest.raises(InputError, match="17 keypoints"):
        evaluate(data, coco_results(7, found), ("keypoints",), [7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "no images"),
        (lambda d: d.update(images=[]), "no images"),
        (lambda d: d.update(annotations=[]), "no annotations"),
        (lambda d: d.pop("categories"), "no categories"),
        (lambda d: d["images"][0].pop("id"), r"images\[0\]\.id: Field required"),
        (lambda d: d["images"].append(5), r"images\[2\]: Input should be a valid dict"),
        (lambda d: d["annotations"][2].pop("bbox"), r"annotations\[2\]\.bbox: Field required"),
        (lambda d: d["annotations"][2].update(bbox=[1, 2]), r"annotations\[2\]\.bbox: List should have at least 4"),
        (lambda d: d["annotations"][1].update(image_id=99), r"annotations\[1\] has image_id 99"),
        (lambda d: d["annotations"][1].update(category_id=5), r"annotations\[1\] has category_id 5"),
        (
            lambda d: d["annotations"][1].update(category_id="a"),
            r"annotations\[1\]\.category_id: Input should be a valid integer",
        ),
    ],
)
def test_broken_annotations_are_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    content = dataset()
    change(content)
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=message) as raised:
        read_annotations(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"5"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"instances\.json: (can't be read as JSON|holds a)"):
        read_annotations(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match="can't be read"):
            read_annotations(path)


def test_images_that_the_annotations_do_not_know_are_refused(instances: Path) -> None:
    needs_coco()
    with pytest.raises(InputError, match="image_ids hold image 8"):
        evaluate(instances, [], image_ids=[7, 8])
    with pytest.raises(InputError, match="results hold image 55"):
        evaluate(instances, coco_results(55, perfect(7)))


def test_images_without_an_object_to_find_are_refused() -> None:
    needs_coco()
    data = dataset()
    data["images"].append({"id": 8, "height": HEIGHT, "width": WIDTH})
    with pytest.raises(InputError, match="no object to find for bbox in 1 images"):
        evaluate(data, [], ("bbox",), [8])


def test_what_an_evaluation_needs_and_is_not_there_is_named(instances: Path) -> None:
    needs_coco()
    boxes_only = {name: array for name, array in perfect(7).items() if name != "masks"}
    with pytest.raises(InputError, match="a result has no segmentation; leave segm out"):
        evaluate(instances, coco_results(7, boxes_only))
    with pytest.raises(InputError, match="an annotation has no keypoints"):
        evaluate(instances, [], ("keypoints",))
    with pytest.raises(InputError, match="unknown IoU type 'mask'; choose from bbox, segm, keypoints"):
        evaluate(instances, [], ("mask",))


def test_masks_of_another_size_than_the_image_are_refused(instances: Path) -> None:
    """pycocotools finds that such masks overlap nothing, and says AP 0."""
    needs_coco()
    small = coco_results(7, {**perfect(7), "masks": np.ones((2, 1, 50, 60), np.float32)})
    with pytest.raises(InputError, match="image 7 is 100 x 120, a mask found in it 50 x 60"):
        evaluate(instances, small)
    data = dataset()
    del data["images"][0]["height"]
    with pytest.raises(InputError, match="image 7 has no height"):
        evaluate(data, everything())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("boxes", (2, 5)),
        ("labels", (3,)),
        ("scores", (2, 1)),
        ("masks", (2, 28, 28)),
        ("keypoints", (2, 17, 2)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=f"detections: {name} have shape"):
        coco_results(7, {**perfect(7), name: np.zeros(shape, np.float32)})


def test_a_missing_pycocotools_names_the_extra(instances: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingTool, match=r"pip install 'graphsurgery\[coco\]'"):
        evaluate(instances, [])


def test_importing_the_module_imports_no_pycocotools() -> None:
    code = "import sys, graphsurgery.evaluation.coco; sys.exit('pycocotools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_summary_number_is_the_first_line() -> None:
    assert AveragePrecision({"AP": 0.25, "APl": None}).ap == 0.25


def test_detections_are_described_best_first_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    masks = np.zeros((3, 1, 4, 6), np.float32)
    masks[1, 0, :2, 1] = 0.9
    detections = {
        "boxes": np.array([[0, 1, 2, 3], [4, 5, 6.5, 7], [8, 9, 10, 11]], np.float32),
        "labels": np.array([2, 0, 3]),
        "scores": np.array([0.25, 0.75, 0.5], np.float32),
        "masks": masks,
        "keypoints": np.arange(18, dtype=np.float32).reshape(3, 2, 3),
    }
    described = describe_detections(detections, ["background", "circle", "square"])
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert [(each["label"], each["class"], each["score"]) for each in described] == [
        (0, "background", 0.75),
        (3, "3", 0.5),
        (2, "square", 0.25),
    ]
    assert described[0]["box"] == [4, 5, 6.5, 7]
    assert described[0]["segmentation"] == {"counts": "42b0", "size": [4, 6]}
    assert described[0]["keypoints"] == [[6, 7, 8], [9, 10, 11]]
    assert [each["class"] for each in describe_detections(detections)] == ["0", "3", "2"]


def test_no_detections_are_described_by_an_empty_list() -> None:
    assert describe_detections({"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}) == []


def test_a_described_detection_that_is_not_finite_is_none_and_last() -> None:
    detections = {
        "boxes": np.array([[0, np.nan, np.inf, 3], [1, 1, 2, 2], [0, 0, 1, 1]], np.float32),
        "labels": np.array([1, 1, -1]),
        "scores": np.array([np.nan, 0.5, np.inf], np.float32),
    }
    described = describe_detections(detections, ["background", "circle"])
    assert [(each["class"], each["score"], each["box"]) for each in described] == [
        ("circle", 0.5, [1, 1, 2, 2]),
        ("circle", None, [0, None, None, 3]),
        ("-1", None, [0, 0, 1, 1]),
    ]


@pytest.mark.parametrize("lacking", ["boxes", "labels", "scores"])
def test_detections_without_boxes_labels_or_scores_are_refused(lacking: str) -> None:
    detections = {"boxes": np.zeros((1, 4)), "labels": np.zeros(1), "scores": np.zeros(1)}
    del detections[lacking]
    for describe in (describe_detections, lambda found: coco_results(1, found)):
        with pytest.raises(InputError, match=f"detections: {lacking} are missing; there are "):
            describe(detections)


def test_each_category_has_an_average_precision_of_its_own(instances: Path) -> None:
    needs_coco()
    found = [result for image_id in OBJECTS for result in coco_results(image_id, perfect(image_id))]
    precision = evaluate(instances, [result for result in found if result["category_id"] == 1])
    assert precision["bbox"].per_category == {1: pytest.approx(1), 2: 0}
    assert precision["segm"].ap == pytest.approx(0.5)
    data = dataset()
    data["categories"].append({"id": 9, "name": "nowhere"})
    assert evaluate(data, found)["bbox"].per_category == {1: pytest.approx(1), 2: pytest.approx(1), 9: None}
