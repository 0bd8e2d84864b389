"""The commands as a user meets them: what they print and write, and how they end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import PARTS, Applied, Cli
from PIL import Image

from graphsurgery.capture.samples import Capture
from graphsurgery.demo.shapes import VAL_SEED, draw, write_dataset
from graphsurgery.rewrite.registry import discover


def recipe_of(detector: Applied) -> Path:
    return detector.folder.parent / "detector.yaml"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(draw(VAL_SEED, 0, size=(300, 400), objects=4).image).save(path)
    return path


# --- run --------------------------------------------------------------------------------------------------------


def test_run_writes_json_and_a_picture_beside_the_image(
    cli: Cli, shapes: Applied, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = picture.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = cli("run", shapes.folder, "--image", picture)
    assert outcome.code == 0, outcome.err
    content = json.loads((picture.parent / "picture.detections.json").read_text(encoding="utf-8"))
    assert content["image"] == str(picture)
    assert content["detections"]
    best = max(content["detections"], key=lambda found: found["score"])
    assert best["score"] > 0.9
    assert {"label", "class", "score", "box", "segmentation"} <= set(best)
    assert set(content["seconds"]) == set(PARTS)
    with Image.open(picture.parent / "picture.detections.png") as drawn, Image.open(picture) as image:
        assert drawn.size == image.size
        assert not np.array_equal(np.array(drawn), np.array(image))
    assert list(elsewhere.iterdir()) == []
    shown = re.search(r"(\d+) detections", outcome.out)
    assert shown is not None
    assert int(shown[1]) == sum(found["score"] >= 0.5 for found in content["detections"])


def test_run_puts_its_files_where_it_is_told(cli: Cli, shapes: Applied, picture: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "drawn.png", tmp_path / "found.json"
    outcome = cli("run", shapes.folder, "--image", picture, "--out", wanted[0], "--json", wanted[1], "--score", 0.9)
    assert outcome.code == 0, outcome.err
    assert all(path.is_file() for path in wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.png", "found.json", "picture.png"]


# --- check, inspect, passes, capture ----------------------------------------------------------------------------


def test_check_compares_parts_with_what_was_captured(cli: Cli, shapes: Applied) -> None:
    loose = ("--tolerance", "boxes=1e-3", "--tolerance", "scores=1e-4", "--tolerance", "masks=1e-3")
    outcome = cli("check", shapes.model_io, shapes.folder, *loose)
    assert outcome.code == 0, outcome.err
    assert "equal:" in outcome.out


def test_check_finds_a_folder_equal_to_itself(cli: Cli, shapes: Applied) -> None:
    outcome = cli("check", shapes.folder, shapes.folder, "--inputs", shapes.model_io)
    assert outcome.code == 0, outcome.err
    assert "equal:" in outcome.out


@pytest.mark.parametrize("reference", ["model_io", "parts"])
def test_check_finds_a_changed_part(cli: Cli, shapes: Applied, tmp_path: Path, reference: str) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(shapes.folder, changed)
    model = onnx.load(changed / "box_head.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.05)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, changed / "box_head.onnx")
    inputs = () if reference == "model_io" else ("--inputs", shapes.model_io)
    outcome = cli("check", shapes.model_io if reference == "model_io" else shapes.folder, changed, *inputs)
    assert outcome.code == 1
    assert outcome.last_line.startswith("different: ")


def test_inspect_shows_every_part_of_a_folder(cli: Cli, shapes: Applied) -> None:
    outcome = cli("inspect", shapes.folder)
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert all(f"{name}.onnx" in "".join(outcome.out.split()) for name in PARTS)
    assert "[1, 3, 256, 320]" in text
    assert "Conv" in text


def test_inspect_shows_a_dimension_that_reads_like_markup(cli: Cli, tmp_path: Path) -> None:
    shape: list[str | int | None] = ["bold", 4]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    outcome = cli("inspect", tmp_path / "m.onnx")
    assert outcome.code == 0, outcome.err
    assert "dynamic: 2: x [bold, 4], y [bold, 4]" in outcome.out


def test_passes_lists_those_that_look_at_an_operator(cli: Cli) -> None:
    listed = cli("passes", "--op", "Resize", "--json", "-")
    assert listed.code == 0
    found = json.loads(listed.out)
    assert {"drop-unity-resize", "lower-nearest-resize"} <= {each["name"] for each in found}
    assert all("Resize" in each["matches"] for each in found)
    assert "Looks at: MaxPool" in cli("passes", "widen-maxpool").out
    wrong = cli("passes", "--op", "Resise")
    assert wrong.code == 2
    assert "Did you mean 'Resize'?" in wrong.err
    assert cli("passes", "widen-maxpool", "--op", "MaxPool").code == 2


def test_passes_lists_them_and_shows_one(cli: Cli) -> None:
    listed = cli("passes")
    assert listed.code == 0
    assert all(name in listed.out for name in discover().names())
    shown = cli("passes", "widen-maxpool")
    assert shown.code == 0
    assert "widen-maxpool (approximate)" in shown.out
    assert "->" in shown.out
    assert "kernel" in shown.out


def test_capture_takes_the_annotated_images_by_ascending_id(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    annotations = write_dataset(tmp_path / "data", 4, VAL_SEED)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    content["images"] = [entry for entry in reversed(content["images"]) if entry["id"] != 2]
    annotations.write_text(json.dumps(content), encoding="utf-8")
    model_io = tmp_path / "model_io"
    outcome = cli(
        *("capture", recipe_of(detector), "--images", tmp_path / "data" / "images", "--annotations", annotations),
        *("--max-samples", 2, "--model-io", model_io),
    )
    assert outcome.code == 0, outcome.err
    samples = Capture.open(model_io).samples
    assert [sample.id for sample in samples] == ["1", "3"]
    assert {"input", "boxes", "labels", "scores", "masks"} <= set(samples[0].names)


def test_capture_takes_a_single_file(cli: Cli, detector: Applied, picture: Path, tmp_path: Path) -> None:
    outcome = cli("capture", recipe_of(detector), "--images", picture, "--model-io", tmp_path / "model_io")
    assert outcome.code == 0, outcome.err
    (sample,) = Capture.open(tmp_path / "model_io").samples
    assert (sample.id, sample.height, sample.width) == ("picture", 300, 400)


def test_capture_stops_at_an_image_that_it_cannot_read(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    outcome = cli("capture", recipe_of(detector), "--images", folder, "--model-io", tmp_path / "model_io")
    assert outcome.code == 2
    assert "broken.png: can't be read as an image" in outcome.last_line
    assert not (tmp_path / "model_io" / "capture.json").exists()


def test_apply_takes_no_more_samples_than_it_is_told(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    outcome = cli(
        *("apply", recipe_of(detector), "--out", tmp_path / "parts", "--model-io", detector.model_io),
        *("--max-samples", 1, "--json", report),
    )
    assert outcome.code == 0, outcome.err
    run = json.loads(report.read_text(encoding="utf-8"))
    assert {tensor["sample"] for tensor in run["checks"][-1]["comparison"]["tensors"]} <= {None, "1"}


def test_apply_captures_anew_what_is_not_asked_for_any_more_and_says_so(
    cli: Cli, detector: Applied, picture: Path, tmp_path: Path
) -> None:
    shutil.copytree(detector.model_io, tmp_path / "model_io")
    common = ("apply", recipe_of(detector), "--out", tmp_path / "parts", "--model-io", tmp_path / "model_io")
    said = f"captured anew in {tmp_path / 'model_io'}: its image 1 is '1', now 'picture'"
    for arguments, verdict in (((), "used again"), (("--images", picture), "captured anew")):
        outcome = cli(*common, *arguments)
        assert outcome.code == 0, outcome.err
        run = json.loads((tmp_path / "parts" / "run.json").read_text(encoding="utf-8"))
        assert run["capture"]["verdict"] == verdict
        assert (said in outcome.err) == (verdict == "captured anew")
    assert [sample.id for sample in Capture.open(tmp_path / "model_io").samples] == ["picture"]


# --- JSON on standard output ------------------------------------------------------------------------------------


def test_standard_output_holds_the_json_alone(cli: Cli, shapes: Applied, detector: Applied, picture: Path) -> None:
    model_io = picture.parent / "model_io"
    for arguments in (
        ("apply", recipe_of(detector), "--out", picture.parent / "parts", "--model-io", detector.model_io),
        ("capture", recipe_of(detector), "--images", picture, "--model-io", model_io),
        ("run", shapes.folder, "--image", picture),
        ("check", detector.model_io, detector.folder),
        ("check", detector.folder, detector.folder, "--inputs", detector.model_io),
        ("passes",),
        ("passes", "widen-maxpool"),
        ("inspect", detector.folder / "mask_head.onnx"),
    ):
        outcome = cli(*arguments, "--json", "-")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out), arguments
        assert len(outcome.err.splitlines()) > 1, arguments  # the tables


def test_standard_output_holds_the_json_of_a_run_that_failed(cli: Cli, detector: Applied, tmp_path: Path) -> None:
    outcome = cli(
        *("apply", recipe_of(detector), "--out", tmp_path / "parts", "--model-io", detector.model_io),
        *("--set", "part_passes.backbone_rpn=[widen-maxpool]", "--json", "-"),
    )
    assert outcome.code == 1
    assert json.loads(outcome.out)["passes"][0]["verdict"] == "failed"
