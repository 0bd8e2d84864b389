"""A recipe whose network wants other pixels than 0..1, red first, from the capture to the AP."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from bars import DETECTOR, write_images
from conftest import Cli

import graphsurgery
from graphsurgery.testing import parse

# the detector of bars behind the preprocessing of pixels as a camera gives them: bytes, blue first, channels last
CAMERA = (
    DETECTOR.replace("HIGH", "4.0")
    .replace("float[1, 3, 8, 12] input", "uint8[1, 8, 12, 3] pixels")
    .replace(
        "i = Constant <value_int = 0> ()",
        """i = Constant <value_int = 0> ()
        numbers = Cast <to = 1> (pixels)
        planes = Transpose <perm = [0, 3, 1, 2]> (numbers)
        unit = Constant <value_float = 0.003921569> ()
        blue_first = Mul (planes, unit)
        order = Constant <value_ints = [2, 1, 0]> ()
        input = Gather <axis = 1> (blue_first, order)""",
    )
)
IMAGE = "image: {range: 255, channels: BGR, layout: NHWC, dtype: uint8}"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    onnx.save(parse(CAMERA), tmp_path / "camera.onnx")
    images, annotations = write_images(tmp_path, 3)
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"""\
source: {{onnx: camera.onnx}}
{IMAGE}
capture: {{images: {images.name}, samples: 2}}
passes: [drop-identity]
evaluate: {{images: {images.name}, annotations: {annotations.name}, samples: 3}}
""",
        "utf-8",
    )
    return path


def test_the_parts_see_what_the_model_saw_and_find_the_same(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    folder, model_io = tmp_path / "parts", tmp_path / "model_io"
    outcome = cli("apply", recipe, "--out", folder, "--model-io", model_io)
    assert outcome.code == 0, outcome.err
    captured = np.load(next(model_io.glob("*/pixels.npy")))
    assert (captured.dtype, captured.shape) == (np.uint8, (1, 8, 12, 3))

    detector = graphsurgery.load(folder)
    red, blue = np.zeros((2, 8, 12, 3), np.uint8)
    red[0, 5], blue[0, 5] = (255, 0, 0), (0, 0, 255)
    np.testing.assert_allclose(detector(red)["boxes"], [[5, 0, 6, 4]])
    assert len(detector(blue)["boxes"]) == 0
    # an image of another size and form: its red column is found where it stands
    wide = np.zeros((16, 24, 3), np.uint8)
    wide[:, 10:12] = (255, 0, 0)
    np.testing.assert_allclose(detector(wide)["boxes"], [[10, 0, 12, 8]])


def test_the_evaluation_of_both_sees_it_too(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "io", "--workers", 1)
    assert outcome.code == 0, outcome.err
    import json

    run = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))
    assert run["evaluation"]["ap"]["bbox"] == {"original": 1.0, "parts": 1.0}


def test_another_image_captures_anew(cli: Cli, recipe: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "parts", "--model-io", tmp_path / "io", "--set", "evaluate=")
    assert cli("apply", recipe, *options).code == 0
    again = cli("apply", recipe, *options, "--set", "image.resize=stretch")
    assert again.code == 0, again.err
    assert "source with image" in again.err + again.out


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            "image: {dtype: float32, range: 255}",
            "it has pixels uint8 [1, 8, 12, 3]; image in the recipe says what else",
        ),
        ("image: {preset: nobody}", "image.preset should be"),
        ("image: {resize: none, longest: 9}", "does not go with none"),
        ("image: {mean: [1, 2]}", "image.mean"),
        ("image: {colour: BGR}", "unknown key 'colour' in image"),
    ],
)
def test_what_does_not_fit_is_one_line(cli: Cli, recipe: Path, tmp_path: Path, image: str, said: str) -> None:
    recipe.write_text(recipe.read_text("utf-8").replace(IMAGE, image), "utf-8")
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "io")
    assert (outcome.code, said in outcome.last_line) == (2, True), outcome.err


def test_a_detector_of_torchvision_has_its_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("extends: shapes\nimage: {preset: detr}\n", "utf-8")
    outcome = cli("apply", tmp_path / "r.yaml", "--out", tmp_path / "parts")
    assert outcome.code == 2
    assert "image is for an ONNX file" in outcome.last_line
