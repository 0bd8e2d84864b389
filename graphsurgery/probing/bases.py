"""A valid node of each operator that targets name, with sizes and attributes as wished."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsurgery.operators.windows import same_pads
from graphsurgery.probing.one_node import NotBuilt, OneNode, Operand, Sizes
from graphsurgery.probing.wishes import Wishes, fixed

Base = Callable[[Wishes], OneNode]

BASES: dict[str, Base] = {}
# Operators that came, or got what targets have limits of, behind opset 17
OPSETS = {"Resize": 19, "Pad": 19, "ScatterElements": 18, "ScatterND": 18, "GridSample": 20, "Gelu": 20}
OPSETS |= {"GroupNormalization": 21, "Mish": 18, "IsNaN": 20, "Swish": 24, "RMSNormalization": 23, "ReduceSum": 18}
OPSETS |= {"Upsample": 9, "Split": 18}


def node(op: str, *operands: Operand, outputs: int = 1, declared: Sizes | None = None, **attributes: Any) -> OneNode:
    """Return a node of the operator set in which probes write its operator; `com.microsoft.X` is of that domain."""
    domain, _, name = op.rpartition(".")
    return OneNode(name, operands, attributes, OPSETS.get(op, 17), outputs, declared, domain=domain)


def base(*ops: str) -> Callable[[Callable[[str, Wishes], OneNode]], Callable[[str, Wishes], OneNode]]:
    """Register a function as the base of operators; it is told which."""

    def register(make: Callable[[str, Wishes], OneNode]) -> Callable[[str, Wishes], OneNode]:
        for op in ops:
            BASES[op] = lambda wishes, op=op: make(op, wishes)  # type: ignore[misc]
        return make

    return register


@base("Abs", "Sign", "Exp", "Ceil", "Floor", "Round", "Sin", "Cos", "Atan", "Tanh", "Neg", "Relu", "LeakyRelu", "Elu")
@base("Gelu", "Sigmoid", "ThresholdedRelu", "Softmax", "LogSoftmax", "Identity", "HardSwish", "HardSigmoid", "Erf")
@base("Mish", "Softplus", "Softsign", "Selu", "Celu", "Swish", "com.microsoft.QuickGelu", "com.microsoft.Gelu")
@base("Flatten", "Transpose", "LRN", "LpNormalization", "GlobalAveragePool", "GlobalMaxPool", "IsNaN")
@base("Shape", "Size", "Sinh", "Cosh", "Hardmax", "GlobalLpPool", "MeanVarianceNormalization")
def unary(op: str, wishes: Wishes) -> OneNode:
    """An operator of one input."""
    attributes: dict[str, Any] = {"size": 3} if op == "LRN" else {}
    return node(op, wishes.data(wishes.shape()), **attributes)


@base("Log", "Sqrt", "Reciprocal")
def unary_of_positive(op: str, wishes: Wishes) -> OneNode:
    """An operator of one input that is above zero."""
    return node(op, wishes.data(wishes.shape(), positive=True))


@base("Asin", "Acos", "Atanh", "Tan")
def unary_of_less_than_one(op: str, wishes: Wishes) -> OneNode:
    """An operator of one input between -1 and 1."""
    return node(op, Operand(np.tanh(wishes.tensor(wishes.shape()))))


@base("Not")
def logical_not(op: str, wishes: Wishes) -> OneNode:
    """Not, of booleans."""
    return node(op, Operand(wishes.tensor(wishes.shape(), dtype=np.dtype(bool))))


_FORMS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    "none": lambda shape: shape,
    "scalar": lambda shape: (1,),
    "channels": lambda shape: (1, shape[1], *[1] * (len(shape) - 2)) if len(shape) > 1 else (1,),
    "other": lambda shape: (*[1] * (len(shape) - 1), shape[-1]) if shape else (),
}


def _second(wishes: Wishes, shape: tuple[int, ...], *, positive: bool, dtype: np.dtype[Any] | None = None) -> Operand:
    form = wishes.get("broadcast", "none")
    if form not in _FORMS:
        raise NotBuilt(f"there is no broadcast '{form}'")
    value = wishes.tensor(_FORMS[form](shape), positive=positive, dtype=dtype)
    return Operand(value, constant=bool(wishes.get("second_is_constant", False)))


@base("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "PRelu")
@base("BitShift", "BitwiseAnd")
def binary(op: str, wishes: Wishes) -> OneNode:
    """An operator of two inputs."""
    shape, kinds = wishes.shape(), {"Mod": "int32", "BitShift": "uint32", "BitwiseAnd": "int32"}
    dtype = np.dtype(kinds[op]) if op in kinds and wishes.dtype == np.float32 else None
    first = Operand(wishes.tensor(shape, positive=op in ("Pow", "Mod"), dtype=dtype))
    second = _second(wishes, shape, positive=op in ("Div", "Pow", "Mod"), dtype=dtype)
    if op == "PRelu":
        second = Operand(second.value, constant=True)
    attributes: dict[str, Any] = {"direction": "LEFT"} if op == "BitShift" else {}
    return node(op, first, second, **attributes)


@base("And", "Or", "Xor")
def logical(op: str, wishes: Wishes) -> OneNode:
    """An operator of two booleans."""
    shape, boolean = wishes.shape(), np.dtype(bool)
    return node(op, Operand(wishes.tensor(shape, dtype=boolean)), _second(wishes, shape, positive=False, dtype=boolean))


@base("Min", "Max", "Sum", "Mean", "Concat")
def several(op: str, wishes: Wishes) -> OneNode:
    """An operator of any number of inputs."""
    shape, count = wishes.shape(), wishes.number("inputs", 2)
    along = _along(wishes, shape, 1)
    attributes: dict[str, Any] = {"axis": along} if op == "Concat" else {}
    return node(op, *[wishes.data(shape) for _ in range(count)], **attributes)


def _along(wishes: Wishes, shape: tuple[int, ...], usual: int) -> int:
    """Return the axis that an operator is to work along."""
    if "along_from_end" in wishes.values:
        return wishes.number("along_from_end", -1)
    along = wishes.number("axis", wishes.number("along", min(usual, max(len(shape) - 1, 0))))
    if not -len(shape) <= along < max(len(shape), 1):
        raise NotBuilt(f"rank {len(shape)} has no axis {along}")
    return along


@base("Conv", "ConvTranspose")
def convolution(op: str, wishes: Wishes) -> OneNode:
    """A Conv whose weights and bias are stored."""
    channels = wishes.number("channels", 8)
    shape = wishes.shape(channels=channels, size=_room(wishes))
    spatial = len(shape) - 2
    if spatial < 1:
        raise NotBuilt(f"rank {len(shape)} has no spatial axis")
    groups = channels if wishes.get("depthwise", False) else wishes.number("groups", wishes.number("group", 1))
    out = wishes.number("out_channels", channels if groups > 1 else 8)
    if channels % groups or out % groups:
        raise NotBuilt(f"{channels} channels in {groups} groups can't be")
    kernel = _kernel(wishes, spatial, 3)
    weight = (out, channels // groups, *kernel) if op == "Conv" else (channels, out // groups, *kernel)
    attributes = _window(wishes, spatial) | {"kernel_shape": list(kernel), "group": groups}
    scale = (channels // groups * float(np.prod(kernel))) ** -0.5
    weights = wishes.stored(weight, scale=scale)
    if wishes.get("weights", "stored") == "fed":
        weights = Operand(weights.value)
    return node(op, wishes.data(shape), weights, wishes.stored((out,)), **attributes)


@base("MaxPool", "AveragePool", "LpPool")
def pool(op: str, wishes: Wishes) -> OneNode:
    """A pool."""
    shape = wishes.shape(size=_room(wishes))
    spatial = len(shape) - 2
    if spatial < 1:
        raise NotBuilt(f"rank {len(shape)} has no spatial axis")
    same = bool(wishes.get("same_pads", False))
    kernel = _kernel(wishes, spatial, 3 if same else 2)
    attributes = _window(wishes, spatial) | {"kernel_shape": list(kernel)}
    if same:
        axes = zip(shape[2:], attributes["strides"], kernel, strict=True)
        pads = [same_pads(*axis) for axis in axes]
        attributes["pads"] = [each[end] for end in (0, 1) for each in pads if each is not None]
    if op != "MaxPool" and attributes["dilations"] == [1] * spatial:
        del attributes["dilations"]  # AveragePool has them from opset 19 on, LpPool from 18
    return node(op, wishes.data(shape), outputs=wishes.number("outputs", 1), **attributes)


def _kernel(wishes: Wishes, spatial: int, usual: int) -> tuple[int, ...]:
    """Return the sizes of a kernel of which one of several facts is wished."""
    text = wishes.get("kernel_shape_text", None)
    if text is not None:
        return tuple(int(size) for size in str(text).split("x"))
    dilation = wishes.number("dilation", 1)
    for fact, sizes in (("kernel_area", 1), ("kernel_span_area", dilation)):
        if fact in wishes.values:
            area = wishes.number(fact, 1)
            side = next(each for each in range(int(area**0.5), 0, -1) if area % each == 0)
            return (*[1] * (spatial - 2), side, area // side)[-spatial:] if sizes == 1 else (area,) * spatial
    span = wishes.number("kernel_span", 0) or wishes.number("span_height", 0)
    size = (span - 1) // dilation + 1 if span else wishes.number("kernel", usual)
    square = wishes.get("square_kernel", True)
    return tuple(size if square or axis else size + 1 for axis in range(spatial))


def _window(wishes: Wishes, spatial: int) -> dict[str, Any]:
    stride, pad = wishes.number("stride", 1), wishes.number("pad", 0)
    strides = [stride if wishes.get("equal_strides", True) or axis else stride + 1 for axis in range(spatial)]
    behind = pad if wishes.get("symmetric_pads", True) else pad + 1
    pads = [pad] * spatial + [behind] * spatial
    attributes: dict[str, Any] = {"strides": strides, "dilations": [wishes.number("dilation", 1)] * spatial}
    return attributes if "auto_pad" in wishes.values else attributes | {"pads": pads}


def _room(wishes: Wishes) -> int:
    """Return a size on which the wished window fits."""
    span = max(wishes.number(name, 1) for name in ("kernel", "kernel_span", "span_height"))
    span = max(span, int(wishes.number("kernel_area", 1) ** 0.5) + 1)
    return max(8, (span - 1) * wishes.number("dilation", 1) + 1 + wishes.number("stride", 1))


@base("Gemm")
def gemm(op: str, wishes: Wishes) -> OneNode:
    """A Gemm whose second operand is stored, and the third too."""
    rows, inner, columns = 4, 16, 8
    third = wishes.number("third_rank", 1)
    bias = {0: (), 1: (columns,), 2: (1, columns)}.get(third)
    if bias is None:
        raise NotBuilt(f"the third operand of a Gemm has no rank {third}")
    turned = (wishes.number("transA", 0), wishes.number("transB", 0))
    shapes = ((rows, inner), (inner, columns))
    first, second = (shape[::-1] if turn else shape for shape, turn in zip(shapes, turned, strict=True))
    return node(op, wishes.data(first), wishes.stored(second, scale=0.25), wishes.stored(bias))


@base("MatMul", "com.microsoft.FusedMatMul")
def matrix_product(op: str, wishes: Wishes) -> OneNode:
    """A MatMul, its second operand fed or stored."""
    shape = wishes.shape()
    if not shape:
        raise NotBuilt("a MatMul has no rank 0")
    other = (*shape[:-2], shape[-1], 8) if len(shape) > 1 else (shape[-1], 8)
    if wishes.get("second_is_constant", False):
        return node(op, wishes.data(shape), wishes.stored(other[-2:], scale=0.3))
    return node(op, wishes.data(shape), wishes.data(other))


@base("Einsum")
def einsum(op: str, wishes: Wishes) -> OneNode:
    """An Einsum that is a product of matrices."""
    return node(op, wishes.data((1, 8, 4, 16)), wishes.data((1, 8, 16, 4)), equation="bhij,bhjk->bhik")


@base("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization")
def normalization(op: str, wishes: Wishes) -> OneNode:
    """A normalisation whose parameters are stored."""
    shape = wishes.shape()
    if len(shape) < 2:
        raise NotBuilt(f"rank {len(shape)} has no channels")
    if op in ("LayerNormalization", "RMSNormalization"):
        axis = wishes.number("along_from_end", wishes.number("axis", -1))
        if not -len(shape) <= axis < len(shape):
            raise NotBuilt(f"rank {len(shape)} has no axis {axis}")
        last = (wishes.stored(shape[axis:]),)
        return node(op, wishes.data(shape), *last, *(last if op == "LayerNormalization" else ()), axis=axis)
    each = (shape[1],)
    operands = [wishes.data(shape), Operand(wishes.tensor(each, positive=True), constant=True), wishes.stored(each)]
    if op == "BatchNormalization":
        operands += [wishes.stored(each), Operand(wishes.tensor(each, positive=True), constant=True)]
    attributes: dict[str, Any] = {"num_groups": 2} if op == "GroupNormalization" else {}
    return node(op, *operands, **attributes)


@base("ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL2", "ReduceL1", "ReduceSum", "ReduceSumSquare")
@base("ReduceLogSumExp", "ReduceLogSum")
def reduction(op: str, wishes: Wishes) -> OneNode:
    """A reduction along one axis."""
    shape = wishes.shape()
    axis = _along(wishes, shape, len(shape) - 1)
    positive = op in ("ReduceProd", "ReduceLogSum")
    if op == "ReduceSum":
        return node(op, wishes.data(shape), fixed([axis]))
    return node(op, wishes.data(shape, positive=positive), axes=[axis])


@base("ArgMax", "ArgMin")
def arg(op: str, wishes: Wishes) -> OneNode:
    """The place of the largest or smallest of all different values."""
    shape = wishes.shape()
    return node(op, Operand(_different(wishes, shape)), axis=_along(wishes, shape, 1))


def _different(wishes: Wishes, shape: tuple[int, ...]) -> Any:
    """Return values without ties, which 8 bits still tell apart where there are few of them."""
    count = int(np.prod(shape, dtype=int))
    return wishes.rng.permutation(count).reshape(shape).astype(wishes.dtype)


@base("CumSum")
def cumsum(op: str, wishes: Wishes) -> OneNode:
    """A CumSum along a stored axis."""
    shape = wishes.shape()
    return node(op, wishes.data(shape), fixed(_along(wishes, shape, 1)))


@base("Clip")
def clip(op: str, wishes: Wishes) -> OneNode:
    """A Clip with both bounds."""
    dtype = wishes.dtype
    low, high = (0, 3) if dtype.kind in "iu" else (-0.5, 0.5)
    bounds = [Operand(np.asarray(bound, np.float32).astype(dtype), constant=True) for bound in (low, high)]
    return node(op, wishes.data(wishes.shape()), *bounds)


@base("Where")
def where(op: str, wishes: Wishes) -> OneNode:
    """A Where of a fed condition."""
    shape = wishes.shape()
    condition = Operand(wishes.tensor(shape, dtype=np.dtype(bool)))
    return node(op, condition, wishes.data(shape), wishes.data(shape))
