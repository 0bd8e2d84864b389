"""MMCVRoiAlign against mmcv's kernel, written in numpy region by region."""

from __future__ import annotations

import numpy as np
import pytest

from custom_ops.playing import play, single
from custom_ops.roi_reference import bin_averages, pyramid, regions
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model


def reference(
    features: np.ndarray, rois: np.ndarray, bins: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> np.ndarray:
    result = np.zeros((len(rois), features.shape[1], *bins))
    for number, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (np.float32(side) * np.float32(scale) - np.float32(0.5 * aligned) for side in box)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, np.float32(1)), max(width, np.float32(1))
        result[number] = bin_averages(features[int(image)], x1, y1, height, width, bins, ratio)
    return result


@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 16])
def test_aligns_as_mmcv_does(opset: int, aligned: int, ratio: int) -> None:
    features, rois = pyramid(channels=2)[0], regions(240, seed=ratio)
    options = {"output_height": 3, "output_width": 2, "spatial_scale": 0.25, "sampling_ratio": ratio}
    (got,) = play(
        "mmcv.MMCVRoiAlign", {"x": features, "rois": rois}, opset=opset, aligned=aligned, mode="avg", **options
    )
    wanted = reference(features, rois, (3, 2), 0.25, ratio, bool(aligned))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("opset", [11, 16])
def test_no_regions_give_no_rows(opset: int) -> None:
    inputs = {"x": pyramid(channels=2)[0], "rois": np.zeros((0, 5), np.float32)}
    (got,) = play("mmcv.MMCVRoiAlign", inputs, opset=opset, output_height=7, output_width=7, aligned=1)
    assert got.shape == (0, 2, 7, 7)


def test_half_floats_stay_half_floats() -> None:
    features, rois = pyramid(channels=2)[0].astype(np.float16), regions(20, seed=3).astype(np.float16)
    (got,) = play("mmcv.MMCVRoiAlign", {"x": features, "rois": rois}, output_height=2, output_width=2, aligned=0)
    wanted = reference(features.astype(np.float64), rois.astype(np.float64), (2, 2), 1.0, 0, False)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, wanted, atol=5e-3)


def test_a_maximum_is_refused() -> None:
    inputs = {"x": pyramid(channels=2)[0], "rois": regions(2, seed=0)}
    model = Model(single("mmcv.MMCVRoiAlign", inputs, output_height=2, output_width=2, mode="max"))
    with pytest.raises(ModelError, match="attribute 'mode' is 'max'; it needs 'avg'"):
        model.check("m")
