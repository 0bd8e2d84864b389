"""Replace what depends on constants alone by its value, computed once with ONNX Runtime.

    Constant([2, 3]) -> Cast -> Mul(3.0) -> Add(x)   ->   Add(x, [6.0, 9.0])
    Shape(x: float[1, 3, 8, 8]) -> Gather(1)         ->   3

Values become initializers under the name of the tensor that held them, in If and Loop bodies too; a graph output
stays the output of a Constant node. Values that weights hold already, such as a transposed weight, are stored again.

It does not fold
1. an initializer that is also an input: a caller may override it
2. what draws random numbers
3. If, Loop and Scan, whose bodies are folded inside
4. sequences, optionals, and constants that are sparse or hold strings
5. QuantizeLinear and DequantizeLinear: a quantized weight would become a float one
6. an operator of another domain
7. a value of more than `max_elements` elements that is larger than what it is computed from, such as Expand's, but
   for a shape
8. a node that ONNX Runtime has no kernel for; the others are folded all the same
9. the Shape of a tensor whose shape does not follow from those of the model's inputs, whatever is written down of it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.graph import RANDOM_OPS, STANDARD_DOMAINS, attribute, is_op
from graphsurgery.operators.schemas import schema_of
from graphsurgery.rewrite import Editor, GraphPass


@dataclass(frozen=True)
class FoldConstants(GraphPass):
    """`max_elements` limits a value that is larger than what it is computed from."""

    name = "fold-constants"
    effect = "exact"

    max_elements: int = 2**20

    def __post_init__(self) -> None:
        if self.max_elements < 1:
            raise ValueError(f"max_elements must be 1 or more, not {self.max_elements}")

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.sort(graph)
        foldings = [_Folding(inner, edit, self.max_elements) for inner in graphs.walk_graphs(graph)]
        for folding in foldings:
            edit.graph = folding.graph
            folding.lift_constants()
        before = -1
        while before != edit.edits:  # a value may tell the shape of a tensor, and that one another value
            before = edit.edits
            for folding in foldings:
                edit.graph = folding.graph
                folding.fold_shapes()
                while ready := folding.ready():
                    folding.fold(ready)
        edit.graph = graph


@dataclass
class _Folding:
    """The work on one graph; `refused` are ids of nodes, `shapes` those of tensors by id, where they are known."""

    graph: gs.Graph
    edit: Editor
    max_elements: int
    refused: set[int] = field(default_factory=set)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def lift_constants(self) -> None:
        for node in [node for node in self.graph.nodes if is_op(node, "Constant") and node.outputs]:
            held = node.attrs.get("value")
            # the stored form where there is one: weights are not read for this
            value = held._values if isinstance(held, gs.Constant) else graphs.constant(node.outputs[0])
            if value is not None:
                self.edit.fold(node, [value])

    def fold_shapes(self) -> None:
        asking = [node for node in self.graph.nodes if is_op(node, "Shape", "Size") and node.outputs]
        for node, shape in [(node, self.edit.static_shape(node.inputs[0])) for node in asking]:
            if shape is None:
                continue
            if node.op == "Size":
                self.edit.fold(node, [np.array(int(np.prod(shape, dtype=np.int64)))])
            else:
                part = slice(attribute(node, "start", 0), attribute(node, "end", None))
                self.edit.fold(node, [np.array(shape[part], dtype=np.int64)])

    def ready(self) -> list[gs.Node]:
        """Return the nodes to evaluate next: those whose values are known to be small enough beforehand.

        The size of what Expand writes, say, is known only when its shape input is, which may take a round before.
        """
        candidates = self._candidates()
        if not candidates:
            return []
        written = [tensor for node in candidates for tensor in node.outputs if tensor.name]
        part = Editor(graphs.extract(self.graph, written, ()), FoldConstants.name, self.edit.folder)
        for tensor in written:
            size = part.static_shape(tensor)
            if size is not None:
                self.shapes[id(tensor)] = size
        if part.skips:  # the inference fails, and a value may be of any size
            raise self.edit.fail(part.skips[0].reason)
        ready: list[gs.Node] = []
        known: set[int] = set()
        for node in candidates:
            own = [tensor for tensor in node.outputs if tensor.name]
            sized = all(id(tensor) in self.shapes for tensor in own)
            # a size that is not known with all inputs at hand depends on the data, as NonZero's, and is no larger
            if not _reads_constants(node, known if sized else set()):
                continue
            if self._too_large(node, [self._size(tensor) for tensor in own]):
                continue
            ready.append(node)
            if sized:
                known.update(id(tensor) for tensor in own)
        return ready

    def fold(self, nodes: Sequence[gs.Node]) -> None:
        """Replace `nodes` by their values, computed in one session, or one by one where that fails."""
        inside = {id(node) for node in nodes}
        wanted = [
            tensor
            for node in nodes
            for tensor in node.outputs
            if tensor.name and (self.edit.is_output(tensor) or any(id(n) not in inside for n in tensor.outputs))
        ]
        try:
            values = {id(t): value for t, value in zip(wanted, self.edit.evaluate(wanted), strict=True)}
        except GraphSurgeryError as error:
            if len(nodes) == 1:
                return self._refuse(nodes[0], str(error))
            for node in nodes:
                if _reads_constants(node, set()):
                    self.fold([node])
            return
        for node in nodes:
            here = [values.get(id(tensor)) for tensor in node.outputs]
            if not self._too_large(node, [value.size for value in here if value is not None]):
                self.edit.fold(node, here)

    def _candidates(self) -> list[gs.Node]:
        known: set[int] = set()
        found = []
        for node in self.graph.nodes:
            constant = node.outputs and id(node) not in self.refused and not is_op(node, "Constant")
            if constant and _reads_constants(node, known):
                reason = _reason_against(node, self.edit.opset)
                if reason is not None:
                    self._refuse(node, reason)
                    continue
                found.append(node)
                known.update(id(tensor) for tensor in node.outputs)
        return found

    def _size(self, tensor: gs.Tensor) -> int:
        return math.prod(tensor.shape if isinstance(tensor, gs.Constant) else self.shapes.get(id(tensor), (0,)))

    def _too_large(self, node: gs.Node, sizes: Sequence[int]) -> bool:
        largest = max(sizes, default=0)
        if is_op(node, "Shape") or largest <= max(
            self.max_elements, sum(self._size(tensor) for tensor in node.inputs if tensor.name)
        ):
            return False
        self._refuse(node, f"its value would have {largest} elements, more than {self.max_elements}")
        return True

    def _refuse(self, node: gs.Node, reason: str) -> None:
        self.refused.add(id(node))
        self.edit.skip(node, reason)


def _reads_constants(node: gs.Node, known: set[int]) -> bool:
    return all(not t.name or isinstance(t, gs.Constant) or id(t) in known for t in node.inputs)


def _reason_against(node: gs.Node, opset: int) -> str | None:
    """Say why `node` is not to be evaluated although its inputs are constants."""
    if node.domain not in STANDARD_DOMAINS:
        return f"domain {node.domain} is not ONNX's own"
    if node.op in RANDOM_OPS:
        return "it draws random numbers"
    if graphs.subgraphs(node):
        return "control flow is not evaluated"
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        return "folding it would undo the quantization"
    schema = schema_of(node, opset)
    if schema is None:
        return f"operator set {opset} has no {node.op}"
    if any(not any(kind.startswith("tensor(") for kind in output.types) for output in schema.outputs):
        return "it writes a sequence or an optional"
    return None
