"""The types and shapes that ONNX infers for the tensors of a graph which a pass is changing, kept up to date.

The first question infers the whole graph. After that an edit costs what it changes: the nodes that were edited are
inferred anew, alone, from the types around them; only where that gives another answer than before, or where the value
of a tensor may matter to a shape further down, everything downstream is forgotten, and inferred when it is asked for.
A question never changes the graph. An answer may be that nothing is known; it is never that of the graph as it was.

A node with bodies is one unit with everything in them: a change inside infers it anew as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError
from graphsurgery.graph.protos import graphs_in
from graphsurgery.graph.shapes import SHAPE_LIKE, UNKNOWN, TensorType, infos, type_of, types
from graphsurgery.graph.signature import signature
from graphsurgery.graph.view import table, to_proto

_FOLLOWED = (np.dtype("int32"), np.dtype("int64"))  # to ask for the name of a type takes long
_NOTHING = (None, None)
# Of how many nodes it is remembered what was inferred
_MOST_REMEMBERED = 10_000


class _Known:
    """An answer; `written` is what the tensor said of itself then. It holds the tensor, so that no other has its id.

    What was inferred is read when it is asked for: most of it never is.
    """

    __slots__ = ("_said", "tensor", "written")

    def __init__(self, tensor: gs.Tensor, said: TensorType | ValueInfoProto | None) -> None:
        self.tensor = tensor
        self.written = _written(tensor)
        self._said = said

    @property
    def type(self) -> TensorType:
        if not isinstance(self._said, TensorType):
            self._said = type_of(self._said)
        return self._said


class EditedShapes:
    """The types of the tensors in `root`, as `infer` (ONNX's shape inference) finds them.

    `failure` says why it can't, if so; then nothing is known until `forget`.
    """

    def __init__(self, root: gs.Graph, infer: Callable[[ModelProto], ModelProto]) -> None:
        self._root = root
        self._infer = infer
        self._remembered: dict[Hashable, tuple[TensorType, ...]] = {}
        base = table(root).base
        self._has_functions = base is not None and bool(base.functions)  # one may stand for an operator of ONNX
        self.forget()

    def forget(self) -> None:
        """Infer everything anew at the next question."""
        self.failure: str | None = None
        self._asked = False
        self._known: dict[int, _Known] = {}
        self._edited: dict[int, gs.Node] = {}
        # the nodes of the root graph, kept so that their ids stay their own, and these ids
        self._tops: list[gs.Node] = []
        self._top_ids: set[int] = set()
        # by the id of another node: it, and the node of the root graph that it is, or is inside
        self._units: dict[int, tuple[gs.Node, gs.Node]] = {}
        self._bodies: dict[int, tuple[gs.Graph, gs.Node]] = {}
        self._passed_on: dict[int, list[gs.Node]] = {}  # by the output of a body: the node that holds the body
        self._given: dict[int, tuple[gs.Tensor, gs.Node]] = {}  # by the input of a body: it, and the unit of the body
        self._whole: GraphProto | None = None  # as it was inferred
        self._symbols: set[str] = set()
        self._made_up = 0

    def added(self, node: gs.Node, graph: gs.Graph) -> None:
        """Take note of a new node in `graph`."""
        if not self._asked:
            return
        held = self._bodies.get(id(graph))
        if graphs.subgraphs(node) or (held is None and graph is not self._root):
            return self.forget()
        self._units[id(node)] = node, node if held is None else held[1]
        self._edited[id(node)] = node

    def edited(self, nodes: Iterable[gs.Node]) -> None:
        """Take note that nodes read, do or write something else now."""
        if not self._asked:
            return
        for node in nodes:
            if graphs.subgraphs(node) or not (id(node) in self._top_ids or id(node) in self._units):
                return self.forget()
            self._edited[id(node)] = node

    def redirected(self, old: gs.Tensor, new: gs.Tensor, readers: Iterable[gs.Node]) -> None:
        """Take note that `readers` read `new` now in the place of `old`."""
        was, now = self._known.get(id(old)), self._known.get(id(new))
        if was is None or now is None or was.type != now.type or _has_value(now):
            self.edited(readers)

    def of(self, tensor: gs.Tensor) -> TensorType:
        """Return the type of `tensor`: what is written down where the model is given it, else what is inferred."""
        if not tensor.name:
            return UNKNOWN
        writer = graphs.producer(tensor)
        if writer is None and any(tensor is given for given in self._root.inputs):
            return TensorType(*_written(tensor))
        if not self._asked:
            self._infer_all()
        writer = self._given[id(tensor)][1] if id(tensor) in self._given else writer
        if writer is None or self.failure is not None:
            return UNKNOWN
        known = self._known.get(id(tensor))
        if known is not None and known.written != _written(tensor):
            self._edited[id(writer)] = writer  # the pass has written a type by itself
        if self._edited:
            self._infer_edited()
        if id(tensor) not in self._known:
            for found in self._infer_units([self._unit(writer)]):
                self._known.setdefault(id(found.tensor), found)
        known = self._known.get(id(tensor))
        return UNKNOWN if known is None else known.type

    def ask(self, tensors: Iterable[gs.Tensor]) -> None:
        """Infer what is not known yet of `tensors` at once, which takes less time than one after another."""
        if self._asked and self.failure is None:
            if self._edited:
                self._infer_edited()
            writers = (graphs.producer(tensor) for tensor in tensors if id(tensor) not in self._known)
            for found in self._infer_units([self._unit(writer) for writer in writers if writer is not None]):
                self._known.setdefault(id(found.tensor), found)

    def _infer_all(self) -> None:
        self._asked = True
        try:
            proto = to_proto(self._root, largest=SHAPE_LIKE, ordered=True)
            inferred = self._infer(proto)
        except ModelError as error:
            self.failure = str(error)
            return
        self._whole = inferred.graph
        self._known = {id(tensor): _Known(tensor, said) for tensor, said in infos(self._root, inferred.graph)}
        self._tops = list(self._root.nodes)
        self._top_ids = set(map(id, self._tops))
        for top in graphs.holders(self._tops):
            held = graphs.subgraphs(top)
            self._units.update((id(node), (node, top)) for node in graphs.with_bodies(top))
            for body in (body for each in held for body in graphs.walk_graphs(each)):
                self._bodies[id(body)] = body, top
                self._given.update((id(tensor), (tensor, top)) for tensor in body.inputs)
                for tensor in body.outputs:
                    self._passed_on.setdefault(id(tensor), []).append(top)

    def _unit(self, node: gs.Node) -> gs.Node:
        """Return the node of the root graph that `node` is, or is inside; one that came past the Editor is its own."""
        return node if id(node) in self._top_ids else self._units.setdefault(id(node), (node, node))[1]

    def _infer_edited(self) -> None:
        """Infer the edited nodes anew, and forget what is downstream of those that write something else now."""
        edited = {id(unit): unit for unit in map(self._unit, self._edited.values())}
        self._edited.clear()
        before = {id(tensor): self._known.pop(id(tensor), None) for unit in edited.values() for tensor in _writes(unit)}
        changed: list[gs.Tensor] = []
        for found in self._infer_again([unit for unit in edited.values() if unit.outputs]):
            if id(found.tensor) in before:
                self._known[id(found.tensor)] = found
                was = before.pop(id(found.tensor))
                if was is not None and (was.type != found.type or _has_value(found)):
                    changed.append(found.tensor)
            else:
                self._known.setdefault(id(found.tensor), found)
        changed += [was.tensor for was in before.values() if was is not None]
        self._forget_downstream(changed)

    def _forget_downstream(self, tensors: list[gs.Tensor]) -> None:
        """Forget what depends on `tensors`; where something is forgotten, all that depends on it is already."""
        pending = list(tensors)
        while pending:
            tensor = pending.pop()
            readers = {id(reader): reader for reader in (*tensor.outputs, *self._passed_on.get(id(tensor), ()))}
            for reader in readers.values():
                written = _writes(self._unit(reader))
                pending += [other for other in written if self._known.pop(id(other), None) is not None]

    def _infer_again(self, units: list[gs.Node]) -> list[_Known]:
        """Infer `units` of the root graph as `_infer_units` does, a single one only if no node like it was before."""
        if len(units) != 1 or self._has_functions:
            return self._infer_units(units)
        unit = units[0]
        like = signature(unit, self._root.opset, SHAPE_LIKE, self._told_of)
        written = [tensor for tensor in unit.outputs if tensor.name]
        if like in self._remembered:
            return [_Known(tensor, said) for tensor, said in zip(written, self._remembered[like], strict=True)]
        symbols = len(self._symbols)
        found = self._infer_units(units)
        is_alone = [id(each.tensor) for each in found] == [id(tensor) for tensor in written]
        if like is not None and is_alone and len(self._symbols) == symbols:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[like] = tuple(each.type for each in found)
        return found

    def _told_of(self, tensor: gs.Tensor) -> Hashable | None:
        """Return what inference is told of a tensor that is no constant; None where that isn't its type alone."""
        if graphs.producer(tensor) is None:
            return (True, tensor.dtype, _written(tensor)[1]) if tensor.type == "tensor_type" else None
        known = self._known.get(id(tensor))
        if known is None or _has_value(known) or known.type.other is not None:
            return None
        return False, known.type.dtype, known.type.shape

    def _infer_units(self, units: Iterable[gs.Node]) -> list[_Known]:
        """Infer `units` of the root graph, with all before them that is not known, and return what they write.

        A tensor whose value may give a shape is inferred along with them, so that its value is at hand.
        """
        taken: dict[int, gs.Node] = {}
        inputs: dict[int, gs.Tensor] = {}
        given: dict[int, _Known] = {}
        pending = list(units)
        while pending:
            unit = pending.pop()
            if id(unit) in taken:
                continue
            taken[id(unit)] = unit
            for tensor in _reads(unit):
                writer = graphs.producer(tensor)
                known = self._known.get(id(tensor))
                if not tensor.name or isinstance(tensor, gs.Constant):
                    continue
                if writer is None:
                    inputs[id(tensor)] = tensor
                elif known is not None and not _has_value(known):
                    given[id(tensor)] = known
                else:
                    pending.append(self._unit(writer))
        part = gs.Graph(
            nodes=list(taken.values()),
            inputs=list(inputs.values()),
            opset=self._root.opset,
            import_domains=self._root.import_domains,
            ir_version=self._root.ir_version,
        )
        table(part).base = table(self._root).base
        try:
            proto = to_proto(part, largest=SHAPE_LIKE, ordered=True)
            inside = {id(tensor) for unit in taken.values() for tensor in _writes(unit)}
            for known in given.values():
                if id(known.tensor) not in inside and known.type != UNKNOWN:
                    proto.graph.input.add(name=known.tensor.name).type.CopyFrom(_type_proto(known.type))
            inferred = self._infer(proto)
        except ModelError:  # the other ones are known still
            return [_Known(t, UNKNOWN) for unit in taken.values() for t in _writes(unit)]
        fresh = {symbol: self._new_symbol() for symbol in _symbols(inferred.graph) - _symbols(proto.graph)}
        return [_Known(tensor, _renamed(kind, fresh)) for tensor, kind in types(part, inferred.graph)]

    def _new_symbol(self) -> str:
        """Return a name for a dimension that is not known: what inference makes up is the same each time."""
        if self._whole is not None:
            self._symbols |= _symbols(self._whole)
            self._whole = None
        while (name := f"unk__{self._made_up}") in self._symbols:
            self._made_up += 1
        self._symbols.add(name)
        return name


def _reads(unit: gs.Node) -> Iterator[gs.Tensor]:
    """Yield what `unit` and its bodies read, but for the inputs of the bodies."""
    if not graphs.subgraphs(unit):
        yield from unit.inputs
        return
    nodes = list(graphs.with_bodies(unit))
    inside = [body for node in nodes for body in graphs.subgraphs(node)]
    given = {id(tensor) for body in inside for tensor in body.inputs}
    for tensor in (*(t for node in nodes for t in node.inputs), *(t for body in inside for t in body.outputs)):
        if id(tensor) not in given:
            yield tensor


def _writes(unit: gs.Node) -> list[gs.Tensor]:
    """Return what `unit` writes, and what it gives its bodies."""
    nodes = list(graphs.with_bodies(unit))
    given = (tensor for node in nodes for body in graphs.subgraphs(node) for tensor in body.inputs)
    return [*(tensor for node in nodes for tensor in node.outputs), *given]


def _written(tensor: gs.Tensor) -> tuple[Any, Any]:
    """Return what is written down of `tensor`, to compare it later."""
    if tensor.dtype is None and tensor.shape is None:
        return _NOTHING
    return tensor.dtype, None if tensor.shape is None else tuple(tensor.shape)


def _has_value(known: _Known) -> bool:
    """Whether inference looks at the value of a tensor: it follows whole numbers, and knows those of a Constant."""
    if graphs.is_op(graphs.producer(known.tensor), "Constant"):
        return True
    dtype, shape = known.type.dtype, known.type.shape
    return dtype is not None and dtype in _FOLLOWED and (shape is None or len(shape) < 2)


def _symbols(graph: GraphProto) -> set[str]:
    """Return the names of dimensions in `graph` and its bodies."""
    said = (info for inner in graphs_in(graph) for info in (*inner.input, *inner.output, *inner.value_info))
    return {dim.dim_param for info in said for dim in info.type.tensor_type.shape.dim if dim.HasField("dim_param")}


def _renamed(known: TensorType, names: dict[str, str]) -> TensorType:
    """Return the type with other names of dimensions: inference counts those that it makes up anew each time."""
    if known.shape is None or not names:
        return known
    return replace(known, shape=tuple(names.get(s, s) if isinstance(s, str) else s for s in known.shape))


def _type_proto(known: TensorType) -> TypeProto:
    if known.other is not None:
        return known.other
    if known.dtype is None:
        return onnx.helper.make_tensor_type_proto(TensorProto.UNDEFINED, known.shape)
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(known.dtype), known.shape)
