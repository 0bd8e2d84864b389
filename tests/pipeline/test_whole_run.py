"""Which samples a run goes by: those that are there, as long as they are those that are asked for."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture.test_capture import Brightness
from PIL import Image

from graphsurgery.capture import take
from graphsurgery.capture.samples import Capture, Request
from graphsurgery.errors import CaptureError, GraphSurgeryError, InputError, ModelError
from graphsurgery.files.commit import writing
from graphsurgery.images.files import load_image
from graphsurgery.pipeline.captured_samples import capture_samples, captured
from graphsurgery.pipeline.options import Options
from graphsurgery.progress import Silent
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite.registry import discover


class Source(Brightness):
    """As that, with a name of its own, and weights."""

    def __init__(self, seed: int = 0, name: str = "brightness") -> None:
        super().__init__(seed)
        self.name = name

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "name": self.name}


class Place:
    """A working folder: photos, a recipe, and where they are captured."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos, self.io = folder, folder / "photos", folder / "io"
        self.photos.mkdir()
        for number in range(5):
            self.draw(f"p{number}", number)

    def draw(self, name: str, seed: int) -> None:
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 16, 3), np.uint8)
        Image.fromarray(pixels).save(self.photos / f"{name}.png")

    def recipe(self, capture: str) -> Recipe:
        path = self.folder / "tiny.yaml"
        path.write_text(f"source: {{onnx: tiny.onnx}}\ncapture: {capture}\n", encoding="utf-8")
        return load_recipe(str(path), registry=discover([]))

    def apply(self, capture: str, source: Source | None = None, **options: Any) -> dict[str, Any]:
        """Do what `apply` does before anything else, and return what run.json says of it."""
        source = source or Source()
        record = Record({})
        taken = captured(self.recipe(capture), source, Options(Path(), self.io, **options), Silent(), record)
        assert record.capture is not None
        assert record.to_json()["capture"] == record.capture
        assert [sample.id for sample in Capture.open(self.io).samples][: len(taken.samples)] == ids(taken)
        assert (source.traced == 0) == (record.capture["verdict"] == "used again")
        return {**record.capture, "ids": ids(taken)}

    def capture(self, capture: str, **options: Any) -> Capture:
        """Do what the command `capture` does."""
        return capture_samples(self.recipe(capture), Source(), Options(Path(), self.io, **options), Silent())


def ids(capture: Capture) -> list[str]:
    return [sample.id for sample in capture.samples]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


PHOTOS = "{images: photos, samples: 3}"


@pytest.mark.parametrize("capture", ["{samples: 2}", PHOTOS])
def test_a_capture_of_what_is_asked_for_is_used_again(place: Place, capture: str) -> None:
    first, again = place.apply(capture), place.apply(capture)
    assert (first["verdict"], again["verdict"]) == ("captured", "used again")
    assert (again["reason"], again["ids"]) == (None, first["ids"])


def change_photo(place: Place) -> None:
    place.draw("p1", 9)


def add_photo_in_front(place: Place) -> None:
    place.draw("a", 9)


def remove_photo(place: Place) -> None:
    (place.photos / "p0.png").unlink()


@pytest.mark.parametrize(
    ("change", "capture", "reason", "then"),
    [
        (
            None,
            "{images: photos, samples: 5}",
            "it holds 3 samples, now 5 are asked for",
            ["p0", "p1", "p2", "p3", "p4"],
        ),
        (None, "{samples: 2}", "its image 1 is 'p0', now '1'", ["1", "2"]),
        (None, "{images: photos/p2.png}", "its image 1 is 'p0', now 'p2'", ["p2"]),
        (None, "{images: photos, annotations: of.json, samples: 2}", "its image 1 is 'p0', now '4'", ["4", "7"]),
        (change_photo, PHOTOS, "its image 'p1' is not what it was", ["p0", "p1", "p2"]),
        (add_photo_in_front, PHOTOS, "its image 1 is 'p0', now 'a'", ["a", "p0", "p1"]),
        (remove_photo, PHOTOS, "its image 1 is 'p0', now 'p1'", ["p1", "p2", "p3"]),
    ],
)
def test_what_is_not_asked_for_any_more_is_captured_anew(
    place: Place, change: Callable[[Place], None] | None, capture: str, reason: str, then: list[str]
) -> None:
    named = [{"id": 7, "file_name": "p1.png"}, {"id": 4, "file_name": "p3.png"}]
    (place.folder / "of.json").write_text(json.dumps({"images": named}), encoding="utf-8")
    place.apply(PHOTOS)
    if change is not None:
        change(place)
    told = place.apply(capture)
    assert (told["verdict"], told["reason"], told["ids"]) == ("captured anew", reason, then)
    assert ids(Capture.open(place.io)) == then
    assert place.apply(capture)["verdict"] == "used again"


def test_a_capture_may_hold_more_than_is_asked_for(place: Place) -> None:
    place.apply("{images: photos, samples: 5}")
    told = place.apply(PHOTOS)
    assert (told["verdict"], told["ids"]) == ("used again", ["p0", "p1", "p2"])
    assert place.apply(PHOTOS, max_samples=1)["ids"] == ["p0"]
    assert place.apply(PHOTOS, images=place.photos, max_samples=4)["verdict"] == "used again"
    assert len(Capture.open(place.io).samples) == 5


def test_the_same_images_in_another_folder_are_the_same(place: Place) -> None:
    place.apply(PHOTOS)
    shutil.copytree(place.photos, place.folder / "copy")
    assert place.apply("{images: copy, samples: 3}")["verdict"] == "used again"


def test_images_that_are_gone_are_taken_for_those_that_were_captured(place: Place) -> None:
    place.apply(PHOTOS)
    place.photos.rename(place.folder / "elsewhere")
    assert place.apply("{images: photos, samples: 2}")["verdict"] == "used again"
    for capture, options in (
        ("{images: photos, samples: 4}", {}),
        ("{images: phtos, samples: 3}", {}),
        (PHOTOS, {"images": place.folder / "photo"}),
    ):
        with pytest.raises(InputError, match="no such image or folder"):
            place.apply(capture, **options)
    assert ids(Capture.open(place.io)) == ["p0", "p1", "p2"]


def test_the_model_as_it_is_now_is_captured_anew_and_another_one_refused(place: Place) -> None:
    place.apply(PHOTOS)
    told = place.apply(PHOTOS, Source(seed=1))
    assert (told["verdict"], told["reason"]) == ("captured anew", "it is of a source with seed 0, now 1")
    with pytest.raises(CaptureError, match=r"another model \(name 'brightness', not 'contrast'\)"):
        place.apply(PHOTOS, Source(seed=1, name="contrast"))


def test_a_capture_of_an_earlier_version_is_made_anew(place: Place) -> None:
    place.apply(PHOTOS)
    index = place.io / "capture.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    del content["request"]
    for sample in content["samples"]:
        del sample["digest"]
    index.write_text(json.dumps(content), encoding="utf-8")
    assert len(Capture.open(place.io).samples) == 3  # whoever only reads it, can
    told = place.apply(PHOTOS)
    assert told["verdict"] == "captured anew"
    assert told["reason"].startswith("an earlier version made it")


@pytest.mark.parametrize("request_", ["yes", [], {"images": None}, {"samples": "few", "boundary": [], "by_hand": []}])
def test_a_request_that_is_none_is_refused_with_its_place(place: Place, request_: object) -> None:
    place.apply(PHOTOS)
    index = place.io / "capture.json"
    content = json.loads(index.read_text(encoding="utf-8")) | {"request": request_}
    index.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CaptureError, match=r"capture\.json: not of this version: request.*; capture again"):
        Capture.open(place.io)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_runs_go_by_what_the_command_capture_was_told(place: Place) -> None:
    place.capture("{samples: 2}", images=place.photos, max_samples=4)
    told = place.apply("{samples: 2}")
    assert (told["verdict"], told["ids"]) == ("used again", ["p0", "p1", "p2", "p3"])
    change_photo(place)
    told = place.apply("{samples: 2}")
    assert (told["verdict"], told["ids"]) == ("captured anew", ["p0", "p1", "p2", "p3"])
    assert place.apply("{samples: 2}")["verdict"] == "used again"


def test_what_was_not_told_by_hand_follows_the_recipe(place: Place) -> None:
    place.capture("{samples: 2}", images=place.photos)
    assert place.apply("{samples: 3}")["ids"] == ["p0", "p1", "p2"]
    place.capture("{samples: 2}")
    assert place.apply("{samples: 3}")["ids"] == ["1", "2", "3"]


def test_what_a_run_is_told_counts_more_than_what_the_command_capture_was(place: Place) -> None:
    place.capture("{samples: 2}", images=place.photos / "p4.png")
    assert place.apply("{samples: 2}", images=place.photos)["ids"] == ["p0", "p1"]
    told = place.apply("{samples: 2}")  # said for that one run
    assert (told["verdict"], told["ids"]) == ("captured anew", ["1", "2"])


def test_annotations_need_images(place: Place) -> None:
    with pytest.raises(InputError, match="says nothing without --images"):
        place.apply("{samples: 2}", annotations=place.folder / "of.json")


# --- what is between the parts ----------------------------------------------------------------------------------------


class Cuttable(Source):
    """A source that has to be told what to capture; tests say what the surgery would ask it for."""

    def __init__(self, wanted: list[str] | GraphSurgeryError) -> None:
        super().__init__()
        self.wanted = wanted

    def export(self) -> Any:
        return None

    def set_boundary(self, names: Any) -> None:
        self.told = names


@pytest.fixture
def surgery(monkeypatch: pytest.MonkeyPatch) -> None:
    def boundary_tensors(recipe: Recipe, source: Any) -> list[str]:
        if isinstance(source.wanted, Exception):
            raise source.wanted
        return list(source.wanted)

    monkeypatch.setattr("graphsurgery.pipeline.apply.boundary_tensors", boundary_tensors)


@pytest.mark.usefixtures("surgery")
def test_a_capture_without_a_tensor_that_is_between_the_parts_now_is_made_anew(place: Place) -> None:
    place.apply(PHOTOS, Cuttable(["a", "b"]))
    assert place.apply(PHOTOS, Cuttable(["b"]))["verdict"] == "used again"
    source = Cuttable(["b", "c"])
    told = place.apply(PHOTOS, source)
    assert (told["verdict"], told["reason"]) == ("captured anew", "it holds no 'c', which is now between two parts")
    assert source.told == ("b", "c")
    assert told["request"]["boundary"] == ("b", "c")


@pytest.mark.usefixtures("surgery")
def test_a_surgery_that_fails_leaves_the_capture_to_the_run_which_tells_the_pass_at_fault(place: Place) -> None:
    place.apply(PHOTOS, Cuttable(["a"]))
    assert place.apply(PHOTOS, Cuttable(ModelError("no weights to cut by")))["verdict"] == "used again"
    change_photo(place)
    with pytest.raises(ModelError, match="no weights"):
        place.apply(PHOTOS, Cuttable(ModelError("no weights to cut by")))
    assert ids(Capture.open(place.io)) == ["p0", "p1", "p2"]


# --- on the way -------------------------------------------------------------------------------------------------------


def test_what_was_captured_stays_whole_until_all_of_it_is_replaced(place: Place) -> None:
    place.apply(PHOTOS)
    before = {path: path.read_bytes() for path in place.io.rglob("*") if path.is_file()}
    (place.photos / "p4.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"p4\.png"):
        place.apply("{images: photos, samples: 5}")
    assert {path: path.read_bytes() for path in place.io.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in place.folder.iterdir()) == ["io", "photos", "tiny.yaml"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the other run is a fork")
def test_a_run_waits_for_another_that_captures_the_same_and_uses_it(place: Place) -> None:
    process = os.fork()
    if process == 0:
        try:
            with writing(place.io) as draft:
                (place.folder / "begun").touch()
                time.sleep(0.5)
                images = [(f"p{n}", load_image(place.photos / f"p{n}.png")) for n in range(3)]
                request = Request(str((place.folder / "photos").absolute()), None, 3)
                take.capture(Source(), images, place.io, request=request, draft=draft)
        finally:
            os._exit(0)
    while not (place.folder / "begun").exists():
        time.sleep(0.01)
    assert place.apply(PHOTOS)["verdict"] == "used again"
    os.waitpid(process, 0)
