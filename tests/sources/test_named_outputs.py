from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli

from graphsurgery.errors import InputError
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 12] image) => (float[1, 3, 8, 12] a117, float[1, 3, 8, 12] value3) {
        scores = Sigmoid (image)
        a117 = Neg (scores)
        value3 = Relu (a117)
    }"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    onnx.save(parse(NETWORK), tmp_path / "made_up.onnx")
    return tmp_path / "made_up.onnx"


def spec(file: Path, *names: str) -> SourceSpec:
    return SourceSpec("onnx", file.name, folder=file.parent, outputs=names)


def test_outputs_are_called_as_the_recipe_says(file: Path) -> None:
    source = open_source(spec(file, "boxes", "a117"))
    image = np.random.default_rng(0).random((3, 8, 12)).astype(np.float32)
    traced = source.trace(source.canvas.fit(image))
    plain = open_source(SourceSpec("onnx", file.name, folder=file.parent))
    expected = plain.trace(plain.canvas.fit(image))
    assert source.output_names == ["boxes", "a117"]
    np.testing.assert_array_equal(traced["boxes"], expected["a117"])
    np.testing.assert_array_equal(traced["a117"], expected["value3"])
    assert source.describe()["outputs"] == ["boxes", "a117"]


def test_another_tensor_of_that_name_makes_way(file: Path) -> None:
    model = open_source(spec(file, "boxes", "scores")).export()
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == ["boxes", "scores"]
    assert [node.output[0] for node in model.graph.node] == ["scores_inner", "boxes", "scores"]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("boxes",), "gives 1 names, and .* has 2 outputs: a117, value3"),
        (("boxes", "boxes"), "'boxes' is there twice"),
        (("boxes", "image"), "'image' is an input"),
        (("boxes", ""), "one is empty"),
    ],
)
def test_names_that_can_not_be_are_refused(file: Path, names: tuple[str, ...], fault: str) -> None:
    with pytest.raises(InputError, match=f"source.outputs: {fault}"):
        open_source(spec(file, *names))


def test_a_recipe_is_captured_and_checked_by_these_names(cli: Cli, file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    text = "source: {onnx: made_up.onnx, outputs: [boxes, masks]}\npasses: [{select-outputs: {outputs: [masks]}}]\n"
    recipe.write_text(f"{text}capture: {{samples: 1}}\ncheck: {{tolerance: {{masks: 1.0e-6}}}}\n", "utf-8")
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "io")
    assert outcome.code == 0, outcome.err
    assert [value.name for value in onnx.load(tmp_path / "parts" / "recipe.onnx").graph.output] == ["masks"]


def test_only_a_file_has_outputs_without_names(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("source:\n  demo: shapes\n  outputs: [boxes]\n", "utf-8")
    outcome = cli("apply", tmp_path / "recipe.yaml")
    assert outcome.code == 2
    assert outcome.last_line.endswith(
        "recipe.yaml:3: source.outputs is for an ONNX file; the others name theirs themselves"
    )
