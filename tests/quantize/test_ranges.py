"""What tensors hold over the calibration, as ranges."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from graphsurgery.quantize.ranges import Range, ranges
from graphsurgery.testing import parse

RELU = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[N] y) {
        y = Relu (x)
    }"""


class Feeds(list[Mapping[str, np.ndarray]]):
    inputs: Sequence[str] = ("x",)


def found(feeds: Sequence[np.ndarray], method: str = "minmax", text: str = RELU) -> dict[str, Range]:
    model = onnx.shape_inference.infer_shapes(parse(text))
    steps: list[tuple[int, int]] = []
    result = ranges(model, Feeds({"x": feed} for feed in feeds), method, lambda *step: steps.append(step))  # type: ignore[arg-type]
    total = len(feeds) * (1 if method == "minmax" else 2)
    assert steps == [(done, total) for done in range(1, total + 1)]
    return result


def normal(seed: int, count: int = 20000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def test_minmax_spans_all_runs() -> None:
    feeds = [np.array(values, np.float32) for values in ([-1, 2], [-5, 1], [0, 4])]
    assert found(feeds) == {"x": Range(-5, 4), "y": Range(0, 4)}


def test_a_tensor_without_elements_tells_nothing() -> None:
    assert found([np.zeros(0, np.float32)]) == {"x": Range(0, 0), "y": Range(0, 0)}
    assert found([np.zeros(0, np.float32), np.array([3], np.float32)])["x"] == Range(3, 3)


def test_only_float_tensors_outside_bodies_have_ranges() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N] x) => (float[N] y) <float[1] w = {1}> {
            s = Shape (x)
            z = Cast <to = 1> (s)
            c = Less (z, w)
            m = ReduceMax <keepdims = 0> (x)
            d = Greater (m, m)
            y = If (d) <
                then_branch = t () => (float[N] a) { a = Neg (x) },
                else_branch = e () => (float[N] b) { b = Abs (x) }
            >
        }"""
    assert set(found([normal(1)], text=text)) == {"x", "z", "m", "y"}


def test_percentile_leaves_a_single_outlier_out() -> None:
    feeds = [normal(seed, 200000) for seed in (1, 2)]
    feeds[1][7] = 40
    assert found(feeds)["x"].high == 40
    low, high = found(feeds, "percentile")["x"]
    assert 3.5 < high < 6
    assert -6 < low < -3.5


def test_entropy_leaves_outliers_out_and_keeps_what_is_even() -> None:
    feeds = [normal(seed) for seed in (1, 2)]
    feeds[1][7] = 30
    assert 2.5 < found(feeds, "entropy")["x"].high < 10
    even = np.linspace(-1, 1, 50000, dtype=np.float32)
    low, high = found([even], "entropy")["x"]
    assert (low, high) == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_zeros_of_a_relu_do_not_narrow_its_range(method: str) -> None:
    feed = normal(1)
    sparse = np.concatenate([feed, np.full(20 * len(feed), -1, np.float32)])
    assert found([sparse], method)["y"].high == pytest.approx(found([feed], method)["y"].high, rel=0.2)
    assert found([sparse], method)["y"].high > 2


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_a_constant_tensor_keeps_its_value(method: str) -> None:
    assert found([np.full(9, 2, np.float32)], method)["x"] == Range(2, 2)
    assert found([np.zeros(9, np.float32)], method) == {"x": Range(0, 0), "y": Range(0, 0)}


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_what_becomes_infinite_has_no_finite_range(method: str) -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N] x) => (float[N] y) {
            a = Abs (x)
            y = Log (a)
        }"""
    values = found([np.array([0, 1, 2], np.float32)], method, text)
    assert values["y"].low == -np.inf
    assert values["a"].high == pytest.approx(2)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_the_order_of_the_runs_does_not_matter(method: str) -> None:
    feeds = [normal(1), 5 * normal(2), 0.1 * normal(3)]
    assert found(feeds, method) == found(feeds[::-1], method)
