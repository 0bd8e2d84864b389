"""What the passes that freeze dimensions share: shapes are inferred anew, and arithmetic on them becomes constant.

Shape(x: 1x3x8x8) -> Gather(2) -> Mul(2) -> Concat -> Resize.sizes   ->   Constant -> Resize.sizes
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph import attribute, is_op
from graphsurgery.graph.view import table
from graphsurgery.operators.axes import bounds
from graphsurgery.rewrite import Editor

# What exporters compute shapes with. Of these, the ones below wait until an input is a constant in the graph: it
# says how large the result becomes, or an integer zero in it would stop the process.
_ARITHMETIC = (
    *("Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather"),
    *("Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or"),
    *("Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Slice"),
    *("Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze", "Where"),
)
_WAITS_FOR = {"ConstantOfShape": [0], "Div": [1], "Expand": [1], "Mod": [1], "Range": [0, 1, 2], "Tile": [1]}
# Shapes have a handful of elements; anything larger is data.
_SMALL = 64
_MADE_UP = "unk__"  # ONNX's shape inference names dimensions that it can't tell so


def fold_shapes(edit: Editor, frozen: bool, *, whole: bool = False) -> None:
    """Fold what is constant by the shapes of the model's inputs, then write the shapes of the whole model down.

    `frozen`: an input's shape was changed, so that no size written down before can be right but by chance; else one
    stays where nothing tells another. Names that the model gave to dimensions stay where nothing better is found.
    `whole` leaves a static size alone that is one of a shape which isn't, as ONNX Runtime does.
    """
    graphs.sort(edit.root)
    edit.forget_inferred()
    failed: dict[int, gs.Node] = {}  # by their ids, which no other node gets as long as they are held
    while _fold(edit, failed, whole):  # each round turns at least one node into a Constant, so it ends
        graphs.drop_unused(edit.root)  # what the next round need not infer
    written = [
        (tensor, list(tensor.shape))
        for tensor in _computed(edit.root)
        if tensor.shape is not None and (frozen or graphs.static_shape(tensor) is None)
    ]
    for tensor, _ in written:
        edit.retype(tensor, shape=None)
    edit.infer_shapes()
    for tensor in _computed(edit.root):
        if any(isinstance(size, str) and size.startswith(_MADE_UP) for size in tensor.shape or ()):
            told = [None if str(size).startswith(_MADE_UP) else size for size in tensor.shape]
            edit.retype(tensor, shape=told)
    for tensor, shape in written:
        edit.retype(tensor, shape=_better(tensor.shape, shape, frozen))


def dynamic_values(graph: gs.Graph) -> list[str]:
    """Return what in `graph` and its bodies has no static shape, as "name [1, ?, n]", in order."""
    found: dict[str, None] = {}
    for inner in graphs.walk_graphs(graph):
        for tensor in (*inner.inputs, *(t for node in inner.nodes for t in node.outputs)):
            if tensor.name and graphs.static_shape(tensor) is None:
                sizes = "of unknown rank" if tensor.shape is None else shape_text(tensor.shape)
                found[f"{tensor.name} {sizes}"] = None
    return list(found)


def free_inputs(graph: gs.Graph) -> list[gs.Variable]:
    """Return the inputs that a caller must give: those without an initializer as default."""
    return [tensor for tensor in graph.inputs if tensor.name not in table(graph).defaults]


def require_batch_of_source(batch: int, who: str, edit: Editor) -> None:
    """Raise PassError where a recipe feeds another number of images at once to the whole graph; `who` would take it."""
    fed = edit.context.batch or 1
    if edit.context.canvas is not None and batch != fed:
        raise edit.fail(
            f"{who} would take {batch} images at once, and the source feeds {fed}: write source.batch: {batch}, or "
            f"{fed} here; a part takes another number by freeze-batch"
        )


def size_of(dimension: Any) -> int | None:
    """Return a dimension's size; None for a symbol, for nothing, and for the 0 or -1 that some exporters write."""
    return int(dimension) if isinstance(dimension, int | np.integer) and dimension > 0 else None


def shape_text(shape: Sequence[Any]) -> str:
    """Return a shape for a message, with a question mark for what is not known."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _better(inferred: list[Any] | None, written: list[Any], frozen: bool) -> list[Any]:
    if inferred is None:
        return [None if frozen and not isinstance(size, str) else size for size in written]
    if len(inferred) != len(written):
        return inferred
    return [old if new is None and isinstance(old, str) else new for new, old in zip(inferred, written, strict=True)]


def _computed(graph: gs.Graph) -> Iterator[gs.Variable]:
    """Yield the tensors whose shapes inference can tell: written by standard operators, no sequences."""
    for node in graphs.walk_nodes(graph):
        for tensor in node.outputs if node.domain in graphs.STANDARD_DOMAINS else ():
            if isinstance(tensor, gs.Variable) and tensor.type == "tensor_type":
                yield tensor


def _fold(edit: Editor, failed: dict[int, gs.Node], whole: bool) -> bool:
    """Fold until nothing more is constant with the shapes known now; return whether anything was."""
    nodes = list(graphs.walk_nodes(edit.root))
    edit.ask(node.inputs[0] for node in nodes if is_op(node, "Shape", "Size"))
    known = {id(node): value for node in nodes if (value := _known(node, edit, whole)) is not None}
    computable = _computable(nodes, known)
    edit.ask(node.outputs[0] for node in computable)
    small = {id(node) for node in computable if _is_small(edit.static_shape(node.outputs[0]))}
    for node in nodes:
        if id(node) in known:
            _write(edit, node, known[id(node)])
    changed = bool(known)
    while True:
        chain, wanted = _chain(edit, small, failed)
        if not wanted:
            return changed
        for node, value in _evaluate(edit, chain, wanted, failed):
            _write(edit, node, value)
            changed = True


def _computable(nodes: Iterable[gs.Node], known: Collection[int]) -> list[gs.Node]:
    """Return the arithmetic nodes that read constants alone, and what others of them and the nodes `known` write."""
    found: dict[int, gs.Node] = {}

    def is_told(tensor: gs.Tensor) -> bool:
        writer = graphs.producer(tensor)
        if writer is None:
            return not tensor.name or isinstance(tensor, gs.Constant)
        return id(writer) in found or id(writer) in known or is_op(writer, "Constant")

    for node in nodes:  # sorted, those of a body behind what it reads from outside
        if _is_arithmetic(node) and all(map(is_told, node.inputs)):
            found[id(node)] = node
    return list(found.values())


def _is_arithmetic(node: gs.Node) -> bool:
    return is_op(node, *_ARITHMETIC) and len(node.inputs) > 0 and len(node.outputs) == 1


def _is_small(shape: Sequence[int] | None) -> bool:
    """Whether a tensor has few elements, for all that is known."""
    return shape is None or int(np.prod(shape, dtype=np.int64)) <= _SMALL


def _write(edit: Editor, node: gs.Node, value: np.ndarray) -> None:
    """Let `node` be a Constant, which keeps the name of its output and is allowed in a body."""
    edit.replace(node, "Constant", [], {"value": gs.Constant("value", value)})
    edit.retype(node.outputs[0], dtype=value.dtype, shape=value.shape)


def _known(node: gs.Node, edit: Editor, whole: bool) -> np.ndarray | None:
    """Return what `node` tells about a shape, if that is static; the rest of the shape need not be, unless `whole`."""
    if whole and not (is_op(node, "Shape", "Size") and edit.static_shape(node.inputs[0]) is not None):
        return None
    if is_op(node, "Size"):
        shape = edit.static_shape(node.inputs[0])
        return None if shape is None else np.asarray(np.prod(shape, dtype=np.int64))
    sizes = written_sizes(node, edit)
    if sizes is None or not all(isinstance(size, int | np.integer) and size >= 0 for size in sizes.ravel()):
        return None
    return np.asarray(sizes.astype(np.int64))


def written_sizes(node: gs.Node | None, edit: Editor) -> np.ndarray | None:
    """Return the sizes, names and None included, that a Shape or a Gather or Slice of one writes; None for others."""
    if node is None:
        return None
    if is_op(node, "Shape"):
        shape = edit.shape(node.inputs[0])
        piece = slice(attribute(node, "start", 0), attribute(node, "end", None))
        return None if shape is None else np.asarray(shape[piece], dtype=object)
    if is_op(node, "Gather", "Slice") and is_op(graphs.producer(node.inputs[0]), "Shape"):
        sizes = written_sizes(graphs.producer(node.inputs[0]), edit)
        return None if sizes is None else _pick(node, sizes)
    return None


def _pick(node: gs.Node, sizes: np.ndarray) -> np.ndarray | None:
    if is_op(node, "Gather"):
        indices = graphs.constant(node.inputs[1])
        if indices is None or indices.size == 0 or indices.min() < -len(sizes) or indices.max() >= len(sizes):
            return None
        return np.asarray(sizes[indices], dtype=object)
    found = bounds(node)
    if found is None or len(found) != 1 or found[0].step < 1:
        return None
    return sizes[found[0].start : found[0].end : found[0].step]


def _chain(
    edit: Editor, writes_small: Collection[int], failed: dict[int, gs.Node]
) -> tuple[list[gs.Node], list[gs.Node]]:
    """Return the nodes that compute something small from constants alone, and those whose result others read."""
    chain: dict[int, gs.Node] = {}
    small: dict[int, bool] = {}
    outputs = {id(tensor) for graph in graphs.walk_graphs(edit.root) for tensor in graph.outputs}

    def is_small(tensor: gs.Tensor) -> bool:
        if id(tensor) not in small:
            small[id(tensor)] = not tensor.name or _small_constant(tensor)
        return small[id(tensor)]

    for node in graphs.walk_nodes(edit.root):
        if not _is_arithmetic(node) or id(node) in failed or id(node) not in writes_small:
            continue
        if all(is_small(tensor) for tensor in node.inputs) and _may_compute(node):
            chain[id(node)] = node
            small[id(node.outputs[0])] = True
    wanted = [
        node
        for node in chain.values()
        if id(node.outputs[0]) in outputs or any(id(reader) not in chain for reader in node.outputs[0].outputs)
    ]
    return list(chain.values()), wanted


def _small_constant(tensor: gs.Tensor) -> bool:
    if isinstance(tensor, gs.Constant) and np.prod(tensor.shape, dtype=np.int64) > _SMALL:
        return False  # before its values are read from disk
    value = graphs.constant(tensor)
    return value is not None and value.size <= _SMALL and value.dtype.kind in "biuf"


def _may_compute(node: gs.Node) -> bool:
    if is_op(node, "Cast"):
        to = attribute(node, "to", onnx.TensorProto.UNDEFINED)
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to)).kind in "biuf"
    waited = [graphs.constant(node.inputs[index]) for index in _WAITS_FOR.get(node.op, []) if index < len(node.inputs)]
    values = [value for value in waited if value is not None]
    if len(values) < len(waited):
        return False
    if is_op(node, "Div", "Mod"):
        return bool(np.all(values[0] != 0))
    if is_op(node, "Range"):
        start, limit, delta = (float(value.ravel()[0]) for value in values)
        return delta != 0 and (limit - start) / delta <= _SMALL
    return not values or int(np.prod(values[0], dtype=np.int64)) <= _SMALL


def _evaluate(
    edit: Editor, chain: list[gs.Node], wanted: list[gs.Node], failed: dict[int, gs.Node]
) -> list[tuple[gs.Node, np.ndarray]]:
    """Compute the results of the nodes `wanted`; one that ONNX Runtime refuses is noted, and stays as it is."""
    copy, copies = _copy(edit, chain)
    try:
        values = Editor(copy).evaluate([copies[id(node.outputs[0])] for node in wanted])
    except InputError as error:
        if len(wanted) > 1:
            return [found for node in wanted for found in _evaluate(edit, chain, [node], failed)]
        edit.skip(wanted[0], f"it reads only constants, but can't be computed: {error}")
        failed[id(wanted[0])] = wanted[0]
        return []
    return list(zip(wanted, values, strict=True))


def _copy(edit: Editor, chain: list[gs.Node]) -> tuple[gs.Graph, dict[int, gs.Tensor]]:
    """Return `chain`, whose nodes may lie in several bodies, as a graph of its own, and its tensors by the old ids."""
    copies: dict[int, gs.Tensor] = {}
    nodes = []
    for node in chain:
        for tensor in node.inputs:
            if id(tensor) not in copies:
                value = graphs.constant(tensor) if tensor.name else None
                name = f"value_{len(copies)}"
                copies[id(tensor)] = gs.Variable.empty() if value is None else gs.Constant(name, value)
        out = gs.Variable(f"value_{len(copies)}")
        inputs = [copies[id(tensor)] for tensor in node.inputs]
        copies[id(node.outputs[0])] = out
        nodes.append(gs.Node(node.op, out.name, dict(node.attrs), inputs, [out]))
    root = edit.root
    opsets = {"opset": root.opset, "import_domains": root.import_domains, "ir_version": root.ir_version}
    return gs.Graph(nodes=nodes, **opsets), copies
