"""An ONNX file with inputs besides the image: the recipe says what they always are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli
from numpy.typing import NDArray
from PIL import Image

from graphsurgery.errors import GraphSurgeryError, InputError
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

# Boxes relative to the image, times the size that is given: what RT-DETR's exporter adds to the network
NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 12] images, int64[n, 2] orig_target_sizes, float[1, h, w] mask)
    => (float[1, 2, 4] boxes, float[1, 2] scores, int64[1, 2] labels)
    <int64[4] order = {1, 0, 1, 0}, int64[3] as_row = {1, 1, 4}, int64[2] as_scores = {1, 2},
     int64[4] as_map = {1, 1, 8, 12}> {
        m = Reshape (mask, as_map)
        seen = Mul (images, m)
        found = Conv (seen, k)
        kept = Sigmoid (found)
        row = Reshape (kept, as_row)
        both = Concat <axis = 1> (row, row)
        picked = Gather <axis = 1> (orig_target_sizes, order)
        size = Cast <to = 1> (picked)
        boxes = Mul (both, size)
        top = ReduceMax <axes = [2], keepdims = 0> (both)
        scores = Reshape (top, as_scores)
        labels = Cast <to = 7> (scores) }"""
GIVEN = {"orig_target_sizes": "canvas", "mask": 1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    proto = parse(NETWORK)
    weights = np.random.default_rng(0).normal(size=(4, 3, 8, 12)).astype(np.float32) / 8
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "k"))
    onnx.save(proto, tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


def image() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((3, 8, 12)).astype(np.float32)


def traced(file: Path, **inputs: Any) -> dict[str, NDArray[Any]]:
    source = open_source(SourceSpec("onnx", file.name, folder=file.parent, inputs=inputs))
    return source.trace(source.canvas.fit(image()))


def test_the_values_are_those_that_the_file_computes_with_them(file: Path) -> None:
    from graphsurgery.devices import session

    sizes, mask = np.array([[8, 12]]), np.ones((1, 8, 12), np.float32)
    expected = session.run(onnx.load(file), {"images": image()[None], "orig_target_sizes": sizes, "mask": mask})
    got = traced(file, **GIVEN)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)
    assert "orig_target_sizes" not in got
    half = traced(file, orig_target_sizes=[[4, 6]], mask=1)
    np.testing.assert_allclose(half["boxes"], expected["boxes"] / 2, rtol=1e-6)


def test_they_are_part_of_what_the_model_is(file: Path) -> None:
    source = open_source(SourceSpec("onnx", file.name, folder=file.parent, inputs=GIVEN))
    assert json.loads(json.dumps(source.describe()))["inputs"] == GIVEN
    assert [value.name for value in source.export().graph.input] == ["images"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"orig_target_size": "canvas"}, r"no input 'orig_target_size'.*Did you mean 'orig_target_sizes'"),
        ({**GIVEN, "orig_target_sizes": 0.5}, "is int64, which does not hold 0.5"),
        ({**GIVEN, "orig_target_sizes": [1, 2, 3]}, "does not fit"),
        ({**GIVEN, "mask": "ones"}, r"source\.inputs\.mask: 'ones' is none of canvas, height, .*, mask\."),
        ({**GIVEN, "mask": [[1, 2], [1]]}, "give lists of one length"),
    ],
)
def test_what_does_not_fit_is_one_line(file: Path, inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        traced(file, **inputs)


def test_without_them_the_message_says_where_they_go(file: Path) -> None:
    with pytest.raises(GraphSurgeryError, match=r"needs one input.*source\.inputs in the recipe says"):
        traced(file)


def test_from_the_recipe_to_detections_on_an_image(cli: Cli, file: Path) -> None:
    recipe = file.parent / "two.yaml"
    recipe.write_text(
        "source: {onnx: two.onnx, inputs: {orig_target_sizes: canvas, mask: 1}}\n"
        "detections: torchvision\npasses: [simplify]\n",
        "utf-8",
    )
    folder = file.parent / "parts"
    outcome = cli("apply", recipe, "--out", folder, "--model-io", file.parent / "io")
    assert outcome.code == 0, outcome.err
    Image.new("RGB", (24, 16), (200, 90, 40)).save(file.parent / "image.png")
    outcome = cli("run", folder, "--image", file.parent / "image.png", "--json", "-")
    assert outcome.code == 0, outcome.err
    boxes = [found["box"] for found in json.loads(outcome.out)["detections"]]
    assert len(boxes) == 2
    assert all(0 <= edge <= 24 for box in boxes for edge in box), "in pixels of the image, twice as large as the canvas"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["inputs"] == GIVEN
    wrong = cli("apply", "shapes", "--set", "source.inputs={x: 1}", "--out", folder)
    assert (wrong.code, "source.inputs is for an ONNX file" in wrong.last_line) == (2, True)
