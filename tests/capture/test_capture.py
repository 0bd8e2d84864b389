"""model_io: what is captured, and what is refused when it is read."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from graphsurgery.capture.samples import Capture, exists
from graphsurgery.capture.take import InputImage, capture, embedded_samples, reference_detections
from graphsurgery.errors import CaptureError, InputError
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.images.files import load_image, read_images
from graphsurgery.sources import Tensors


class Brightness:
    """A source whose tensors are simple functions of its input."""

    name = "brightness"
    folder = None
    canvas = Canvas(8, 16, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    batch = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.traced = 0

    def describe(self) -> dict[str, object]:
        return {"kind": "test", "name": "brightness", "seed": self.seed, "size": (8, 16)}

    def export(self) -> Any:
        raise NotImplementedError

    def trace(self, placed: CanvasImage) -> Tensors:
        self.traced += 1
        mean = np.float32(placed.input.mean())
        return {
            "input": placed.input,
            "mean": np.array([mean]),
            "masks": np.zeros((0, 1, 28, 28), np.float32),
            "/head/Relu_output": np.array([1, 2]),
        }

    def detect(self, placed: CanvasImage) -> Tensors:
        box = np.array([[1.0, 1.0, 5.0, 7.0]], np.float32)
        return {
            "boxes": box,
            "labels": np.array([1]),
            "scores": np.array([0.5], np.float32),
            "masks": np.ones((1, 1, 28, 28), np.float32),
        }


def picture(value: int, height: int = 8, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_what_is_captured_is_read_back(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    images: list[Any] = [InputImage("7", picture(51), "a/7.png"), ("8", picture(255, 30, 20))]
    capture(Brightness(), images, tmp_path / "io", lambda done, total: steps.append((done, total)))
    read = Capture.open(tmp_path / "io")
    assert steps == [(1, 2), (2, 2)]
    assert read.source == {"kind": "test", "name": "brightness", "seed": 0, "size": [8, 16]}
    assert read.canvas == Brightness.canvas
    assert [(s.id, s.file, s.height, s.width) for s in read.samples] == [("7", "a/7.png", 8, 16), ("8", None, 30, 20)]
    first = read.samples[0]
    assert first.names == ("/head/Relu_output", "input", "masks", "mean")
    assert first.load("mean") == pytest.approx(0.2)
    assert first.load("masks").shape == (0, 1, 28, 28)
    assert first.load("/head/Relu_output").tolist() == [1, 2]
    assert "input" in first
    assert "output" not in first


def test_what_capture_returns_is_what_open_reads(tmp_path: Path) -> None:
    assert capture(Brightness(), [("1", picture(9))], tmp_path) == Capture.open(tmp_path)


def test_images_are_taken_one_at_a_time(tmp_path: Path) -> None:
    source = Brightness()

    def lazy() -> Iterator[tuple[str, np.ndarray]]:
        for index in range(3):
            assert source.traced == index
            yield str(index), picture(index)

    steps: list[tuple[int, int]] = []
    capture(source, lazy(), tmp_path, lambda *step: steps.append(step), total=3)
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_no_temporary_name_is_left(tmp_path: Path) -> None:
    capture(Brightness(), [("1", picture(9))], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "capture.json"]


def test_an_interrupted_capture_leaves_nothing_behind_and_is_no_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], np.save

    def stop_at_the_sixth(*arguments: Any, **options: Any) -> None:
        saved.append(arguments)
        if len(saved) == 6:
            raise KeyboardInterrupt
        save(*arguments, **options)

    monkeypatch.setattr(np, "save", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        capture(Brightness(), [("1", picture(1)), ("2", picture(2))], tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    assert not exists(tmp_path / "new")
    (tmp_path / "new").mkdir()
    with pytest.raises(CaptureError, match="no capture was finished"):
        Capture.open(tmp_path / "new")


def test_a_failing_image_leaves_the_earlier_capture_as_it_was(tmp_path: Path) -> None:
    capture(Brightness(), [("1", picture(1))], tmp_path / "old")

    def broken() -> Iterator[tuple[str, np.ndarray]]:
        yield "1", picture(200)
        raise InputError("unreadable")

    with pytest.raises(InputError, match="unreadable"):
        capture(Brightness(), broken(), tmp_path / "old")
    (sample,) = Capture.open(tmp_path / "old").samples
    assert sample.load("mean") == pytest.approx(1 / 255)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_second_capture_replaces_the_samples_of_the_first(tmp_path: Path) -> None:
    capture(Brightness(), [("1", picture(0)), ("2", picture(0))], tmp_path)
    capture(Brightness(), [("2", picture(255)), ("3", picture(0))], tmp_path)
    read = Capture.open(tmp_path)
    assert [sample.id for sample in read.samples] == ["2", "3"]
    assert read.samples[0].load("mean") == pytest.approx(1.0)
    assert not (tmp_path / "1").exists()


def test_a_capture_of_another_model_is_only_replaced_when_asked(tmp_path: Path) -> None:
    capture(Brightness(0), [("1", picture(1))], tmp_path)
    other = Brightness(1)
    with pytest.raises(CaptureError, match=r"another model \(seed 0, not 1\)"):
        capture(other, [("1", picture(1))], tmp_path)
    assert other.traced == 0
    with pytest.raises(CaptureError, match="another model"):
        Capture.open(tmp_path).require_source(other.describe())
    capture(other, [("1", picture(1))], tmp_path, overwrite=True)
    Capture.open(tmp_path).require_source(other.describe())


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "../up", "CON", "nul.png", "x.", "x ", "a:b", "a\x00", ".hidden", "capture.json"],
)
def test_an_id_that_is_no_folder_name_everywhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaptureError, match="can't be a folder's name"):
        capture(Brightness(), [(name, picture(1))], tmp_path)


def test_files_of_the_users_stay_and_are_not_overwritten(tmp_path: Path) -> None:
    capture(Brightness(), [("1", picture(0)), ("2", picture(0))], tmp_path)
    for place in (tmp_path, tmp_path / "1", tmp_path / "2"):
        (place / "notes.txt").write_text("mine", encoding="utf-8")
    capture(Brightness(), [("2", picture(255))], tmp_path)
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["notes.txt"]
    assert (tmp_path / "2" / "notes.txt").is_file()
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "mean.npy").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"mean\.npy: is in the way, and no run wrote it"):
        capture(Brightness(), [("3", picture(0))], tmp_path)
    assert [sample.id for sample in Capture.open(tmp_path).samples] == ["2"]


def test_samples_that_were_replaced_while_they_were_read_are_not_mixed(tmp_path: Path) -> None:
    capture(Brightness(), [("1", picture(0)), ("2", picture(0))], tmp_path)
    one, other = Capture.open(tmp_path).samples
    one.load("mean")
    capture(Brightness(), [("1", picture(255))], tmp_path)
    for sample in (one, other):
        with pytest.raises(CaptureError, match="was captured anew while this command read it; run it again"):
            sample.load("mean")


def test_two_images_of_one_id_are_refused(tmp_path: Path) -> None:
    for second in ("Cat", "cat"):
        with pytest.raises(CaptureError, match="two images have the id"):
            capture(Brightness(), [("Cat", picture(1)), (second, picture(2))], tmp_path)


def test_the_root_of_a_file_system_is_no_place_for_a_capture(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="is no folder for a capture"):
        capture(Brightness(), [("1", picture(0))], Path(tmp_path.anchor))


def test_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="no image"):
        capture(Brightness(), [], tmp_path)


def test_a_pickled_tensor_is_refused(tmp_path: Path) -> None:
    (sample,) = capture(Brightness(), [("1", picture(1))], tmp_path).samples
    # only writes the hostile file; loading must refuse it
    np.save(tmp_path / "1" / "mean.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CaptureError, match=r"mean\.npy: can't be read as a plain array"):
        sample.load("mean")


def test_a_truncated_or_foreign_tensor_is_refused(tmp_path: Path) -> None:
    (sample,) = capture(Brightness(), [("1", picture(1))], tmp_path).samples
    path = tmp_path / "1" / "input.npy"
    whole = path.read_bytes()
    archive = tmp_path / "x.npz"
    np.savez(archive, a=np.ones(2))
    for content in (whole[:-4], whole[:40], b"", b"noise", archive.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CaptureError, match=r"input\.npy.*plain array"):
            sample.load("input")


def test_a_missing_tensor_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    (sample,) = capture(Brightness(), [("1", picture(1))], tmp_path).samples
    with pytest.raises(CaptureError, match=r"no such tensor; sample 1 has .*, input, masks, mean"):
        sample.load("../../secret")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"source": None}, "source: Input should be a valid dict"),
        ({"samples": {}}, "samples: Input should be a valid list"),
        ({"samples": [{"id": "1"}]}, r"samples\[0\]\.height: Field required"),
        ({"samples": [{"id": "../up", "height": 1, "width": 1}]}, "can't be a folder's name"),
        ({"samples": [{"id": "1", "height": 1, "width": 1}] * 2}, "two images"),
        ({"samples": [{"id": "1", "height": 2**40, "width": 1}]}, r"samples\[0\]\.height: Input should be less"),
        ({"canvas": {"height": 8}}, "canvas"),
        ({"request": 3}, "request"),
        ({"request": {"images": [], "annotations": None, "samples": 1}}, r"request\..*images"),
        ({"request": {"images": None, "annotations": None, "samples": 1, "seed": 1}}, r"request\..*seed"),
    ],
)
def test_an_index_that_is_wrong_is_refused_with_its_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    capture(Brightness(), [("1", picture(1))], tmp_path)
    index = tmp_path / "capture.json"
    content = json.loads(index.read_text(encoding="utf-8")) | change
    index.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CaptureError, match=words):
        Capture.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_an_index_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "capture.json").write_bytes(content)
    with pytest.raises(CaptureError, match=r"capture\.json"):
        Capture.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CaptureError, match="can't be written"):
        capture(Brightness(), [("1", picture(1))], tmp_path / "file" / "io")


def test_reference_detections_are_in_the_pixels_of_the_image() -> None:
    found = reference_detections(Brightness(), picture(1, 16, 32))
    assert found["boxes"].tolist() == [[2, 2, 10, 14]]
    assert found["masks"].shape == (1, 1, 16, 32)


def test_embedded_samples_are_the_demos() -> None:
    samples = list(embedded_samples(2))
    assert [sample.id for sample in samples] == ["1", "2"]
    assert samples[0].pixels.shape == (256, 320, 3)


# Images on disk


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "c.bmp"):
        Image.fromarray(picture(7)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_its_images_by_name(album: Path) -> None:
    assert [(file.id, file.path.name) for file in read_images(album)] == [
        ("a", "a.JPG"),
        ("b", "b.png"),
        ("c", "c.bmp"),
    ]
    assert [file.id for file in read_images(album, max_samples=2)] == ["a", "b"]


def test_a_file_is_one_image(album: Path) -> None:
    assert [file.id for file in read_images(album / "b.png")] == ["b"]


def test_annotations_give_the_images_by_id(album: Path) -> None:
    file = album / "instances.json"
    entries = [{"id": 30, "file_name": "a.JPG"}, {"id": 4, "file_name": "b.png"}]
    file.write_text(json.dumps({"images": entries}), encoding="utf-8")
    assert [(i.id, i.path.name) for i in read_images(album, file)] == [("4", "b.png"), ("30", "a.JPG")]
    assert [i.id for i in read_images(album, file, 1)] == ["4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can't be read as JSON"),
        ("[]", "holds a list"),
        ('{"images": [{"id": 1}]}', r"images\[0\]\.file_name: Field required"),
        ('{"images": []}', "no images"),
        ('{"images": [{"id": 1, "file_name": "../x.png"}]}', "lies outside"),
    ],
)
def test_annotations_that_name_no_images_are_refused(album: Path, content: str, words: str) -> None:
    file = album / "instances.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_images(album, file)


def test_a_path_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image in this folder"):
        read_images(tmp_path)
    with pytest.raises(InputError, match="no such image or folder"):
        read_images(tmp_path / "absent")
    with pytest.raises(InputError, match="at least 1"):
        read_images(tmp_path, max_samples=0)


def test_any_mode_is_read_as_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 4), 1).save(path)
        pixels = load_image(path)
        assert pixels.shape == (4, 5, 3)
        assert pixels.dtype == np.uint8


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(7, 4, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (4, 6, 3)


def test_an_unreadable_image_is_named(album: Path) -> None:
    cut = album / "cut.png"
    cut.write_bytes((album / "b.png").read_bytes()[:50])
    for path in (cut, album / "notes.txt", album / "absent.png", album):
        with pytest.raises(InputError, match=path.name):
            load_image(path)


def test_postscript_under_another_name_starts_no_ghostscript(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(InputError, match=r"x\.png: can't be read as an image \(not an image, or none of PNG"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "gif", "ppm"])
def test_these_formats_are_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (5, 4), (9, 9, 9)).save(tmp_path / f"a.{suffix}")
    assert load_image(tmp_path / f"a.{suffix}").shape == (4, 5, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: can't be read as an image \(a pipe or device"):
        load_image(tmp_path / "a.png")


def test_a_name_that_no_file_can_have_is_refused(album: Path) -> None:
    annotations = album / "instances.json"
    annotations.write_text(json.dumps({"images": [{"id": 1, "file_name": "a\0b.png"}]}), encoding="utf-8")
    with pytest.raises(InputError, match=r"instances\.json: image 1 has no name of a file"):
        read_images(album, annotations)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(7, 20, 20)).save(tmp_path / "big.png")
    for limit in (100, 300):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings(), pytest.raises(InputError, match=r"big\.png: .*too many pixels"):
            load_image(tmp_path / "big.png")
