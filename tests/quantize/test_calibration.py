"""Feeds: captured samples as inputs of the model that is quantized."""

import gc
import json
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from graphsurgery.errors import CaptureError, ModelError
from graphsurgery.quantize.calibration import Feeds
from graphsurgery.rewrite import BATCH_NOTE
from graphsurgery.testing import parse

FIXED = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 2] x, float[1, 3] z) => (float[1, 2] y) {
        y = Relu (x)
    }"""
ROWS = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[4, 2] x) => (float[4, 2] y) {
        y = Relu (x)
    }"""


class Captured:
    """A sample that remembers which of the arrays it gave out are still held by somebody."""

    def __init__(self, id_: str, **tensors: np.ndarray) -> None:
        self.id = id_
        self.tensors = tensors
        self.given: list[weakref.ref[np.ndarray]] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def load(self, name: str) -> np.ndarray:
        array = self.tensors[name].copy()
        self.given.append(weakref.ref(array))
        return array

    @property
    def held(self) -> int:
        return sum(reference() is not None for reference in self.given)


def floats(*shape: int, start: float = 1.0) -> np.ndarray:
    return (np.arange(int(np.prod(shape)), dtype=np.float32) + start).reshape(shape)


def sample(id_: str = "7") -> Captured:
    return Captured(id_, x=floats(1, 2), z=floats(1, 3), other=floats(5))


def rows_model(size: int = 4, text: str = ROWS, **note: object):
    model = parse(text)
    entry = model.metadata_props.add()
    entry.key, entry.value = BATCH_NOTE, json.dumps({"size": size, **note})
    return model


def refusal(model: object, samples: Sequence[Captured]) -> str:
    with pytest.raises(CaptureError) as caught:
        Feeds(model, samples)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- one run after another ----------------------------------------------------------------------------------------


def test_each_sample_gives_a_run_with_the_inputs_of_the_model_only() -> None:
    feeds = Feeds(parse(FIXED), [sample("1"), sample("2")])
    assert list(feeds.inputs) == ["x", "z"]
    assert len(feeds) == 2
    runs = list(feeds)
    assert [set(run) for run in runs] == [{"x", "z"}] * 2
    np.testing.assert_array_equal(runs[1]["z"], floats(1, 3))


def test_iterating_again_begins_again() -> None:
    feeds = Feeds(parse(FIXED), [sample("1"), sample("2")])
    assert len(list(feeds)) == len(list(feeds)) == 2


def test_a_limit_takes_the_first_samples_and_looks_at_no_other() -> None:
    samples = [sample(str(number)) for number in range(5)]
    feeds = Feeds(parse(FIXED), samples, limit=2)
    assert len(list(feeds)) == 2
    assert [bool(each.given) for each in samples] == [True, True, False, False, False]


def test_no_more_than_one_sample_is_in_memory() -> None:
    samples = [sample(str(number)) for number in range(20)]
    feeds = Feeds(parse(FIXED), samples)
    gc.collect()
    assert sum(each.held for each in samples) == 0
    seen: Iterator[object] = iter(feeds)
    for _ in range(20):
        run = next(seen)
        held = [each.id for each in samples if each.held]
        assert len(held) == 1, held
        del run


def test_an_initializer_that_is_an_input_too_need_not_be_captured() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2] x, float[1] w) => (float[1, 2] y) <float[1] w = {2}> {
            y = Mul (x, w)
        }"""
    assert list(Feeds(parse(text), [sample()]).inputs) == ["x"]


def test_an_open_dimension_takes_any_size() -> None:
    text = ROWS.replace("4, 2", "N, 2")
    assert len(Feeds(parse(text), [Captured("1", x=floats(3, 2)), Captured("2", x=floats(5, 2))])) == 2


# --- a frozen batch -----------------------------------------------------------------------------------------------


def test_rows_are_taken_in_slices_as_the_runtime_takes_them() -> None:
    feeds = Feeds(rows_model(), [Captured("1", x=floats(10, 2))])
    runs = list(feeds.runs())
    assert [run.rows for run in runs] == [4, 4, 2]
    assert len(feeds) == 3
    seen = np.concatenate([run.inputs["x"][: run.rows] for run in runs])
    np.testing.assert_array_equal(seen, floats(10, 2))
    assert all(run.inputs["x"].shape == (4, 2) for run in runs)


def test_what_is_missing_is_filled_with_real_rows_and_not_with_zeros() -> None:
    (run,) = Feeds(rows_model(size=8, text=ROWS.replace("4, 2", "8, 2")), [Captured("1", x=floats(3, 2))]).runs()
    assert run.rows == 3
    data = floats(3, 2)
    np.testing.assert_array_equal(run.inputs["x"], np.concatenate([data, data, data])[:8])


def test_a_sample_without_rows_gives_no_run() -> None:
    feeds = Feeds(rows_model(), [Captured("1", x=floats(0, 2)), Captured("2", x=floats(2, 2))])
    assert len(feeds) == len(list(feeds)) == 1


def test_samples_without_any_row_are_refused() -> None:
    message = refusal(rows_model(), [Captured("1", x=floats(0, 2)), Captured("2", x=floats(0, 2))])
    assert "no captured sample has a row of x" in message
    assert "capture images with objects" in message


def test_inputs_with_differently_many_rows_are_refused() -> None:
    text = ROWS.replace("float[4, 2] x)", "float[4, 2] x, float[4, 1] z)")
    message = refusal(rows_model(text=text), [Captured("1", x=floats(3, 2), z=floats(2, 1))])
    assert "sample 1" in message
    assert "x 3, z 2" in message


def test_a_parameter_is_given_whole_to_each_run() -> None:
    text = ROWS.replace("float[4, 2] x)", "float[4, 2] x, float[3, 1] z)")
    model = rows_model(text=text, parameters=["z"])
    runs = list(Feeds(model, [Captured("1", x=floats(6, 2), z=floats(3, 1))]).runs())
    assert [(run.rows, run.inputs["x"].shape) for run in runs] == [(4, (4, 2)), (2, (4, 2))]
    for run in runs:
        np.testing.assert_array_equal(run.inputs["z"], floats(3, 1))
    message = refusal(model, [Captured("1", x=floats(6, 2), z=floats(4, 1))])
    assert "'z' has shape [4, 1], but the model takes [3, 1]" in message
    message = refusal(model, [Captured("1", x=floats(0, 2), z=floats(3, 1))])
    assert "no captured sample has a row of x:" in message


# --- what does not fit --------------------------------------------------------------------------------------------


def test_no_samples_are_refused() -> None:
    assert "no captured sample" in refusal(parse(FIXED), [])


def test_an_input_that_was_not_captured_is_named_and_part_passes_proposed() -> None:
    message = refusal(parse(FIXED), [Captured("7", x=floats(1, 2))])
    assert "sample 7: 'z'" in message
    assert "part_passes" in message
    assert "capture again" in message


@pytest.mark.parametrize(("shape", "seen"), [((1, 4), "[1, 4]"), ((2,), "[2]"), ((2, 2), "[2, 2]")])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...], seen: str) -> None:
    message = refusal(parse(FIXED), [sample("1"), Captured("2", x=floats(*shape), z=floats(1, 3))])
    assert f"sample 2: 'x' has shape {seen}, but the model takes [1, 2]" in message


def test_a_wrong_shape_behind_the_rows_is_refused() -> None:
    assert "takes [?, 2]" in refusal(rows_model(), [Captured("1", x=floats(3, 5))])
    assert "takes [?, 2]" in refusal(rows_model(), [Captured("1", x=np.array(3, np.float32))])


def test_a_wrong_dtype_is_refused() -> None:
    message = refusal(parse(FIXED), [Captured("1", x=floats(1, 2).astype(np.float64), z=floats(1, 3))])
    assert "'x' is float64, but the model takes float32" in message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_without_a_range_are_refused(bad: float) -> None:
    broken = floats(1, 2)
    broken[0, 1] = bad
    assert "sample 2: 'x' holds NaN or Inf" in refusal(
        parse(FIXED), [sample("1"), Captured("2", x=broken, z=floats(1, 3))]
    )


def test_a_model_without_inputs_is_refused() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g () => (float[1] y) {
            y = Constant <value = float[1] {1}> ()
        }"""
    with pytest.raises(ModelError, match="no inputs"):
        Feeds(parse(text), [sample()])
