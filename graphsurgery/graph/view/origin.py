"""The table of what the view keeps of gs objects: what graphsurgeon itself has no place for.

Each entry is one typed object: GraphTable of a graph, of a node the NodeProto that it was made from, VariableOrigin of
a computed tensor or an input, StoredValues of an initializer. `kept` reads it, `keep` writes it, and nothing else knows
where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, TensorAnnotation, TensorProto, ValueInfoProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery.errors import ModelError
from graphsurgery.graph.outside import array_of

Scope = Mapping[str, gs.Tensor]
T = TypeVar("T")
_SLOT = "graphsurgery"  # the attribute of a gs object that holds its entry


def keep(thing: gs.Graph | gs.Node | gs.Tensor, entry: object) -> None:
    """Let `entry` be what the view keeps of `thing`."""
    object.__setattr__(thing, _SLOT, entry)  # graphsurgeon's own way there takes three times as long


def kept(thing: gs.Graph | gs.Node | gs.Tensor, kind: type[T]) -> T | None:
    """Return what the view keeps of `thing`; None where that is of another kind, or a pass has made the thing."""
    try:  # vars() would give each object a dict, which it has no need of otherwise, and gs.Graph logs what it lacks
        entry = object.__getattribute__(thing, _SLOT)
    except AttributeError:
        return None
    return entry if isinstance(entry, kind) else None


def table(graph: gs.Graph) -> GraphTable:
    """Return what the view keeps of `graph`: to be read and written, empty at first for a graph made by a pass."""
    entry = kept(graph, GraphTable)
    if entry is None:
        entry = GraphTable()
        keep(graph, entry)
    return entry


def release(graph: gs.Graph) -> None:
    """Take `graph`, which nobody needs any more, apart, so that its memory is free without the garbage collector.

    Each tensor and node refers to itself by its lists. To look for millions of such cycles takes longer than a pass,
    and the time for it grows faster than the graph.
    """
    things = table(graph).imported
    for node in graph.nodes:  # passes have made some of these
        things += (node, *node.inputs, *node.outputs)
    for thing in things:
        object.__setattr__(thing, "inputs", ())
        object.__setattr__(thing, "outputs", ())
    keep(graph, GraphTable())
    graph.nodes = []


class StoredValues(LazyValues):  # type: ignore[misc]  # graphsurgeon has no type hints
    """The values of an initializer that have not been asked for yet.

    `folder` is where external data lies; None for a model that is not from a file.
    """

    def __init__(self, tensor: TensorProto, folder: Path | None) -> None:
        self.tensor = tensor
        self.folder = folder
        self.dtype = numpy_dtype(tensor.data_type)

    @property
    def shape(self) -> list[int]:
        """The shape that the values have."""
        return list(self.tensor.dims)

    @property
    def nbytes(self) -> int:
        """How many bytes the values take."""
        return math.prod(self.shape) * (self.dtype.itemsize if self.dtype else 1)

    def load(self) -> np.ndarray:
        """Return the values, to be written to if need be; those of a file are mapped, and the file stays as it is.

        Raises ModelError when they are not there or do not fit the shape.
        """
        found = array_of(self.tensor, self.folder)
        return found if found.flags.writeable else np.array(found)


@dataclass(slots=True)
class VariableOrigin:
    """What the file said of a tensor, if it did, and what the tensor was given then."""

    info: ValueInfoProto | None
    dtype: np.dtype[Any] | None
    shape: list[int | str | None] | None


@dataclass
class GraphTable:
    """What the view keeps of a graph.

    `base` is the model it is from, `metadata` what the metadata_props of that shall be, `annotations` its quantization
    annotations, `reserved` names that no new tensor may have. `proto` is what it was made from, `constants` its
    initializers in their order, `defaults` those that are inputs too, `read` the ids of those that some node read,
    `imported` all tensors and nodes that were made of it.
    """

    base: ModelProto | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    annotations: list[TensorAnnotation] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)
    proto: GraphProto = field(default_factory=GraphProto)
    constants: list[gs.Constant] = field(default_factory=list)
    defaults: dict[str, TensorProto] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    imported: list[gs.Tensor | gs.Node] = field(default_factory=list)

    @cached_property
    def written(self) -> set[str]:
        """Names that some node wrote when the graph came in."""
        return {name for node in self.proto.node for name in node.output}

    @cached_property
    def names(self) -> set[str]:
        """Names of all tensors that were nodes' outputs, inputs or initializers when the graph came in."""
        return self.written | {item.name for item in (*self.proto.input, *self.proto.initializer)}

    @cached_property
    def interface(self) -> set[str]:
        """Names of the inputs and outputs when the graph came in."""
        return {info.name for info in (*self.proto.input, *self.proto.output)}


def plain_value(proto: AttributeProto) -> Any:
    """Return what the view makes of an attribute that holds numbers, text, another's name or nothing; else None."""
    kind = proto.type
    if proto.ref_attr_name:
        return gs.Node.AttributeRef(proto.ref_attr_name, object)
    if kind == AttributeProto.INT:
        return proto.i
    if kind == AttributeProto.INTS:
        return list(proto.ints)
    if kind == AttributeProto.FLOAT:
        return proto.f
    if kind == AttributeProto.STRING:
        return _text(proto.s)
    if kind == AttributeProto.FLOATS:
        return list(proto.floats)
    if kind == AttributeProto.STRINGS:
        return [_text(item) for item in proto.strings]
    return [] if kind == AttributeProto.GRAPHS and not proto.graphs else None


def _text(value: bytes) -> str | bytes:
    """ONNX strings are bytes, mostly UTF-8; what is not stays bytes so that it comes back unchanged."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


@cache
def numpy_dtype(elem_type: int) -> np.dtype[Any] | None:
    if elem_type == TensorProto.UNDEFINED:
        return None
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError as error:
        raise ModelError(f"element type {elem_type} is not one of this onnx ({onnx.__version__}); update it") from error
