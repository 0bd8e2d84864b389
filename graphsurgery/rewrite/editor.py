"""Editor, the one object through which a pass changes a graph, and so the one that knows what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorAnnotation

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError, ModelError, PassError
from graphsurgery.graph import shapes
from graphsurgery.graph.edited_shapes import EditedShapes
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import TensorType
from graphsurgery.graph.view import table


@dataclass(frozen=True)
class Skip:
    """A node that a pass looked at and left alone, and why."""

    node: str
    reason: str


class Captured(Protocol):
    """The tensors of one image, captured from the original model; read from disk when asked for."""

    @property
    def id(self) -> str:
        """The image's id."""

    def __contains__(self, name: str) -> bool: ...

    def load(self, name: str) -> np.ndarray:
        """Return one tensor by name."""


@dataclass(frozen=True)
class Surroundings:
    """What a pass may know beside the graph: the captured samples, and whom to tell how far it is.

    `samples` hold the graph's inputs and outputs by name; there are none where nothing was captured.
    """

    samples: Sequence[Captured] = ()
    progress: Callable[[int, int], None] = lambda done, total: None


class Editor:
    """What a pass changes a graph through; it names new tensors and keeps the refusals.

    `graph` is the graph that holds the node at hand, `root` the whole one, `opset` the standard operator set's
    version, `folder` where external data lies, `place` what a message says of where the pass is. `details` is what
    the pass found out and the report should show, as JSON has it.
    """

    def __init__(
        self, root: gs.Graph, pass_name: str = "", folder: Path | None = None, around: Surroundings | None = None
    ) -> None:
        self.root = root
        self.folder = folder
        self.around = around or Surroundings()
        self.details: dict[str, Any] = {}
        self.graph = root
        self.opset = int(root.opset)
        self.skips: list[Skip] = []
        self.edits = 0
        self.place = ""
        self._pass_name = pass_name
        self._names: set[str] | None = None
        self._numbers: dict[str, int] = {}
        self._graphs: list[gs.Graph] | None = None
        self._types = EditedShapes(root, self._infer)
        self._changes = graphs.changes()

    def skip(self, node: gs.Node | None, reason: str) -> None:
        """Note that `node` (None: the whole model) stays as it is, and why."""
        where = "" if node is None else node.name or (node.outputs[0].name if node.outputs else node.op)
        self.skips.append(Skip(where, reason))

    def fail(self, reason: str) -> PassError:
        """Return the error to raise when the run must not go on."""
        return PassError(f"pass '{self._pass_name}': {reason}")

    @property
    def metadata(self) -> dict[str, str]:
        """The model's metadata_props: where a pass leaves a note for later steps."""
        return table(self.root).metadata

    def is_output(self, tensor: gs.Tensor) -> bool:
        """Whether `tensor` is an output of the model or of a body in it, so that its name must stay."""
        return self._holder(tensor) is not None

    def shape(self, tensor: gs.Tensor) -> list[int | str | None] | None:
        """Return the shape of `tensor`, inferred where it is not written down; None where its rank is not known.

        A number is a known dimension; a name or None is not. The first question infers the shapes of the whole
        model, and the next ones cost next to nothing: ask after all other guards. The answer is that of the graph as
        it is now; a pass that changes it past the Editor calls `forget_inferred` before it asks again.
        """
        written: Sequence[Any] | None = tensor.shape
        if graphs.static_shape(tensor) is None and isinstance(tensor, gs.Variable):
            found = self._inferred(tensor).shape
            written = written if found is None else found
        return None if written is None else [_dimension(size) for size in written]

    def static_shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return the shape of `tensor` when every dimension is a known number, else None; inferred as in `shape`."""
        shape = self.shape(tensor)
        known = [size for size in shape or () if isinstance(size, int) and size >= 0]
        return tuple(known) if shape is not None and len(known) == len(shape) else None

    def dtype(self, tensor: gs.Tensor) -> np.dtype[Any] | None:
        """Return the element type of `tensor`, inferred where it is not written down; None where nothing tells."""
        kind = tensor.dtype
        if kind is None and isinstance(tensor, gs.Variable):
            kind = self._inferred(tensor).dtype
        return None if kind is None else np.dtype(kind)

    def forget_inferred(self) -> None:
        """Infer shapes and types anew at the next question: the graph has changed past the Editor."""
        self._types.forget()
        self._changes = graphs.changes()

    def _inferred(self, tensor: gs.Tensor) -> TensorType:
        if graphs.changes() != self._changes:
            self.forget_inferred()
        said = self._types.failure
        found = self._types.of(tensor)
        if self._types.failure is not None and said is None:  # then nothing is known but what is written down
            self.skip(None, self._types.failure)
        return found

    @contextmanager
    def _edit(self) -> Iterator[None]:
        """Count an edit; what is inferred is told of it inside, and forgotten where the graph has changed before."""
        if graphs.changes() != self._changes:
            self.forget_inferred()
        yield
        self._changes = graphs.changes()
        self.edits += 1

    def fresh(self, hint: str) -> str:
        """Return a tensor name made from `hint` that nothing in the model has."""
        if self._names is None:
            self._names = graphs.tensor_names(self.root) | {node.name for node in graphs.walk_nodes(self.root)}
        name, number = hint or "tensor", self._numbers.get(hint, 1)
        while name in self._names:
            number += 1
            name = f"{hint or 'tensor'}_{number}"
        self._numbers[hint] = number
        self._names.add(name)
        return name

    def constant(self, hint: str, values: np.ndarray | Sequence[int] | Sequence[float]) -> gs.Constant:
        """Return a new initializer; plain integers become int64 and plain floats float32, as ONNX wants them."""
        array = np.asarray(values)
        typed = isinstance(values, np.ndarray | np.generic)
        if not typed and array.dtype == np.float64:
            array = array.astype(np.float32)
        if not typed and array.size == 0:
            array = array.astype(np.int64)
        return gs.Constant(self.fresh(hint), np.ascontiguousarray(array).reshape(array.shape))

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
        written = [
            gs.Variable(self.fresh(hint if number == 0 else f"{hint}_{number}"), dtype=dtype, shape=shape)
            for number in range(outputs if writes is None else 0)
        ]
        with self._edit():
            if writes is not None:
                for writer in list(writes.inputs):
                    graphs.set_outputs(writer, [gs.Variable.empty() if t is writes else t for t in writer.outputs])
                written.append(writes)
            self._graphs = None
            node = gs.Node(op, self.fresh(f"{hint}_{op}"), dict(attrs or {}), list(inputs), list(written))
            self.graph.nodes.append(node)
            self._types.added(node, self.graph)
        return written[0]

    def replace(
        self, node: gs.Node, op: str, inputs: Sequence[gs.Tensor], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Make `node` another operator that writes the same tensors; its name and notes stay.

        Outputs at the end that nothing reads go, as the other operator may have none of the kind.
        """
        self._graphs = None
        with self._edit():
            self._types.edited(
                [node]
            )  # before and after: it may hold a body that it does not hold then, or the other way
            read = [index for index, out in enumerate(node.outputs) if index == 0 or out.outputs or self.is_output(out)]
            if len(node.outputs) > read[-1] + 1:
                graphs.set_outputs(node, node.outputs[: read[-1] + 1])
            node.op = op
            node.domain = None
            node.attrs = dict(attrs or {})
            graphs.set_inputs(node, inputs)
            self._types.edited([node])

    def set_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let `node` read `tensor` at `index`; omitted inputs are filled in before it as needed.

        To let it read what it reads already is no edit.
        """
        inputs = list(node.inputs)
        if index < len(inputs) and inputs[index] is tensor:
            return
        while len(inputs) <= index:
            inputs.append(gs.Variable.empty())
        inputs[index] = tensor
        with self._edit():
            graphs.set_inputs(node, inputs)
            self._types.edited([node])

    def set_attribute(self, node: gs.Node, name: str, value: Any) -> None:
        """Write an attribute; writing the value it has already is no edit."""
        if name in node.attrs and _same_attribute(node.attrs[name], value):
            return
        self._graphs = None
        with self._edit():
            self._types.edited([node])
            node.attrs[name] = value
            self._types.edited([node])

    def drop_attribute(self, node: gs.Node, name: str) -> None:
        """Take an attribute away; one that is not there is no edit."""
        if name in node.attrs:
            self._graphs = None
            with self._edit():
                self._types.edited([node])
                del node.attrs[name]

    def bypass(self, node: gs.Node, tensor: gs.Tensor, *, holds: gs.Tensor | None = None) -> bool:
        """Let everything that reads the first output of `node` read `tensor` instead, and drop `node`.

        Where that output is a graph output its name must stay, so the producer of `tensor` writes it. Returns
        False, having noted why, where that can't be done: `tensor` is an input, a constant, or an output as well, or
        another output of `node` is read, or the two have quantization annotations that differ.

        `holds` says which of the two values is left, where a pass changes a layer beside `node` as well; they are the
        same where it is not given. What is left has the quantization annotation of that value.
        """
        out, *others = node.outputs
        if any(other.outputs or self._holder(other) is not None for other in others):
            self.skip(node, "another of its outputs is read")
            return False
        note, other_note = (self._annotation(end) for end in (out, tensor))
        if holds is None and note is not None and other_note is not None and not _say_the_same(note, other_note):
            self.skip(node, "its input and its output have quantization annotations that differ")
            return False
        if holds is tensor or (holds is None and note is None):
            note = other_note
        holder, source = self._holder(out), graphs.producer(tensor)
        if holder is not None:
            here = source is not None and any(other is source for other in holder.nodes)
            if source is None or not here:
                self.skip(node, "its output is a graph output and its input is not written in the same graph")
                return False
            if self._holder(tensor) is not None:
                self.skip(node, "its input and its output are both graph outputs")
                return False
        with self._edit():
            graphs.detach(node)
            if holder is not None and source is not None:
                graphs.set_outputs(source, [out if t is tensor else t for t in source.outputs])
                self._types.edited([source])
                self._redirect(tensor, out)
            else:
                self._redirect(out, tensor)
            self._annotate(tensor if holder is None else out, note)
        return True

    def _annotation(self, tensor: gs.Tensor) -> TensorAnnotation | None:
        return next((note for note in table(self.graph).annotations if note.tensor_name == tensor.name), None)

    def _annotate(self, tensor: gs.Tensor, note: TensorAnnotation | None) -> None:
        """Let the quantization annotation of `tensor` say what `note` says, which may be that of another tensor."""
        old = self._annotation(tensor)
        if old is note:
            return
        notes = table(self.graph).annotations
        if old is not None:
            notes.remove(old)
        if note is not None:
            renamed = TensorAnnotation()
            renamed.CopyFrom(note)
            renamed.tensor_name = tensor.name
            notes.append(renamed)

    def remove(self, node: gs.Node) -> None:
        """Cut `node` loose; what it wrote must not be read any more."""
        with self._edit():
            self._types.edited([node])
            graphs.detach(node)

    def _redirect(self, old: gs.Tensor, new: gs.Tensor) -> None:
        readers = list({id(reader): reader for reader in old.outputs}.values())
        for reader in readers:
            graphs.set_inputs(reader, [new if tensor is old else tensor for tensor in reader.inputs])
        self._types.redirected(old, new, readers)

    def _holder(self, tensor: gs.Tensor) -> gs.Graph | None:
        """Return the graph that `tensor` is an output of, the outermost one, or None."""
        if self._graphs is None:  # bodies come with a new node or attribute; to look for them each time is slow
            self._graphs = list(graphs.walk_graphs(self.root))
        return next((graph for graph in self._graphs if graphs.is_graph_output(tensor, graph)), None)

    def evaluate(
        self, tensors: Sequence[gs.Tensor], inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Compute `tensors` of the graph at hand with ONNX Runtime, from constants and the given `inputs`.

        Tensors named in `inputs` are taken as given, whatever writes them. Raises PassError where something else
        is needed too.
        """
        from graphsurgery.devices import session

        given = {name: np.asarray(value) for name, value in (inputs or {}).items()}
        wanted = {t.name: t for t in tensors}
        try:
            proto = Model.of(graphs.extract(self.graph, list(wanted.values()), given)).proto
            self._bring_in(proto)
            for info in proto.graph.input:
                if info.name in given:  # what a node writes often has no type in the file, and an input needs one
                    value = given[info.name]
                    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                    info.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, value.shape))
            values = session.run(proto, given, list(wanted), name="their graph")
        except InputError as error:
            raise self.fail(f"can't compute {', '.join(repr(name) for name in wanted)}: {error}") from error
        return [values[t.name] for t in tensors]

    def _bring_in(self, proto: ModelProto) -> None:
        """Read external data into `proto`, which is a copy that no model holds."""
        try:
            shapes.bring_in(proto, self.folder)
        except ModelError as error:
            raise self.fail(str(error)) from error

    def infer_shapes(self) -> None:
        """Write the shapes and types that ONNX's shape inference finds into the variables of the root graph.

        What is known already stays. Weights are left out, so this costs little on large models.
        """
        try:
            shapes.infer_shapes(self.root, self.folder)
        except ModelError as error:
            raise self.fail(str(error)) from error
        self.forget_inferred()

    def _infer(self, proto: ModelProto) -> ModelProto:
        """Return `proto`, a copy that no model holds, with what ONNX's shape inference finds."""
        try:
            return shapes.infer(proto, self.folder)
        except ModelError as error:
            raise self.fail(str(error)) from error


def _dimension(size: Any) -> int | str | None:
    """Return a dimension as it may be relied upon: a file may say -1 for one that is not known."""
    if isinstance(size, int | np.integer):
        return int(size) if size >= 0 else None
    return str(size) if size is not None else None


def _say_the_same(one: TensorAnnotation, other: TensorAnnotation) -> bool:
    """Whether two quantization annotations name the same parameters, whatever tensors they are of."""
    said = [[(p.key, p.value) for p in note.quant_parameter_tensor_names] for note in (one, other)]
    return sorted(said[0]) == sorted(said[1])


def _same_attribute(old: Any, new: Any) -> bool:
    """Whether two attribute values are the same; tensors and graphs only when they are one object.

    graphsurgeon calls two tensors equal when their names are, and the value of a Constant node often has none.
    """
    for value in (new, *new) if isinstance(new, list | tuple) else (new,):
        if isinstance(value, gs.Tensor | gs.Graph | np.ndarray):
            return old is new
    return type(old) is type(new) and bool(old == new)
