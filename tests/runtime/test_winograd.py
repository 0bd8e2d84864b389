"""Convolutions over an open batch with fewer products, and those that stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.parts.describe import describe_part, describe_parts
from graphsurgery.parts.manifest import FILE_NAME
from graphsurgery.parts.part import Part
from graphsurgery.runtime.player import Chain
from graphsurgery.runtime.winograd import Winograd, with_fewer_products
from graphsurgery.testing import assert_untouched
from runtime.test_detector import CANVAS

Size = int | str


def head(
    *area: Size,
    layers: int = 1,
    channels: int = 128,
    filters: int = 128,
    rows: Size = "N",
    kernel: int = 3,
    bias: bool = True,
    dtype: type = np.float32,
    opset: int = 17,
    constant: bool = True,
    **attributes: object,
) -> ModelProto:
    """Return x [rows, channels, *area] through so many layers of Conv and Relu."""
    generator, element = np.random.default_rng(0), helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("x", element, [rows, channels, *area])]
    nodes, weights = [], []
    for layer in range(layers):
        shape = (filters, channels // int(str(attributes.get("group", 1))), *[kernel] * len(area))
        drawn = generator.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        weights.append(numpy_helper.from_array(drawn.astype(dtype), f"w{layer}"))
        weights.append(numpy_helper.from_array(generator.standard_normal(filters).astype(dtype), f"b{layer}"))
        given = [f"r{layer - 1}" if layer else "x", f"w{layer}", *([f"b{layer}"] if bias else [])]
        nodes.append(helper.make_node("Conv", given, [f"c{layer}"], **({"pads": [1, 1] * len(area)} | attributes)))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
    if not constant:
        inputs.append(helper.make_tensor_value_info("w0", element, list(weights.pop(0).dims)))
    outputs = [
        helper.make_tensor_value_info(
            nodes[-1].output[0], element, ["N", filters, *(f"o{n}" for n, _ in enumerate(area))]
        )
    ]
    graph = helper.make_graph(nodes, "head", inputs, outputs, weights if bias else weights[::2])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def boxes(count: int, *area: int, channels: int = 128) -> np.ndarray:
    drawn = np.random.default_rng(count).standard_normal((count, channels, *area))
    return np.maximum(drawn, 0).astype(np.float32)


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("area", [(1, 1), (2, 3), (4, 4), (5, 8), (7, 7), (9, 6), (14, 14), (32, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_gives_what_the_convolutions_give_but_for_rounding(area: tuple[int, int], bias: bool) -> None:
    before = head(*area, layers=2, filters=128, bias=bias)
    after = with_fewer_products(before)
    assert "Conv" not in operators(after)
    onnx.checker.check_model(after, full_check=True)
    for count in (1, 3):
        given = {"x": boxes(count, *area)}
        assert_near(session.run(after, given)["r1"], session.run(before, given)["r1"])


@pytest.mark.parametrize("opset", [7, 13, 22])
def test_channels_and_filters_may_differ(opset: int) -> None:
    before = head(5, 6, channels=160, filters=130, opset=opset)
    after = with_fewer_products(before)
    assert "Conv" not in operators(after)
    given = {"x": boxes(4, 5, 6, channels=160)}
    assert_near(session.run(after, given)["r0"], session.run(before, given)["r0"])


def test_what_pads_to_the_same_size_pads_by_one_pixel() -> None:
    before = head(6, 7)
    del before.graph.node[0].attribute[:]
    before.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    given = {"x": boxes(2, 6, 7)}
    assert_near(session.run(with_fewer_products(before), given)["r0"], session.run(before, given)["r0"])


def test_a_second_run_changes_nothing_and_the_model_given_stays_as_it_is() -> None:
    before = head(7, 7)
    kept = before.SerializeToString()
    once = with_fewer_products(before)
    assert operators(with_fewer_products(once)) == operators(once)
    assert before.SerializeToString() == kept


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (head(7, 7, kernel=1, pads=[0] * 4), "not 3 x 3 over every pixel"),
        (head(7, 7, kernel=5, pads=[2] * 4), "not 3 x 3 over every pixel"),
        (head(7, 7, pads=[0] * 4), "not 3 x 3 over every pixel"),
        (head(7, 7, pads=[1, 1, 0, 1]), "not 3 x 3 over every pixel"),
        (head(7, 7, strides=[2, 2]), "not 3 x 3 over every pixel"),
        (head(7, 7, dilations=[2, 2], pads=[2] * 4), "not 3 x 3 over every pixel"),
        (head(7, 7, group=2), "not 3 x 3 over every pixel"),
        (head(7), "not 3 x 3 over every pixel"),
        (head(7, 7, 7), "not 3 x 3 over every pixel"),
        (head(7, 7, constant=False), "the weights of the Conv are"),
        (head(7, 7, dtype=np.float64), "its weights are float64"),
        (head(7, 7, channels=127), "127 channels and 128 filters, below 128"),
        (head(7, 7, filters=64), "128 channels and 64 filters, below 128"),
        (head(7, 7, rows=1000), "its batch is not open"),
        (head("H", 7), "its height and width must be known"),
        (head(7, 33), "and at most 32"),
        (head(7, 7, opset=6), "Add doesn't broadcast in operator set 6"),
    ],
)
def test_leaves_alone(model: ModelProto, reason: str) -> None:
    assert_untouched(Winograd(), model, reason)


def test_onnx_runtime_drops_the_transposes_between_two_layers(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(with_fewer_products(head(7, 7, layers=4)).SerializeToString(), options)
    assert operators(onnx.load(tmp_path / "optimised.onnx")).count("Transpose") == 2


def test_a_chain_on_the_cpu_plays_heads_so_and_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    proto = head(7, 7, layers=2, rows=200)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("r1", TensorProto.FLOAT, [200, 128, 7, 7]))
    proto.metadata_props.add(key="graphsurgery.batch", value='{"size": 200}')
    one = Part("box_head", "npu", True, Model(proto))
    manifest = describe_parts([one], "heads", {"kind": "test"}, CANVAS, ["x"], ["r1"])
    one.model.save(tmp_path / "box_head.onnx")
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    before = (tmp_path / "box_head.onnx").read_bytes()

    chain, as_written = (Chain.open(tmp_path, manifest, {}, optimise=optimise) for optimise in (True, False))
    given = {"x": boxes(150, 7, 7)}  # more than are computed at once
    got, expected = chain.play(given)["r1"], as_written.play(given)["r1"]
    assert_near(got, expected)
    assert not np.array_equal(got, expected)  # it is not the Conv that computed it
    assert (tmp_path / "box_head.onnx").read_bytes() == before
    assert describe_part(one).batch is not None
