"""Small models for quantizers, what they are fed with, and what is asked of the result."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.testing import parse, random_inputs


class Feeds(list[Mapping[str, np.ndarray]]):
    def __init__(self, model: ModelProto, count: int = 3) -> None:
        super().__init__(random_inputs(model, seed) for seed in range(count))
        self.inputs: Sequence[str] = list(self[0])


def filled(text: str, seed: int = 5) -> ModelProto:
    """Return the model with random values in the initializers that the text gives none."""
    model = parse(text)
    generator = np.random.default_rng(seed)
    known = {tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) or len(tensor.float_data)}
    weights = [info for info in model.graph.value_info if info.name.startswith(("w", "b"))]
    for info in weights:
        if info.name not in known:
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            value = generator.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
            model.graph.value_info.remove(info)
    onnx.checker.check_model(model, full_check=True)
    return model


def loss(model: ModelProto, result: ModelProto) -> float:
    """Return the SQNR in dB at the worst output, on inputs that were seen in the calibration."""
    worst = np.inf
    for feed in Feeds(model):
        expected, got = session.run(model, feed), session.run(result, feed)
        for name, value in expected.items():
            worst = min(worst, 10 * np.log10(np.sum(value**2) / max(np.sum((value - got[name]) ** 2), 1e-30)))
    return float(worst)


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def writer(model: ModelProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in model.graph.node if name in node.output), None)


def values(model: ModelProto, name: str) -> np.ndarray:
    return onnx.numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))
