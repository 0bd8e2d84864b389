"""Small random models whose initializers quantizers trip over, for property tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

# what ONNX Runtime's quantizer appends to a tensor's name
SUFFIXES = (
    *("_QuantizeLinear_Output", "_QuantizeLinear_Input", "_DequantizeLinear_Output", "_QuantizeLinear"),
    *("_quantized", "_scale", "_zero_point", "_quantized_scale", "0", "_DequantizeLinear", "_quant"),
)


class Builder:
    """A chain of two to five layers on [1, 4, 6, 6]: shared weights and biases, odd biases, names that are taken."""

    def __init__(self, seed: int, opset: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, np.ndarray] = {}
        self.taken = {"x"}
        self.outputs: list[str] = []
        self.opset = opset
        channels = self.normal(4)
        self.values["shared_bias"] = channels
        self.values["shared_weight"] = self.normal(4, 4, 3, 3, by=0.2)
        self.last = "x"

    def normal(self, *shape: int, by: float = 1.0) -> np.ndarray:
        return (by * self.random.standard_normal(shape)).astype(np.float32)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def name(self, hint: str) -> str:
        """Return a name that nothing has, often what a quantizer would make of one that is there."""
        if self.chance(0.5):
            hint = str(self.random.choice(sorted(self.taken))) + str(self.random.choice(SUFFIXES))
        while hint in self.taken:
            hint += "_"
        self.taken.add(hint)
        return hint

    def constant(self, hint: str, value: np.ndarray) -> str:
        name = self.name(hint)
        self.values[name] = value
        return name

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = self.name(op.lower())
        title = self.name(f"n_{op}") if self.chance(0.7) else ""
        self.nodes.append(helper.make_node(op, inputs, [output], title, **attributes))
        return output

    def bias(self, size: int = 4) -> list[str]:
        """Return no bias, a shared one, its own, or one that a node computes."""
        kind = self.random.integers(5)
        if kind == 0:
            return []
        if kind < 3 and size == 4:
            return ["shared_bias"]
        own = self.constant("b", self.normal(size))
        return [self.add("Identity", [own])] if kind == 4 and self.chance(0.3) else [own]

    def convolution(self) -> None:
        group = int(self.random.choice([1, 2, 4]))
        weight = self.constant("w", self.normal(4, 4 // group, 3, 3, by=0.4 * 10 ** self.random.uniform(-2, 2)))
        if group == 1 and self.chance(0.5):
            weight = "shared_weight"
        self.last = self.add("Conv", [self.last, weight, *self.bias()], group=group, pads=[1, 1, 1, 1])

    def transposed(self) -> None:
        group = int(self.random.choice([1, 2, 4]))
        weight = self.constant("w", self.normal(4, 4 // group, 3, 3, by=0.4))
        if group == 1 and self.chance(0.5):
            weight = "shared_weight"
        self.last = self.add("ConvTranspose", [self.last, weight, *self.bias()], group=group, pads=[1, 1, 1, 1])

    def scaled(self) -> None:
        """Multiply by, or add, the shared bias as [4, 1, 1], or the same weight as it stands."""
        if self.opset < 13:
            return
        axes = self.constant("axes", np.array([1, 2], np.int64))
        self.last = self.add(
            str(self.random.choice(["Mul", "Add"])), [self.last, self.add("Unsqueeze", ["shared_bias", axes])]
        )

    def rectified(self) -> None:
        self.last = self.add("Relu", [self.last])

    def head(self) -> None:
        """End in Gemm and MatMul, with a bias in one of the shapes that Gemm may have, and alpha and beta."""
        shape = self.constant("shape", np.array([4, 36], np.int64))
        flat = self.add("Reshape", [self.last, shape])
        columns = int(self.random.choice([3, 4]))
        weight = self.constant("w", self.normal(36, columns, by=0.2))
        shapes = [(columns,), (1, columns), (1, 1), (1,), (), (4, columns), (4, 1)]
        bias = self.constant("b", self.normal(*shapes[self.random.integers(len(shapes))]))
        if columns == 4 and self.chance(0.4):
            bias = "shared_bias"
        given = {"alpha": 0.5} if self.chance(0.3) else {}
        given |= {"beta": 2.0} if self.chance(0.3) else {}
        self.outputs.append(self.add("Gemm", [flat, weight, bias], **given))
        if self.chance(0.5):
            self.outputs.append(self.add("MatMul", [flat, weight]))

    def model(self) -> ModelProto:
        steps = [self.convolution, self.convolution, self.transposed, self.scaled, self.rectified]
        for _ in range(self.random.integers(2, 6)):
            steps[self.random.integers(len(steps))]()
        if self.last == "x":
            self.convolution()
        if self.chance(0.6):
            self.head()
        if not self.outputs or self.chance(0.5):
            self.outputs.append(self.last)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
        used = {name for node in self.nodes for name in node.input}
        stored = [numpy_helper.from_array(value, name) for name, value in self.values.items() if name in used]
        graph = helper.make_graph(self.nodes, "g", [start], ends, stored)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10 if self.opset > 20 else 8)
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
        return inferred
