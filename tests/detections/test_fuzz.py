"""Whatever a section says and whatever outputs there are: detections, or an error that is the user's."""

from __future__ import annotations

import json
import random
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from graphsurgery.detections.decode import decode
from graphsurgery.detections.guess import missing_section
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement

JUNK: list[Any] = [None, True, 0, 1, -1, 3, 10**30, 10**400, 0.5, 1e300, float("nan"), "", "x", "sigmoid"]
JUNK += [
    "ltrb",
    "yolox",
    "deltas",
    "pasted",
    "per_query",
    [],
    [1],
    [4, -1],
    [[1, 2]],
    {},
    [{}],
    {"tensor": 0},
    {"columns": 4},
]
JUNK += [{"strides": [8]}, {"levels": [{"stride": 8, "sizes": [[8, 8]]}]}, {"form": "prototypes", "coefficients": {}}]
KEYS = ("axis", "columns", "tensor", "per_cell", "activation", "form", "unit", "bins", "masks", "keypoints", "labels")
KEYS += ("objectness", "points", "anchors", "nms", "background", "multi_label", "score", "categories", "classes")


# what networks give, as far as their ranks go
USUAL = [[(1, 7, 20)], [(1, 20, 7)], [(1, 20, 6)], [(1, 20, 3), (1, 20, 4)], [(1, 20, 3), (1, 20, 5, 5)]]
USUAL += [[(1, 20, 5), (1, 20), (1, 20, 16, 32)], [(3, 4), (3,), (3,)], [(3, 4), (3,), (3, 1, 5, 5), (3,)]]


def mutated(value: Any, dice: random.Random) -> Any:
    if dice.random() < 0.05:
        return dice.choice(JUNK)
    if isinstance(value, dict):
        changed = {key: mutated(each, dice) for key, each in value.items() if dice.random() > 0.03}
        return changed | ({dice.choice(KEYS): dice.choice(JUNK)} if dice.random() < 0.15 else {})
    return [mutated(each, dice) for each in value] if isinstance(value, list) else value


def tensor(dice: random.Random, shape: tuple[int, ...] | None = None) -> np.ndarray:
    if shape is None:
        shape = tuple(dice.choice([0, 1, 1, 2, 3, 4, 5, 6, 8, 20, 36]) for _ in range(dice.randrange(5)))
    values = np.random.default_rng(dice.randrange(10**9)).normal(0, dice.choice([1, 100, 1e30]), shape)
    if values.size and dice.random() < 0.3:
        values.flat[dice.randrange(values.size)] = dice.choice([np.nan, np.inf, -np.inf])
    with np.errstate(all="ignore"):
        return values.astype(dice.choice([np.float32, np.float16, np.int64, np.bool_, np.uint8, np.float64]))


@pytest.mark.parametrize("seed", range(5))
def test_a_section_that_is_read_comes_back_and_decodes_or_is_refused(seed: int) -> None:
    dice, decoded = random.Random(seed), 0
    warnings.simplefilter("error")
    for _ in range(1000):
        usual: list[tuple[int, ...] | None] = [*dice.choice(USUAL)]
        chosen = usual if dice.random() < 0.7 else [None] * dice.randrange(4)
        outputs = {f"o{number}": tensor(dice, shape) for number, shape in enumerate(chosen)}
        shapes = {name: each.shape for name, each in outputs.items()}
        missing_section(shapes, (16, 32))
        with suppress(InputError):
            section = Postprocessing.from_json(mutated(dict(PRESETS[dice.choice(list(PRESETS))]), dice))
            assert Postprocessing.from_json(json.loads(json.dumps(section.to_json()))) == section
            for asked in (section.columns, section.rows, section.require_outputs, section.labels_of):
                with suppress(InputError):
                    asked(shapes)
            found = decode(section, outputs, Placement.whole((16, 32)))
            decoded += 1
            assert found["boxes"].shape == (len(found["scores"]), 4)
            assert all(len(each) == len(found["scores"]) <= section.maximum for each in found.values())
            assert not np.isnan(found["scores"]).any()
    assert decoded > 15
