"""What an input besides the image is, for an image of 10 x 40 pixels in the middle of a canvas of 16 x 20."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.other_inputs import OtherInput
from graphsurgery.images.placement import Placement
from graphsurgery.images.preprocessing import Preprocessing

# half as large: 5 x 20 pixels, from row 5 on (half of what is left, rounded down)
PLACED = Placement((16, 20), (10, 40), 5, 20, 5, 0)
ON_CANVAS = np.zeros((16, 20))
ON_CANVAS[5:10] = 1


def of(value: Any, shape: Sequence[int | str | None] | None, dtype: str = "float32", rows: int = 1) -> np.ndarray:
    other = OtherInput("x", value, shape, np.dtype(dtype))
    other.require_fit(PLACED.canvas)
    made = other.of(PLACED, rows)
    assert made.dtype == dtype
    return made


def test_an_image_on_a_canvas_says_where_it_lies() -> None:
    canvas = Canvas(16, 20, image=Preprocessing(place="centre"))
    assert canvas.fit(np.zeros((10, 40, 3), np.uint8)).placement == PLACED
    assert Placement.whole((16, 20)) == canvas.fit(np.zeros((16, 20, 3), np.uint8)).placement


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (["width", "height"], [1, 2], [[40, 10]]),
        (["width", "height"], ["n", 2], [[40, 10]]),
        (["width", "height"], [2], [40, 10]),
        (["width", "height"], None, [40, 10]),
        ([["width", "height"]], [None, "k"], [[40, 10]]),
        (["resized_height", "resized_width", "scale_y"], [1, 3], [[5, 20, 0.5]]),
        (["resized_height", "resized_width", 1], [1, 3], [[5, 20, 1]]),
        ("scale_x", [1, 2], [[0.5, 0.5]]),
        ("height", [], 10),
        ("canvas", [1, 2], [[16, 20]]),
        (7, [1, 1], [[7]]),
    ],
)
def test_words_stand_for_numbers(value: Any, shape: Any, expected: Any) -> None:
    assert of(value, shape).tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize(
    "shape", [[16, 20], [1, 16, 20], [1, 1, 16, 20], [1, 3, 16, 20], ["n", "h", "w"], ["n", 1, None, None], None]
)
def test_a_mask_is_one_where_the_image_lies(shape: Any, dtype: str) -> None:
    made = of("mask", shape, dtype)
    assert made.ndim == (2 if shape is None else len(shape))
    np.testing.assert_array_equal(made, np.broadcast_to(ON_CANVAS, made.shape))


@pytest.mark.parametrize("shape", [[1, 16, 20, 1], ["n", "h", "w", 1]])
def test_a_mask_may_have_its_channel_last(shape: Any) -> None:
    made = of("mask", shape)
    assert made.shape == (1, 16, 20, 1)
    np.testing.assert_array_equal(made[0, :, :, 0], ON_CANVAS)


def test_an_open_batch_has_as_many_rows_as_there_are_images() -> None:
    assert of(["width", "height"], ["n", 2], "int64", rows=3).tolist() == [[40, 10]] * 3
    assert of(["width", "height"], [3, 2], "int64").tolist() == [[40, 10]] * 3
    assert of("mask", ["n", "h", "w"], rows=2).shape == (2, 16, 20)
    assert of("scale_y", ["n"], rows=2).tolist() == [0.5, 0.5]
    assert of([[1, 2], [3, 4]], ["n", 2], rows=3).tolist() == [[1, 2], [3, 4]], "who gives rows gives all"


def test_only_words_of_the_image_follow_from_it() -> None:
    def follows(value: Any) -> bool:
        return OtherInput("x", value, None, np.dtype("float32")).follows

    assert [follows(each) for each in (["height", 1], [[1, "scale_x"]], "mask", "width")] == [True] * 4
    assert [follows(each) for each in ("canvas", 1, [1, 2], [[1], [2]])] == [False] * 4


@pytest.mark.parametrize(
    ("value", "shape", "dtype", "said"),
    [
        (["heigth"], [1, 1], "float32", r"inputs\.x: 'heigth' is none of canvas, .*Did you mean 'height'\?"),
        (["mask", 1], [1, 2], "float32", "'mask' stands alone, in no list"),
        ([["canvas"]], [1, 2], "float32", "'canvas' stands alone"),
        (True, [1], "float32", "is True; give a number, a word, or a list of numbers and words"),
        ([], [1], "float32", "give a number, a word, or a list"),
        ([[]], [1], "float32", "give a number, a word, or a list"),
        ([[["height"]]], [1], "float32", "give a number, a word, or a list"),
        ({"height": 1}, [1], "float32", "give a number, a word, or a list"),
        (None, [1], "float32", "give a number, a word, or a list"),
        (["width", "height"], [1, 3], "float32", r"is \[1, 3\]; \[width, height\] does not fit"),
        (["width"], [1, 2], "float32", r"is \[1, 2\]; \[width\] does not fit"),
        ([["width", "height"]] * 2, [1, 2], "float32", r"is \[1, 2\]; .* does not fit"),
        ([["width", "height"], ["width"]], [2, None], "float32", "give lists of one length"),
        ("mask", [1, 8, 8], "float32", r"is \[1, 8, 8\]; mask does not fit"),
        ("mask", [1, 2], "float32", r"is \[1, 2\]; mask does not fit"),
        (["scale_y", "scale_x"], [1, 2], "int64", "is int64, which does not hold scale_y"),
        (["width", "height"], [1, 2], "bool", r"is bool, which does not hold \[width, height\]"),
        (1, [2**13, 2**13], "float32", r"more than 33554432 elements"),
    ],
)
def test_what_does_not_fit_is_told_before_any_image(value: Any, shape: Any, dtype: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        of(value, shape, dtype)
    assert "\n" not in str(error.value)


def test_a_size_that_the_type_does_not_hold_is_told_with_the_image() -> None:
    other = OtherInput("x", ["width", "height"], [1, 2], np.dtype("uint8"))
    other.require_fit((16, 20))
    with pytest.raises(InputError, match=r"is uint8, which does not hold \[width, height\]"):
        other.of(Placement((16, 20), (300, 400), 15, 20))
