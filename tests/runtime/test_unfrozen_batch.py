"""A frozen batch that is opened for the CPU, and those that must stay frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsurgery.devices.session import Session
from graphsurgery.graph.model import Model
from graphsurgery.parts.describe import describe_part
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.player import PartPlayer
from graphsurgery.runtime.unfrozen_batch import with_open_batch
from runtime.test_detector import HEAD, change_manifest, part, rows, write_detector

ROWWISE = f"""
    {HEAD}
    g (float[3, 2] a) => (float[3, 1] b, float[3, 2] c) {{
        weight = Constant <value = float[2, 1] {{1.0, -2.0}}> ()
        b = MatMul (a, weight)
        c = Relu (a)
    }}"""
FLATTENED = f"""
    {HEAD}
    g (float[3, 2, 1, 1] a) => (float[3, 2] b) {{
        shape = Constant <value_ints = [0, 2]> ()
        x = Reshape (a, shape)
        b = Relu (x)
    }}"""
SIZE_INSIDE = FLATTENED.replace("[0, 2]", "[3, 2]")
SIZE_GUESSED = FLATTENED.replace("[0, 2]", "[-1, 2]")
UNKNOWN = """
    <ir_version: 8, opset_import: ["": 17, "com.example": 1]>
    g (float[3, 2] a) => (float[3, 2] b) { b = com.example.Row (a) }"""


def opened(text: str, size: int = 3) -> PartPlayer | None:
    one = part("head", text, batch={"size": size})
    entry = describe_part(one)
    model = with_open_batch(one.model.proto, entry)
    if model is None:
        return None
    player = PartPlayer.open(model, entry, optimise=True)
    player.size = None
    return player


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_any_number_of_rows_goes_through_an_opened_batch_at_once(count: int) -> None:
    player = opened(ROWWISE)
    assert player is not None
    got = player.play({"a": rows(count)})
    np.testing.assert_allclose(got["b"], rows(count) @ np.array([[1], [-2]], np.float32), rtol=1e-5)
    np.testing.assert_array_equal(got["c"], np.maximum(rows(count), 0))
    assert {name: value.shape for name, value in got.items()} == {"b": (count, 1), "c": (count, 2)}


def test_many_rows_go_through_in_slices_and_the_last_is_not_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.runtime.player._AT_ONCE", 4)
    player = opened(ROWWISE)
    assert player is not None
    session, seen = player.session, []

    def run(inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        seen.append(len(inputs["a"]))
        return Session.run(session, inputs, outputs)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "run", run)
    got = player.play({"a": rows(10)})
    assert seen == [4, 4, 2]
    np.testing.assert_array_equal(got["c"], np.maximum(rows(10), 0))


def test_a_shape_that_takes_over_the_rows_can_be_opened() -> None:
    player = opened(FLATTENED)
    assert player is not None
    assert player.play({"a": rows(5).reshape(5, 2, 1, 1)})["b"].shape == (5, 2)


@pytest.mark.parametrize("text", [SIZE_INSIDE, SIZE_GUESSED, UNKNOWN])
def test_a_batch_stays_frozen_unless_the_rows_are_found_again_in_every_output(text: str) -> None:
    assert opened(text) is None


def test_a_batch_of_another_size_than_the_manifest_says_stays_frozen() -> None:
    assert opened(ROWWISE, size=4) is None


def test_a_parameter_of_an_opened_batch_stays_as_it_is() -> None:
    text = f"{HEAD} g (float[3, 2] a, float[2, 4] p) => (float[3, 4] b) {{ b = MatMul (a, p) }}"
    one = part("head", text, batch={"size": 3, "parameters": ["p"]})
    entry = describe_part(one)
    model = with_open_batch(one.model.proto, entry)
    assert model is not None
    player = PartPlayer.open(model, entry, optimise=True)
    player.size = None
    p = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(player.play({"a": rows(5), "p": p})["b"], rows(5) @ p, rtol=1e-5, atol=1e-6)


def test_an_output_without_rows_keeps_a_batch_frozen() -> None:
    entry = describe_part(part("head", ROWWISE, batch={"size": 3}))
    assert entry.batch is not None
    entry = entry.model_copy(update={"batch": entry.batch.model_copy(update={"outputs": ["b"]})})
    assert with_open_batch(part("head", ROWWISE).model.proto, entry) is None


def test_what_is_opened_is_a_copy() -> None:
    one = part("head", ROWWISE, batch={"size": 3})
    before = one.model.proto.SerializeToString()
    assert with_open_batch(one.model.proto, describe_part(one)) is not None
    assert one.model.proto.SerializeToString() == before


def test_a_part_without_a_frozen_batch_is_left_alone() -> None:
    one = part("head", ROWWISE)
    assert with_open_batch(one.model.proto, describe_part(one)) is None


def test_weights_in_another_file_keep_a_batch_frozen(tmp_path: Path) -> None:
    one = part("head", ROWWISE, batch={"size": 3})
    tensor = one.model.proto.graph.initializer.add(name="w", data_type=1, dims=[1])
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="w.bin")
    assert with_open_batch(Model(one.model.proto, tmp_path).proto, describe_part(one)) is None


def test_a_detector_on_the_cpu_opens_what_it_can(tmp_path: Path) -> None:
    write_detector(tmp_path)
    frozen = [player.size for player in Detector.load(tmp_path).chain.players]
    assert frozen == [None, None, 5, None]  # a Reshape in the heads holds the number of rows

    one = part("heads", ROWWISE.replace("[3,", "[5,"), "npu", batch={"size": 5})
    one.model.save(tmp_path / "heads.onnx")
    described = describe_part(one).model_dump(mode="json")
    change_manifest(tmp_path, lambda content: content.update(parts=[described], input="a", outputs=["b"], masks=None))
    (player,) = Detector.load(tmp_path).chain.players
    assert player.size is None
    assert player.play({"a": rows(12)})["b"].shape == (12, 1)
