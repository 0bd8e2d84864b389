"""grid_sampler against PyTorch's definition, written in numpy point by point."""

import numpy as np
import pytest

from custom_ops.playing import play, single
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer

POINTS = 2000


def unnormalised(point: float, size: int, corners: bool) -> float:
    return (point + 1) / 2 * (size - 1) if corners else ((point + 1) * size - 1) / 2


def folded(place: float, size: int, padding: int, corners: bool) -> float:
    """A place on an axis as the padding moves it."""
    if padding == 2:
        low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
        while low < high and not low <= place <= high:
            place = 2 * low - place if place < low else 2 * high - place
    return place if padding == 0 else min(max(place, 0.0), size - 1.0)


def taps(point: float, size: int, mode: int, padding: int, corners: bool) -> list[tuple[int, float]]:
    """The indices along one axis that count, and by how much; without those outside."""
    place = unnormalised(point, size, corners)
    if mode == 2:
        first, a = int(np.floor(place)), -0.75
        found = []
        for index in range(first - 1, first + 3):
            far = abs(place - index)
            near = (a + 2) * far**3 - (a + 3) * far**2 + 1
            found.append((folded(index, size, padding, corners), near if far <= 1 else a * (far - 1) * (far - 2) ** 2))
    else:
        place = folded(place, size, padding, corners)
        first = int(np.floor(place))
        found = [(np.rint(place), 1.0)] if mode == 1 else [(first, first + 1 - place), (first + 1, place - first)]
    return [(int(index), weight) for index, weight in found if 0 <= index <= size - 1]


def reference(image: np.ndarray, grid: np.ndarray, mode: int, padding: int, corners: bool) -> np.ndarray:
    count, channels, height, width = image.shape
    result = np.zeros((count, channels, *grid.shape[1:3]))
    for n, i, j in np.ndindex(count, *grid.shape[1:3]):
        x, y = map(float, grid[n, i, j])
        for row, by_row in taps(y, height, mode, padding, corners):
            for column, by_column in taps(x, width, mode, padding, corners):
                result[n, :, i, j] += image[n, :, row, column] * by_row * by_column
    return result


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("opset", [11, 16, 20])
def test_samples_as_pytorch_does(opset: int, mode: int, padding: int, corners: int) -> None:
    random = np.random.default_rng([mode, padding, corners])
    image = random.standard_normal((2, 3, 5, 7)).astype(np.float32)
    grid = random.uniform(-2.5, 2.5, (2, 25, POINTS // 50, 2)).astype(np.float32)
    if mode != 1:  # a tie of nearest falls to either side by a rounding
        grid[0, 0, :7] = [[-1, -1], [1, 1], [0, 0], [-1.2, 1], [1, -1.2], [0.5, -0.5], [0.25, 0.75]]
    options = {"interpolation_mode": mode, "padding_mode": padding, "align_corners": corners}
    (got,) = play("mmcv.grid_sampler", {"input": image, "grid": grid}, opset=opset, **options)
    np.testing.assert_allclose(got, reference(image, grid, mode, padding, bool(corners)), atol=2e-5)


@pytest.mark.parametrize("opset", [11, 16])
def test_samples_an_image_of_one_pixel_and_no_images(opset: int) -> None:
    grid = np.random.default_rng(0).uniform(-2, 2, (1, 4, 4, 2)).astype(np.float32)
    image = np.full((1, 2, 1, 1), 3, np.float32)
    (got,) = play("mmdeploy.grid_sampler", {"input": image, "grid": grid}, opset=opset)
    np.testing.assert_allclose(got, reference(image, grid, 0, 0, False), atol=1e-5)
    (none,) = play("mmcv.grid_sampler", {"input": image[:0], "grid": grid[:0]}, opset=opset)
    assert none.shape == (0, 2, 4, 4)


def test_a_point_that_is_no_number_is_outside() -> None:
    """mmdetection's export divides by the width of a box, which may be 0."""
    image = np.random.default_rng(0).uniform(1, 2, (1, 1, 4, 4)).astype(np.float32)
    grid = np.array([[np.nan, 0], [np.inf, 0], [0, -np.inf], [0, 0]], np.float32).reshape(1, 1, 4, 2)
    (got,) = play("mmcv.grid_sampler", {"input": image, "grid": grid})
    assert got[0, 0, 0].tolist() == [0, 0, 0, pytest.approx(image[0, 0, 1:3, 1:3].mean())]


def test_samples_half_floats() -> None:
    random = np.random.default_rng(0)
    image, grid = random.standard_normal((1, 2, 4, 4)), random.uniform(-1, 1, (1, 3, 3, 2))
    halves = {"input": image.astype(np.float16), "grid": grid.astype(np.float16)}
    (got,) = play("mmcv.grid_sampler", halves)
    assert got.dtype == np.float16
    wanted = reference(halves["input"].astype(np.float64), halves["grid"].astype(np.float64), 0, 0, False)
    np.testing.assert_allclose(got, wanted, atol=5e-3)


@pytest.mark.parametrize("opset", [11, 16])
def test_the_shape_follows_from_the_inputs(opset: int) -> None:
    model = single(
        "mmcv.grid_sampler", {"input": np.zeros((2, 3, 5, 7), "f"), "grid": np.zeros((2, 4, 6, 2), "f")}, opset=opset
    )
    for info, shape in zip(model.graph.input, ((2, 3, 5, 7), (2, 4, 6, 2)), strict=True):
        for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    (found,) = infer(model, None).graph.output
    assert [dim.dim_value for dim in found.type.tensor_type.shape.dim] == [2, 3, 4, 6]


def test_a_mode_that_it_does_not_have_is_refused() -> None:
    inputs = {"input": np.zeros((1, 1, 2, 2), "f"), "grid": np.zeros((1, 1, 1, 2), "f")}
    model = Model(single("mmcv.grid_sampler", inputs, interpolation_mode=3))
    said = r"m: node 'it' \(mmcv.grid_sampler\): attribute 'interpolation_mode' is 3; it needs 0 or 1 or 2"
    with pytest.raises(ModelError, match=said):
        model.check("m")
