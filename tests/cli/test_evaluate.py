"""The command `evaluate`: what it prints, where it goes on, and whatever is wrong in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from bars import change, write_images, write_parts
from conftest import Applied, Cli, Outcome

pytest.importorskip("pycocotools")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with parts, a variant that is less good, images and annotations."""
    write_parts(tmp_path / "parts")
    write_parts(tmp_path / "parts" / "short", high=3)
    write_images(tmp_path, 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = ("parts", "--images", "images", "--annotations", "instances.json")


def assert_one_line(outcome: Outcome, code: int, *said: str) -> None:
    assert outcome.code == code, outcome.err
    assert outcome.last_line.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    for piece in said:
        assert piece in outcome.last_line


def test_all_columns_stand_side_by_side(cli: Cli, place: Path) -> None:
    outcome = cli("evaluate", *GIVEN, "--per-category", "--json", "ap.json")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["bbox", "on", "4", "images"]
    assert lines[1].split() == ["line", "original", "parts", "short"]
    assert lines[2].split() == ["AP", "1.0000", "1.0000", "0.6000"]
    assert sum(line.startswith("AR100 ") for line in lines) == 2
    assert [line.split() for line in lines if line.startswith("bar ")] == [
        ["bar", "1.0000", "1.0000", "0.6000"],
        ["bar", "0.7000", "0.7000", "0.1000"],
    ]
    assert "12 computed, 0 there from before" in outcome.out
    out = place / "evaluation" / "parts"
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert json.loads((place / "ap.json").read_text(encoding="utf-8")) == summary
    names = ("original", "parts", "short")
    expected = {"summary.json", *(f"results_{n}.json" for n in names), *(f"progress_{n}.jsonl" for n in names)}
    assert {file.name for file in out.iterdir()} == expected


def test_what_the_recipe_says_of_the_measurement_goes_with_the_parts(cli: Cli, place: Path) -> None:
    said = {"iou": ["bbox"], "max_detections": [100, 300, 1000], "published": {"bbox_ap": 0.381, "bbox_ap50": 0.588}}
    change(place / "parts" / "manifest.json", evaluation=said)
    outcome = cli("evaluate", *GIVEN, "--no-original")
    assert outcome.code == 0, outcome.err
    lines = [line.split() for line in outcome.out.splitlines()]
    assert lines[1:4] == [
        ["line", "parts", "short", "published"],
        ["AP", "1.0000", "0.6000", "0.3810"],
        ["AP50", "1.0000", "1.0000", "0.5880"],
    ]
    assert ["AR1000", "1.0000", "0.6000", "-"] in lines
    assert "segm" not in outcome.out
    # another way of measuring what was found computes nothing again
    change(place / "parts" / "manifest.json", evaluation=None)
    outcome = cli("evaluate", *GIVEN, "--no-original")
    assert "nothing to compute" in outcome.out
    assert "segm on 4 images" in outcome.out
    assert "published" not in outcome.out


def test_a_finished_run_computes_nothing_again_and_says_so(cli: Cli, place: Path) -> None:
    first = cli("evaluate", *GIVEN, "--max-samples", 3)
    again = cli("evaluate", *GIVEN, "--max-samples", 3)
    assert "nothing to compute: all 9 were there from before; --restart computes them anew" in again.out
    assert again.out.splitlines()[:-2] == first.out.splitlines()[:-2]
    assert "3 computed, 9 there from before" in cli("evaluate", *GIVEN).out
    assert "12 computed, 0 there from before" in cli("evaluate", *GIVEN, "--restart").out


def test_parts_that_were_made_anew_are_evaluated_anew(cli: Cli, place: Path) -> None:
    cli("evaluate", *GIVEN, "--no-original")
    write_parts(place / "parts" / "short", high=2)
    outcome = cli("evaluate", *GIVEN, "--no-original")
    assert "4 computed, 4 there from before" in outcome.out
    assert outcome.out.splitlines()[2].split() == ["AP", "1.0000", "0.1000"]


def test_two_processes_write_what_one_writes(cli: Cli, place: Path) -> None:
    for workers in (1, 2):
        outcome = cli("evaluate", *GIVEN, "--workers", workers, "--out", f"out{workers}")
        assert outcome.code == 0, outcome.err
    for column in ("original", "parts", "short"):
        one, two = ((place / f"out{n}" / f"results_{column}.json").read_bytes() for n in (1, 2))
        assert one == two


def test_json_on_standard_output_stands_alone(cli: Cli, place: Path) -> None:
    outcome = cli("evaluate", *GIVEN, "--json", "-")
    assert json.loads(outcome.out)["samples"] == 4
    assert "bbox on 4 images" in outcome.err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("there", [False, True])
def test_an_original_that_can_not_be_had_is_left_out_unless_asked_for(
    cli: Cli, place: Path, workers: int, there: bool
) -> None:
    source = {"kind": "torchvision", "name": "maskrcnn_resnet50_fpn", "weights": "mine.pth", "size": [64, 64]}
    change(place / "parts" / "manifest.json", source=source)
    if there:  # what it holds is only seen by the process that opens it
        (place / "mine.pth").write_bytes(b"no weights")
    outcome = cli("evaluate", *GIVEN, "--workers", workers)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[1].split() == ["line", "parts", "short"]
    assert "without the original: " in outcome.err
    assert "mine.pth" in outcome.err
    assert "8 computed, 0 there from before" in outcome.out
    asked = cli("evaluate", *GIVEN, "--original", "--workers", workers)
    assert_one_line(asked, 2, "mine.pth", *(() if there else ("--weights", "--no-original")))
    assert "without the original" not in cli("evaluate", *GIVEN, "--no-original").err


def test_bad_images_are_listed_and_end_with_2_unless_skipped(cli: Cli, place: Path) -> None:
    (place / "images" / "2.png").write_bytes(b"text")
    outcome = cli("evaluate", *GIVEN)
    assert_one_line(outcome, 2, "1 of its images can't be read", "--skip-bad")
    assert "2.png" in outcome.out
    assert "bbox" not in outcome.out
    skipped = cli("evaluate", *GIVEN, "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert "bbox on 3 images" in skipped.out
    assert "not an image" in skipped.out
    assert "nothing to compute: all 9 were there from before" in skipped.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 2, "nowhere: neither a folder of parts nor a recipe"),
        (("images",), 2, "give a folder that 'apply' wrote"),
        (("parts",), 2, "give the images with --images"),
        (("parts", "--images", "images"), 2, "--images and --annotations: give both"),
        (("parts", "--annotations", "instances.json"), 2, "--images and --annotations: give both"),
        (("parts", "--images", "nowhere", "--annotations", "instances.json"), 2, "nowhere: no such folder of images"),
        (("parts", "--images", "images", "--annotations", "nowhere.json"), 2, "nowhere.json: can't be read"),
        ((*GIVEN, "--max-samples", "0"), 2, "--max-samples"),
        ((*GIVEN, "--device", "npu"), 2, "DEVICE=PROVIDER"),
        ((*GIVEN, "--device", "npu=nobody"), 2, "nobody"),
        ((*GIVEN, "--device", "gpu=cuda"), 2, "no part is on device 'gpu'"),
        ((*GIVEN, "--device", "npu=vitisai"), 3, "VitisAIExecutionProvider"),
        ((*GIVEN, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), 2, "exclude each other"),
        ((*GIVEN, "--out", "instances.json"), 2, "instances.json: no folder can be made there"),
        ((*GIVEN, "--json", "nowhere/ap.json"), 2, "--json nowhere/ap.json"),
        (("shapes",), 2, "there are no parts yet; make them: python -m graphsurgery apply shapes"),
    ],
)
def test_a_wrong_option_is_one_line(cli: Cli, place: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert_one_line(cli("evaluate", *arguments), code, said)


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({"images": []}, "instances.json: no images; give a COCO annotation file that has them"),
        ({"annotations": []}, "instances.json: no annotations"),
        ({"categories": [{"id": 1, "name": "rod"}]}, "the model doesn't know category 1 'rod'"),
        ({"images": [{"id": 1, "file_name": "other.png"}], "annotations": None}, "instances.json: "),
        ({"images": [{"id": n, "file_name": f"{n}.png", "height": 9, "width": 12} for n in range(1, 5)]}, "is 9 x 12"),
        ({"images": [{"id": n, "file_name": f"a{n}.png"} for n in range(1, 5)]}, "4 of 4 images are not in images"),
        ({"images": [{"id": n, "file_name": f"../{n}.png"} for n in range(1, 5)]}, "lies outside"),
    ],
)
def test_annotations_that_do_not_fit_are_one_line(cli: Cli, place: Path, updates: dict[str, object], said: str) -> None:
    change(place / "instances.json", **updates)
    assert_one_line(cli("evaluate", *GIVEN), 2, said)


def test_what_a_provider_leaves_to_the_cpu_is_an_error_unless_it_is_allowed(cli: Cli, place: Path) -> None:
    pytest.importorskip("onnxruntime_qnn")
    on_qnn = (*GIVEN, "--no-original", "--max-samples", 1, "--device", "npu=qnn", "--out", "found")
    outcome = cli("evaluate", *on_qnn)
    assert_one_line(outcome, 2, "qnn leaves", "or accept it with --allow-fallback")
    outcome = cli("evaluate", *on_qnn, "--allow-fallback")
    assert outcome.code == 0, outcome.err
    assert next(line.split()[:2] for line in outcome.out.splitlines() if line.startswith("AP ")) == ["AP", "1.0000"]


def test_a_missing_extra_is_named(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    outcome = cli("evaluate", *GIVEN, "--scheduler", "tcp://127.0.0.1:1")
    assert_one_line(outcome, 3, "pip install 'graphsurgery[dask]'")
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for name in ("coco", "cocoeval", "mask"):
        monkeypatch.setitem(sys.modules, f"pycocotools.{name}", None)
    assert_one_line(cli("evaluate", *GIVEN), 3, "pip install 'graphsurgery[coco]'")


def test_the_embedded_detector_has_its_ap_in_parts_as_in_torch(cli: Cli, shapes: Applied, tmp_path: Path) -> None:
    outcome = cli("evaluate", shapes.folder, "--max-samples", 3, "--out", tmp_path / "out", "--workers", 1)
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    for row in summary["ap"].values():
        assert row["original"] == pytest.approx(row["parts"], abs=1e-3)
        assert row["original"] > 0.5
