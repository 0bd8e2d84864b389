"""The command `bisect`, and faults put into a whole detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli
from onnx import ModelProto, helper, numpy_helper

from debugging.faulty_models import BRANCH, CHAIN, model
from graphsurgery.debugging.bisect import bisect, read_samples
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline, constant_of
from graphsurgery.rewrite import apply_pass
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import parse

# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str, str], tuple[Path, Path]]:
    def write(a: str, b: str) -> tuple[Path, Path]:
        for name, text in (("a.onnx", a), ("b.onnx", b)):
            onnx.save(model(text).proto, tmp_path / name)
        return tmp_path / "a.onnx", tmp_path / "b.onnx"

    return write


def test_equal_models_end_with_0(cli: Cli, files: Callable[[str, str], tuple[Path, Path]]) -> None:
    outcome = cli("bisect", *files(CHAIN, CHAIN))
    assert outcome.code == 0, outcome.err
    assert "no difference: 4 tensors compared" in outcome.out


def test_a_difference_ends_with_1_and_names_the_place(
    cli: Cli, files: Callable[[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    report = tmp_path / "found.json"
    other = BRANCH.replace("Sqrt (a)", "Sin (a)")
    a, b = files(BRANCH, other)
    np.save(tmp_path / "x.npy", np.ones(4, np.float32))
    np.save(tmp_path / "flag.npy", np.array(True))
    outcome = cli("bisect", a, b, "--inputs", tmp_path, "--json", report)
    assert outcome.code == 1
    assert outcome.last_line.startswith("different: If 'b' then_branch > tensor 'p' (Sqrt 'p' in A, Sin 'p' in B): ")
    content = json.loads(report.read_text(encoding="utf-8"))
    assert content["verdict"] == "different"
    assert content["divergences"][0]["path"] == ["If 'b' then_branch"]
    assert content["divergences"][0]["inherent"] is True
    table = " ".join(outcome.out.split())
    assert "made here: on the same values it differs as well" in table
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_standard_output_holds_the_json_alone(cli: Cli, files: Callable[[str, str], tuple[Path, Path]]) -> None:
    outcome = cli("bisect", *files(CHAIN, CHAIN.replace("Sqrt", "Exp")), "--json", "-")
    assert outcome.code == 1
    assert json.loads(outcome.out)["divergences"][0]["tensor"] == "b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.onnx", "b.onnx"), "missing.onnx: can't be read"),
        (("a.onnx", "b.onnx", "--inputs", "missing"), "missing: holds neither"),
        (("a.onnx", "b.onnx", "--tolerance", "b"), "--tolerance b"),
        (("a.onnx",), "Missing argument"),
    ],
)
def test_a_wrong_bisect_is_one_line(
    cli: Cli,
    files: Callable[[str, str], tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    files(CHAIN, CHAIN)
    monkeypatch.chdir(tmp_path)
    outcome = cli("bisect", *arguments)
    assert outcome.code == 2
    assert outcome.last_line.startswith("error: ")
    assert said in outcome.last_line


def test_help_shows_an_example(cli: Cli) -> None:
    outcome = cli("bisect", "--help")
    assert "Example: python -m graphsurgery bisect" in " ".join(outcome.out.replace("│", " ").split())


# --- a whole detector -------------------------------------------------------------------------------------------


def whole(uncut: Applied) -> Model:
    return Model.load(uncut.folder / "shapes.onnx")


def with_scaled_weight(source: Model, number: int, factor: float) -> tuple[Model, str]:
    """Return the model with the weight of one Conv scaled, and what that Conv writes."""
    proto = ModelProto()
    proto.CopyFrom(source.proto)
    node = [node for node in proto.graph.node if node.op_type == "Conv"][number]
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    return Model(proto), node.output[0]


@pytest.mark.parametrize("number", [0, 7, -1])
def test_a_scaled_weight_of_the_detector_is_found(cli: Cli, uncut: Applied, tmp_path: Path, number: int) -> None:
    changed, tensor = with_scaled_weight(whole(uncut), number, 1.01)
    changed.save(tmp_path / "b.onnx")
    report = tmp_path / "found.json"
    outcome = cli(
        *("bisect", uncut.folder / "shapes.onnx", tmp_path / "b.onnx"),
        *("--inputs", uncut.model_io, "--json", report),
    )
    assert outcome.code == 1, outcome.err
    found = json.loads(report.read_text(encoding="utf-8"))["divergences"]
    assert found[0]["tensor"] == tensor
    assert found[0]["inherent"] is True
    assert "the constant input 1" in found[0]["changes"][0]


def test_a_changed_attribute_of_the_detector_is_found(uncut: Applied) -> None:
    source = whole(uncut)
    proto = ModelProto()
    proto.CopyFrom(source.proto)
    node = next(node for node in proto.graph.node if node.op_type == "RoiAlign")
    ratio = next(attribute for attribute in node.attribute if attribute.name == "sampling_ratio")
    ratio.CopyFrom(helper.make_attribute("sampling_ratio", ratio.i + 1))
    load = next(iter(read_samples(source, uncut.model_io)))[1]
    found = bisect(source, Model(proto), load, Tolerances())
    assert found.divergences[0].tensor == node.output[0]
    assert any(change.startswith("sampling_ratio: ") for change in found.divergences[0].changes)


def test_an_exact_pass_over_the_detector_makes_no_difference(uncut: Applied) -> None:
    source = whole(uncut)
    after = apply_pass(discover().get("replace-unit-maxpool")(), source).model
    assert after.fingerprint != source.fingerprint
    load = next(iter(read_samples(source, uncut.model_io)))[1]
    found = bisect(source, after, load, Tolerances())
    assert found.divergences == ()
    assert found.compared > 400


@pytest.mark.parametrize("held", [helper.make_attribute("value", 1), helper.make_attribute("value_int", [1.5])])
def test_a_constant_that_holds_something_else_is_none(held: onnx.AttributeProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(held)
    assert constant_of(node) is None


def test_a_constant_that_nobody_can_read_is_none() -> None:
    assert constant_of(helper.make_node("Constant", [], [], value_int=1)) is None


def test_a_dropout_that_trains_by_more_than_one_value_is_random() -> None:
    random = parse("""<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x) => (float[2] y) <float rate = {0.5}, bool[2] training = {0, 1}> {
            y = Dropout (x, rate, training) }""")
    assert Outline(Model(random)).random == {0}
