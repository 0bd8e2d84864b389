"""The recipes of detectors that answer queries: right boxes, the original's AP, and faults that are caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Cli, Outcome
from PIL import Image

pytest.importorskip("torch")

from zoo.query_networks import CANVAS, COLOURS, Detr, RtDetr, write_network, write_squares

NETWORKS = {"rtdetr": RtDetr, "detr": Detr}
# of these the last column of DETR's scores is "no object"
CLASSES = f"detections.classes=[{', '.join(COLOURS)}]"
PLUGIN = '''
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.rewrite import GraphPass


@dataclass(frozen=True)
class Changed(GraphPass):
    """Put nodes between a network and one of its outputs, or noise on the weights of a Conv."""

    name = "changed"
    effect = "exact"
    fault: str = "noise"
    seed: int = 0

    def rewrite(self, graph, edit):
        if self.fault == "noise":
            conv = next(node for node in graph.nodes if node.op == "Conv")
            weights = np.asarray(conv.inputs[1].values)
            noise = np.random.default_rng(self.seed).uniform(-1, 1, weights.shape).astype(np.float32) * 2.0**-22
            conv.inputs[1] = gs.Constant("noisy", (weights * (1 + noise)).astype(np.float32))
            return
        for output in list(graph.outputs):
            inner = gs.Variable(output.name + "_right", output.dtype, output.shape)
            (maker,) = output.inputs
            maker.outputs = [inner if each is output else each for each in maker.outputs]
            made = self.added(graph, output, inner)
            graph.nodes.append(made)

    def added(self, graph, output, inner):
        scores, rows = output.shape[-1] != 4 or output.name == "logits", output.shape[1]
        if self.fault == "scores" and scores:  # 0.05 where a score is 0.5
            return gs.Node("Add", "", {}, [inner, gs.Constant("more", np.float32([0.2]))], [output])
        if self.fault == "classes" and scores:
            order = np.roll(np.arange(output.shape[-1]), 1)
            return gs.Node("Gather", "", {"axis": 2}, [inner, gs.Constant("order", order)], [output])
        if self.fault == "boxes" and not scores:
            by = np.float32([2 / CANVAS, 0, 0, 0])
            return gs.Node("Add", "", {}, [inner, gs.Constant("right", by)], [output])
        if self.fault == "row":  # the best of them is another's double
            order = np.array([1, *range(1, rows)])
            return gs.Node("Gather", "", {"axis": 1}, [inner, gs.Constant("rows_" + output.name, order)], [output])
        return gs.Node("Identity", "", {}, [inner], [output])
'''


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, write_network(NETWORKS[request.param], tmp_path_factory.mktemp("network") / "network.onnx")


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(RtDetr, tmp_path_factory.mktemp("network") / "rtdetr.onnx")


def applied(cli: Cli, recipe: str, network: Path, images: Path, folder: Path, *more: object) -> Outcome:
    """Apply a recipe to a file, in `folder`, with some of the images for samples."""
    own = ("--set", f"source.onnx={network}", "--set", f"capture.images={images}", "--set", "capture.samples=4")
    return cli("apply", recipe, *own, "--out", folder / "parts", "--model-io", folder / "io", *more)


def run_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "parts" / "run.json").read_text("utf-8"))
    return content


def test_the_parts_and_int8_have_the_original_s_ap_and_rows(
    cli: Cli, network: tuple[str, Path], squares: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")
    recipe, file = network
    images, annotations = squares
    evaluate = ("--set", f"evaluate={{images: {images}, annotations: {annotations}}}", "--set", CLASSES)
    outcome = applied(cli, recipe, file, images, tmp_path, *evaluate, "--workers", 1)
    assert outcome.code == 0, outcome.err
    run = run_of(tmp_path)
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    ap = run["evaluation"]["ap"]["bbox"]
    assert ap["parts"] == pytest.approx(ap["original"], abs=1e-3)
    assert ap["int8"] == pytest.approx(ap["original"], abs=0.02)
    assert recipe == "detr" or ap["original"] > 0.7

    picture = images / "3.png"
    raw = cli("run", tmp_path / "parts", "--image", picture, "--raw", "--out", tmp_path / "out")
    assert raw.code == 0, raw.err
    pixels = np.asarray(Image.open(picture), np.float32).transpose(2, 0, 1)[None] / 255
    if recipe == "detr":
        mean, std = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        pixels = (pixels - mean) / std
    session = onnxruntime.InferenceSession(file)
    for output, right in zip(session.get_outputs(), session.run(None, {"pixel_values": pixels}), strict=True):
        (found,) = (tmp_path / "out").rglob(f"{output.name}.npy")
        np.testing.assert_allclose(np.load(found), right, atol=1e-4)


def test_run_draws_the_right_boxes(cli: Cli, rtdetr: Path, squares: tuple[Path, Path], tmp_path: Path) -> None:
    images, annotations = squares
    outcome = applied(cli, "rtdetr", rtdetr, images, tmp_path, "--no-variants", "--set", CLASSES)
    assert outcome.code == 0, outcome.err
    (tmp_path / "drawn").mkdir()
    found = cli(
        "run", tmp_path / "parts", "--image", images, "--out", tmp_path / "drawn", "--json", tmp_path / "d.json"
    )
    assert found.code == 0, found.err
    assert len(list((tmp_path / "drawn").glob("*.png"))) == len(list(images.iterdir()))
    told = json.loads(annotations.read_text("utf-8"))
    from graphsurgery import load

    detector = load(tmp_path / "parts")
    for entry in told["images"]:
        seen = detector(np.asarray(Image.open(images / entry["file_name"])))
        sure = seen["scores"] > 0.5
        own = [each for each in told["annotations"] if each["image_id"] == entry["id"]]
        right = {(each["category_id"] - 1, *each["bbox"][:2]) for each in own}
        corners = np.round((seen["boxes"][sure, :2] - 4) / 8).astype(int) * 8 + 4
        assert {(int(label), *map(int, at)) for label, at in zip(seen["labels"][sure], corners, strict=True)} == right
        assert np.abs(seen["boxes"][sure, 2:] - seen["boxes"][sure, :2] - 16).max() < 2


@pytest.mark.parametrize(("fault", "what"), [("scores", "scores"), ("classes", ""), ("row", ""), ("boxes", "boxes")])
def test_a_pass_that_breaks_something_is_named(
    cli: Cli, rtdetr: Path, squares: tuple[Path, Path], tmp_path: Path, fault: str, what: str
) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN.replace("CANVAS", str(CANVAS)), "utf-8")
    broken = f"passes=[simplify, {{changed: {{fault: {fault}}}}}]"
    more = ("--plugin", tmp_path / "plugin.py", "--set", broken, "--no-variants")
    outcome = applied(cli, "rtdetr", rtdetr, squares[0], tmp_path, *more)
    assert outcome.code == 1, outcome.err
    assert "pass 'changed' differs from the original model" in outcome.err
    assert what in outcome.err


def test_noise_in_the_last_bit_passes(cli: Cli, rtdetr: Path, squares: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN, "utf-8")
    for seed in range(10):
        noisy = f"passes=[{{changed: {{seed: {seed}}}}}]"
        more = ("--plugin", tmp_path / "plugin.py", "--set", noisy, "--set", "partition=", "--set", "variants=")
        outcome = applied(cli, "rtdetr", rtdetr, squares[0], tmp_path, *more)
        assert outcome.code == 0, outcome.err


def test_qualcomm_s_emulator_takes_the_encoder_whole(
    cli: Cli, network: tuple[str, Path], squares: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_qnn")
    recipe, file = network
    outcome = applied(cli, recipe, file, squares[0], tmp_path, "--variant", "htp")
    assert outcome.code == 0, outcome.err
    part = "encoder" if recipe == "rtdetr" else "network"
    placed = cli("placement", tmp_path / "parts" / "htp", "--device", "npu=qnn", "--json", tmp_path / "placed.json")
    assert placed.code == 0, placed.err
    (own,) = (each for each in json.loads((tmp_path / "placed.json").read_text())["parts"] if each["part"] == part)
    assert own["node_share"] == 1


@pytest.mark.parametrize("kind", ["rtdetr", "dfine", "detr", "rfdetr"])
def test_transformers_own_networks(cli: Cli, squares: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    from zoo.transformer_networks import write

    network = write(kind, tmp_path / f"{kind}.onnx")
    # layers of 8 channels with random weights lose more in int8 than 256 trained ones
    grant = ("--set", "check.grant={quantize: {'*': {sqnr: 5}}}")
    outcome = applied(cli, kind, network, squares[0], tmp_path, *grant, "--set", CLASSES)
    assert outcome.code == 0, outcome.err
    run = run_of(tmp_path)
    assert {step["verdict"] for step in (*run["passes"], *run["checks"])} == {"passed"}
    assert [part["device"] for part in run["parts"]] == ["npu", "cpu"]
