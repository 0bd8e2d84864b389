"""Tensors that share their rows with detections are found by the captured samples, and kept in the captured order."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Applied, Cli
from numpy.typing import NDArray

from gate.usual_rows import compare
from graphsurgery.capture.samples import Sample
from graphsurgery.gate import row_members
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison
from graphsurgery.sources.row_groups import DETECTIONS, ROW_GROUPS

Array = NDArray[Any]
ORDER = np.array([1, 0, 3, 2])


def sample(folder: Path, rows: int, **more: Array) -> Sample:
    """Write a captured sample with so many detections."""
    corner = np.arange(rows, dtype=np.float32)[:, None] * 50
    boxes = np.concatenate([corner, corner, corner + 40, corner + 40], axis=1)
    tensors = {
        "boxes": boxes,
        "labels": np.ones(rows, np.int64),
        "scores": np.linspace(0.9, 0.4, rows, dtype=np.float32),
        "features": np.zeros((1, 8, 4, 4), np.float32),
        **more,
    }
    folder.mkdir()
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor)
    return Sample(folder.name, folder, None, 10, 10)


def two(folder: Path) -> list[Sample]:
    return [
        sample(folder / "1", 4, codes=np.arange(8, dtype=np.float32).reshape(4, 2), table=np.zeros((4, 3))),
        sample(folder / "2", 0, codes=np.zeros((0, 2), np.float32), table=np.zeros((4, 3))),
    ]


def computed(one: Sample, order: Array) -> dict[str, Array]:
    return {name: one.load(name)[order] for name in ("boxes", "labels", "scores")}


def judged(one: Sample, got: Mapping[str, Array], samples: list[Sample]) -> Comparison:
    groups = row_members.found_in(samples, list(got), ROW_GROUPS)
    return compare({name: one.load(name) for name in got}, got, Tolerances(), groups)


def test_what_has_a_row_for_each_box_on_every_sample_belongs_to_them(tmp_path: Path) -> None:
    found = row_members.found_in(two(tmp_path), ["boxes", "codes", "table", "features", "gone"], ROW_GROUPS)
    assert found[0].members == (*DETECTIONS.members, "codes")
    assert found[1:] == ROW_GROUPS[1:]


def test_one_row_or_none_proves_nothing(tmp_path: Path) -> None:
    one = [sample(tmp_path / "1", 1), sample(tmp_path / "2", 1)]
    assert row_members.found_in(one, ["features"], ROW_GROUPS) == ROW_GROUPS


def test_rows_of_two_kinds_that_are_as_many_are_nobodys(tmp_path: Path) -> None:
    boxes = np.zeros((4, 4), np.float32)
    samples = [sample(tmp_path / "1", 4, codes=np.zeros((4, 2)), proposals=boxes)]
    assert row_members.found_in(samples, ["codes"], ROW_GROUPS) == ROW_GROUPS


def test_a_tensor_of_any_name_is_paired_with_the_detections(tmp_path: Path) -> None:
    samples = two(tmp_path)
    moved = {**computed(samples[0], ORDER), "codes": samples[0].load("codes")[ORDER]}
    assert judged(samples[0], moved, samples).verdict == "passed"


@pytest.mark.parametrize("stays", ["codes", "boxes"])
def test_rows_that_part_from_their_detections_are_seen(tmp_path: Path, stays: str) -> None:
    samples = two(tmp_path)
    got = {**computed(samples[0], ORDER), "codes": samples[0].load("codes")[ORDER]}
    if stays == "codes":
        got["codes"] = samples[0].load("codes")
    else:
        got |= computed(samples[0], np.arange(4))
    assert [report.name for report in judged(samples[0], got, samples).tensors if report.verdict == "failed"] == [
        "codes"
    ]


def test_what_a_graph_gives_a_name_to_is_kept_in_the_captured_order(tmp_path: Path) -> None:
    samples = two(tmp_path)
    inner = np.arange(12, dtype=np.float32).reshape(4, 3)
    values = [{"/Slice_12": inner[ORDER], "/Conv": np.ones((1, 4))}, {"/Slice_12": inner[:0], "/Conv": np.ones((1, 4))}]
    beside = [computed(samples[0], ORDER), computed(samples[1], np.arange(0))]
    row_members.remember(values, samples, ROW_GROUPS, beside)
    np.testing.assert_array_equal(samples[0].load("/Slice_12"), inner)
    np.testing.assert_array_equal(samples[0].load("/Conv"), np.ones((1, 4)))
    assert set(samples[0].computed) == {"/Slice_12", "/Conv"}, "what was captured stays as it is"

    got = {**computed(samples[0], ORDER[::-1]), "/Slice_12": inner[ORDER[::-1]]}
    assert judged(samples[0], got, samples).verdict == "passed"
    assert judged(samples[0], {**got, "/Slice_12": inner[ORDER]}, samples).verdict == "failed"


def test_a_row_without_partner_does_not_shift_the_others(tmp_path: Path) -> None:
    samples = two(tmp_path)
    got = computed(samples[0], ORDER)
    got["boxes"][0] += 1000
    inner = np.arange(4, dtype=np.float32)
    row_members.remember(
        [{**got, "x": inner[ORDER]}, {**computed(samples[1], np.arange(0)), "x": inner[:0]}], samples, ROW_GROUPS
    )
    np.testing.assert_array_equal(samples[0].load("x"), inner)


def test_shapes_are_read_without_the_values(tmp_path: Path) -> None:
    one = sample(tmp_path / "1", 0)
    assert (one.shape("boxes"), one.shape("features")) == ((0, 4), (1, 8, 4, 4))
    one.remember({"made": np.zeros((2, 3))})
    assert one.shape("made") == (2, 3)


def test_two_detections_that_change_places_leave_the_embedded_detector_as_it_is(
    cli: Cli, shapes: Applied, tmp_path: Path
) -> None:
    model_io = tmp_path / "model_io"
    shutil.copytree(shapes.model_io, model_io)
    rows = len(np.load(model_io / "1" / "boxes.npy"))
    assert rows > 1
    for path in (model_io / "1").iterdir():  # as if torch had put the first two, of one score, the other way round
        tensor = np.load(path)
        if path.stem in (*DETECTIONS.keys, *DETECTIONS.members):
            np.save(path, np.concatenate([tensor[[1, 0]], tensor[2:]]))
    without = ("--set", "evaluate=", "--set", "capture.samples=3", "--no-variants")
    outcome = cli("apply", "shapes", *without, "--out", tmp_path / "parts", "--model-io", model_io)
    assert outcome.code == 0, outcome.err
    for part in shapes.folder.glob("*.onnx"):
        assert (tmp_path / "parts" / part.name).read_bytes() == part.read_bytes(), "tensors have other names now"
