"""How a custom operator writes the standard nodes that compute it.

    y = op.Relu(x * 0.5 + bias)
    values, indices = op.write("TopK", scores, [100], outputs=2, axis=-1)

An input may be a tensor, None for one that is left out, or numbers, which become a constant: whole ones of int64,
others of float32, and a NumPy array is one of its own type. A list may hold sizes, which are numbers where they are
known and tensors of one element where they are not: `op.Reshape(x, [count, height * width])`. Nodes are written in the
model's own operator set, `op.opset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TypeProto, helper, numpy_helper

_AXES_INPUT = 13  # the operator set from which Unsqueeze and ReduceSum are given their axes as an input


@dataclass(frozen=True)
class Tensor:
    """A tensor of the model, which computes with others and with numbers."""

    name: str
    _op: Writer = field(repr=False, compare=False)

    def __add__(self, other: Any) -> Tensor:
        return self._op.Add(self, other)

    def __sub__(self, other: Any) -> Tensor:
        return self._op.Sub(self, other)

    def __mul__(self, other: Any) -> Tensor:
        return self._op.Mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._op.Mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return self._op.Div(self, other)


TypeOf = Callable[[str, Callable[[TypeProto.Tensor], bool]], TypeProto.Tensor]
# One element of a shape. ONNX follows those that nodes compute from operator set 13 on only.
Size = int | Tensor


class Writer:
    """Writes nodes: `op.NAME(*inputs, **attributes)` writes one of the operator NAME, and is its first output.

    `type_of` returns what is known of a tensor of the model, with more effort where that is not `known` enough, and
    `fresh` a name that nothing has, made from a hint.
    """

    def __init__(
        self,
        opset: int,
        fresh: Callable[[str], str],
        type_of: TypeOf,
    ) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._fresh = fresh
        self._type_of = type_of
        self._cast_from: dict[str, str] = {}

    def __getattr__(self, op_type: str) -> Callable[..., Tensor]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **attributes: self.write(op_type, *inputs, **attributes)[0]

    def write(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> tuple[Tensor, ...]:
        """Write a node and return its outputs."""
        read = [self._operand(each) for each in inputs]
        written = tuple(Tensor(self._fresh(op_type), self) for _ in range(outputs))
        self.nodes.append(
            helper.make_node(op_type, read, [each.name for each in written], name=written[0].name, **attributes)
        )
        return written

    def _operand(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, list) and any(isinstance(each, Tensor) for each in value):
            return self.Concat(*(each if isinstance(each, Tensor) else [each] for each in value), axis=0).name
        return value.name if isinstance(value, Tensor) else self.constant(value).name

    def constant(self, value: Any) -> Tensor:
        """Return a constant of `value`, a number, several, or an array."""
        array = np.asarray(value)
        if not isinstance(value, np.ndarray | np.generic):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self.Constant(value=numpy_helper.from_array(array))

    def dtype(self, tensor: Tensor) -> np.dtype[Any] | None:
        """Return the element type of a tensor of the model, None where nothing tells it."""
        known = self._type_of(tensor.name, lambda kind: bool(kind.elem_type)).elem_type
        return np.dtype(helper.tensor_dtype_to_np_dtype(known)) if known else None

    def cast(self, tensor: Tensor | int, dtype: Any) -> Tensor:
        """Return `tensor` as numbers of another type, or a size as such a number."""
        if not isinstance(tensor, Tensor):
            return self.constant(np.array(tensor, dtype))
        return self.Cast(tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def float32(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the model as float32, which it is taken for where nothing tells its type."""
        if self.dtype(tensor) in (None, np.dtype(np.float32)):
            return tensor
        made = self.cast(tensor, np.float32)
        self._cast_from[made.name] = tensor.name
        return made

    def like(self, tensor: Tensor, model: Tensor) -> Tensor:
        """Return a float32 tensor in the type of a tensor of the model."""
        dtype = self.dtype(model)
        return tensor if dtype in (None, np.dtype(np.float32)) else self.cast(tensor, dtype)

    def sizes(self, tensor: Tensor, *axes: int) -> list[Size]:
        """Return the sizes of a tensor of the model, or of it as float32, along `axes`.

        They are numbers where they follow from the inputs of the model.
        """
        name = self._cast_from.get(tensor.name, tensor.name)
        dims = self._type_of(name, lambda kind: all(_is_static(kind, axis) for axis in axes)).shape.dim
        return [
            dims[axis].dim_value
            if axis < len(dims) and dims[axis].HasField("dim_value")
            else self.Gather(self.Shape(tensor), [axis])
            for axis in axes
        ]

    def unsqueeze(self, tensor: Tensor, *axes: int) -> Tensor:
        """Return `tensor` with axes of size 1."""
        return self._with_axes("Unsqueeze", tensor, axes)

    def sum(self, tensor: Tensor, *axes: int) -> Tensor:
        """Return the sum of `tensor` over `axes`, which go."""
        return self._with_axes("ReduceSum", tensor, axes, keepdims=0)

    def _with_axes(self, op_type: str, tensor: Tensor, axes: Sequence[int], **attributes: int) -> Tensor:
        write: Callable[..., Tensor] = getattr(self, op_type)
        if self.opset >= _AXES_INPUT:
            return write(tensor, list(axes), **attributes)
        return write(tensor, axes=list(axes), **attributes)


def _is_static(kind: TypeProto.Tensor, axis: int) -> bool:
    return axis < len(kind.shape.dim) and kind.shape.dim[axis].HasField("dim_value")
