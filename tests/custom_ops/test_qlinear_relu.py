"""QLinearRelu against max(0, q)."""

import numpy as np
import pytest

from custom_ops.playing import play
from graphsurgery.errors import ModelError


@pytest.mark.parametrize("opset", [10, 13, 17])
def test_what_is_below_zero_becomes_zero(opset: int) -> None:
    numbers = np.random.default_rng(opset).permutation(np.arange(-128, 128).repeat(8)).reshape(2, 4, 16, 16)
    (got,) = play("QLinearRelu", {"x": numbers.astype(np.int8)}, opset=opset)
    assert got.dtype == np.int8
    assert got.tolist() == [[[[max(0, n) for n in row] for row in plane] for plane in image] for image in numbers]


def test_no_numbers_stay_none() -> None:
    (got,) = play("QLinearRelu", {"x": np.zeros((0, 3), np.int8)})
    assert got.shape == (0, 3)


def test_numbers_with_a_zero_point_are_refused() -> None:
    with pytest.raises(ModelError, match=r"node 'it' \(QLinearRelu\): input 'x' is uint8; it takes int8"):
        play("QLinearRelu", {"x": np.zeros((1, 3), np.uint8)})
