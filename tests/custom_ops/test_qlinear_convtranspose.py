"""QLinearConvTranspose against its definition, written in numpy with whole numbers, product by product."""

from typing import Any

import numpy as np
import pytest

from custom_ops.playing import play
from graphsurgery.errors import ModelError

CASES = 30
TIE = 1e-4  # steps of y: float32 may be this far off, so that either neighbour is right nearer than that to a tie


def scattered(
    image: np.ndarray,
    weight: np.ndarray,
    group: int,
    strides: list[int],
    dilations: list[int],
    pads: list[int],
    more: list[int],
) -> np.ndarray:
    """Return the sums: each element of the image is spread over a window of the output."""
    count, channels, *size = image.shape
    _, per_group, *kernel = weight.shape
    whole = [
        strides[axis] * (size[axis] - 1) + dilations[axis] * (kernel[axis] - 1) + 1 + more[axis] for axis in range(2)
    ]
    result = np.zeros((count, per_group * group, *whole), np.int64)
    inside = channels // group
    for n, c, i, j in np.ndindex(*image.shape):
        first = c // inside * per_group
        for m, u, v in np.ndindex(per_group, *kernel):
            row, column = i * strides[0] + u * dilations[0], j * strides[1] + v * dilations[1]
            result[n, first + m, row, column] += image[n, c, i, j] * weight[c, m, u, v]
    return result[:, :, pads[0] : whole[0] - pads[2], pads[1] : whole[1] - pads[3]]


def drawn(seed: int, kind: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Draw the inputs and the attributes of a node."""
    random = np.random.default_rng(seed)
    info, group = np.iinfo(kind), int(random.integers(1, 3))
    zeros = [random.integers(info.min, info.max, dtype=kind, endpoint=True) for _ in range(3)] if seed % 2 else [0] * 3
    inside, outside = random.integers(1, 4, 2)
    kernel = random.integers(1, 4, 2).tolist()
    dilations, strides = random.integers(1, 3, 2).tolist(), random.integers(1, 4, 2).tolist()
    options = {
        "group": group,
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": [int(random.integers(0, d * (k - 1) + 1)) // 2 for d, k in zip(dilations * 2, kernel * 2, strict=True)],
        "output_padding": [int(random.integers(0, stride)) for stride in strides],
    }
    image = random.integers(info.min, info.max, (2, inside * group, 3, 4), kind, endpoint=True)
    weight = random.integers(info.min, info.max, (inside * group, outside, *kernel), kind, endpoint=True)
    inputs = {
        "x": image,
        "x_scale": np.array(random.uniform(0.01, 0.1), np.float32),
        "x_zero_point": np.array(zeros[0], kind),
        "w": weight,
        "w_scale": np.array(random.uniform(0.001, 0.01), np.float32),
        "w_zero_point": np.array(zeros[1], kind),
        "y_scale": np.array(random.uniform(0.1, 1), np.float32),
        "y_zero_point": np.array(zeros[2], kind),
    }
    if seed % 3:
        inputs["B"] = random.integers(-40_000, 40_000, outside * group).astype(np.int32)
    return inputs, options


def real(inputs: dict[str, np.ndarray], options: dict[str, Any]) -> np.ndarray:
    """Return y before it is rounded and saturated."""
    given = [inputs[name].astype(np.int64) for name in ("x", "x_zero_point", "w", "w_zero_point")]
    total = scattered(
        given[0] - given[1],
        given[2] - given[3],
        options["group"],
        options["strides"],
        options["dilations"],
        options["pads"],
        options["output_padding"],
    )
    if "B" in inputs:
        total = total + inputs["B"].astype(np.int64)[:, None, None]
    factor = np.float64(inputs["x_scale"]) * np.float64(inputs["w_scale"]) / np.float64(inputs["y_scale"])
    return np.asarray(total * factor + int(inputs["y_zero_point"]))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("opset", [10, 11, 17])
def test_computes_what_qlinearconv_does_of_a_conv(opset: int, kind: Any) -> None:
    info = np.iinfo(kind)
    compared = saturated = 0
    for seed in range(CASES):
        inputs, options = drawn(seed * 7 + opset, kind)
        (got,) = play("QLinearConvTranspose", inputs, opset=opset, **options)
        wanted = real(inputs, options)
        assert got.dtype == kind
        assert got.shape == wanted.shape
        limited = np.clip(np.rint(wanted), info.min, info.max)
        tied = np.abs(np.abs(wanted - np.floor(wanted)) - 0.5) < TIE
        off = np.abs(got - limited)
        assert not off[~tied].any()
        assert off.max() <= 1
        compared += int((~tied).sum())
        saturated += int((limited != np.rint(wanted)).sum())
    assert compared > 2000
    assert 0 < saturated < compared / 2


def test_a_tie_goes_to_the_even_number() -> None:
    inputs = {
        "x": np.array([1, 3, 5, -1, -3], np.int8).reshape(1, 1, 1, 5),
        "x_scale": np.array(1, np.float32),
        "x_zero_point": np.array(0, np.int8),
        "w": np.ones((1, 1, 1, 1), np.int8),
        "w_scale": np.array(0.5, np.float32),
        "w_zero_point": np.array(0, np.int8),
        "y_scale": np.array(1, np.float32),
        "y_zero_point": np.array(0, np.int8),
    }
    (got,) = play("QLinearConvTranspose", inputs)
    assert got.ravel().tolist() == [0, 2, 2, 0, -2]


def test_an_output_shape_and_automatic_padding_are_those_of_convtranspose() -> None:
    inputs, _ = drawn(2, np.int8)
    options = {"group": 1, "strides": [2, 2], "dilations": [1, 1], "output_padding": [0, 0]}
    kernel = list(inputs["w"].shape[2:])
    (got,) = play("QLinearConvTranspose", inputs, auto_pad="VALID", strides=[2, 2], group=drawn(2, np.int8)[1]["group"])
    wanted = real(inputs, options | {"pads": [0] * 4, "group": drawn(2, np.int8)[1]["group"]})
    assert (
        got.shape == wanted.shape == (*got.shape[:2], *(2 * (n - 1) + k for n, k in zip((3, 4), kernel, strict=True)))
    )
    assert np.abs(got - np.clip(np.rint(wanted), -128, 127)).max() <= 1


def test_an_attribute_that_convtranspose_has_not_is_refused() -> None:
    inputs, _ = drawn(2, np.int8)
    with pytest.raises(ModelError, match=r"\(QLinearConvTranspose\): attribute 'stride' is not known. Did you mean"):
        play("QLinearConvTranspose", inputs, stride=[2, 2])
