"""Latency per part and in total, and what overlapping gives, in numbers and on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from graphsurgery.demo.shapes import embedded_images
from graphsurgery.errors import InputError
from graphsurgery.images.canvas import Canvas
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.latency import measure_latency, measure_pipeline, synthetic_image
from runtime.test_detector import write_detector

PARTS = ["backbone", "proposal", "heads", "postprocess"]
KEYS = {"mean_ms", "p50_ms", "p90_ms"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_detector(tmp_path / "parts")
    return tmp_path / "parts"


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    path = tmp_path / "bright.png"
    Image.fromarray(np.full((8, 12, 3), 255, np.uint8)).save(path)
    return path


def test_every_part_is_measured_and_the_total_holds_them(folder: Path) -> None:
    seen = []
    images = [np.full((8, 12, 3), value, np.uint8) for value in (255, 0)]
    detector = Detector.load(folder)
    latency = measure_latency(detector, images, 5, 2, progress=lambda done, total: seen.append((done, total)))
    assert set(latency) == {"parts", "total"}
    assert list(latency["parts"]) == PARTS
    assert all(set(times) == KEYS and times["mean_ms"] > 0 for times in (*latency["parts"].values(), latency["total"]))
    assert sum(times["mean_ms"] for times in latency["parts"].values()) < latency["total"]["mean_ms"]
    assert seen == [(done, 5) for done in range(1, 6)]
    assert all(len(player.timer._kept) == 5 for player in detector.chain.players)


def test_a_slow_part_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.load(folder)
    session = detector.chain.players[1].session
    run = session.run
    monkeypatch.setattr(session, "run", lambda inputs: (time.sleep(0.02), run(inputs))[1])
    latency = measure_latency(detector, [np.full((8, 12, 3), 255, np.uint8)], 3, 0)
    assert 20 <= latency["parts"]["proposal"]["p50_ms"] <= latency["total"]["p50_ms"]
    assert latency["parts"]["backbone"]["p50_ms"] < 20


def test_what_takes_long_is_measured_less_often(folder: Path) -> None:
    detector, image = Detector.load(folder), np.full((8, 12, 3), 255, np.uint8)
    seen: list[tuple[int, int]] = []
    latency = measure_latency(detector, [image], 5, 0, lambda done, total: seen.append((done, total)), seconds=0)
    assert seen == [(1, 5)], "the run in which the time is over counts"
    assert latency["total"]["mean_ms"] > 0


def test_a_pipeline_is_measured_in_images_per_second_and_in_latency(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector.load(folder, spin=False)
    for player in detector.chain.players:
        play = player.play
        monkeypatch.setattr(player, "play", lambda tensors, play=play: (time.sleep(0.02), play(tensors))[1])
    image = [np.full((8, 12, 3), 255, np.uint8)]
    measured = measure_pipeline(detector, image, 30, 1, 0)
    assert set(measured) == {"depth", "stages", "images_per_second", "latency"}
    assert measured["stages"] == [[name] for name in PARTS]
    assert measured["images_per_second"] > 1.5 / 0.08  # 0.08 s is what one takes alone
    assert measured["latency"]["p50_ms"] > 80


@pytest.mark.parametrize(("images", "runs"), [(0, 3), (1, 0)])
def test_nothing_to_measure_is_refused(folder: Path, images: int, runs: int) -> None:
    detector = Detector.load(folder)
    given = [np.zeros((8, 12, 3), np.uint8)] * images
    for call in (lambda: measure_latency(detector, given, runs), lambda: measure_pipeline(detector, given, runs, 1)):
        with pytest.raises(InputError, match=f"{images} images in {runs} runs: there is nothing to measure"):
            call()


def test_the_image_that_is_drawn_is_the_first_of_a_capture_or_has_the_size_of_the_canvas() -> None:
    np.testing.assert_array_equal(synthetic_image(Canvas(256, 320)), embedded_images(1)[0].image)
    assert synthetic_image(Canvas(544, 960)).shape == (544, 960, 3)
    assert synthetic_image(Canvas(8, 12)).shape == (256, 320, 3)


def test_bench_prints_a_table_and_writes_what_it_measured(cli: Cli, folder: Path, bright: Path, tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    given = ("--runs", 3, "--threads", 1, "--image", bright, "--pipeline", 2, "--json", report)
    outcome = cli("bench", folder, *given)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:8]] == [*PARTS, "around", "total"]
    assert "npu (cpu)" in lines[2]
    assert "one after another: " in outcome.out
    assert "--pipeline 2: " in outcome.out
    content = json.loads(report.read_text(encoding="utf-8"))
    assert list(content["latency"]["parts"]["parts"]) == PARTS
    assert content["latency"]["parts"]["total"]["mean_ms"] > 0
    assert content["images_per_second"] == pytest.approx(1000 / content["latency"]["parts"]["total"]["mean_ms"])
    assert content["pipeline"]["depth"] == 2
    assert (content["runs"], content["threads"], content["devices"]) == (3, 1, {"npu": "cpu", "cpu": "cpu"})


def test_bench_draws_an_image_where_none_is_given(cli: Cli, folder: Path) -> None:
    outcome = cli("bench", folder, "--runs", 1, "--json", "-")
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    assert content["image"] is None
    assert "pipeline" not in content


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--runs", 0), "--runs"),
        (("--pipeline", 0), "--pipeline"),
        (("--threads", -1), "--threads"),
        (("--image", "missing.png"), "missing.png"),
        (("--device", "gpu=cpu"), "no part is on device 'gpu'"),
        (("--device", "npu=abacus"), "unknown provider 'abacus'"),
        (("--json", "missing/x.json"), "missing"),
    ],
)
def test_a_wrong_bench_is_one_line(cli: Cli, folder: Path, arguments: tuple[object, ...], said: str) -> None:
    outcome = cli("bench", folder, *arguments)
    assert outcome.code == 2
    assert said in outcome.last_line
    assert "Traceback" not in outcome.err


def test_run_takes_several_images_in_order_and_the_pipeline_finds_the_same(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    contents = []
    for name, more in (("one", ()), ("other", ("--pipeline", 2, "--threads", 1))):
        target, report = tmp_path / name, tmp_path / f"{name}.json"
        target.mkdir()
        outcome = cli("run", folder, "--image", pictures, "--out", target, "--json", report, *more)
        assert outcome.code == 0, outcome.err
        assert max(map(len, outcome.out.splitlines()[:-2])) <= 80
        written = sorted(path.name for path in target.iterdir())
        assert written == sorted(f"{i}.detections.{kind}" for i in range(5) for kind in ("json", "png"))
        content = json.loads(report.read_text(encoding="utf-8"))
        assert [Path(each["image"]).name for each in content["images"]] == [f"{index}.png" for index in range(5)]
        assert json.loads((target / "3.detections.json").read_text(encoding="utf-8")) == content["images"][3]
        contents.append(content["images"])
    assert contents[0] == contents[1]
    assert any(each["detections"] for each in contents[0])


def test_run_takes_an_image_option_more_than_once(cli: Cli, folder: Path, bright: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(bright.read_bytes())
    outcome = cli("run", folder, "--image", bright, "--image", other)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "other.detections.png").is_file()


def test_images_that_would_be_drawn_to_one_file_are_refused(cli: Cli, folder: Path, bright: Path) -> None:
    outcome = cli("run", folder, "--image", bright, "--image", bright)
    assert outcome.code == 2
    assert "2 images would be written to" in outcome.last_line


def test_several_images_need_a_folder(cli: Cli, folder: Path, bright: Path, tmp_path: Path) -> None:
    outcome = cli("run", folder, "--image", bright.parent, "--out", tmp_path / "x.png")
    assert outcome.code == 2
    assert "is no folder" in outcome.last_line


@pytest.mark.parametrize("pipeline", [(), ("--pipeline", 1)])
def test_a_broken_image_among_others_is_one_line(
    cli: Cli, folder: Path, bright: Path, tmp_path: Path, pipeline: tuple[object, ...]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0.png").write_bytes(bright.read_bytes())
    (pictures / "1.png").write_bytes(b"noise")
    outcome = cli("run", folder, "--image", pictures, *pipeline)
    assert outcome.code == 2
    assert "1.png: can't be read as an image" in outcome.last_line
    assert (pictures / "0.detections.png").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupt_ends_a_pipeline_cleanly(folder: Path) -> None:
    script = "from graphsurgery.cli import main; main()"
    root = str(Path(__file__).parent.parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    child = subprocess.Popen(
        [sys.executable, "-c", script, "bench", str(folder), "--pipeline", "2", "--runs", "100000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    time.sleep(6)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert err.strip() == "interrupted; no output is half written"
    assert out == ""
