"""A case for evaluations that takes milliseconds: a detector of bright columns, images of them, and annotations."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graphsurgery.evaluation.columns import Opened, PartsColumn
from graphsurgery.evaluation.dataset import Dataset, open_dataset
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.parts.describe import describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

HEIGHT, WIDTH = 8, 12
# It finds an object 1 pixel wide and as high as said in each column whose first pixel is red.
DETECTOR = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 12] input) => (float[N, 4] boxes, int64[N] labels, float[N] scores, float[N, 1, 2, 2] masks) {
        i = Constant <value_int = 0> ()
        half = Constant <value_float = 0.5> ()
        zero = Constant <value_float = 0.0> ()
        one = Constant <value_float = 1.0> ()
        high = Constant <value_float = HIGH> ()
        worse = Constant <value_float = -0.01> ()
        axis = Constant <value_ints = [1]> ()
        square = Constant <value_ints = [-1, 1, 2, 2]> ()
        image = Gather <axis = 0> (input, i)
        red = Gather <axis = 0> (image, i)
        row = Gather <axis = 0> (red, i)
        bright = Greater (row, half)
        at = NonZero (bright)
        column = Transpose (at)
        x0 = Cast <to = 1> (column)
        x1 = Add (x0, one)
        y0 = Mul (x0, zero)
        y1 = Add (y0, high)
        boxes = Concat <axis = 1> (x0, y0, x1, y1)
        flat = Squeeze (x0, axis)
        lost = Mul (flat, worse)
        scores = Add (lost, one)
        nothing = Mul (flat, zero)
        ones = Add (nothing, one)
        labels = Cast <to = 7> (ones)
        empty = Mul (boxes, zero)
        full = Add (empty, one)
        masks = Reshape (full, square)
    }"""


def write_parts(folder: Path, high: float = 4.0, classes: tuple[str, ...] | None = ("background", "bar")) -> Path:
    """Write a folder of one part; with another height than 4 it is a variant that is less good."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(parse(DETECTOR.replace("HIGH", str(float(high)))))
    model.save(folder / "all.onnx")
    source = open_source(SourceSpec("onnx", "all.onnx", folder=folder)).describe()
    part = Part("all", "npu", False, model)
    names = ["boxes", "labels", "scores", "masks"]
    manifest = describe_parts(
        [part], "bars", dict(source), Canvas(HEIGHT, WIDTH), ["input"], names, list(classes) if classes else None
    )
    (folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def write_images(folder: Path, count: int, marked: int | None = None) -> tuple[Path, Path]:
    """Write images 1.png and on, and annotations that are right; image `marked` has a blue pixel at the bottom."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    entries, objects = [], []
    for number in range(1, count + 1):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for x in {number % WIDTH, number * 5 % WIDTH}:
            pixels[:4, x, 0] = 255
            box = {"bbox": [x, 0, 1, 4], "area": 4, "segmentation": [[x, 0, x + 1, 0, x + 1, 4, x, 4]]}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": 1, "iscrowd": 0, **box})
        if number == marked:
            pixels[-1, -1, 2] = 255
        Image.fromarray(pixels).save(images / f"{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
    content = {"images": entries, "annotations": objects, "categories": [{"id": 1, "name": "bar"}]}
    annotations = folder / "instances.json"
    annotations.write_text(json.dumps(content), encoding="utf-8")
    return images, annotations


def change(path: Path, **updates: Any) -> None:
    """Change top-level entries of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **updates}), encoding="utf-8")


def bars(folder: Path, count: int = 4, marked: int | None = None) -> tuple[PartsColumn, Dataset]:
    """Write all of it; return the parts as a column, and the images."""
    return PartsColumn.of("parts", write_parts(folder / "parts")), open_dataset(*write_images(folder, count, marked))


class Quiet:
    """A watcher that remembers how far it came."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def begin(self, what: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@dataclass(frozen=True)
class _Around:
    """A column that is another but for what opening it does."""

    inner: PartsColumn

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    def check(self) -> None:
        self.inner.check()


@dataclass(frozen=True)
class Deadly(_Around):
    """A column whose process dies at the marked image, as often as `lives` says; notes lie in the folder `notes`.

    As an original it holds a dict, so that it can't be a key.
    """

    notes: Path
    lives: int = 1
    name: str = "parts"
    inputs: dict[str, object] = field(default_factory=dict)

    def open(self, threads: int) -> Opened:
        canvas, detect = self.inner.open(threads)

        def found(placed: CanvasImage, image: Path) -> Any:
            deaths = len(list(self.notes.iterdir()))
            if placed.input[2].max() > 0.5 and deaths < self.lives:
                (self.notes / str(deaths)).touch()
                os._exit(1)
            return detect(placed, image)

        return Opened(canvas, found)


@dataclass(frozen=True)
class Noting(_Around):
    """A column that leaves a file in the folder `notes` each time that it is opened, named by the column's name."""

    notes: Path
    name: str

    def open(self, threads: int) -> Opened:
        (self.notes / f"{self.name} {os.getpid()}").touch(exist_ok=False)
        return self.inner.open(threads)


@dataclass(frozen=True)
class Slow(_Around):
    """A column that takes an hour for an image, and says so by the file `begun`."""

    begun: Path
    name: str = "parts"

    def open(self, threads: int) -> Opened:
        canvas = self.inner.open(threads).canvas

        def found(placed: CanvasImage, image: Path) -> Any:
            self.begun.touch()
            time.sleep(3600)

        return Opened(canvas, found)
