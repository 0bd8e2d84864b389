"""Editor, the one object through which a pass changes a graph, and so the one that knows what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError, PassError
from graphsurgery.graph import shapes
from graphsurgery.graph.edited_shapes import EditedShapes
from graphsurgery.graph.view import making, table
from graphsurgery.rewrite.annotations import annotate, annotation, differ
from graphsurgery.rewrite.context import PassContext
from graphsurgery.rewrite.evaluate import evaluate
from graphsurgery.rewrite.names import Names
from graphsurgery.rewrite.tracked_types import TrackedTypes, computed_from


@dataclass(frozen=True)
class Skip:
    """A node that a pass looked at and left alone, and why."""

    node: str
    reason: str


class Editor:
    """What a pass changes a graph through; it names new tensors and keeps the refusals.

    ask         shape, static_shape, dtype, is_output; `ask` for many at once
    compute     evaluate (values), infer_shapes, infer_behind (types, written into the graph)
    make        fresh (a name), constant, emit (a node)
    a node      replace, set_input, set_outputs, set_attribute, drop_attribute
    take out    bypass, fold, inline, remove
    a tensor    redirect (its readers), retype
    the model   set_interface, metadata
    refuse      skip, fail; before the first edit, `raise Refuse(reason)` of graphsurgery.rewrite

    `graph` is the graph that holds the node at hand, `root` the whole one, `opset` the standard operator set's
    version, `folder` where external data lies, `place` what a message says of where the pass is, `context` what it may
    know beside the graph. `details` is what the pass found out and the report should show, as JSON has it. `edits`
    counts; to write what is there already is none. `replaced` are the nodes that have become other operators.
    """

    def __init__(
        self, root: gs.Graph, pass_name: str = "", folder: Path | None = None, context: PassContext | None = None
    ) -> None:
        self.root = root
        self.folder = folder
        self.context = context or PassContext()
        self.details: dict[str, Any] = {}
        self.graph = root
        self.opset = int(root.opset)
        self.skips: list[Skip] = []
        self.edits = 0
        self.replaced: list[gs.Node] = []
        self.place = ""
        self._pass_name = pass_name
        self._names = Names(root)
        # by the ids of the outputs of bodies, once asked for: each, which keeps the id its own, and its outermost graph
        self._given_out: dict[int, tuple[gs.Tensor, gs.Graph]] | None = None
        self._types = TrackedTypes(root, folder, lambda reason: self.skip(None, reason))

    # --- refuse -------------------------------------------------------------------------------------------------

    def skip(self, node: gs.Node | None, reason: str) -> None:
        """Note that `node` (None: the whole model) stays as it is, and why."""
        where = "" if node is None else node.name or (node.outputs[0].name if node.outputs else node.op)
        self.skips.append(Skip(where, reason))

    def fail(self, reason: str) -> PassError:
        """Return the error to raise when the run must not go on."""
        return PassError(f"pass '{self._pass_name}': {reason}")

    # --- ask ----------------------------------------------------------------------------------------------------

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether `tensor` is an output of the model or of a body in it, so that its name must stay."""
        return self._holder(tensor) is not None

    def _holder(self, tensor: gs.Tensor) -> gs.Graph | None:
        """Return the graph that `tensor` is an output of, the outermost one, or None."""
        if graphs.is_graph_output(tensor, self.root):
            return self.root
        if self._given_out is None:
            self._given_out = {}
            for graph in graphs.walk_graphs(self.root):
                for output in graph.outputs if graph is not self.root else ():
                    self._given_out.setdefault(id(output), (output, graph))
        return self._given_out.get(id(tensor), (None, None))[1]

    def shape(self, tensor: gs.Tensor) -> list[int | str | None] | None:
        """Return the shape of `tensor` as it follows from the model's inputs; None where its rank is not known.

        A number is a known dimension; a name or None is not. What is written down of another tensor is a claim, and
        is no answer: a file may have been made dynamic by hand. The first question infers the shapes of the whole
        model, and the next ones cost next to nothing: ask after all other guards. The answer is that of the graph as
        it is now; a pass that changes it past the Editor calls `forget_inferred` before it asks again.
        """
        return self._types.shape(tensor)

    def static_shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return the shape of `tensor` when every dimension is a known number, else None; inferred as in `shape`."""
        shape = self.shape(tensor)
        known = [size for size in shape or () if isinstance(size, int) and size >= 0]
        return tuple(known) if shape is not None and len(known) == len(shape) else None

    def dtype(self, tensor: gs.Tensor) -> np.dtype[Any] | None:
        """Return the element type of `tensor`, inferred where it is not written down; None where nothing tells.

        Where an edit changes the type of what a node writes, `infer_behind` writes it anew.
        """
        return self._types.dtype(tensor)

    def ask(self, tensors: Iterable[gs.Tensor]) -> None:
        """Infer at once what was forgotten of `tensors` by edits: a loop over `shape` does it for one after another."""
        self._types.ask(tensors)

    def forget_inferred(self) -> None:
        """Infer shapes and types anew at the next question: the graph has changed past the Editor."""
        self._types.forget()
        self._given_out = None

    # --- compute ------------------------------------------------------------------------------------------------

    def evaluate(
        self, tensors: Sequence[gs.Tensor], inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Compute `tensors` of the graph at hand with ONNX Runtime, from constants and the given `inputs`.

        Tensors named in `inputs` are taken as given, whatever writes them. Raises PassError where something else
        is needed too.
        """
        try:
            return evaluate(self.graph, tensors, inputs or {}, self.folder)
        except InputError as error:
            wanted = ", ".join(repr(tensor.name) for tensor in tensors)
            raise self.fail(f"can't compute {wanted}: {error}") from error

    def infer_shapes(self) -> None:
        """Write the shapes and types that ONNX's shape inference finds into the variables of the root graph.

        A size that is written down stays where the model's inputs don't tell another one. Weights are left out, so
        this costs little on large models.
        """
        try:
            shapes.infer_shapes(self.root, self.folder)
        except ModelError as error:
            raise self.fail(str(error)) from error
        self._types.forget()

    def infer_behind(self, nodes: Iterable[gs.Node]) -> None:
        """Write anew the shapes and types of all that depends on `nodes`; the model's outputs keep what they promise.

        Outputs of bodies keep their types: nothing can be inferred of a Loop without.
        """
        promised = [(tensor, tensor.dtype, tensor.shape) for tensor in self.root.outputs]
        for tensor in computed_from(nodes, self.root):
            if not graphs.is_graph_output(tensor, self.root):
                self.retype(tensor, dtype=... if self.is_output(tensor) else None, shape=None)
        self.infer_shapes()
        for tensor, dtype, shape in promised:
            self.retype(tensor, dtype=dtype, shape=shape)

    # --- make ---------------------------------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """Return a tensor name made from `hint` that nothing in the model has."""
        return self._names.fresh(hint)

    def constant(self, hint: str, values: np.ndarray | Sequence[int] | Sequence[float]) -> gs.Constant:
        """Return a new initializer; plain integers become int64 and plain floats float32, as ONNX wants them."""
        array = np.asarray(values)
        typed = isinstance(values, np.ndarray | np.generic)
        if not typed and array.dtype == np.float64:
            array = array.astype(np.float32)
        if not typed and array.size == 0:
            array = array.astype(np.int64)
        return making.constant(self.fresh(hint), np.ascontiguousarray(array).reshape(array.shape))

    def emit(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        attrs: Mapping[str, Any] | None = None,
        *,
        hint: str,
        dtype: Any = None,
        shape: Sequence[int | str | None] | None = None,
        outputs: int = 1,
        writes: gs.Tensor | None = None,
    ) -> gs.Variable:
        """Add a node to the graph at hand and return its (first) output, named after `hint`.

        `writes` is a tensor that it shall write instead of a new one; the node that wrote it does not any more.
        """
        self._require_tensors(op, inputs)
        written = [
            making.variable(self.fresh(hint if number == 0 else f"{hint}_{number}"), dtype, shape)
            for number in range(outputs if writes is None else 0)
        ]
        with self._edit() as types:
            if writes is not None:
                _let_go([writes])
                written.append(writes)
            node = making.node(op, self.fresh(f"{hint}_{op}"), dict(attrs or {}), inputs, written)
            self.graph.nodes.append(node)
            types.added(node, self.graph)
            self._bodies_changed(graphs.subgraphs(node))
        return written[0]

    def _require_tensors(self, op: str, inputs: Sequence[object]) -> None:
        for place, each in enumerate(inputs, start=1):
            if not isinstance(each, gs.Tensor):
                raise self.fail(f"input {place} of {op} is {each!r}, which is no tensor: make one with edit.constant")

    # --- change a node ------------------------------------------------------------------------------------------

    def replace(
        self, node: gs.Node, op: str, inputs: Sequence[gs.Tensor], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Make `node` another operator that writes the same tensors; its name and notes stay.

        Outputs at the end that nothing reads go, as the other operator may have none of the kind.
        """
        self._require_tensors(op, inputs)
        with self._edit_of(node):
            read = [index for index, out in enumerate(node.outputs) if index == 0 or out.outputs or self.is_output(out)]
            if len(node.outputs) > read[-1] + 1:
                graphs.set_outputs(node, node.outputs[: read[-1] + 1])
            if node.op != op:
                self.replaced.append(node)
            node.op = op
            node.domain = None
            node.attrs = dict(attrs or {})
            graphs.set_inputs(node, inputs)

    def set_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let `node` read `tensor` at `index`; omitted inputs are filled in before it as needed."""
        inputs = list(node.inputs)
        if index < len(inputs) and inputs[index] is tensor:
            return
        while len(inputs) <= index:
            inputs.append(gs.Variable.empty())
        inputs[index] = tensor
        with self._edit() as types:
            graphs.set_inputs(node, inputs)
            types.edited([node])

    def set_outputs(self, node: gs.Node, tensors: Sequence[gs.Tensor]) -> None:
        """Let `node` write `tensors` in the place of what it wrote; what else wrote one of them does not any more."""
        old = list(node.outputs)
        with self._edit() as types:
            _let_go([tensor for tensor in tensors if not any(tensor is own for own in old)])
            graphs.set_outputs(node, tensors)
            types.edited([node, *(reader for tensor in old if not tensor.inputs for reader in tensor.outputs)])

    def set_attribute(self, node: gs.Node, name: str, value: Any) -> None:
        """Write an attribute."""
        if name not in node.attrs or not _same_attribute(node.attrs[name], value):
            with self._edit_of(node):
                node.attrs[name] = value

    def drop_attribute(self, node: gs.Node, name: str) -> None:
        """Take an attribute away; one that is not there is no edit."""
        if name in node.attrs:
            with self._edit_of(node):
                del node.attrs[name]

    # --- take out -----------------------------------------------------------------------------------------------

    def bypass(self, node: gs.Node, tensor: gs.Tensor, *, holds: gs.Tensor | None = None) -> bool:
        """Let everything that reads the first output of `node` read `tensor` instead, and drop `node`.

        Where that output is a graph output its name must stay, so the producer of `tensor` writes it. Where both
        tensors must stay, `node` becomes an Identity: `tensor` is an input, a constant, written in another graph or an
        output as well, or the two have quantization annotations that differ.

        Returns False, having noted why, where `node` is such an Identity already, or another output of it is read.

        `holds` says which of the two values is left, where a pass changes a layer beside `node` as well; they are the
        same where it is not given. What is left has the quantization annotation of that value.
        """
        out, *others = node.outputs
        if any(other.outputs or self.is_output(other) for other in others):
            self.skip(node, "another of its outputs is read")
            return False
        note, other_note = (annotation(self.graph, end) for end in (out, tensor))
        holder, source = self._holder(out), graphs.producer(tensor)
        both_stay = None
        if holds is None and differ(note, other_note):
            both_stay = "its input and its output have quantization annotations that differ"
        elif holder is not None and not any(other is source for other in holder.nodes):
            both_stay = "its output is a graph output and its input is not written in the same graph"
        elif holder is not None and self.is_output(tensor):
            both_stay = "its input and its output are both graph outputs"
        if both_stay is not None and graphs.is_op(node, "Identity"):
            self.skip(node, both_stay)
            return False
        if holds is tensor or (holds is None and note is None):
            note = other_note
        if both_stay is not None:
            self.replace(node, "Identity", [tensor])
            for end in (out, tensor) if holds is not None else ():
                annotate(self.graph, end, note)
            return True
        gone, left = (out, tensor) if holder is None else (tensor, out)
        with self._edit() as types:
            graphs.detach(node)
            self._bodies_changed(graphs.subgraphs(node))
            if holder is not None and source is not None:
                graphs.set_outputs(source, [out if t is tensor else t for t in source.outputs])
                types.edited([source])
            _redirect(gone, left, types)
            annotate(self.graph, left, note)
        return True

    def fold(self, node: gs.Node, values: Sequence[np.ndarray | LazyValues | None]) -> None:
        """Let `values` stand where `node` wrote them; None for those that nothing reads any more.

        Each becomes an initializer under the name of the tensor. An output stays what a Constant node writes.
        """
        written = list(node.outputs)
        is_done = graphs.is_op(node, "Constant") and self.is_output(written[0])
        if not is_done:
            self.remove(node)
        for tensor, value in zip(written, values, strict=True):
            if value is None:
                continue
            name = tensor.name
            if self.is_output(tensor):
                if not is_done:
                    self.emit("Constant", [], {"value": gs.Constant("", value)}, hint=name, writes=tensor)
                name = self.fresh(name)
            self.redirect(tensor, gs.Constant(name, value))

    def inline(self, node: gs.Node, body: gs.Graph) -> None:
        """Put the nodes of `body`, one without inputs that `node` holds, in the place of `node`.

        What `node` wrote keeps its name; a tensor or a node of the body gets a new one only where its name stands for
        something else outside. A tensor from outside, a constant, or one that is two outputs is copied by an Identity
        where it becomes an output.
        """
        self._names.make_way(node, body)
        written, sources, moved = list(node.outputs), list(body.outputs), list(body.nodes)
        with self._edit() as types:
            for held in graphs.subgraphs(node):
                for unused in graphs.walk_nodes(held) if held is not body else ():
                    graphs.detach(unused)
                held.nodes, held.outputs = [], []
            graphs.detach(node)
            self.graph.nodes = [*(other for other in self.graph.nodes if other is not node), *moved]
            self._given_out = None
            types.forget()
        inside = {id(inner) for inner in moved}
        renamed: dict[int, gs.Tensor] = {}
        for out, source in zip(written, sources, strict=True):
            maker = graphs.producer(source)
            if not out.name:
                continue
            if maker is None or id(maker) not in inside or id(source) in renamed or self.is_output(source):
                copied = renamed.get(id(source), source)
                copy = graphs.producer(self.emit("Identity", [copied], hint=out.name, writes=out))
                if not self.is_output(out):
                    self.bypass(copy, copied)
                continue
            renamed[id(source)] = out
            if not self.is_output(out) and (out.shape is None or not shapes.agree(out.shape, source.shape)):
                self.retype(out, dtype=source.dtype, shape=source.shape)
            self.set_outputs(maker, [out if tensor is source else tensor for tensor in maker.outputs])
            self.redirect(source, out)

    def remove(self, node: gs.Node) -> None:
        """Cut `node` loose; what it wrote must not be read any more."""
        with self._edit() as types:
            types.edited([node])
            graphs.detach(node)
            self._bodies_changed(graphs.subgraphs(node))

    # --- change a tensor ----------------------------------------------------------------------------------------

    def redirect(self, tensor: gs.Tensor, other: gs.Tensor) -> None:
        """Let all nodes that read `tensor` read `other` instead."""
        if tensor.outputs and tensor is not other:
            with self._edit() as types:
                _redirect(tensor, other, types)

    def retype(
        self,
        tensor: gs.Tensor,
        *,
        dtype: Any = ...,
        shape: Sequence[int | str | None] | EllipsisType | None = ...,
    ) -> None:
        """Write down another element type or shape of `tensor`; None says that it is not known.

        What depends on it keeps what is written down there: see `infer_behind`.
        """
        old = tensor.dtype, None if tensor.shape is None else list(tensor.shape)
        size = old[1] if isinstance(shape, EllipsisType) else shape
        new = old[0] if dtype is ... else dtype, None if size is None else list(size)
        if new != old:
            with self._edit() as types:
                tensor.dtype, tensor.shape = new
                types.edited(tensor.inputs or tensor.outputs)

    # --- change the model ---------------------------------------------------------------------------------------

    def set_interface(
        self, *, inputs: Sequence[gs.Tensor] | None = None, outputs: Sequence[gs.Tensor] | None = None
    ) -> None:
        """Let the model have these inputs, or outputs; each must have its type and shape written down."""
        with self._edit() as types:
            self.root.inputs = self.root.inputs if inputs is None else list(inputs)
            self.root.outputs = self.root.outputs if outputs is None else list(outputs)
            types.forget()

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata_props: where a pass leaves a note for later steps."""
        return table(self.root).metadata

    # --- inside -------------------------------------------------------------------------------------------------

    def _edit(self) -> _Edit:
        """Count an edit, once it is made; the block is given whom to tell what it changes."""
        return _Edit(self, self._types)

    def _edit_of(self, node: gs.Node) -> _EditOfNode:
        """The same, of what `node` is; told before and after, since it may hold a body at one of the two alone."""
        return _EditOfNode(self, self._types, node)

    def _bodies_changed(self, bodies: Sequence[gs.Graph]) -> None:
        """Look for the outputs of bodies anew at the next question, where `bodies`, which came or went, are any."""
        if bodies:
            self._given_out = None


class _Edit:
    """A block that makes one edit. (Generators as such blocks take longer than the edits.)"""

    __slots__ = ("_editor", "_types")

    def __init__(self, editor: Editor, types: TrackedTypes) -> None:
        self._editor = editor
        self._types = types

    def __enter__(self) -> EditedShapes:
        return self._types.before_edit()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._types.after_edit()
            self._editor.edits += 1


class _EditOfNode:
    """A block that makes one edit of what `node` is."""

    __slots__ = ("_edit", "_editor", "_held", "_node", "_shapes")

    def __init__(self, editor: Editor, types: TrackedTypes, node: gs.Node) -> None:
        self._editor = editor
        self._edit = _Edit(editor, types)
        self._node = node

    def __enter__(self) -> None:
        self._shapes = self._edit.__enter__()
        self._shapes.edited([self._node])
        self._held = graphs.subgraphs(self._node)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._editor._bodies_changed([*self._held, *graphs.subgraphs(self._node)])
            self._shapes.edited([self._node])
        self._edit.__exit__(kind)


def _redirect(old: gs.Tensor, new: gs.Tensor, types: EditedShapes) -> None:
    readers = list({id(reader): reader for reader in old.outputs}.values())
    for reader in readers:
        graphs.set_inputs(reader, [new if tensor is old else tensor for tensor in reader.inputs])
    types.redirected(old, new, readers)


def _let_go(tensors: Iterable[gs.Tensor]) -> None:
    """Let nothing write `tensors` any more."""
    for tensor in tensors:
        for writer in list(tensor.inputs):
            graphs.set_outputs(writer, [gs.Variable.empty() if t is tensor else t for t in writer.outputs])


def _same_attribute(old: Any, new: Any) -> bool:
    """Whether two attribute values are the same; tensors and graphs only when they are one object.

    graphsurgeon calls two tensors equal when their names are, and the value of a Constant node often has none.
    """
    for value in (new, *new) if isinstance(new, list | tuple) else (new,):
        if isinstance(value, gs.Tensor | gs.Graph | np.ndarray):
            return old is new
    return type(old) is type(new) and bool(old == new)
