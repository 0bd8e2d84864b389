"""The recipes for ONNX Runtime on RISC-V, on the embedded weights behind an unrolled BatchNorm."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli

pytest.importorskip("torch")

from spellings.unrolled_batchnorm import SPELLINGS, write

from graphsurgery.compiling.compiled import Compiled
from graphsurgery.compiling.test_data_sets import read_tensor
from graphsurgery.demo.shapes import CATEGORIES, VAL_SEED, write_dataset

CLASSES = f"detections.classes=[background, {', '.join(CATEGORIES.values())}]"
ACCELERATED = ("backbone_rpn", "box_head", "mask_head")
# The list of the runtime's quantizer: computed in integers, passed through, and where integers meet float
INTEGER = {"QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QLinearAdd", "QLinearRelu"}
PASSED_THROUGH = {"Reshape", "Transpose", "Flatten", "Resize", "Squeeze", "Unsqueeze", "MaxPool"}
BETWEEN = {"QuantizeLinear", "DequantizeLinear"}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.whole
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_apply_evaluate_and_compile(cli: Cli, tmp_path: Path, spelling: str) -> None:
    pytest.importorskip("pycocotools")
    network = write(spelling, tmp_path / "network.onnx")
    annotations = write_dataset(tmp_path / "shapes", 3, VAL_SEED)
    images = annotations.parent / "images"
    outcome = cli(
        *("apply", f"riscv_{spelling}", "--set", f"source.onnx={network}", "--set", CLASSES, "--workers", 1),
        *("--set", f"capture={{images: {images}, samples: 2}}"),
        *("--set", f"evaluate={{images: {images}, annotations: {annotations}}}"),
        *("--set", "variants.int8.max_ap_drop=0.05"),  # of three images
        *("--out", tmp_path / "parts", "--model-io", tmp_path / "io"),
    )
    assert outcome.code == 0, outcome.err
    run = json.loads((tmp_path / "parts" / "run.json").read_text("utf-8"))
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    affine = next(step for step in run["passes"] if step["name"] == "fold-affine")
    assert affine["nodes_before"] - affine["nodes_after"] == 2 * 33
    for ap in (run["evaluation"]["ap"]["bbox"], run["evaluation"]["ap"]["segm"]):
        assert ap["original"] > 0.5
        assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)

    int8 = tmp_path / "parts" / "int8"
    for name in ACCELERATED:
        found = operators(int8 / f"{name}.onnx")
        assert found.keys() <= INTEGER | PASSED_THROUGH | BETWEEN
        float_ones = operators(tmp_path / "parts" / f"{name}.onnx")
        layers = ("Conv", "ConvTranspose", "MatMul", "Add", "Relu")
        assert {op: found[f"QLinear{op}"] for op in layers} == {op: float_ones[op] for op in layers}
    the_whole_plays_as_the_parts(cli, int8, images, SPELLINGS[spelling].outputs)


def the_whole_plays_as_the_parts(cli: Cli, folder: Path, images: Path, outputs: tuple[str, ...]) -> None:
    """What ort_test is given computes what the parts do one after another, and its results are drawn the same."""
    compiled = Compiled.read(folder / "compiled" / "riscv-ort")  # by the recipe
    assert operators(folder / "compiled" / "riscv-ort" / "whole" / "whole.onnx")["QLinearConv"] > 50
    names = [f"{name}.data" for name in ("boxes", "labels", "scores", "masks")]
    files = ("--option", "files=[boxes, labels, scores, masks]")
    assert cli("compile", folder, "--with", "riscv-ort", "--images", images, *files).code == 0
    place, data = folder / "compiled" / "riscv-ort" / "whole", folder.parent / "data"
    assert Compiled.read(place.parent).parts == compiled.parts
    drawn = folder.parent / "drawn"
    drawn.mkdir()
    assert cli("run", folder, "--image", images, "--out", drawn, "--dump-test-data", data).code == 0
    wanted = {path.name: path.read_bytes() for path in drawn.iterdir()}
    for number in range(3):
        given = place / f"test_data_set_{number}"
        for index, (file, name) in enumerate(zip(names, outputs, strict=True)):
            called, values = read_tensor(given / f"output_{index}.pb")
            assert called == name
            np.testing.assert_array_equal(values, read_tensor(data / f"test_data_set_{number}/output_{index}.pb")[1])
            (given / f"output_{index}.pb").unlink()
            values.tofile(given / file)  # as the runner writes it
    assert cli("run", folder, "--image", images, "--out", drawn, "--results", f"riscv-ort={place}").code == 0
    found = {path.name: path.read_bytes() for path in drawn.iterdir() if path.suffix == ".png"}
    assert found == {name: content for name, content in wanted.items() if name.endswith(".png")}


def test_heads_may_keep_an_open_number_of_rows_and_a_frozen_one_is_no_whole(cli: Cli, tmp_path: Path) -> None:
    network = write("torchvision", tmp_path / "network.onnx")
    given = ("apply", "riscv_torchvision", "--set", f"source.onnx={network}", "--set", "capture={samples: 1}")
    given += ("--no-variants", "--out", tmp_path / "parts", "--model-io", tmp_path / "io")
    outcome = cli(*given, "--set", "partition.static=true")
    assert outcome.code == 2, outcome.err
    assert "part 'box_head' is for npu but not static" in outcome.last_line
    outcome = cli(*given, "--set", "part_passes.box_head=[{freeze-batch: {size: 1000}}]")
    assert outcome.code == 2
    assert "part 'box_head' has a frozen batch of 1000 rows, which only" in outcome.last_line
