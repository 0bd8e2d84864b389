"""Frames of files: every one with its time, upright, and what is damaged counted."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphsurgery.errors import InputError, MissingTool
from graphsurgery.video.file import VideoFile
from graphsurgery.video.losses import Losses
from graphsurgery.video.source import open_video
from graphsurgery.video.writer import SUFFIXES, VideoWriter, refuse_unknown_suffix
from video.videos import RATE, damage, picture, turn, write

pytest.importorskip("av")


def near(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(one.astype(float) - other).mean()) < 12


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_read_in_its_order_with_its_times(tmp_path: Path, suffix: str) -> None:
    times = [0, 40, 80, 200, 201, 900]
    video = VideoFile(write(tmp_path / f"v{suffix}", 6, times=times, tick=Fraction(1, 1000)))
    frames = list(video.frames())
    assert [frame.number for frame in frames] == list(range(6))
    assert [round(frame.seconds * 1000) for frame in frames] == times
    assert all(near(frame.pixels, picture(frame.number)) for frame in frames)
    assert (video.lost, video.dropped, video.has_sound) == (0, 0, False)


def test_a_video_can_be_read_again(tmp_path: Path) -> None:
    video = VideoFile(write(tmp_path / "v.mp4", 3))
    assert [len(list(video.frames())) for _ in range(2)] == [3, 3]
    assert (video.total, video.rate) == (3, RATE)


def test_an_odd_size_gets_a_row_and_a_column(tmp_path: Path) -> None:
    video = VideoFile(write(tmp_path / "v.mp4", 1, size=(33, 47)))
    (frame,) = video.frames()
    assert frame.pixels.shape == (34, 48, 3)
    assert near(frame.pixels[:33, :47], picture(0, (33, 47)))
    assert near(frame.pixels[33], frame.pixels[32])


def test_pictures_of_another_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "v.mp4")
    writer.write(picture(0), 0, 1 / RATE)
    writer.write(picture(1, (96, 128)), 1, 1 / RATE)
    writer.close()
    assert {frame.pixels.shape for frame in VideoFile(tmp_path / "v.mp4").frames()} == {(48, 64, 3)}


def test_a_phone_s_video_is_turned_upright(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 1)
    (lying,) = VideoFile(path).frames()
    (upright,) = VideoFile(turn(path)).frames()
    np.testing.assert_array_equal(upright.pixels, np.rot90(lying.pixels, -1))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_damaged_file_goes_on_and_says_what_it_lost(tmp_path: Path, suffix: str) -> None:
    video = VideoFile(damage(write(tmp_path / f"v{suffix}", 60)))
    frames = list(video.frames())
    assert 0 < video.lost < 30
    assert len(frames) + video.lost == 60
    assert frames[-1].seconds == pytest.approx(59 / 25, abs=0.01)
    times = [frame.ticks for frame in frames]
    assert times == sorted(set(times))


def test_a_varying_rate_is_no_loss() -> None:
    losses = Losses(step=1)
    for ticks in (0, 1, 3, 4, 7, 8, 10, 13, 14):
        losses.shown(ticks)
    assert losses.count == 0


def test_a_jump_at_a_constant_rate_is_one() -> None:
    losses = Losses(step=3.003)
    for ticks in (*range(0, 60, 3), *range(78, 99, 3)):
        losses.shown(ticks)
    assert losses.count == 6


def test_packets_without_a_picture_count_only_where_something_was_damaged() -> None:
    losses = Losses(packets=10, pictures=8, ended=True)
    assert losses.count == 0
    losses.damaged = True
    assert losses.count == 2
    losses.ended = False  # some are on their way
    assert losses.count == 0


@pytest.mark.parametrize(
    "name", ["missing.mp4", "noise.mp4", "picture.png", "list.m3u8", "cut.mp4", "folder", "silent.mp4"]
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    Image.fromarray(picture(0)).save(tmp_path / "picture.png")
    write(tmp_path / "v.mp4", 5)
    # FFmpeg would open what such a list names
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:2,\nv.mp4\n#EXT-X-ENDLIST\n", encoding="utf-8")
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:-200])
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        container.start_encoding()
    with pytest.raises(InputError, match=rf"{name}: (no such|can't be read as a|there is no|no frame)") as error:
        list(VideoFile(tmp_path / name).frames())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="makes a pipe")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="a pipe or device"):
        VideoFile(tmp_path / "pipe.mp4")


def test_a_frame_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4", 1)
    monkeypatch.setattr("graphsurgery.video.decoded._MOST_PIXELS", 1000)
    with pytest.raises(InputError, match="64 x 48 is more than 1000 pixels"):
        list(VideoFile(path).frames())


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingTool, match=r"pip install 'graphsurgery\[video\]'"):
        open_video(str(path))


@pytest.mark.parametrize("name", ["x.avi", "x.foo", "x"])
def test_a_format_without_times_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"give one of \.mp4, \.m4v, \.mov, \.mkv or \.webm"):
        refuse_unknown_suffix(Path(name))
