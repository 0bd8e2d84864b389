"""The images that an evaluation is about: in order, whole, and those that the annotations are of."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import pytest
from bars import change, write_images
from PIL import Image

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.evaluation.dataset import (
    category_of_label,
    draw_shapes,
    drawn_or_given,
    open_dataset,
    require_categories,
)

CLASSES = ["__background__", "person", "bicycle", "N/A", "car"]


def test_the_first_images_by_ascending_id_are_taken(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 4)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    change(annotations, images=[content["images"][index] for index in (2, 0, 3, 1)])
    assert [picture.id for picture in open_dataset(images, annotations, 3).pictures] == [1, 2, 3]
    assert len(open_dataset(images, annotations).pictures) == 4


def test_an_image_is_known_by_its_bytes(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 2)
    before = [picture.sha256 for picture in open_dataset(images, annotations).pictures]
    (images / "1.png").write_bytes((images / "2.png").read_bytes())
    after = [picture.sha256 for picture in open_dataset(images, annotations).pictures]
    assert after == [before[1], before[1]]


def test_a_missing_image_says_which_and_can_be_left_out(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 4)
    (images / "2.png").unlink()
    with pytest.raises(InputError, match=r"1 of 4 images are not in .*images, 2\.png for one; give .*--skip-bad"):
        open_dataset(images, annotations)
    dataset = open_dataset(images, annotations, skip_bad=True)
    assert [picture.id for picture in dataset.pictures] == [1, 3, 4]
    assert [(each.id, each.reason) for each in dataset.unreadable] == [(2, "no such file")]


def test_annotations_of_which_no_image_is_there_are_of_other_images(tmp_path: Path) -> None:
    _, annotations = write_images(tmp_path, 2)
    (tmp_path / "others").mkdir()
    with pytest.raises(
        InputError, match=r"2 of 2 images are not in .*others, 1\.png for one; give the folder"
    ) as raised:
        open_dataset(tmp_path / "others", annotations, skip_bad=True)
    assert "--skip-bad" not in str(raised.value)
    with pytest.raises(InputError, match="no such folder of images; give the one with the images that"):
        open_dataset(tmp_path / "nowhere", annotations)


def test_an_image_of_another_size_is_not_what_was_annotated(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 2)
    Image.new("RGB", (20, 30)).save(images / "2.png")
    with pytest.raises(InputError, match=r"image 2 is 8 x 12 there, but 30 x 20 in .*2\.png; give the annotations"):
        open_dataset(images, annotations, skip_bad=True)


@pytest.mark.parametrize(("content", "reason"), [(b"", "not an image"), (b"GIF89a", ""), (b"text", "not an image")])
def test_a_damaged_image_is_set_apart(tmp_path: Path, content: bytes, reason: str) -> None:
    images, annotations = write_images(tmp_path, 3)
    (images / "2.png").write_bytes(content)
    dataset = open_dataset(images, annotations)
    assert [picture.id for picture in dataset.pictures] == [1, 3]
    (bad,) = dataset.unreadable
    assert (bad.id, bad.path.name) == (2, "2.png")
    assert reason in bad.reason
    assert "0x" not in bad.reason


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 2)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    change(annotations, images=[*content["images"], {**content["images"][1], "file_name": "1.png"}])
    with pytest.raises(InputError, match="two images have the id 2"):
        open_dataset(images, annotations)


def categories(**names: int) -> dict[str, object]:
    return {"categories": [{"id": number, "name": name} for name, number in names.items()]}


def test_a_label_is_its_category_where_names_agree() -> None:
    assert category_of_label(categories(person=1, Car=4), CLASSES, "x.json") == {1: 1, 4: 4}


def test_categories_numbered_otherwise_are_found_by_name() -> None:
    assert category_of_label(categories(car=0, person=7), CLASSES, "x.json") == {4: 0, 1: 7}
    assert category_of_label(categories(bicycle=1, person=2), CLASSES, "x.json") == {2: 1, 1: 2}


def test_nothing_is_said_of_labels_without_class_names() -> None:
    assert category_of_label(categories(unheard_of=12), None, "x.json") is None


def test_categories_without_a_name_go_by_number() -> None:
    assert category_of_label({"categories": [{"id": 2}, {"id": 4}]}, CLASSES, "x.json") == {2: 2, 4: 4}
    with pytest.raises(InputError, match=r"category 3 'None' and 0 others of 1"):
        category_of_label({"categories": [{"id": 3}]}, CLASSES, "x.json")


def test_a_category_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(InputError) as raised:
        category_of_label(categories(person=1, circle=2, square=3), CLASSES, "x.json")
    assert str(raised.value) == (
        "x.json: the model doesn't know category 2 'circle' and 1 others of 3; its classes are person, bicycle, car. "
        "Give annotations with these"
    )
    with pytest.raises(InputError, match="doesn't know category 3 'N/A'"):
        category_of_label({"categories": [{"id": 3, "name": "N/A"}]}, CLASSES, "x.json")


def section(**more: object) -> Postprocessing:
    return Postprocessing.from_json({"boxes": {"tensor": 1}, "scores": {}, **more})


def test_the_recipe_says_which_category_a_label_is() -> None:
    given = section(categories={"0": 7, "5": 1, "9": 30}, classes=["x"])
    assert category_of_label(categories(car=1, person=7), None, "x.json", given) == {0: 7, 5: 1}
    with pytest.raises(InputError, match=r"detections\.categories has no label for category 2 and 0 others of 1"):
        category_of_label(categories(car=2), None, "x.json", given)


def test_names_of_the_recipe_need_names_of_the_categories() -> None:
    named = section(classes="coco80")
    assert category_of_label(categories(car=3, person=1), named.class_names, "x.json", named) == {2: 3, 0: 1}
    with pytest.raises(InputError, match=r"category 2 has no name, so that detections\.classes doesn't tell its label"):
        category_of_label({"categories": [{"id": 2}]}, named.class_names, "x.json", named)


@pytest.mark.parametrize(
    ("labels", "all_", "fine"),
    [
        (range(1, 4), True, True),
        (range(4), True, False),
        (range(1, 3), True, False),
        ({1, 3}, False, True),
        ({0, 1}, False, False),
        (set(), False, True),
    ],
)
def test_labels_that_nobody_has_named_must_be_the_ids(labels: Collection[int], all_: bool, fine: bool) -> None:
    with nullcontext() if fine else pytest.raises(InputError, match="has the category ids 1, 2, 3, the network the"):
        require_categories(categories(a=1, b=2, c=3), labels, "x.json", all_=all_)


@pytest.mark.parametrize(
    ("background", "shape", "labels"),
    [
        ("none", (1, 8400, 80), range(80)),
        ("first", (1, 8400, 81), range(1, 81)),
        ("last", (1, 100, 92), range(91)),
        ("none", (1, None, 80), range(80)),
        ("none", (1, 300, None), None),
        ("none", None, None),
    ],
)
def test_which_labels_there_are_the_columns_of_the_scores_tell(
    background: str, shape: tuple[int | None, ...] | None, labels: range | None
) -> None:
    assert section(background=background).labels_of({"scores": shape, "boxes": None}) == labels


def test_the_demos_images_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    first = open_dataset(*draw_shapes(tmp_path / "a", 2))
    assert open_dataset(*draw_shapes(tmp_path / "b", 2)).pictures[1].sha256 == first.pictures[1].sha256
    with drawn_or_given(None, None, 2) as (images, annotations):
        assert open_dataset(images, annotations).pictures[0].sha256 == first.pictures[0].sha256
    assert not images.exists()
    with drawn_or_given(tmp_path, tmp_path / "x.json", 2) as given:
        assert given == (tmp_path, tmp_path / "x.json")


def test_a_name_longer_than_any_is_that_of_an_absent_image(tmp_path: Path) -> None:
    images, annotations = write_images(tmp_path, 2)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    content["images"][1]["file_name"] = "x" * 900
    annotations.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="1 of 2 images are not in"):
        open_dataset(images, annotations)
