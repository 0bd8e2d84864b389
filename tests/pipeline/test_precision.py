"""The average precision of a run: the same figures from one process and from several, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bars import change, write_images, write_parts
from conftest import Cli

from graphsurgery.evaluation.beside import Beside
from graphsurgery.pipeline import precision
from graphsurgery.progress import Silent
from graphsurgery.recipe.load import EvaluationPlan
from graphsurgery.sources import SourceSpec, open_source

pytest.importorskip("pycocotools")

EVALUATE = "evaluate: {images: images, annotations: instances.json}\n"
RECIPE = f"""\
source: {{onnx: all.onnx}}
capture: {{images: images, samples: 2}}
{EVALUATE}check: {{tolerance: {{boxes: 0, labels: 0, scores: 0, masks: 0}}}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with parts and a variant that is less good, images, annotations, and a recipe."""
    write_parts(tmp_path / "parts")
    write_parts(tmp_path / "parts" / "short", high=3)
    change(tmp_path / "parts" / "manifest.json", variants=["short"])
    (tmp_path / "all.onnx").write_bytes((tmp_path / "parts" / "all.onnx").read_bytes())
    write_images(tmp_path, 4)
    (tmp_path / "bars.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def evaluation(place: Path, workers: int | None, **plan: Any) -> dict[str, Any]:
    """Evaluate the parts as a run does that has just made them."""
    given = {"images": place / "images", "annotations": place / "instances.json"}
    spec = SourceSpec("onnx", str(place / "all.onnx"))
    with precision.begun(EvaluationPlan(**(given | plan)), open_source(spec), spec, 1, workers, Silent()) as begun:
        assert (begun.beside is None) == (workers != 2)  # so few images pay for one process
        begun.begin_parts(place / "parts")
        found = begun.finish(place / "parts", Silent(), {})
    del found["seconds_per_image"]
    return found


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_the_figures_do_not_depend_on_the_number_of_processes(
    place: Path, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place / "parts")
    before = sorted(place.rglob("*"))
    found = evaluation(place, workers)
    assert found["samples"] == 4
    assert found["ap"]["bbox"] == {"original": pytest.approx(1), "parts": pytest.approx(1), "short": pytest.approx(0.6)}
    assert found["ap"]["segm"] == {
        "original": pytest.approx(0.7),
        "parts": pytest.approx(0.7),
        "short": pytest.approx(0.1),
    }
    assert sorted(place.rglob("*")) == before


def test_what_was_found_beside_is_not_computed_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Beside.stop

    def when_all_is_done(beside: Beside) -> None:
        deadline = time.monotonic() + 120
        while len(beside._store._found.get("parts", ())) < 4 and time.monotonic() < deadline:  # type: ignore[attr-defined]
            time.sleep(0.05)
        stop(beside)

    seen: list[int] = []

    class Watcher(Silent):
        def advance(self, done: int, total: int) -> None:
            seen.append(done)

    monkeypatch.setattr(Beside, "stop", when_all_is_done)
    monkeypatch.setattr(sys.modules[__name__], "Silent", Watcher)
    evaluation(place, 2)
    assert seen[0] == 8  # of 12: those of the variant are left
    assert 12 in seen


def test_the_demos_images_are_drawn_where_a_plan_names_none(place: Path) -> None:
    for folder in ("parts", "parts/short"):
        change(place / folder / "manifest.json", classes=["background", "circle", "square", "triangle"])
    found = evaluation(place, 1, samples=2, images=None, annotations=None)
    assert (found["samples"], found["ap"]["bbox"]["parts"]) == (2, 0)


def test_images_that_can_not_be_used_end_a_run_before_it_begins(cli: Cli, place: Path) -> None:
    (place / "images" / "2.png").unlink()
    outcome = cli("apply", place / "bars.yaml", "--out", place / "out", "--model-io", place / "io", "--workers", 2)
    assert (outcome.code, "1 of 4 images are not in" in outcome.last_line) == (2, True), outcome.err
    assert not (place / "io").exists()


def test_apply_finds_what_evaluate_finds(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    given = ("--images", "images", "--annotations", "instances.json")
    outcome = cli("apply", "bars.yaml", "--out", "out", "--model-io", "io", "--workers", 2)
    assert outcome.code == 0, outcome.err
    assert cli("evaluate", "out", *given, "--workers", 1, "--out", "ap").code == 0
    applied = json.loads((place / "out" / "run.json").read_text(encoding="utf-8"))["evaluation"]
    evaluated = json.loads((place / "ap" / "summary.json").read_text(encoding="utf-8"))
    assert (applied["ap"], applied["lines"]) == (evaluated["ap"], evaluated["lines"])


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("wait", [0.0, 2.0], ids=["as it starts", "as it works"])
def test_ctrl_c_ends_a_run_and_its_processes(place: Path, wait: float) -> None:
    write_images(place, 4000)
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "graphsurgery",
            "apply",
            "bars.yaml",
            "--out",
            "out",
            "--model-io",
            "io",
            "--workers",
            "2",
            "--set",
            "evaluate.samples=4000",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        cwd=place,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 120
    while not (children := psutil.Process(run.pid).children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children
    time.sleep(wait)
    children += psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert err.strip() == "interrupted; no output is half written"
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert not (place / "out").exists()
    assert not [entry.name for entry in place.iterdir() if entry.name.startswith(".graphsurgery")]


def test_a_recipe_without_images_says_how_to_measure_and_measures_nothing(cli: Cli, place: Path) -> None:
    recipe = (place / "bars.yaml").read_text(encoding="utf-8")
    said = "evaluate: {iou: [bbox], published: {bbox_ap: 0.5}}\n"
    (place / "told.yaml").write_text(recipe.replace(EVALUATE, said), encoding="utf-8")
    outcome = cli("apply", place / "told.yaml", "--out", place / "made", "--model-io", place / "io")
    assert outcome.code == 0, outcome.err
    assert "evaluation" not in json.loads((place / "made" / "run.json").read_text(encoding="utf-8"))["seconds"]
    assert "Average precision" not in outcome.out
    images = ("--images", place / "images", "--annotations", place / "instances.json")
    outcome = cli("evaluate", place / "made", *images, "--no-original")
    assert outcome.code == 0, outcome.err
    assert "published" in outcome.out
    # with images the run measures the same way
    given = [
        f"evaluate.{key}={place / value}" for key, value in (("images", "images"), ("annotations", "instances.json"))
    ]
    sets = [word for value in given for word in ("--set", value)]
    outcome = cli("apply", place / "told.yaml", *sets, "--out", place / "made", "--model-io", place / "io")
    assert outcome.code == 0, outcome.err
    table = outcome.out[outcome.out.index("Average precision") :]
    assert "bbox AP" in table
    assert "segm AP" not in table
    assert "0.5000" in table
