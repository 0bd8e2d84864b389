"""run --video and bench --video: what is written, what is told, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, Snapshot
from runtime.test_detector import write_detector
from video.videos import damage, write

from graphsurgery.cli import run_video
from graphsurgery.video import source, writer
from graphsurgery.video.camera import Camera
from graphsurgery.video.file import VideoFile

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video") / "parts"
    write_detector(folder)
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write(tmp_path / "v.mp4", 12)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_frame_is_drawn_and_described_with_its_number_and_time(
    cli: Cli, folder: Path, video: Path, tmp_path: Path
) -> None:
    outcome = cli("run", folder, "--video", video, "--json", tmp_path / "run.json", "--threads", 1)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines()[:-4])) <= 80
    assert outcome.err == ""
    described = lines(tmp_path / "v.detections.jsonl")
    assert [line["frame"] for line in described] == list(range(12))
    assert [line["seconds"] for line in described] == [round(number / 25, 6) for number in range(12)]
    assert set(described[0]) == {"video", "folder", "frame", "seconds", "detections"}
    drawn = list(VideoFile(tmp_path / "v.detections.mp4").frames())
    assert [round(frame.seconds, 6) for frame in drawn] == [line["seconds"] for line in described]
    original = next(VideoFile(video).frames())
    assert described[0]["detections"]
    assert np.abs(drawn[0].pixels.astype(int) - original.pixels).max() > 60
    content = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert (content["frames"], content["lost"], content["dropped"], content["interrupted"]) == (12, 0, 0, False)
    assert set(content["latency"]["parts"]) == {"backbone", "proposal", "heads", "postprocess"}
    assert content["frames_per_second"] == pytest.approx(12 / content["seconds"])


def test_frames_give_what_images_of_them_give(cli: Cli, folder: Path, video: Path, tmp_path: Path) -> None:
    from graphsurgery.evaluation.coco import describe_detections
    from graphsurgery.runtime.detector import Detector

    assert cli("run", folder, "--video", video, "--out", tmp_path / "only.jsonl").code == 0
    detector = Detector.load(folder)
    for line, frame in zip(lines(tmp_path / "only.jsonl"), VideoFile(video).frames(), strict=True):
        assert line["detections"] == describe_detections(detector(frame.pixels), detector.manifest.classes)
    assert not list(tmp_path.glob("only.[!j]*"))


def test_a_damaged_file_is_played_to_its_end(cli: Cli, folder: Path, tmp_path: Path) -> None:
    video = damage(write(tmp_path / "v.mkv", 60))
    outcome = cli("run", folder, "--video", video, "--out", tmp_path / "out.webm", "--json", "-")
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    assert content["lost"] == 60 - content["frames"] > 0
    assert f"{content['lost']} frames of the file are damaged or missing" in outcome.err


def test_an_interrupt_leaves_what_was_written(
    cli: Cli, folder: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = VideoFile.frames

    def interrupted(file: VideoFile) -> Iterator[Any]:
        for frame in frames(file):
            if frame.number == 11:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(VideoFile, "frames", interrupted)
    outcome = cli("run", folder, "--video", video, "--out", tmp_path / "out.mp4", "--json", tmp_path / "out.json")
    monkeypatch.undo()
    assert outcome.code == 130
    assert outcome.last_line == "interrupted; no output is half written"
    count = len(lines(tmp_path / "out.jsonl"))
    assert 0 < count < 12
    assert len(list(VideoFile(tmp_path / "out.mp4").frames())) == count
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (content["frames"], content["interrupted"]) == (count, True)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    cli: Cli, folder: Path, video: Path, tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.mp4").write_bytes(b"an earlier one")
    before = snapshot(tmp_path)

    def full(self: writer.VideoWriter, picture: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.VideoWriter, "_mux", full)
    outcome = cli("run", folder, "--video", video, "--out", tmp_path / "out.mp4")
    assert outcome.code == 2
    assert outcome.err == f"error: {tmp_path / 'out.mp4'}: can't be written (No space left on device)\n"
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_the_library_tells_of_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "full.mkv").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "full.mkv", 300)


def test_a_camera_says_what_it_dropped_and_why_it_ended(
    cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = "testsrc=size=32x24:rate=25:duration=0.4"
    monkeypatch.setattr(source, "_camera", lambda text, system: (pattern, "lavfi"))
    outcome = cli("run", folder, "--video", "camera", "--out", tmp_path / "out.mp4", "--json", tmp_path / "out.json")
    assert outcome.code == 0, outcome.err
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert content["frames"] + content["dropped"] == 10
    assert "the camera ended: it gives no more pictures" in outcome.out
    assert len(list(VideoFile(tmp_path / "out.mp4").frames())) == content["frames"]


def test_a_camera_has_no_file_beside_which_something_could_lie(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_camera", lambda text, system: ("nothing", "lavfi"))
    assert isinstance(source.open_video("camera"), Camera)
    outcome = cli("run", folder, "--video", "camera")
    assert outcome.code == 2
    assert "a camera needs --out" in outcome.last_line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --image, or --video"),
        (("--image", "x.png", "--video", "v.mp4"), "give either --image or --video"),
        (("--video", "missing.mp4"), "missing.mp4: no such video"),
        (("--video", "v.mp4", "--out", "x.avi"), "a video of that suffix can't be written"),
        (("--video", "v.mp4", "--out", "nowhere/x.mp4"), "no file can be written there"),
        (("--video", "v.mp4", "--out", "v.mp4"), "that is the video itself"),
        (("--video", "v.mp4", "--raw"), "leave out --raw"),
        (("--video", "v.mp4", "--threads", "head=1"), "no such part"),
        (("--video", "v.mp4", "--json", "nowhere/x.json"), "--json nowhere/x.json"),
        (("--video", "v.mp4", "--pipeline", "0"), "--pipeline"),
    ],
)
def test_a_wrong_run_is_one_line_and_leaves_nothing(
    cli: Cli,
    folder: Path,
    video: Path,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(video.parent)
    before = snapshot(video.parent)
    outcome = cli("run", folder, *arguments)
    assert outcome.code == 2
    assert said in outcome.last_line
    assert len(outcome.err.splitlines()) == 1
    assert snapshot(video.parent) == before


def test_without_pyav_it_ends_with_3(cli: Cli, folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for command in ("run", "bench"):
        outcome = cli(command, folder, "--video", video)
        assert outcome.code == 3
        assert outcome.last_line.endswith("pip install 'graphsurgery[video]'")


def test_how_far_it_is_is_drawn_on_a_terminal_alone(folder: Path, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsurgery.cli import video_display
    from graphsurgery.report import terminal
    from graphsurgery.runtime.detector import Detector
    from graphsurgery.runtime.timer import Timer

    monkeypatch.setattr(video_display, "err", terminal.Screen(force_terminal=False, width=80))
    progress = video_display.Progress(Timer(), frames=7)
    detector = Detector.load(folder)
    display = video_display.VideoDisplay(detector, VideoFile(video), progress)
    with video_display.err.capture() as shown, display:
        pass
    assert shown.get() == ""
    display._drawn()
    progress.frames = 9
    with video_display.err.capture() as shown:
        video_display.err.print(display._drawn())
    assert "frame 9 of 12, " in shown.get()
    assert "frames/s" in shown.get()
    assert "backbone" in shown.get()


def test_bench_measures_both_loops_in_turns(cli: Cli, folder: Path, video: Path, tmp_path: Path) -> None:
    outcome = cli("bench", folder, "--video", video, "--runs", 5, "--threads", 1, "--json", tmp_path / "bench.json")
    assert outcome.code == 0, outcome.err
    assert "one after another" in outcome.out
    assert "--pipeline 1" in outcome.out
    content = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert (content["frames"], content["rounds"]) == (5, 3)
    assert content["ratio_from"] <= content["ratio"] <= content["ratio_to"]
    assert content["sequential"]["frames_per_second"] > 0 < content["pipeline"]["frames_per_second"]


def test_bench_takes_one_of_both(cli: Cli, folder: Path, video: Path) -> None:
    outcome = cli("bench", folder, "--video", video, "--image", video)
    assert outcome.code == 2
    assert "give either --image or --video" in outcome.last_line


def test_the_outputs_of_one_video_are_beside_each_other(tmp_path: Path) -> None:
    video = VideoFile(write(tmp_path / "v.mp4", 1))
    targets = run_video.targets_of(video, None)
    assert [path.name for path in targets.files] == ["v.detections.jsonl", "v.detections.mp4"]
    assert os.path.commonpath(targets.files) == str(tmp_path)
