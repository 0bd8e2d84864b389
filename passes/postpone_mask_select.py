"""Leave it to the host which of the masks of all classes is that of the label: gathers by computed rows stay out.

    logits [N,C,h,w] -> Gather(rows of labels) -> Reshape -> Unsqueeze -> Sigmoid -> masks [N,1,h,w]
        ->  logits [N,C,h,w] -> Sigmoid -> masks [N,C,h,w]

It is the last edit of Huawei's recipe for detectron2's Mask R-CNN. What stands behind the choice and goes element by
element, or cuts off rows, is done to all classes now. How the choice is spelled makes no difference: flattened as
torch's exporter writes it, GatherND, GatherElements. It is not read but asked: on random logits and labels the graph
must give the masks of these labels.

The output keeps its name and its place, and a note in the model's metadata says which output chooses among its classes.
By it the gate compares what the host will choose. The runtime takes the mask of the label wherever there is one for
each class. Shapes that the choice computes are constants behind freeze-shapes and simplify; where the number of boxes
is open, they need not be.

It does not fire when
1. what chooses is no output, of integers [N], of the model, or more than one tensor chooses
2. on random logits and labels it gives other masks, or in another shape: a label that counts the background, say
3. what stands between the choice and the output is read elsewhere too, or is another output
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import PassError
from graphsurgery.graph import constant, consumers, is_op, producer
from graphsurgery.operators.axes import bounds
from graphsurgery.operators.dataflow import is_shape
from graphsurgery.rewrite import CHOICES_NOTE, Editor, GraphPass, Refuse

_GATHERS = ("Gather", "GatherND", "GatherElements")
# What passes elements on as they are; its first input is what it passes
_MOVES = (*_GATHERS, "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Identity")
_ELEMENTWISE = ("Sigmoid", "HardSigmoid", "Clip", "Cast", "Identity")
_ROWS, _SIZE, _TRIES = 3, (3, 5), 3  # of what is asked where nothing tells


class PostponeMaskSelect(GraphPass):
    name = "postpone-mask-select"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.sort(graph)
        for output in graph.outputs:
            try:
                choice = _choice(output, graph, edit)
            except Refuse as refusal:
                edit.skip(producer(output), f"output '{output.name}' {refusal.reason}")
                continue
            if choice is not None:
                _postpone(choice, output, edit)


@dataclass(frozen=True, eq=False)
class _Choice:
    """The masks [N, C, h, w] of all classes, the tensor of those chosen, who chooses, and what stands behind."""

    masks: gs.Tensor
    chosen: gs.Tensor
    labels: gs.Tensor
    behind: Sequence[gs.Node]


def _choice(output: gs.Tensor, graph: gs.Graph, edit: Editor) -> _Choice | None:
    """Return how `output` is chosen; None where it is no choice at all. Raises Refuse for another one."""
    behind, chosen = _behind(output)
    moves = list(_moves(chosen))
    gathers = [node for node in moves if is_op(node, *_GATHERS) and constant(node.inputs[1]) is None]
    if not gathers:
        return None
    masks, floats = moves[-1].inputs[0], edit.dtype(output)
    every = edit.shape(masks) or masks.shape  # a claim is as good: what is asked of the graph proves it
    if floats is None or floats.kind != "f" or every is None or len(every) != 4:
        return None
    if not isinstance(every[1], int) or every[1] < 2:
        return None
    if len(gathers) > 1:
        raise Refuse("is chosen by more than one tensor")
    inner = [node.outputs[0] for node in behind if node.outputs[0] is not output]
    read = [tensor for tensor in inner if len(consumers(tensor)) > 1 or edit.is_output(tensor)]
    if consumers(output) or read:
        raise Refuse(f"is not all that is read of '{(read or [output])[0].name}'")
    sides = [tensor for node in moves for tensor in node.inputs[1:]]
    labels, measured = _labels(sides, masks, graph, edit)
    choice = _Choice(masks, chosen, labels, behind)
    _require_choice(choice, measured, every, edit)
    return choice


def _behind(output: gs.Tensor) -> tuple[list[gs.Node], gs.Tensor]:
    """Return the nodes that do to masks of any class what they do to one, the last first, and what the first reads."""
    nodes: list[gs.Node] = []
    tensor = output
    while (node := producer(tensor)) is not None and (is_op(node, *_ELEMENTWISE) or _cuts_rows(node)):
        nodes.append(node)
        tensor = node.inputs[0]
    return nodes, tensor


def _cuts_rows(node: gs.Node) -> bool:
    """Whether a Slice leaves the first rows; how many may be computed."""
    if not is_op(node, "Slice"):
        return False
    cut = bounds(node)
    if cut is not None:
        return [(each.axis, each.start, each.step) for each in cut] == [(0, 0, 1)]
    start, _, *others = (constant(tensor) for tensor in node.inputs[1:])
    known = [start, *others]
    wanted = [[0], [0], [1]][: len(known)]
    return len(known) > 1 and [None if each is None else each.tolist() for each in known] == wanted


def _moves(chosen: gs.Tensor) -> Iterator[gs.Node]:
    """Yield the nodes that elements of `chosen` come through, the last first."""
    tensor = chosen
    while (node := producer(tensor)) is not None and is_op(node, *_MOVES):
        yield node
        tensor = node.inputs[0]


def _labels(
    sides: Sequence[gs.Tensor], masks: gs.Tensor, graph: gs.Graph, edit: Editor
) -> tuple[gs.Tensor, list[gs.Tensor]]:
    """Return the output that says which masks move to where, by `sides`, and tensors whose shapes are asked there."""
    found: dict[int, gs.Tensor] = {}
    measured: dict[int, gs.Tensor] = {}
    pending, seen = list(sides), {id(masks)}
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen or not tensor.name or constant(tensor) is not None:
            continue
        seen.add(id(tensor))
        node = producer(tensor)
        if graphs.is_graph_output(tensor, graph) or node is None:
            found[id(tensor)] = tensor
        elif is_shape(node):
            measured |= {id(node.inputs[0]): node.inputs[0]}
        else:
            pending += node.inputs
    if len(found) != 1:
        listed = " and ".join(f"'{tensor.name}'" for tensor in found.values()) or "nothing"
        raise Refuse(f"is chosen by {listed}; one output, the labels, should")
    (labels,) = found.values()
    dtype, shape = edit.dtype(labels), edit.shape(labels)
    if not graphs.is_graph_output(labels, graph) or dtype is None or dtype.kind != "i" or len(shape or "N") != 1:
        raise Refuse(f"is chosen by '{labels.name}' ({dtype} {shape}), which is no output of labels [N]")
    return labels, [tensor for each, tensor in measured.items() if each not in seen]


def _require_choice(
    choice: _Choice, measured: Sequence[gs.Tensor], shape: Sequence[int | str | None], edit: Editor
) -> None:
    """Ask for the masks of random labels. Raises Refuse unless they are those."""
    draw = np.random.default_rng(0)
    rows, classes, height, width = (
        size if isinstance(size, int) and size >= 0 else default
        for size, default in zip(shape, (_ROWS, 0, *_SIZE), strict=True)
    )
    given = {tensor.name: _zeros(tensor, rows, edit) for tensor in measured if constant(tensor) is None}
    floats, integers = edit.dtype(choice.masks), edit.dtype(choice.labels)
    for _ in range(_TRIES):
        masks = draw.random((rows, classes, height, width), np.float32).astype(floats)
        labels = draw.integers(0, classes, rows).astype(integers)
        asked = {**given, choice.masks.name: masks, choice.labels.name: labels}
        try:
            (chosen,) = edit.evaluate([choice.chosen], asked)
        except PassError as error:
            raise Refuse(f"is chosen in a way that does not run by itself: {error}") from error
        if not np.array_equal(chosen, masks[np.arange(rows), labels][:, None]):
            raise Refuse(f"does not hold the masks that the labels '{choice.labels.name}' number, from 0 on")


def _zeros(tensor: gs.Tensor, rows: int, edit: Editor) -> np.ndarray:
    shape, dtype = edit.shape(tensor) or tensor.shape, edit.dtype(tensor)
    if shape is None or dtype is None:
        raise Refuse(f"needs the shape of '{tensor.name}', which nothing tells")
    return np.zeros([size if isinstance(size, int) else rows for size in shape], dtype)


def _postpone(choice: _Choice, output: gs.Tensor, edit: Editor) -> None:
    """Let what stands behind the choice read all masks, and note who chooses."""
    shape = edit.shape(choice.masks) or choice.masks.shape
    promised = output.shape or [None] * len(shape)
    rows, classes, *size = (
        one if isinstance(one, int) or at == 1 else other or one
        for at, (one, other) in enumerate(zip(shape, promised, strict=True))
    )
    for tensor in (output, *(node.outputs[0] for node in choice.behind)):
        edit.retype(tensor, shape=[rows, classes, *size])
    writer = producer(output)
    if choice.behind:
        edit.set_input(choice.behind[-1], 0, choice.masks)
    elif writer is not None:
        edit.bypass(writer, choice.masks)
    choices = json.loads(edit.metadata.get(CHOICES_NOTE, "{}"))
    edit.metadata[CHOICES_NOTE] = json.dumps(choices | {output.name: choice.labels.name})
