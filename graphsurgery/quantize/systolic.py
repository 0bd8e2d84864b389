"""Integers as ONNX Runtime on RISC-V has them for its systolic array: `style: systolic` of the backend onnxruntime.

    x -> Conv(W, b) -> Relu -> MaxPool -> y   ->   x -> Q -> QLinearConv(W', b') -> QLinearRelu -> MaxPool -> DQ -> y

All is int8 with zero point 0 and one scale per tensor, 2 max|w| / 254 for weights, max(|low|, |high|) / 127 for others,
and 1 where that is 0 (`systolic_scales`). A bias is int32, round(b / (s_x * s_w)).

Conv, ConvTranspose, MatMul, Add and Mul are computed in integers, and where what they read is in integers already,
Relu, Sigmoid and LeakyRelu. What only moves numbers passes them through then: Reshape, Transpose, Flatten, Squeeze,
Unsqueeze, Tile, Resize, MaxPool, ScatterElements, and a Gather before a Shape. The rest stays float, and of these
1. what is excluded, and a Gemm, for which there is no operator (lower-gemm makes a MatMul and an Add of it)
2. a Conv or ConvTranspose whose bias is computed, or too large for int32
3. a Resize that computes new numbers: a mode other than nearest, or tf_crop_and_resize
4. a MaxPool before operator set 12, or with indices
5. a ScatterElements that adds up, or whose data has another scale than its updates and is no constant 0

ONNX Runtime's own quantizer (1.31) leaves each Relu and ConvTranspose in float between two roundings with these
settings, and writes integer operators that this runtime doesn't have.

Source: onnxruntime-riscv 0c8c9b4, systolic_runner/quantization: calibrate.py, quantizer/registry.py and operators/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, names_read, replace_items
from graphsurgery.progress import Progress
from graphsurgery.quantize import Calibration, Quantize, Settings, is_excluded
from graphsurgery.quantize.normalise import normalise
from graphsurgery.quantize.ranges import Range, ranges
from graphsurgery.quantize.restore import Normalised, rounded_bias
from graphsurgery.quantize.systolic_scales import MOST, Scales

__all__ = ["check", "prepare"]

_MICROSOFT = "com.microsoft"
_LAYERS = ("Conv", "ConvTranspose")
_PAIRS = {"MatMul": "", "Add": _MICROSOFT, "Mul": _MICROSOFT}  # operator -> domain of its integer form
_ACTIVATIONS = ("Sigmoid", "LeakyRelu")
_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Tile")
_MAXPOOL_INT8 = 12  # the operator set from which MaxPool takes int8


def check(settings: Settings) -> None:
    """Raise ValueError for settings that contradict the style."""
    wanted = {
        "config": None,
        "format": "qoperator",
        "activations": "int8",
        "weights": "int8",
        "per_channel": False,
        "symmetric_activations": True,
        "symmetric_weights": True,
    }
    for option, value in wanted.items():
        given = getattr(settings, option)
        if given not in (None, value):
            said = "none" if value is None else str(value).lower()
            raise ValueError(f"{option}: style systolic has {said}, not {str(given).lower()}; leave the option out")


def prepare(model: ModelProto, calibration: Calibration, settings: Settings, progress: Progress) -> Quantize:
    """Calibrate `model` and return what quantizes it but for the nodes whose names match the given patterns.

    Raises what `normalise` and `ranges` raise, and InputError for a tensor that becomes NaN or Inf.
    """
    given = normalise(model, per_channel=False)
    method = settings.method or "minmax"
    assert method != "min_mse"
    found = ranges(given.model, given.feeds(calibration), method, progress)

    def quantize_but(exclude: tuple[str, ...]) -> ModelProto:
        integers = _Integers(given, replace(settings, exclude=exclude), found)
        return given.restore(integers.model(), "style systolic")

    return quantize_but


@dataclass(frozen=True)
class _Held:
    """A tensor in int8: the names of its numbers, of its scale and of its zero point, and that scale."""

    numbers: str
    scale: str
    zero: str
    step: float

    @property
    def names(self) -> tuple[str, str, str]:
        return self.numbers, self.scale, self.zero


class _Integers:
    """The integer form of a model, written node by node in the order of the graph."""

    def __init__(self, given: Normalised, settings: Settings, found: Mapping[str, Range]) -> None:
        self._given, self._settings, self._found = given, settings, found
        graph = given.model.graph
        self._opset = Model(given.model).opset
        self._writer = {name: node for node in graph.node for name in node.output}
        self._scales = Scales(given, found)
        self._weights = self._scales.weights
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._held: dict[str, _Held] = {}
        self._only_held: set[str] = set()  # nobody has written these in float yet

    def model(self) -> ModelProto:
        """Return the whole model."""
        for node in self._given.model.graph.node:
            if not self._is_free(node) or not self._write(node):
                self._keep(node)
        for info in self._given.model.graph.output:
            self._as_float(info.name)
        made = ModelProto()
        made.CopyFrom(self._given.model)
        replace_items(made.graph.node, self._nodes)
        made.graph.initializer.extend(self._initializers)
        if all(entry.domain != _MICROSOFT for entry in made.opset_import):
            made.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        return made

    def _is_free(self, node: NodeProto) -> bool:
        """Whether nothing but its operator decides."""
        return node.domain in STANDARD_DOMAINS and not bodies(node) and not is_excluded(node, self._settings)

    def _write(self, node: NodeProto) -> bool:
        """Write the integer form of `node` if it has one, and say so."""
        if node.op_type in _LAYERS:
            return self._layer(node)
        if node.op_type in _PAIRS:
            return self._pair(node)
        held = self._held.get(node.input[0]) if node.input else None
        if node.op_type == "ScatterElements":
            return self._scatter(node)
        if held is None:
            return False
        if node.op_type in _ACTIVATIONS:
            if node.output[0] not in self._found:
                return False
            self._compute(node, held.names, _MICROSOFT)
        elif node.op_type == "Relu":
            self._move(node, held, "QLinearRelu")
        elif node.op_type == "Shape" and node.input[0] in self._only_held:
            self._nodes.append(_like(node, [held.numbers], node.output))
        elif self._only_moves(node):
            self._move(node, held)
        else:
            return False
        return True

    def _layer(self, node: NodeProto) -> bool:
        image, weight, *biases = node.input
        if not self._can_hold(image, weight, node.output[0]):
            return False
        added: tuple[str, ...] = ()
        if biases and biases[0]:
            if biases[0] not in self._weights:
                return False
            steps = [np.array(self._step(name, node), np.float32) for name in (image, weight)]
            rounded = rounded_bias(numpy_helper.to_array(self._weights[biases[0]]), steps)
            if rounded is None:
                return False
            added = (self._store(f"{biases[0]}_quantized", rounded[0]),)
        self._compute(node, (*self._hold(image, node).names, *self._hold(weight, node).names), "", added)
        return True

    def _pair(self, node: NodeProto) -> bool:
        constant = all(name in self._weights for name in node.input)
        if constant or not self._can_hold(*node.input, node.output[0]):
            return False
        read = [name for operand in node.input for name in self._hold(operand, node).names]
        self._compute(node, read, _PAIRS[node.op_type])
        return True

    def _scatter(self, node: NodeProto) -> bool:
        data, indices, updates = node.input
        held = self._held.get(updates)
        if held is None or _text(node, "reduction", "none") != "none":
            return False
        known = self._held.get(data)
        if known is not None and known.step == held.step:
            numbers = known.numbers
        elif self._is_zero(data):
            numbers = f"{node.output[0]}_data_quantized"
            self._nodes.append(helper.make_node("QuantizeLinear", [data, held.scale, held.zero], [numbers], numbers))
        else:
            return False
        self._nodes.append(_like(node, [numbers, indices, held.numbers], [self._share(node.output[0], held).numbers]))
        return True

    def _only_moves(self, node: NodeProto) -> bool:
        """Whether what the node writes are the numbers that it reads."""
        if node.op_type == "Resize":
            crops = _text(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
            return _text(node, "mode", "nearest") == "nearest" and not crops
        if node.op_type == "MaxPool":
            return self._opset >= _MAXPOOL_INT8 and not any(node.output[1:])
        if node.op_type == "Gather":
            readers = self._scales.readers(node.output[0])
            return bool(readers) and all(each.op_type == "Shape" for each in readers)
        return node.op_type in _MOVES

    def _is_zero(self, name: str) -> bool:
        if name in self._weights:
            return not numpy_helper.to_array(self._weights[name]).any()
        writer = self._writer.get(name)
        if writer is None or writer.op_type != "ConstantOfShape":
            return False
        return not any(numpy_helper.to_array(each.t).any() for each in writer.attribute)

    # --- what is written ---

    def _compute(self, node: NodeProto, read: Sequence[str], domain: str, added: Sequence[str] = ()) -> None:
        """Write QLinear and the operator's name; its output has a scale of its own."""
        output = self._parameters(node.output[0], self._step(node.output[0], node))
        made = _like(node, [*read, output.scale, output.zero, *added], [output.numbers])
        made.op_type, made.domain, made.name = f"QLinear{node.op_type}", domain, f"{node.name}_quant"
        self._nodes.append(made)
        self._only_held.add(node.output[0])

    def _move(self, node: NodeProto, held: _Held, op_type: str = "") -> None:
        """Write the node so that it reads and writes int8 of one scale."""
        for name in node.input[1:]:  # scales of a Resize
            self._as_float(name)
        output = self._share(node.output[0], held)
        made = _like(node, [held.numbers, *node.input[1:]], [output.numbers])
        made.op_type = op_type or node.op_type
        self._nodes.append(made)

    def _keep(self, node: NodeProto) -> None:
        for name in names_read(node):
            self._as_float(name)
        self._nodes.append(node)

    def _as_float(self, name: str) -> None:
        if name in self._only_held:
            self._only_held.remove(name)
            title = f"{name}_DequantizeLinear"
            self._nodes.append(helper.make_node("DequantizeLinear", self._held[name].names, [name], title))

    def _step(self, name: str, node: NodeProto) -> float:
        """Return the scale of a tensor that `node` reads or writes."""
        return self._held[name].step if name in self._held else self._scales.step(name, node)

    def _can_hold(self, *names: str) -> bool:
        """Whether these are float tensors with values or a range."""
        return all(name in self._weights or name in self._found for name in names)

    def _hold(self, name: str, node: NodeProto) -> _Held:
        """Return a tensor that `node` reads in int8, which is written where it isn't yet."""
        if name not in self._held:
            held = self._parameters(name, self._step(name, node))
            if name in self._weights:
                whole = np.rint(numpy_helper.to_array(self._weights[name]) / np.float32(held.step))
                self._store(held.numbers, np.clip(whole, -MOST, MOST).astype(np.int8))
            else:
                title = f"{name}_QuantizeLinear"
                read = [name, held.scale, held.zero]
                self._nodes.append(helper.make_node("QuantizeLinear", read, [held.numbers], title))
        return self._held[name]

    def _parameters(self, name: str, step: float) -> _Held:
        held = _Held(f"{name}_quantized", f"{name}_scale", f"{name}_zero_point", step)
        self._store(held.scale, np.array(step, np.float32))
        self._store(held.zero, np.array(0, np.int8))
        self._held[name] = held
        return held

    def _share(self, name: str, held: _Held) -> _Held:
        self._held[name] = replace(held, numbers=f"{name}_quantized")
        self._only_held.add(name)
        return self._held[name]

    def _store(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _like(node: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(node)
    made.input[:], made.output[:] = list(inputs), list(outputs)
    return made


def _text(node: NodeProto, name: str, default: str) -> str:
    return next((each.s.decode() for each in node.attribute if each.name == name), default)
