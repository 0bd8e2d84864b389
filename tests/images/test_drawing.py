"""The picture of detections: what is drawn, where, and that nothing makes it fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import InputError
from graphsurgery.images.drawing import PALETTE, colour_of, draw_detections, tag_place

NAMES = ("background", "circle", "square", "triangle")


def grey(height: int, width: int) -> Any:
    return np.full((height, width, 3), 128, np.uint8)


def one(box: tuple[float, ...], label: int = 2, score: float = 0.9) -> dict[str, Any]:
    return {"boxes": np.array([box], np.float32), "labels": np.array([label]), "scores": np.array([score])}


def drawn(image: Any, detections: dict[str, Any], *rest: Any, **options: Any) -> Any:
    picture = draw_detections(image, detections, *rest, **options)
    assert picture.mode == "RGB"
    assert picture.size == (image.shape[1], image.shape[0])
    return np.asarray(picture)


def pixels_of(picture: Any, colour: tuple[int, int, int]) -> Any:
    return (picture == np.array(colour)).all(-1)


def test_a_box_is_drawn_in_the_colour_of_its_class_and_the_image_is_left_alone() -> None:
    image = grey(200, 300)
    picture = drawn(image, one((50, 60, 150, 160)), NAMES)
    edge = pixels_of(picture, colour_of(2))
    assert edge[160, 50:151].all()
    assert edge[60:161, 150].all()
    assert edge[60:161, 50].all()
    assert (picture[100:120, 80:120] == 128).all()
    assert (image == 128).all()


def test_a_detection_below_the_threshold_or_without_a_score_is_not_drawn() -> None:
    image = grey(200, 300)
    assert np.array_equal(drawn(image, one((50, 60, 150, 160), score=0.4)), image)
    assert np.array_equal(drawn(image, one((50, 60, 150, 160), score=float("nan"))), image)
    assert not np.array_equal(drawn(image, one((50, 60, 150, 160), score=0.4), score_threshold=0.3), image)


def test_no_detections_give_the_image() -> None:
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}
    empty["masks"] = np.zeros((0, 1, 40, 50))
    assert np.array_equal(drawn(grey(40, 50), empty), grey(40, 50))


def test_a_mask_is_translucent_inside_and_full_on_its_contour() -> None:
    detections = one((0, 0, 199, 199))
    detections["masks"] = np.zeros((1, 1, 200, 200), np.float32)
    detections["masks"][0, 0, 60:140, 70:130] = 0.8
    picture = drawn(grey(200, 200), detections)
    assert np.array_equal(picture[60, 70:130], np.tile(colour_of(2), (60, 1)))
    expected = np.rint(128 * 0.55 + np.array(colour_of(2)) * 0.45)
    assert (picture[90:110, 90:110] == expected).all()
    assert (picture[150:180, 20:180] == 128).all()


def test_a_mask_as_the_network_gives_it_is_pasted_into_its_box() -> None:
    detections = one((40, 40, 119, 119))
    detections["masks"] = np.ones((1, 1, 28, 28), np.float32)
    picture = drawn(grey(200, 200), detections, pasted=False)
    assert (picture[60:100, 60:100] != 128).all()
    assert (picture[130:, 130:] == 128).all()


def test_the_best_detection_lies_on_top() -> None:
    both = {
        "boxes": np.array([(20, 50, 150, 150), (20, 50, 150, 150)], np.float32),
        "labels": np.array([1, 3]),
        "scores": np.array([0.9, 0.8]),
    }
    picture = drawn(grey(200, 200), both)
    assert pixels_of(picture, colour_of(1))[150, 20:151].all()


def test_keypoints_are_dots_and_invisible_ones_are_left_out() -> None:
    detections = one((10, 10, 190, 190))
    detections["keypoints"] = np.array([[(60, 100, 1), (120, 100, 0), (np.nan, 100, 1), (1e30, 5, 1)]])
    picture = drawn(grey(200, 200), detections)
    assert pixels_of(picture, colour_of(2))[100, 60]
    assert (picture[90:110, 110:130] == 128).all()


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (270, 180, 299, 199), (0, 0, 299, 199), (140, 2, 160, 8)])
def test_tags_stay_inside_the_picture(box: tuple[int, int, int, int]) -> None:
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(8):
        taken.append(tag_place((80, 15), box, (300, 200), taken))
    for left, top, right, bottom in taken:
        assert left >= 0
        assert top >= 0
        assert right < 300
        assert bottom < 200
        assert (right - left + 1, bottom - top + 1) == (80, 15)


def test_a_tag_sits_on_top_of_its_box_where_it_can() -> None:
    assert tag_place((80, 15), (20, 50, 250, 150), (300, 200), []) == (20, 35, 99, 49)


def test_tags_of_boxes_at_the_same_place_do_not_cover_each_other() -> None:
    taken: list[tuple[int, int, int, int]] = []
    covered = np.zeros((200, 300), int)
    for _ in range(4):
        left, top, right, bottom = tag_place((80, 15), (20, 50, 250, 150), (300, 200), taken)
        taken.append((left, top, right, bottom))
        covered[top : bottom + 1, left : right + 1] += 1
    assert covered.max() == 1
    assert covered.sum() == 4 * 80 * 15


def luminance(colour: tuple[int, ...]) -> float:
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("label", range(len(PALETTE)))
def test_a_tag_is_text_on_the_colour_of_its_class_and_in_contrast_to_it(background: int, label: int) -> None:
    picture = drawn(np.full((200, 300, 3), background, np.uint8), one((50, 100, 250, 180), label))
    ground, tag = luminance(colour_of(label)), picture[86:98, 52:110].reshape(-1, 3)
    assert (tag == np.array(colour_of(label))).all(-1).mean() > 0.4
    text = [luminance(tuple(pixel)) for pixel in tag]
    # The least ratio that WCAG 2.1 asks for.
    assert max((max(t, ground) + 0.05) / (min(t, ground) + 0.05) for t in text) >= 4.5


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (12, 12), (30, 45)])
def test_tiny_images_are_drawn(size: tuple[int, int]) -> None:
    detections = one((0, 0, size[1], size[0]))
    detections["masks"] = np.ones((1, 1, *size), np.float32)
    detections["keypoints"] = np.array([[(0, 0, 1)]], np.float32)
    assert (drawn(grey(*size), detections, NAMES) != 128).any()


@pytest.mark.parametrize(
    "box",
    [
        (float("nan"), 0, 5, 5),
        (0, 0, float("inf"), 5),
        (-90, -90, -50, -50),
        (900, 10, 950, 20),
        (50, 50, 20, 20),
    ],
)
def test_a_box_that_has_no_place_in_the_picture_is_left_out(box: tuple[float, ...]) -> None:
    assert np.array_equal(drawn(grey(100, 100), one(box), NAMES), grey(100, 100))


def test_a_huge_box_is_cut_at_the_edge() -> None:
    picture = drawn(grey(100, 100), one((-1e30, -1e30, 1e30, 1e30)))
    assert pixels_of(picture, colour_of(2))[99].all()


def test_a_box_that_ends_past_the_last_pixel_is_drawn_on_it() -> None:
    picture = drawn(grey(100, 100), one((99.7, 50, 120, 90)))
    assert pixels_of(picture, colour_of(2))[50:91, 99].all()


@pytest.mark.parametrize("label", [-1, 0, 4, 10**6])
def test_a_label_without_a_name_is_drawn_by_number(label: int) -> None:
    assert (drawn(grey(200, 200), one((50, 60, 150, 160), label), NAMES) != 128).any()


def test_a_name_changes_the_tag() -> None:
    named = drawn(grey(200, 200), one((50, 60, 150, 160)), NAMES)
    unnamed = drawn(grey(200, 200), one((50, 60, 150, 160)))
    assert not np.array_equal(named, unnamed)


def test_a_name_of_many_lines_or_a_strange_script_is_drawn() -> None:
    for name in ("a\nb\tc", "猫", "", "x" * 500):
        assert (drawn(grey(200, 200), one((50, 60, 150, 160), 0), (name,)) != 128).any()


def test_colours_differ_and_repeat_after_the_palette() -> None:
    assert len(set(PALETTE)) == len(PALETTE) == 7
    assert colour_of(3) == colour_of(3 + len(PALETTE)) != colour_of(4)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("boxes", np.zeros((1, 5))),
        ("labels", np.zeros(2, int)),
        ("scores", np.ones((1, 1))),
        ("masks", np.ones((1, 1, 28, 28))),
        ("masks", np.ones((2, 1, 50, 50))),
        ("keypoints", np.ones((1, 3))),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(name: str, array: Any) -> None:
    with pytest.raises(InputError, match="detections: "):
        draw_detections(grey(50, 50), {**one((1, 2, 30, 40)), name: array})


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_an_image_of_another_kind_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match="image: "):
        draw_detections(image, one((1, 2, 3, 4)))
