"""A recipe for a model and a target: what helps is kept, what breaks something or helps nothing isn't, and it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from conftest import Cli, Outcome
from onnx import numpy_helper

from graphsurgery.testing import parse

NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[1, 3, 32, 32] image) => (float[1, 4, 16, 16] y, float[3, 1] best)
    <int64[1] starts = {0}, int64[1] ends = {9999}, int64[1] axes = {2}, int64[1] steps = {2}, int64[1] axis3 = {3},
     int64[1] k = {3}, int64[2] flat = {-1, 1}> {
        wide = Conv <pads = [1, 1, 1, 1]> (image, w1)
        active = Relu (wide)
        rows = Slice (active, starts, ends, axes, steps)
        half = Slice (rows, starts, ends, axis3, steps)
        y = Conv (half, w2)
        all = Reshape (y, flat)
        best, places = TopK <axis = 0> (all, k)
    }"""
A_TEST_NPU = """\
title: A test NPU
sources: {guide: {title: A guide, version: 2, date: 2026-01-01, basis: document}}
source: guide
precisions: [int8]
tensors: {static: true, fix: {static: [freeze-shapes]}}
others: cpu
operators:
"""
TARGET = (
    A_TEST_NPU
    + """\
  Conv, Relu, MaxPool, Reshape: taken
  Slice: {step: 1, fix: [FIX], at: table 5}
"""
)
BROKEN = '''\
from dataclasses import dataclass

from graphsurgery.rewrite import NodePass


@dataclass(frozen=True)
class WrongSlice(NodePass):
    """Wrong: a Slice becomes a MaxPool over two elements in each direction."""

    name = "wrong-slice"
    effect = "exact"
    matches = ("Slice",)

    def rewrite(self, node, edit):
        strides = [1, 1]
        strides[int(node.inputs[3].values[0]) - 2] = 2
        window = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "strides": strides}
        edit.replace(node, "MaxPool", [node.inputs[0]], window)
'''


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    proto = parse(NETWORK)
    draw = np.random.default_rng(0).standard_normal
    for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (4, 8, 1, 1))):
        proto.graph.initializer.append(numpy_helper.from_array(draw(shape).astype(np.float32), name))
    onnx.save(proto, tmp_path / "net.onnx")
    return tmp_path


def made(cli: Cli, fix: str, *options: object) -> Outcome:
    Path("npu.yaml").write_text(TARGET.replace("FIX", fix), encoding="utf-8")
    return cli("new-recipe", "net.onnx", "--target", "npu.yaml", "-o", "new.yaml", *options)


def test_what_helps_is_kept_and_the_recipe_runs(cli: Cli) -> None:
    outcome = made(cli, "lower-strided-slice")
    assert outcome.code == 0, outcome.err
    text = Path("new.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert recipe["source"] == {"onnx": "net.onnx"}  # beside it
    assert recipe["target"] == {"name": "npu.yaml"}
    assert recipe["partition"]["by"] == "target"
    assert recipe["partition"]["parts"] == {"npu_1": "npu", "cpu_1": "cpu"}
    assert "lower-strided-slice" in recipe["passes"]
    assert "npu_1 is for the target, which takes" in text
    assert "cpu_1 is the host's" in text
    assert "1 TopK" in text
    assert "[1] A guide 2, 2026-01-01 (document)" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    outcome = cli("apply", "new.yaml", "--out", "parts", "--model-io", "io")
    assert outcome.code == 0, outcome.err


def test_what_helps_nothing_is_left_out_and_the_nodes_stay_with_their_reason(cli: Cli) -> None:
    outcome = made(cli, "lower-sum")
    assert outcome.code == 0, outcome.err
    text = Path("new.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert "lower-sum" not in str(recipe)
    assert recipe["partition"]["parts"] == {"npu_1": "npu", "cpu_1": "cpu", "npu_2": "npu", "cpu_2": "cpu"}
    assert "# 2 Slice: cpu, step 2, where 1 is taken (table 5)" in " ".join(text.split())


def test_a_pass_that_breaks_something_is_left_out_and_named(cli: Cli) -> None:
    Path("broken.py").write_text(BROKEN, encoding="utf-8")
    outcome = made(cli, "wrong-slice, lower-strided-slice", "--plugin", "broken.py")
    assert outcome.code == 0, outcome.err
    assert "left out: wrong-slice: " in outcome.err
    recipe = yaml.safe_load(Path("new.yaml").read_text(encoding="utf-8"))
    assert "lower-strided-slice" in recipe["passes"]
    assert "wrong-slice" not in str(recipe)
    text = " ".join(Path("new.yaml").read_text(encoding="utf-8").split())
    assert "Left out, as it breaks something: wrong-slice" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no.onnx", "--target", "rk3588", "-o", "x.yaml"), "no.onnx: no such file"),
        (("net.onnx", "--target", "rk3589", "-o", "x.yaml"), "unknown target 'rk3589'"),
        (("net.onnx", "--target", "rk3588", "--precision", "int2", "-o", "x.yaml"), "has no precision 'int2'"),
        (("net.onnx", "--target", "rk3588", "-o", "x.txt"), "a recipe ends in .yaml"),
        (("net.onnx", "--target", "rk3588", "-o", "there.yaml"), "there.yaml: is there already"),
        (("net.onnx", "--target", "rk3588", "-o", "no/x.yaml"), "no such folder"),
        (("net.onnx", "--target", "none.yaml", "-o", "x.yaml"), "the target takes none of the layers"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    Path("there.yaml").write_text("mine", encoding="utf-8")
    Path("none.yaml").write_text(TARGET.replace("FIX", "lower-sum").replace("Conv, ", ""), encoding="utf-8")
    before = sorted(Path().iterdir())
    outcome = cli("new-recipe", *arguments)
    assert outcome.code == 2
    assert said in outcome.last_line
    assert "Traceback" not in outcome.err
    assert sorted(Path().iterdir()) == before
    assert Path("there.yaml").read_text(encoding="utf-8") == "mine"


PATCHES = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[1, 3, 32, 32] image) => (float[1, 4, 8, 8] y) {
        small = Conv <strides = [4, 4]> (image, w1)
        y = Conv (small, w2)
    }"""
SMALL_STRIDES = (
    A_TEST_NPU
    + """\
  MaxPool, Reshape, Transpose: taken
  Conv: {stride: 1, fix: [FIX]}
"""
)


def of_patches(cli: Cli, fix: str) -> tuple[Outcome, str]:
    proto = parse(PATCHES)
    draw = np.random.default_rng(0).standard_normal
    for name, shape in (("w1", (8, 3, 4, 4)), ("w2", (4, 8, 1, 1))):
        proto.graph.initializer.append(numpy_helper.from_array(draw(shape).astype(np.float32), name))
    onnx.save(proto, "patches.onnx")
    Path("npu.yaml").write_text(SMALL_STRIDES.replace("FIX", fix), encoding="utf-8")
    outcome = cli("new-recipe", "patches.onnx", "--target", "npu.yaml", "-o", "new.yaml")
    assert outcome.code == 0, outcome.err
    return outcome, Path("new.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "fix", ["split-conv-stride conv=1, lower-patch-conv", "lower-patch-conv, split-conv-stride conv=1"]
)
def test_of_passes_that_help_as_much_the_one_that_adds_the_least_is_kept(cli: Cli, fix: str) -> None:
    outcome, text = of_patches(cli, fix)
    assert yaml.safe_load(text)["passes"][-1] == "lower-patch-conv"
    assert "split-conv-stride" not in text
    assert "multiply-adds became" not in text
    assert "larger:" not in outcome.err


def test_a_graph_that_grows_for_its_target_is_told(cli: Cli) -> None:
    outcome, text = of_patches(cli, "split-conv-stride conv=1")
    # 8 x 8 places of 3 x 4 x 4 taps for 8 channels and of 8 for 4; 29 x 29 places of the former behind the pass
    before, after = 64 * 48 * 8 + 64 * 32, 29 * 29 * 48 * 8 + 64 * 32
    said = (
        f"{before / 1e3:.3g} k multiply-adds became {after / 1e3:.3g} k (x {after / before:.3g}) by split-conv-stride"
    )
    assert said in " ".join(text.replace("#", "").split())
    assert f"larger: {said}" in outcome.err


def test_what_leaves_less_to_the_host_counts_before_what_adds_less(cli: Cli) -> None:
    """conv=2 makes the Conv 4 times as large and leaves it to the host; conv=1 makes it 16 times as large."""
    _, text = of_patches(cli, "split-conv-stride conv=2, split-conv-stride conv=1")
    assert {"split-conv-stride": {"conv": 1}} in yaml.safe_load(text)["passes"]
