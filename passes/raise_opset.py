"""Raise the operator set, which an exporter chose, to one in which other passes and compilers find what they know.

    raise-opset: {opset: 20}

    opset 12: Squeeze<axes = [0]>(x)   ->   opset 20: Squeeze(x, [0])

fuse-layernorm needs 17, fuse-gelu 20. An operator whose definition is the same in both sets stays as it is; each other
one goes through onnx's version converter by itself, with the types and the small constants that it reads, and what
comes out is checked. So bodies, operators of other domains, notes, defaults and data in other files are not touched.
The IR version rises to what the operator set needs. What the converter does not know is put right: Upsample and the
Resize of operator set 10 become one with their own coordinates, not those that a newer Resize has by default.

It leaves the model as it is when
1. it has this operator set already, or a newer one: there is no way back
2. onnx's converter, or what stands above, can't take an operator over; it is named
3. a local function holds an operator whose definition changes: put inline-functions before it
4. nothing tells the type of what an operator reads whose definition changes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    version_converter,
)

from graphsurgery.errors import ModelError, first_line
from graphsurgery.graph import STANDARD_DOMAINS, shapes
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, names_in
from graphsurgery.graph.protos import bodies, graphs_in, stored_names, types_by_name, walk_protos
from graphsurgery.graph.view import to_proto
from graphsurgery.rewrite import Editor, ModelPass, Refuse

_COORDINATES = 11  # the operator set in which Resize has them
_ONE_AXIS = 13  # that from which Hardmax looks along one axis, not along all behind it
_CHANNELWISE = 21  # that in which GroupNormalization has a scale for each channel, not for each group
# From which operator set on what holds bodies has only been widened to further types
_HOLDERS = {"If": 1, "Loop": 1, "Scan": 9}


@dataclass(frozen=True)
class RaiseOpset(ModelPass):
    """`opset` is the version of ONNX's operator set that the model shall have."""

    name = "raise-opset"
    effect = "exact"
    takes_references = True

    opset: int

    def __post_init__(self) -> None:
        """Raise ValueError for an operator set that the installed onnx doesn't have."""
        super().__post_init__()
        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.opset <= newest:
            raise ValueError(f"opset is {self.opset}; this version of onnx has 1 to {newest}")

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        had = Model(model).opset
        if had == self.opset:
            return model
        if had > self.opset:
            raise Refuse(f"it has operator set {had} already; onnx's converter is no way back to {self.opset}")
        self._require_functions(model, had)
        known, stored, taken = _types(model, edit), _small_constants(model), names_in(model.graph)
        taken |= {node.name for node in walk_protos(model.graph)}
        for graph in reversed(graphs_in(model.graph)):  # bodies before the nodes that hold them
            changed = [index for index, node in enumerate(graph.node) if self._changes(node, had)]
            alone = [_Alone.of(graph.node[index], had, self.opset, known, stored) for index in changed]
            made = dict(zip(changed, self._converted(alone), strict=True))
            nodes = list(graph.node)
            del graph.node[:]
            for index, node in enumerate(nodes):
                graph.node.extend(_named_like(node, made[index], taken) if index in made else [node])
        for entry in (entry for holder in (model, *model.functions) for entry in holder.opset_import):
            if entry.domain in STANDARD_DOMAINS:
                entry.version = self.opset
        needed = helper.find_min_ir_version_for([helper.make_opsetid("", self.opset)], ignore_unknown=True)
        model.ir_version = max(model.ir_version, needed)
        return model

    def _changes(self, node: NodeProto, had: int) -> bool:
        """Whether the two operator sets define `node` in different ways. Raises Refuse where the new one has none."""
        if node.domain not in STANDARD_DOMAINS or not onnx.defs.has(node.op_type, had, ""):
            return False
        if node.op_type == "Constant" or had >= _HOLDERS.get(node.op_type, self.opset):
            return False  # widened to further types, no more
        before = onnx.defs.get_schema(node.op_type, had, "")
        return not onnx.defs.has(node.op_type, self.opset, "") or (
            onnx.defs.get_schema(node.op_type, self.opset, "").since_version != before.since_version
        )

    def _require_functions(self, model: ModelProto, had: int) -> None:
        for function in model.functions:
            own = next((entry.version for entry in function.opset_import if entry.domain in STANDARD_DOMAINS), had)
            for node in walk_protos(function):
                if self._changes(node, own):
                    inside = f"function '{function.name}' holds a {node.op_type}, which changes up to {self.opset}"
                    raise Refuse(f"{inside}; put inline-functions before it")

    def _converted(self, alone: Sequence[_Alone]) -> list[list[NodeProto]]:
        """Return what becomes of each node, in names of its own. Raises Refuse naming the operator.

        All go through the converter at once, since it takes as long for one as for a thousand.
        """
        try:
            return self._converted_at_once(alone)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            for one in alone if len(alone) > 1 else ():
                self._converted([one])
            place = alone[0].place if len(alone) == 1 else "its nodes together"
            raise Refuse(f"onnx can't convert {place} to {self.opset}: {first_line(error)}") from error

    def _converted_at_once(self, alone: Sequence[_Alone]) -> list[list[NodeProto]]:
        if not alone:
            return []
        parts = [one.under(f"n{number}_") for number, one in enumerate(alone)]
        graph = GraphProto(name="alone")
        for part in parts:
            graph.MergeFrom(part)
        graph.name = "alone"
        opset = helper.make_opsetid("", alone[0].opset)
        ir_version = max(4, helper.find_min_ir_version_for([opset]))
        before = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)
        after = version_converter.convert_version(before, self.opset).graph
        given = stored_names(graph)
        new = [helper.make_node("Constant", [], [t.name], value=t) for t in after.initializer if t.name not in given]
        context = onnx.checker.C.CheckerContext()
        context.opset_imports, context.ir_version = {"": self.opset}, onnx.IR_VERSION
        owner = {info.name: number for number, part in enumerate(parts) for info in (*part.input, *part.output)}
        owner |= {tensor.name: number for number, part in enumerate(parts) for tensor in part.initializer}
        made: list[list[NodeProto]] = [[] for _ in alone]
        for node in reversed([*new, *after.node]):  # what an adapter adds is read by what it was added for
            onnx.checker.check_node(node, context)
            number = next(owner[name] for name in (*node.output, *node.input) if name in owner)
            owner |= dict.fromkeys((name for name in node.input if name not in owner), number)
            if node.op_type == "Resize" and alone[number].opset < _COORDINATES:
                options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                node.attribute.extend(helper.make_attribute(*option) for option in options.items())
            made[number].insert(0, node)
        return made


@dataclass(frozen=True)
class _Alone:
    """A node with the types of what it reads and writes and the values of what is constant, by place."""

    node: NodeProto
    opset: int
    place: str
    inputs: tuple[ValueInfoProto | TensorProto | None, ...]
    outputs: tuple[ValueInfoProto | None, ...]

    @staticmethod
    def of(
        node: NodeProto, had: int, wanted: int, known: Mapping[str, ValueInfoProto], stored: Mapping[str, TensorProto]
    ) -> _Alone:
        """Raise Refuse for a node that can't be converted, or not rightly."""
        place = f"node '{node.name or node.output[0]}' ({node.op_type})"
        unknown = next((name for name in node.input if name and name not in known and name not in stored), None)
        if unknown is not None:
            raise Refuse(f"nothing tells the type of '{unknown}', which {place} reads")
        _require_right(node, had, wanted, place, known, stored)
        inputs = tuple((stored.get(name) or known[name]) if name else None for name in node.input)
        outputs = tuple(known.get(name, ValueInfoProto()) if name else None for name in node.output)
        return _Alone(node, had, place, inputs, outputs)

    def under(self, prefix: str) -> GraphProto:
        """Return a graph of the node, with its tensors called by their places behind `prefix`."""
        graph = GraphProto(node=[self.node])
        for index, held in enumerate(self.inputs):
            graph.node[0].input[index] = f"{prefix}i{index}" if held is not None else ""
            if held is not None:
                kept = graph.initializer.add() if isinstance(held, TensorProto) else graph.input.add()
                kept.MergeFrom(held)
                kept.name = f"{prefix}i{index}"
        for index, info in enumerate(self.outputs):
            graph.node[0].output[index] = f"{prefix}o{index}" if info is not None else ""
            if info is not None:
                graph.output.add().MergeFrom(info)
                graph.output[-1].name = f"{prefix}o{index}"
        return graph


def _require_right(
    node: NodeProto,
    had: int,
    wanted: int,
    place: str,
    known: Mapping[str, ValueInfoProto],
    stored: Mapping[str, TensorProto],
) -> None:
    """Refuse what onnx's converter takes over without a word, and wrong."""
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if bodies(node):
        raise Refuse(f"{place} holds a body and is another operator in operator set {wanted}")
    if node.op_type == "GroupNormalization" and had < _CHANNELWISE <= wanted:
        raise Refuse(f"{place} has a scale for each group, and from {_CHANNELWISE} on for each channel")
    if node.op_type == "Hardmax" and had < _ONE_AXIS <= wanted:
        kind = known[node.input[0]].type.tensor_type if node.input[0] in known else TypeProto.Tensor()
        if options.get("axis") not in (-1, len(kind.shape.dim) - 1):
            raise Refuse(f"{place} takes all axes from one on together, and from {_ONE_AXIS} on one alone")
    if node.op_type in ("Resize", "Upsample") and had < _COORDINATES and options.get("mode", b"nearest") == b"nearest":
        scales = stored.get(node.input[1]) if len(node.input) > 1 else None
        factors = options.get("scales") if scales is None else numpy_helper.to_array(scales)
        if factors is None or any(factor < 1 for factor in factors):
            raise Refuse(f"{place} may shrink the image, and ONNX Runtime rounds in another way then")


def _types(model: ModelProto, edit: Editor) -> dict[str, ValueInfoProto]:
    """Return the type of each tensor by its name, but of those that two bodies give to different ones."""
    view = Model(model, edit.folder).graph()
    try:
        inferred = shapes.infer(to_proto(view, largest=shapes.SHAPE_LIKE, ordered=True), edit.folder)
    except ModelError as error:
        raise Refuse(str(error)) from error
    return types_by_name(inferred.graph)


def _small_constants(model: ModelProto) -> dict[str, TensorProto]:
    """Return the constants that may hold axes, sizes and the like, but those that a caller may override."""
    found: dict[str, TensorProto] = {}
    doubtful = {info.name for info in model.graph.input}
    for graph in graphs_in(model.graph):
        held = [(tensor.name, tensor) for tensor in graph.initializer]
        held += [
            (node.output[0], node.attribute[0].t)
            for node in graph.node
            if node.op_type == "Constant" and node.domain in STANDARD_DOMAINS and node.attribute[0].name == "value"
        ]
        for name, tensor in held:
            doubtful |= {name} & found.keys()
            if tensor.data_location != TensorProto.EXTERNAL and _elements(tensor) <= shapes.SHAPE_LIKE:
                found[name] = tensor
    return {name: tensor for name, tensor in found.items() if name not in doubtful}


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _named_like(node: NodeProto, made: list[NodeProto], taken: set[str]) -> list[NodeProto]:
    """Return `made` with the tensors of `node`; new ones get names that nothing in the model has, its notes stay."""
    names = {f"i{index}": name for index, name in enumerate(node.input)}
    names |= {f"o{index}": name for index, name in enumerate(node.output)}
    main = next(each for each in made if any(name.endswith("_o0") for name in each.output))
    known = {"": ""}
    for each in made:
        for kind in (each.input, each.output):
            for index, name in enumerate(kind):
                if name not in known:
                    place = name.rpartition("_")[2]
                    known[name] = names[place] if name.startswith("n") and place in names else _own(node, main, taken)
                kind[index] = known[name]
        each.name = node.name if each is main else fresh(f"{node.name or node.output[0]}_{each.op_type}", taken)
        taken.add(each.name)
    if node.HasField("doc_string"):
        main.doc_string = node.doc_string
    del main.metadata_props[:]
    main.metadata_props.extend(node.metadata_props)
    return made


def _own(node: NodeProto, main: NodeProto, taken: set[str]) -> str:
    name = fresh(f"{node.output[0]}_{main.op_type}", taken)
    taken.add(name)
    return name
