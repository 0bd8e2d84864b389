"""RoiExtractor against what CANN says of its kernel, written in numpy region by region."""

from __future__ import annotations

import numpy as np
import pytest

from custom_ops.playing import play, single
from custom_ops.roi_reference import bin_averages, pyramid, regions
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def level_of(width: float, height: float, finest: int, levels: int) -> int:
    """A tie goes down: the size is 2 * finest at most on the first level, 4 * finest on the second."""
    size = np.float16(np.sqrt(np.float32(width) * np.float32(height)))
    return next((level for level in range(levels - 1) if size <= 2 ** (level + 1) * finest), levels - 1)


def reference(features: list[np.ndarray], rois: np.ndarray, finest: int, samples: int, aligned: bool) -> np.ndarray:
    result = np.zeros((len(rois), features[0].shape[1], 3, 3))
    for number, (image, x1, y1, x2, y2) in enumerate(rois):
        level = level_of(x2 - x1, y2 - y1, finest, len(features))
        left, top, right, bottom = (
            np.float32(side) * np.float32(SCALES[level]) - np.float32(0.5 * aligned) for side in (x1, y1, x2, y2)
        )
        height, width = max(bottom - top, np.float32(1)), max(right - left, np.float32(1))
        result[number] = bin_averages(features[level][int(image)], left, top, height, width, (3, 3), samples)
    return result


@pytest.mark.parametrize("domain", ["", "mmdeploy."])
@pytest.mark.parametrize(("samples", "finest"), [(0, 56), (2, 28)])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("opset", [11, 17])
def test_aligns_as_the_kernel_does(opset: int, aligned: int, samples: int, finest: int, domain: str) -> None:
    levels, rois = pyramid(channels=2), regions(125, seed=20 + samples)
    inputs = {f"p{number}": level for number, level in enumerate(levels)} | {"rois": rois}
    options = {"pooled_height": 3, "pooled_width": 3, "spatial_scale": SCALES, "pool_mode": "avg"}
    options |= {"aligned": aligned, "sample_num": samples, "finest_scale": finest, "roi_scale_factor": 0}
    (got,) = play(f"{domain}RoiExtractor", inputs, opset=opset, **options)
    np.testing.assert_allclose(got, reference(levels, rois, finest, samples, bool(aligned)), atol=1e-4)


def test_a_tie_of_two_levels_goes_down() -> None:
    levels = [np.full((1, 1, 64, 64), number, np.float32) for number in range(4)]
    sides = [0, 112, 113, 224, 225, 448, 449]
    rois = np.array([(0, 0, 0, side, side) for side in sides], np.float32)
    inputs = {f"p{number}": level for number, level in enumerate(levels)} | {"rois": rois}
    (got,) = play("RoiExtractor", inputs)
    assert got[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3]


def test_regions_of_four_columns_are_of_the_first_image() -> None:
    levels, rois = pyramid(channels=1), regions(30, seed=4)
    rois[:, 0] = 0
    features = {f"p{number}": level for number, level in enumerate(levels)}
    (five,) = play("RoiExtractor", features | {"rois": rois})
    (four,) = play("RoiExtractor", features | {"rois": np.ascontiguousarray(rois[:, 1:])})
    np.testing.assert_array_equal(four, five)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"pooled_height": 7, "pooled_width": 14},
            "'pooled_height' and 'pooled_width' are 7 and 14; the kernel has squ",
        ),
        ({"spatial_scale": [0.25]}, "it has 4 feature maps and 1 spatial_scale"),
        ({"pool_mode": "max"}, "attribute 'pool_mode' is 'max'; it needs 'avg'"),
    ],
)
def test_what_the_kernel_does_not_have_is_refused(options: dict[str, object], said: str) -> None:
    inputs = {f"p{number}": level for number, level in enumerate(pyramid(channels=1))} | {"rois": regions(1, seed=0)}
    with pytest.raises(ModelError, match=said):
        Model(single("RoiExtractor", inputs, **options)).check("m")
