"""The command inspect: where a file can be cut, and which of its tensors join ranges too far apart."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from conftest import Cli
from partition.cutting import HEAD, with_weights
from partition.networks import DETR, DETR_WEIGHTS, RT_DETR, RT_DETR_WEIGHTS, YOLO, YOLO_PLAIN_WEIGHTS

from graphsurgery.testing import parse


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    networks = {
        "yolo": (YOLO, YOLO_PLAIN_WEIGHTS),
        "detr": (DETR, DETR_WEIGHTS),
        "rt_detr": (RT_DETR, RT_DETR_WEIGHTS),
    }
    for name, (text, weights) in networks.items():
        onnx.save(with_weights(text, weights).proto, f"{name}.onnx")


@pytest.mark.usefixtures("files")
def test_cuts_are_shown_in_80_columns_as_a_recipe_writes_them(cli: Cli) -> None:
    outcome = cli("inspect", "--cuts", "detr.onnx")
    assert outcome.code == 0, outcome.err
    assert "partition: {at: detections}" in outcome.out
    assert "partition: {at: {tensors: ['memory']}}" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert "host 1 0 48 B 1" in " ".join(outcome.out.split())
    assert cli("inspect", "detr.onnx").out in outcome.out


@pytest.mark.usefixtures("files")
def test_cuts_are_in_the_json_too(cli: Cli) -> None:
    outcome = cli("inspect", "--cuts", "detr.onnx", "--json", "-")
    assert outcome.code == 0, outcome.err
    cuts = json.loads(outcome.out)["detr.onnx"]["cuts"]["candidates"]
    by_tensor = next(each for each in cuts if each["at"] == {"tensors": ["memory"]})
    assert by_tensor["needs"] == []
    assert [part["accelerator"] for part in by_tensor["parts"]] == [True, True, False]
    assert by_tensor["parts"][1]["reads"] == ["memory"]
    assert by_tensor["parts"][1]["bytes_read"] == 16 * 4 * 4
    assert by_tensor["bytes_crossing"] == sum(part["bytes_read"] for part in by_tensor["parts"])
    assert "cuts" not in json.loads(cli("inspect", "detr.onnx", "--json", "-").out)["detr.onnx"]


@pytest.mark.usefixtures("files")
def test_a_target_shows_where_it_cuts(cli: Cli) -> None:
    outcome = cli("inspect", "--cuts", "--target", "generic-cnn", "rt_detr.onnx", "--json", "x.json")
    assert outcome.code == 0, outcome.err
    assert "partition: {by: target}\n" in outcome.out
    found = json.loads(Path("x.json").read_text("utf-8"))["rt_detr.onnx"]["cuts"]["candidates"]
    assert found[0]["at"] is None
    assert sum(part["accelerator"] for part in found[0]["parts"]) == 3  # Tile, and what selects queries, stand between
    assert found[1]["at"] is not None
    outcome = cli("inspect", "--target", "generic-cnn", "rt_detr.onnx")
    assert outcome.code == 2
    assert "--target goes with --cuts" in outcome.last_line
    assert cli("inspect", "--cuts", "--target", "generic", "rt_detr.onnx").code == 2


@pytest.mark.usefixtures("files")
def test_what_stands_between_weights_comes_with_the_passes_that_look_at_it(cli: Cli) -> None:
    outcome = cli("inspect", "--cuts", "rt_detr.onnx")
    assert "between the weights then stand Gather, GatherElements, Tile, TopK: " in outcome.out
    assert "passes that look at Gather: lower-column-gather, lower-gather; " in outcome.out
    assert "passes that look at Tile: lower-tile" in outcome.out


@pytest.mark.usefixtures("files")
def test_a_file_that_can_not_be_cut_is_inspected_all_the_same(cli: Cli) -> None:
    onnx.save(parse(f"{HEAD} g (float[2, 2] x) => (float[2, 2] y) {{ y = Relu (x) }}"), "plain.onnx")
    outcome = cli("inspect", "--cuts", "plain.onnx", "--json", "x.json")
    assert outcome.code == 0
    assert "cuts: none; graph 'g': no Conv, ConvTranspose, Gemm or MatMul with constant weights" in outcome.out
    found = json.loads(Path("x.json").read_text("utf-8"))["plain.onnx"]["cuts"]
    assert found["candidates"] == []
    assert found["reason"].startswith("graph 'g': no Conv")


@pytest.mark.usefixtures("files")
def test_a_long_path_stays_in_one_line(cli: Cli) -> None:
    folder = Path("a" * 60)
    folder.mkdir()
    Path("detr.onnx").rename(folder / "detr.onnx")
    assert f"{folder / 'detr.onnx'}: 27 nodes, opset 17" in cli("inspect", folder / "detr.onnx").out


@pytest.mark.usefixtures("files")
def test_a_tensor_that_joins_ranges_too_far_apart_is_a_warning(cli: Cli) -> None:
    outcome = cli("inspect", "yolo.onnx", "--json", "x.json")
    assert outcome.code == 0
    assert "warning: 'out' joins boxes (of unknown range) and scores (0 to 1); " in outcome.err
    (joined,) = json.loads(Path("x.json").read_text("utf-8"))["yolo.onnx"]["joined"]
    assert (joined["tensor"], joined["cut"]) == ("out", ["boxes", "scores"])
    assert joined["ranges"] == {"boxes": None, "scores": [0, 1]}
    assert "warning" not in cli("inspect", "detr.onnx").err
