"""Cameras: the newest frame, what was dropped, and that nothing goes on behind the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphsurgery.errors import InputError
from graphsurgery.video.camera import Camera
from graphsurgery.video.source import _camera, open_video

pytest.importorskip("av")
PATTERN = "testsrc=size=32x24:rate=25:duration=0.4"  # FFmpeg makes it, ten frames


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    yield
    assert "graphsurgery-camera" not in {thread.name for thread in threading.enumerate()}


def test_who_is_slow_gets_the_newest_frame_and_the_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go = threading.Semaphore(0), threading.Event()
    pictures = Camera._pictures

    def paced(camera: Camera, container: Any, stream: Any) -> Iterator[Any]:
        for number, picture in enumerate(pictures(camera, container, stream)):
            yield picture
            if number in (0, 6):  # the first is taken, then six come before the next is asked for
                asked.release()
                go.wait(10)
                go.clear()

    monkeypatch.setattr(Camera, "_pictures", paced)
    camera = Camera("camera", PATTERN, "lavfi")
    frames = camera.frames()
    assert next(frames).number == 0
    asked.acquire()
    go.set()
    asked.acquire()
    second = next(frames)
    assert (second.number, camera.dropped) == (6, 5)
    assert second.seconds > 0
    go.set()
    assert [*frames][-1].number == 9
    assert camera.ended == "it gives no more pictures"


def test_leaving_it_ends_its_thread() -> None:
    frames = Camera("camera", "testsrc=size=32x24:rate=1000", "lavfi").frames()
    next(frames)
    frames.close()


def test_a_camera_that_cannot_be_opened_is_one_line() -> None:
    with pytest.raises(InputError, match=r"--video camera: the camera can't be used \(.*nothing"):
        next(Camera("camera", "nothing", "lavfi").frames())


@pytest.mark.parametrize(
    ("text", "system", "address"),
    [
        ("video=Integrated Camera", "win32", ("video=Integrated Camera", "dshow")),
        ("0", "darwin", ("0:none", "avfoundation")),
        ("clip.mp4", "linux", None),
        ("clip.mp4", "win32", None),
        ("clip.mp4", "darwin", None),
    ],
)
def test_a_camera_has_the_name_that_its_system_gives_it(
    text: str, system: str, address: tuple[str, str] | None
) -> None:
    assert _camera(text, system) == address


@pytest.mark.parametrize("text", ["/dev/video987", "987"])
def test_a_camera_that_is_not_there_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="/dev/video987 is no camera; there is "):
        _camera(text, "linux")


def test_a_file_goes_before_a_camera_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0").write_bytes(b"noise")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="can't be read as a video"):
        open_video("0")
