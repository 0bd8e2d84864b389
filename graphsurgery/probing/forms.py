"""Forms of operators that no limit names, and that models have all the same."""

from __future__ import annotations

from collections.abc import Iterator

from graphsurgery.targets.schema import Scalar

_TYPES = ("float16", "float64", "int64", "int32", "int8", "uint8", "bool")
_RANKS = range(7)
_BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Mod",
    "PRelu",
    "And",
    "Or",
    "Xor",
]
_REDUCING = ["ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceProd", "ArgMax", "ArgMin"]
_GATHERING = ["Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements", "RoiAlign"]
_PERMUTATIONS = ("0,2,3,1", "0,3,1,2", "0,1,3,2", "0,2,1,3", "1,0,2,3")

_OF: dict[str, list[tuple[str, Scalar]]] = {
    "Softmax": [("axis", 1), ("axis", 2)],
    "LogSoftmax": [("axis", 1)],
    "Concat": [("axis", 0), ("axis", 2), ("axis", 3), ("inputs", 1), ("inputs", 5)],
    "Split": [("axis", 2), ("axis", 3)],
    "Transpose": [("permutation", text) for text in _PERMUTATIONS],
    "Gather": [("axis", 0), ("axis", 3), ("second_rank", 0), ("second_rank", 2)],
    "TopK": [("axis", 0), ("rank", 3), ("rank", 4)],
    "Slice": [("axis", 1), ("axis", 2), ("step", 2), ("step", -1)],
    "Cast": [("to", number) for number in (6, 7, 9, 2, 3, 10, 11)],
    "Conv": [
        ("stride", 2),
        ("dilation", 2),
        ("depthwise", True),
        ("groups", 2),
        ("kernel", 1),
        ("kernel", 7),
        ("weights", "fed"),
    ],
    "ConvTranspose": [("stride", 2), ("groups", 2), ("kernel", 4)],
    "MaxPool": [("stride", 2), ("kernel", 1), ("kernel", 3), ("ceil_mode", 1), ("pad", 1)],
    "AveragePool": [("stride", 2), ("kernel", 3), ("ceil_mode", 1), ("pad", 1), ("count_include_pad", 1)],
    "Flatten": [("axis", 2), ("axis", 0)],
    "Gemm": [("transA", 1), ("transB", 1)],
    "CumSum": [("exclusive", 1), ("reverse", 1)],
    "DepthToSpace": [("mode", "CRD")],
    "Pad": [("padded_axes", 1), ("padded_axes", 2), ("constant_value", 1)],
    "Gelu": [("approximate", "tanh")],
    "NonMaxSuppression": [("open_rows", True)],
    "NonZero": [("open_rows", True)],
    "Mod": [("fmod", 1)],
    "Min": [("inputs", 1), ("inputs", 3)],
    "Max": [("inputs", 1), ("inputs", 3)],
    "Sum": [("inputs", 1), ("inputs", 3)],
    "Mean": [("inputs", 1), ("inputs", 3)],
    "MatMul": [("second_is_constant", True)],
    "RoiAlign": [("sampling_ratio", 0), ("coordinate_transformation_mode", "output_half_pixel")],
}


def forms(op: str, *, types: bool) -> Iterator[tuple[str, Scalar]]:
    """Yield wishes for one operator, by name and value; with its `types` where that is asked."""
    yield from (("rank", rank) for rank in _RANKS)
    if types:
        yield from (("type", kind) for kind in _TYPES)
    if op in _BINARY:
        yield from (("broadcast", form) for form in ("scalar", "channels", "other"))
        yield ("second_is_constant", True)
    if op in _REDUCING:
        yield from (("axis", 1), ("axis", 0), ("keepdims", 0))
    if op in _GATHERING:
        yield from (("indices_type", "int32"), ("indices_are_fed", "int64"), ("indices_are_fed", "int32"))
    yield ("static", False)
    yield from _OF.get(op, ())
