"""MMCVMultiLevelRoiAlign against mmdeploy's definition, written in numpy region by region."""

from __future__ import annotations

import math

import numpy as np
import pytest

from custom_ops.playing import play, single
from custom_ops.roi_reference import bin_averages, pyramid, regions
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model

STRIDES = (4.0, 8.0, 16.0, 32.0)


def reference(features: list[np.ndarray], rois: np.ndarray, factor: float, ratio: int, aligned: bool) -> np.ndarray:
    result = np.zeros((len(rois), features[0].shape[1], 2, 2))
    for number, (image, x1, y1, x2, y2) in enumerate(rois):
        size = math.sqrt(max(0.0, (x2 - x1) * (y2 - y1)))
        level = min(max(math.floor(math.log2(size / 56 + 1e-6)), 0), len(features) - 1)
        if factor > 0:
            middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
            half_x, half_y = (x2 - x1 + 1) * factor / 2 - 0.5, (y2 - y1 + 1) * factor / 2 - 0.5
            x1, x2, y1, y2 = middle_x - half_x, middle_x + half_x, middle_y - half_y, middle_y + half_y
        left, top, right, bottom = (side / STRIDES[level] - 0.5 * aligned for side in (x1, y1, x2, y2))
        least = 0.0 if aligned else 1.0
        height, width = max(bottom - top, least), max(right - left, least)
        result[number] = bin_averages(features[level][int(image)], left, top, height, width, (2, 2), ratio)
    return result


@pytest.mark.parametrize(("ratio", "factor"), [(0, -1.0), (2, -1.0), (0, 1.0), (2, 1.25)])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("opset", [11, 16])
def test_aligns_as_mmdeploy_does(opset: int, aligned: int, ratio: int, factor: float) -> None:
    levels, rois = pyramid(channels=2), regions(140, seed=10 + ratio)
    inputs = {"rois": rois} | {f"p{number}": level for number, level in enumerate(levels)}
    options = {"output_height": 2, "output_width": 2, "featmap_strides": STRIDES, "finest_scale": 56, "pool_mode": 1}
    options |= {"aligned": aligned, "sampling_ratio": ratio, "roi_scale_factor": factor}
    (got,) = play("mmdeploy.MMCVMultiLevelRoiAlign", inputs, opset=opset, **options)
    np.testing.assert_allclose(got, reference(levels, rois, factor, ratio, bool(aligned)), atol=1e-4)


def test_a_level_without_a_stride_is_refused() -> None:
    inputs = {"rois": regions(1, seed=0), "p0": pyramid(channels=1)[0]}
    options = {"output_height": 2, "output_width": 2, "featmap_strides": STRIDES}
    with pytest.raises(ModelError, match="it has 1 feature maps and 4 featmap_strides"):
        Model(single("mmdeploy.MMCVMultiLevelRoiAlign", inputs, **options)).check("m")
