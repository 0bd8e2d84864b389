"""Photos of bright squares for the networks of this folder, twice as large as their canvas, with COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo.networks import HEIGHT, NAMES, SIDE, WIDTH, squares

Place = tuple[int, int, int]  # class, row and column of the cell of stride 8
_CELLS = [(row, column) for row in (2, 7) for column in (2, 7, 13)]  # squares around these do not touch


def box(place: Place) -> list[int]:
    """Return the corners of a square in pixels of a photo."""
    _, row, column = place
    x, y = 2 * (8 * column + 4), 2 * (8 * row + 4)
    return [x - SIDE, y - SIDE, x + SIDE, y + SIDE]


def shown(number: int) -> list[Place]:
    """Return what photo `number` shows: one to four squares, the same every time."""
    random = np.random.default_rng(number)
    chosen = random.permutation(len(_CELLS))[: 1 + number % 4]
    return [(int(random.integers(len(NAMES))), *_CELLS[place]) for place in chosen]


def write_photos(folder: Path, count: int) -> None:
    """Write `photos/1.png` and on, and `instances.json` beside it."""
    (folder / "photos").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels = squares(shown(number)).repeat(2, 0).repeat(2, 1)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 2 * HEIGHT, "width": 2 * WIDTH})
        for place in shown(number):
            x, y, _, _ = box(place)
            side = {"bbox": [x, y, 2 * SIDE, 2 * SIDE], "area": 4 * SIDE**2, "iscrowd": 0}
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": 10 + place[0], **side})
    categories = [{"id": 10 + label, "name": name} for label, name in enumerate(NAMES)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
