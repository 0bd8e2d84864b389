"""The recipes for ONNX Runtime on RISC-V, on the embedded weights behind an unrolled BatchNorm.

That of the model zoo is the page on it, docs/flows/riscv.md, which is followed once; torchvision's is applied here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli, Outcome, made_once
from pages import ROOT, ap_tables, follow

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


IMAGES = 3
MOST_LOST = 0.05  # AP in int8, of so few images


def judged(folder: Path) -> dict[str, Any]:
    """Return run.json, of a run that passed, with each BatchNorm folded."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    affine = next(step for step in run["passes"] if step["name"] == "fold-affine")
    assert affine["nodes_before"] - affine["nodes_after"] == 2 * 33
    return run


def heads_are_integer(folder: Path) -> None:
    """All layers of the accelerator's parts are integer ones in the variant, and nothing else is between them."""
    for name in ACCELERATED:
        found = operators(folder / "int8" / f"{name}.onnx")
        assert found.keys() <= INTEGER | PASSED_THROUGH | BETWEEN
        float_ones = operators(folder / f"{name}.onnx")
        layers = ("Conv", "ConvTranspose", "MatMul", "Add", "Relu")
        assert {op: found[f"QLinear{op}"] for op in layers} == {op: float_ones[op] for op in layers}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    """What the commands of the page write into `folder` and beside it, and what they print."""
    pytest.importorskip("pycocotools")

    def make(root: Path) -> Outcome:
        write("zoo", root / "detector.onnx")
        write_dataset(root, IMAGES, VAL_SEED)
        (root / "images").rename(root / "photos")
        (root / "drawn").mkdir()
        followed = follow(ROOT / "docs" / "flows" / "riscv.md", root)
        assert followed.blocks == 6
        return Outcome(0, followed.printed, "")

    return made_once(tmp_path_factory, "riscv", make)


@pytest.mark.whole
def test_the_zoos_flow_is_what_its_page_shows(cli: Cli, page: Applied) -> None:
    root = page.folder.parent
    assert (root / "data" / "box_head" / "test_data_set_1" / "output_0.pb").is_file()
    assert (root / "device.png").is_file()
    judged(page.folder)
    of_all, of_integers = ap_tables(page.outcome.out)
    for kind in ("bbox", "segm"):
        original, parts, int8 = of_all[kind]
        assert original > 0.5
        assert parts == pytest.approx(original, abs=1e-3)
        assert int8 >= original - MOST_LOST
        assert of_integers[kind] == [int8, int8]  # of the parts, and of what stands for the device's results
    heads_are_integer(page.folder)
    the_whole_plays_as_the_parts(cli, page.folder / "int8", root / "photos", SPELLINGS["zoo"].outputs)


@pytest.mark.whole
def test_torchvisions_is_applied_evaluated_and_compiled(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    network = write("torchvision", tmp_path / "network.onnx")
    annotations = write_dataset(tmp_path / "shapes", IMAGES, VAL_SEED)
    images = annotations.parent / "images"
    outcome = cli(
        *("apply", "riscv_torchvision", "--set", f"source.onnx={network}", "--set", CLASSES, "--workers", 1),
        *("--set", f"capture={{images: {images}, samples: 2}}"),
        *("--set", f"evaluate={{images: {images}, annotations: {annotations}}}"),
        *("--set", f"variants.int8.max_ap_drop={MOST_LOST}"),
        *("--out", tmp_path / "parts", "--model-io", tmp_path / "io"),
    )
    assert outcome.code == 0, outcome.err
    evaluation = judged(tmp_path / "parts")["evaluation"]
    for ap in (evaluation["ap"]["bbox"], evaluation["ap"]["segm"]):
        assert ap["original"] > 0.5
        assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)
    heads_are_integer(tmp_path / "parts")
    the_whole_plays_as_the_parts(cli, tmp_path / "parts" / "int8", images, SPELLINGS["torchvision"].outputs)


def the_whole_plays_as_the_parts(cli: Cli, folder: Path, images: Path, outputs: tuple[str, ...]) -> None:
    """What ort_test is given computes what the parts do one after another, and its results are drawn the same."""
    compiled = Compiled.read(folder / "compiled" / "riscv-ort")
    assert operators(folder / "compiled" / "riscv-ort" / "whole" / "whole.onnx")["QLinearConv"] > 50
    names = [f"{name}.data" for name in ("boxes", "labels", "scores", "masks")]
    files = ("--option", "files=[boxes, labels, scores, masks]")
    assert cli("compile", folder, "--with", "riscv-ort", "--images", images, *files).code == 0
    place, data = folder / "compiled" / "riscv-ort" / "whole", folder.parent / "tensors"
    assert Compiled.read(place.parent).parts == compiled.parts
    drawn = folder.parent / "pictures"
    drawn.mkdir()
    assert cli("run", folder, "--image", images, "--out", drawn, "--dump-test-data", data).code == 0
    wanted = {path.name: path.read_bytes() for path in drawn.iterdir()}
    for number in range(IMAGES):
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
