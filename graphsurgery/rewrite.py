"""Pass and its three kinds, and Editor, the one object through which a pass changes a graph.

A pass is a frozen dataclass; its fields are its options. It declares a kebab-case `name` and an `effect`:

    @dataclass(frozen=True)
    class DropIdentity(NodePass):
        name = "drop-identity"
        effect = "exact"

        def rewrite(self, node: gs.Node, edit: Editor) -> None:
            if node.op != "Identity":
                return
            edit.bypass(node, node.inputs[0])

No pass reports whether it changed something: fingerprints tell. Unused nodes are dropped and the rest is sorted
after each pass, so a pass does neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery.errors import PassError
from graphsurgery.model import Model
from graphsurgery.view import tensor_type, to_proto

Effect = Literal["exact", "approximate"]

# Notes that a pass leaves in the model's metadata_props for the manifest (each is JSON).
NORMALISATION_NOTE = "graphsurgery.normalisation"  # {"mean": [3 floats], "std": [3 floats]}: now the runtime's job
BATCH_NOTE = "graphsurgery.batch"  # {"size": 1000, "mode": "pad" | "loop"}: how the runtime fills a frozen batch

# A node pass is repeated until it finds nothing more; one that still edits after so many sweeps undoes itself.
MAX_SWEEPS = 50
# Initializers above this many elements hold weights, which no shape depends on.
_SHAPE_LIKE = 1024


@dataclass(frozen=True)
class Skip:
    """A node that a pass looked at and left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Pass:
    """A rewrite. Subclass NodePass, GraphPass or ModelPass."""

    name: ClassVar[str]
    effect: ClassVar[Effect]


class NodePass(Pass):
    """A rewrite around one node, called for every node, those in If and Loop bodies included."""

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Look at `node`; return, `edit.skip` with a reason, or rewrite it."""
        raise NotImplementedError


class GraphPass(Pass):
    """A rewrite that needs the whole graph."""

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        """Change `graph` in place."""
        raise NotImplementedError


class ModelPass(Pass):
    """A rewrite by a tool that takes and returns a ModelProto."""

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        """Return the rewritten model; `model` itself may be changed or returned."""
        raise NotImplementedError


@dataclass(frozen=True)
class Applied:
    """A model after a pass, and the nodes that the pass left alone."""

    model: Model
    skips: tuple[Skip, ...]


def apply_pass(pass_: Pass, model: Model) -> Applied:
    """Run one pass over `model`, then drop unused nodes and sort; `model` itself is not changed.

    Raises PassError when the pass fails, naming it.
    """
    if isinstance(pass_, ModelPass):
        proto = ModelProto()
        proto.CopyFrom(model.proto)
        edit = Editor(gs.Graph(opset=model.opset), pass_.name, model.folder)
        model = Model(pass_.rewrite(proto, edit), model.folder)
        view = model.graph()
    else:
        view = model.graph()
        edit = Editor(view, pass_.name, model.folder)
        if isinstance(pass_, GraphPass):
            pass_.rewrite(view, edit)
        elif isinstance(pass_, NodePass):
            _sweep(pass_, view, edit)
        else:
            raise PassError(f"pass '{pass_.name}' is no NodePass, GraphPass or ModelPass")
    graphs.drop_unused(view)
    graphs.sort(view)
    return Applied(Model.of(view, model.folder), tuple(edit.skips))


def _sweep(pass_: NodePass, view: gs.Graph, edit: Editor) -> None:
    for _ in range(MAX_SWEEPS):
        before = edit.edits
        edit.skips.clear()
        for graph in list(graphs.walk_graphs(view)):
            edit.graph = graph
            for node in list(graph.nodes):
                if node.outputs:
                    pass_.rewrite(node, edit)
        if edit.edits == before:
            return
        graphs.drop_unused(view)
    raise PassError(f"pass '{pass_.name}' still rewrites after {MAX_SWEEPS} sweeps: its result matches itself")


class Editor:
    """What a pass changes a graph through; it names new tensors and keeps the refusals.

    `graph` is the graph that holds the node at hand, `root` the whole one, `opset` the standard operator set's
    version, `folder` where external data lies.
    """

    def __init__(self, root: gs.Graph, pass_name: str = "", folder: Path | None = None) -> None:
        self.root = root
        self.folder = folder
        self.graph = root
        self.opset = int(root.opset)
        self.skips: list[Skip] = []
        self.edits = 0
        self._pass_name = pass_name
        self._names: set[str] | None = None

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
        notes: dict[str, str] = vars(self.root).setdefault("metadata", {})
        return notes

    def fresh(self, hint: str) -> str:
        """Return a tensor name made from `hint` that nothing in the model has."""
        if self._names is None:
            self._names = graphs.tensor_names(self.root)
        name, number = hint, 1
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def constant(self, hint: str, values: np.ndarray | Sequence[int] | Sequence[float]) -> gs.Constant:
        """Return a new initializer; plain integers become int64 and plain floats float32, as ONNX wants them."""
        array = np.asarray(values)
        if not isinstance(values, np.ndarray) and array.dtype == np.float64:
            array = array.astype(np.float32)
        if not isinstance(values, np.ndarray) and array.size == 0:
            array = array.astype(np.int64)
        self.edits += 1
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
    ) -> gs.Variable:
        """Add a node to the graph at hand and return its (first) output, named after `hint`."""
        written = [
            gs.Variable(self.fresh(hint if number == 0 else f"{hint}_{number}"), dtype=dtype, shape=shape)
            for number in range(outputs)
        ]
        name = self.fresh(f"{hint}_{op}")
        self.graph.nodes.append(gs.Node(op, name, dict(attrs or {}), list(inputs), list(written)))
        self.edits += 1
        return written[0]

    def replace(
        self, node: gs.Node, op: str, inputs: Sequence[gs.Tensor], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Make `node` another operator that writes the same tensors; its name and notes stay."""
        node.op = op
        node.domain = None
        node.attrs = dict(attrs or {})
        graphs.set_inputs(node, inputs)
        self.edits += 1

    def set_input(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let `node` read `tensor` at `index`; omitted inputs are filled in before it as needed."""
        inputs = list(node.inputs)
        while len(inputs) <= index:
            inputs.append(gs.Variable.empty())
        inputs[index] = tensor
        graphs.set_inputs(node, inputs)
        self.edits += 1

    def set_attribute(self, node: gs.Node, name: str, value: Any) -> None:
        """Write an attribute; writing the value it has already is no edit."""
        if name in node.attrs and type(node.attrs[name]) is type(value) and node.attrs[name] == value:
            return
        node.attrs[name] = value
        self.edits += 1

    def bypass(self, node: gs.Node, tensor: gs.Tensor) -> bool:
        """Let everything that reads the only output of `node` read `tensor` instead, and drop `node`.

        Where that output is a graph output its name must stay, so the producer of `tensor` writes it. Returns
        False, having noted why, where that can't be done: `tensor` is an input, a constant, or an output as well.
        """
        out = node.outputs[0]
        if graphs.is_graph_output(out, self.graph):
            source = graphs.producer(tensor)
            here = source is not None and any(other is source for other in self.graph.nodes)
            if source is None or not here:
                self.skip(node, "its output is a graph output and its input is not written in the same graph")
                return False
            if any(graphs.is_graph_output(tensor, graph) for graph in graphs.walk_graphs(self.root)):
                self.skip(node, "its input and its output are both graph outputs")
                return False
            graphs.detach(node)
            graphs.set_outputs(source, [out if t is tensor else t for t in source.outputs])
            self._redirect(tensor, out)
        else:
            graphs.detach(node)
            self._redirect(out, tensor)
        self.edits += 1
        return True

    def remove(self, node: gs.Node) -> None:
        """Cut `node` loose; what it wrote must not be read any more."""
        graphs.detach(node)
        self.edits += 1

    def _redirect(self, old: gs.Tensor, new: gs.Tensor) -> None:
        for reader in {id(n): n for n in old.outputs}.values():
            graphs.set_inputs(reader, [new if tensor is old else tensor for tensor in reader.inputs])
        for graph in graphs.walk_graphs(self.root):
            if graph is not self.graph and any(output is old for output in graph.outputs):
                graph.outputs = [new if output is old else output for output in graph.outputs]

    def evaluate(
        self, tensors: Sequence[gs.Tensor], inputs: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """Compute `tensors` of the graph at hand with ONNX Runtime, from constants and the given `inputs`.

        Tensors named in `inputs` are taken as given, whatever writes them. Raises PassError where something else
        is needed too.
        """
        from graphsurgery import session

        given = dict(inputs or {})
        part = graphs.extract(self.graph, [t for t in tensors], given)
        proto = Model.of(part).proto
        self._bring_in(proto.graph.initializer)
        for info in proto.graph.input:
            if info.name in given:  # what a node writes often has no type in the file, and an input needs one
                value = given[info.name]
                kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                info.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, value.shape))
        values = session.run(proto, given, [t.name for t in tensors], name=f"pass '{self._pass_name}'")
        return [values[t.name] for t in tensors]

    def _bring_in(self, tensors: Iterable[onnx.TensorProto]) -> None:
        """Read external data into `tensors`, which are copies that no model holds."""
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL and self.folder is not None:
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(self.folder))
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")

    def infer_shapes(self) -> None:
        """Write the shapes and types that ONNX's shape inference finds into the variables of the root graph.

        What is known already stays. Weights are left out, so this costs little on large models.
        """
        proto = to_proto(self.root, largest=_SHAPE_LIKE)
        self._bring_in(proto.graph.initializer)
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise self.fail(f"shape inference: {str(error).strip().splitlines()[0]}") from error
        _adopt(self.root, inferred.graph)


def _adopt(view: gs.Graph, proto: onnx.GraphProto) -> None:
    """Write the types and shapes in `proto`, which is what `view` was exported to, into the tensors of `view`."""
    pending = [(view, proto)]
    while pending:
        graph, exported = pending.pop()
        known = {info.name: info for info in (*exported.value_info, *exported.output)}
        for node, written in zip(graph.nodes, exported.node, strict=True):
            for tensor in node.outputs:
                if isinstance(tensor, gs.Variable) and tensor.name in known:
                    dtype, shape = tensor_type(known[tensor.name])
                    if dtype is not None:
                        tensor.dtype, tensor.shape = dtype, shape
            bodies = [b for a in written.attribute for b in ([a.g] if a.HasField("g") else a.graphs)]
            pending.extend(zip(graphs.subgraphs(node), bodies, strict=True))
