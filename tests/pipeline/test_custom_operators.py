"""The whole way of a network with custom operators: its parts hold them, and everything that runs a model runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import yaml
from bars import write_images
from conftest import Cli
from onnx import ModelProto, numpy_helper
from partition.cutting import with_weights

# Two stages, with an operator of mmdetection and two of an export for Ascend
NETWORK = """
    net (float[1, 3, 64, 96] image) => (float[1, 20, 4] y0, float[1, 20] y1, float[1, 20] y2) {
        a = Conv <strides = [4, 4]> (image, w0)
        features = Relu (a)
        rois = Identity (regions)
        pooled = mmcv.MMCVRoiAlign <output_height = 3, output_width = 3, spatial_scale = 0.25> (features, rois)
        extracted = RoiExtractor <pooled_height = 3, pooled_width = 3, spatial_scale = [0.25]> (features, rois)
        both = Add (pooled, extracted)
        b = Conv (both, w1)
        c = Relu (b)
        flat = Flatten (c)
        logits = MatMul (flat, w2)
        sigmoid = Sigmoid (logits)
        half = Cast <to = 10> (sigmoid)
        batch = Unsqueeze (half, first)
        near = Cast <to = 10> (corners)
        each = Unsqueeze (near, ends)
        kept, sure, label, number = BatchMultiClassNMS <score_threshold = 0.1, iou_threshold = 0.5,
            max_size_per_class = 10, max_total_size = 20> (each, batch)
        y0 = Cast <to = 1> (kept)
        y1 = Cast <to = 1> (sure)
        y2 = Cast <to = 1> (label)
    }"""
WEIGHTS = {"w0": [8, 3, 4, 4], "w1": [8, 8, 3, 3], "w2": [8, 3]}
CUSTOM = {"MMCVRoiAlign", "RoiExtractor", "BatchMultiClassNMS"}


def network() -> ModelProto:
    head = '<ir_version: 8, opset_import: ["": 13, "mmcv": 1]>'
    proto = with_weights(onnx.parser.parse_model(f"{head}\n{NETWORK}"), WEIGHTS).proto
    random = np.random.default_rng(0)
    corner = random.uniform(0, 40, (10, 2))
    corners = np.concatenate([corner, corner + random.uniform(1, 40, (10, 2))], axis=1).astype(np.float32)
    values = {
        "regions": np.concatenate([np.zeros((10, 1), np.float32), corners], axis=1),
        "corners": corners,
        "first": np.array([0]),
        "ends": np.array([0, 2]),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return proto


def custom_in(*files: Path) -> set[str]:
    return {node.op_type for file in files for node in onnx.load(file).graph.node} & CUSTOM


def test_apply_keeps_them_in_the_parts_and_run_plays_them(cli: Cli, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    images, _ = write_images(tmp_path, 2)
    recipe = {
        "source": {"onnx": "net.onnx"},
        "image": {"range": 1, "layout": "NCHW"},
        "capture": {"images": images.name, "samples": 2},
        "passes": ["drop-identity", "fold-constants", "simplify", "fill-default-attributes", "merge-duplicates"],
        "partition": {
            "at": ["mmcv.MMCVRoiAlign", "RoiExtractor", "BatchMultiClassNMS"],
            "parts": {"backbone": "npu", "pool": "cpu", "head": "npu", "select": "cpu"},
        },
    }
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    parts = tmp_path / "parts"
    outcome = cli("apply", tmp_path / "net.yaml", "--out", parts, "--model-io", tmp_path / "io")
    assert outcome.code == 0, outcome.err
    manifest = json.loads((parts / "manifest.json").read_text(encoding="utf-8"))
    named = {part["name"]: parts / part["file"] for part in manifest["parts"]}
    assert custom_in(named["pool"]) == {"MMCVRoiAlign", "RoiExtractor"}
    assert custom_in(named["select"]) == {"BatchMultiClassNMS"}
    assert cli("check", tmp_path / "io", parts).code == 0
    assert cli("inspect", parts).code == 0
    image = next(images.glob("*.png"))
    assert cli("run", parts, "--raw", "--image", image, "--out", tmp_path / "found").code == 0
    assert np.load(tmp_path / "found" / "y0.npy").shape == (1, 20, 4)


def test_bisect_finds_what_differs_behind_them(cli: Cli, tmp_path: Path) -> None:
    proto = network()
    onnx.save(proto, tmp_path / "one.onnx")
    pool = next(node for node in proto.graph.node if node.op_type == "MMCVRoiAlign")
    pool.attribute.append(onnx.helper.make_attribute("aligned", 0))
    onnx.save(proto, tmp_path / "other.onnx")
    outcome = cli("bisect", tmp_path / "one.onnx", tmp_path / "other.onnx", "--json", tmp_path / "found.json")
    assert outcome.code == 1
    assert "tensor 'pooled' (MMCVRoiAlign" in outcome.last_line


BREAKS = """
from graphsurgery.rewrite import NodePass

class Wrong(NodePass):
    name = "wrong"
    effect = "exact"
    matches = ("mmcv.MMCVRoiAlign",)

    def rewrite(self, node, edit):
        edit.set_attribute(node, "aligned", 0)
"""


def test_reduce_cuts_a_custom_operator_out(cli: Cli, tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "net.onnx")
    (tmp_path / "wrong.py").write_text(BREAKS, encoding="utf-8")
    arguments = ("reduce", tmp_path / "net.onnx", "--pass", "wrong", "--plugin", tmp_path / "wrong.py")
    assert cli(*arguments, "--out", tmp_path / "reduced").code == 1
    assert [node.op_type for node in onnx.load(tmp_path / "reduced" / "before.onnx").graph.node] == ["MMCVRoiAlign"]
