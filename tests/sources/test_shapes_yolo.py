"""The embedded detector of one stage as a source."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from graphsurgery.demo.shapes import draw
from graphsurgery.devices.session import run
from graphsurgery.errors import InputError
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.sources import Source, SourceSpec, open_source

pytest.importorskip("torchvision")

SIZE = (64, 96)
POINTS = 8 * 12 + 4 * 6 + 2 * 3


def spec(weights: str | None = "random:0", size: tuple[int, int] | None = SIZE) -> SourceSpec:
    return SourceSpec("demo", "shapes_yolo", weights, size)


@cache
def opened() -> Source:
    return open_source(spec())


def picture() -> CanvasImage:
    return opened().canvas.fit(draw(0, 0).image)


def test_captures_what_the_heads_give_and_what_is_joined() -> None:
    tensors = opened().trace(picture())
    shapes = {name: value.shape for name, value in tensors.items()}
    levels = [(8, 12), (4, 6), (2, 3)]
    assert shapes == {
        "input": (3, *SIZE),
        "images": (1, 3, *SIZE),
        **{f"edges_{level}": (1, 64, *size) for level, size in enumerate(levels)},
        **{f"classes_{level}": (1, 3, *size) for level, size in enumerate(levels)},
        "boxes": (1, 4, POINTS),
        "scores": (1, 3, POINTS),
        "output0": (1, 7, POINTS),
    }
    assert all(np.ptp(tensors[name]) > 0 for name in tensors)
    again = opened().trace(picture())  # the hooks of the first are gone
    assert again.keys() == tensors.keys()


def test_the_exported_graph_computes_what_torch_does() -> None:
    source = opened()
    graph = source.export()
    assert [each.name for each in graph.graph.output] == list(source.output_names)
    expected = source.trace(picture())
    found = run(graph, {"images": expected["images"]})
    np.testing.assert_allclose(found["output0"], expected["output0"], rtol=1e-4, atol=1e-4)


def test_detects_with_its_own_weights_and_the_names_of_its_classes() -> None:
    source = open_source(spec(None, None))
    assert (source.canvas.height, source.canvas.width) == (256, 320)
    shown = draw(2, 0)
    found = source.detect(source.canvas.fit(shown.image))
    assert source.classes is not None
    assert source.classes == ["circle", "square", "triangle"]
    sure = {source.classes[label] for label in found["labels"][found["scores"] > 0.5].tolist()}
    assert sure == {source.classes[label - 1] for label in shown.labels.tolist()}


def test_describes_itself_and_its_output_as_json_has_it() -> None:
    described = json.loads(json.dumps(opened().describe()))
    assert described["detections"]["boxes"]["form"] == "cxcywh"
    assert described["size"] == list(SIZE)
    assert open_source(spec()).describe() == opened().describe()
    assert open_source(spec("random:1")).describe()["weights_sha256"] != described["weights_sha256"]


def test_a_size_off_the_stride_is_answered_with_the_next_ones() -> None:
    with pytest.raises(InputError, match=r"take 64 or 96$"):
        open_source(spec(size=(70, 96)))
