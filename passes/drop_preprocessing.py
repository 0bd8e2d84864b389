"""Take the image's way into a torchvision detector, and its detections' way back to the image, out of the graph.

    image [3,H,W] -> Sub -> Div -> Resize -> Pad -> Unsqueeze -> network     ->    [1,3,H,W] -> network
    network -> boxes -> Split -> Mul by original/resized -> Concat -> boxes  ->    network -> boxes
    network -> masks [M,1,m,m] -> Pad -> Loop(Resize, Slice, Pad) -> masks   ->    network -> masks [M,1,m,m]

The runtime does all this on a canvas of the graph's own size, so what goes must do nothing there but normalise and
paste. Every cut is found by structure and then proven by running what it would remove:

- Start. As `drop-normalization` does it, but for an image that is padded.
- Boxes and keypoints. The tensor that an output selects columns of and multiplies by constants. They must be 1.
- Masks. With the other outputs taken as known, the tensors that everything in `masks` flows through form a chain from
  the head behind RoiAlign to the output. The mask probabilities are the one from which `paste_masks` of the runtime
  gives, together with the boxes, what the graph gives. It is found by running the head on random features. It
  takes the place of the pasted masks among the outputs, under its own name.

An image that is resized or padded is an error, and so are boxes that are scaled: the graph was exported for a size
other than the canvas. (A size such as 1312, whose reciprocal rounds down in float32, is resized to one pixel less by
the graph though not by torch; a transform with `fixed_size` has no such rounding.) What a Conv that has no pads is
given by a Pad, as in the stem of an EfficientDet, belongs to the network. Each end is removed on its own.

A start or an end stays when
1. there is not one float32 input of rank 3 or 4, or no weighted node reads it
2. the image feeds the network as it is
3. an output has its last scaling inside the network
4. masks are not on the canvas, do not come from boxes and one head behind RoiAlign, or are pasted in another way
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import InputError
from graphsurgery.graph import attribute, constant, is_op, producer, static_shape
from graphsurgery.images.pasting import paste_masks
from graphsurgery.operators.dataflow import at_fixed_shapes, bottlenecks, flow, upstream, weighted_input
from graphsurgery.operators.image_normalization import drop_normalization, image_input, shortest
from graphsurgery.rewrite import MASKS_NOTE, Editor, GraphPass, Refuse

_COLUMN_PICKS = ("Gather", "Slice", "Split")
_COLUMN_OPS = ("Cast", "Concat", "Div", "Identity", "Mul", "Squeeze", "Unsqueeze")
# Boxes to try, in parts of the canvas: inside it, all of it, and at its border
_BOXES = np.array([[0.1, 0.2, 0.6, 0.7], [0, 0, 1, 1], [0.9, 0.85, 1, 1]], np.float32)
_ROWS = len(_BOXES)
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
# Resize positions up to a mask's width, in float32, times the largest step between two probabilities
_PASTED = 1e-4


class DropPreprocessing(GraphPass):
    """It has no options: the canvas is the size that the graph was exported for."""

    name = "drop-preprocessing"
    effect = "exact"
    keeps_outputs = False  # it is the masks of the network that come out then, not pasted ones

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.drop_unused(graph)
        graphs.sort(graph)
        try:
            drop_normalization(graph, edit)
        except Refuse as refusal:
            edit.skip(None, f"start: {refusal.reason}")
        graphs.drop_unused(graph)
        for output in list(graph.outputs):
            if output.dtype == np.float32 and output.shape is not None and len(output.shape) in (2, 3):
                _drop_rescaling(output, graph, edit)
        graphs.drop_unused(graph)
        for output in list(graph.outputs):
            if output.dtype == np.float32 and output.shape is not None and len(output.shape) == 4:
                _drop_pasting(output, graph, edit)


# --- boxes and keypoints ----------------------------------------------------------------------------------------


def _drop_rescaling(output: gs.Tensor, graph: gs.Graph, edit: Editor) -> None:
    source = _unscaled(output, graph, edit)
    if source is None:
        return edit.skip(None, f"end: output '{output.name}' is not scaled behind the network")
    while source is not None and edit.bypass(producer(output), source):
        source = _unscaled(output, graph, edit)


def _unscaled(output: gs.Tensor, graph: gs.Graph, edit: Editor) -> gs.Tensor | None:
    """Return the tensor whose columns `output` puts together unchanged, None where there is none.

    Raises PassError when they are put together after a multiplication by other constants than 1.
    """
    varying = flow(graph, graph.inputs, at_fixed_shapes(edit))

    def keeps_rows(node: gs.Node) -> bool:
        sources = {id(t) for t in node.inputs if id(t) in varying}
        if is_op(node, *_COLUMN_PICKS) and _axes(node) not in ([-1], [len(output.shape) - 1]):
            return False
        return is_op(node, *_COLUMN_PICKS, *_COLUMN_OPS) and (len(sources) == 1 or node.op == "Concat")

    sizes = [size if isinstance(size, int) else _ROWS for size in output.shape]
    last = producer(output)
    if last is not None and is_op(last, "Concat") and not isinstance(output.shape[-1], int):
        sizes[-1] = len(last.inputs)
    probe = np.random.default_rng(0).uniform(1, 2, sizes).astype(np.float32)
    for source in bottlenecks(graph, [output], varying, keeps_rows)[1:]:
        block = upstream(graph, [output], varying - {id(source)})
        if not any(is_op(node, "Mul", "Div", *_COLUMN_PICKS) for node in block):
            continue
        try:
            (value,) = edit.evaluate([output], {**_blank_inputs(graph), source.name: probe})
        except InputError:  # it takes another shape, so it is not the output before its scaling
            continue
        if value.shape != probe.shape or not _has_columns(source, output, probe, graph, edit):
            continue
        if np.array_equal(value, probe):
            return source
        ratio = (value / probe).reshape(-1, sizes[-1])
        if np.allclose(ratio, ratio[0], rtol=_ROUNDING, atol=0):
            raise edit.fail(
                f"output '{output.name}' is '{source.name}' times {shortest(ratio[0])}: the graph was exported for "
                "an image of another size than its canvas; export it at the canvas size"
            )
    return None


def _has_columns(source: gs.Tensor, output: gs.Tensor, probe: np.ndarray, graph: gs.Graph, edit: Editor) -> bool:
    """Whether `source` has no more columns than `probe`, so that none is left out on the way to `output`."""
    shape = edit.shape(source)
    if shape and isinstance(shape[-1], int):
        return bool(shape[-1] == probe.shape[-1])
    wider = np.concatenate([probe, probe[..., :1]], axis=-1)
    try:
        (value,) = edit.evaluate([output], {**_blank_inputs(graph), source.name: wider})
    except InputError:  # a Split into all columns takes no more of them; a single one may have been broadcast
        return bool(probe.shape[-1] > 1)
    if value.shape == wider.shape and isinstance(output.shape[-1], int):
        return True
    head = _head(source, [tensor for tensor in graph.outputs if tensor is not output], graph, edit)
    if head is None:
        edit.skip(None, f"end: how many columns '{source.name}' has is not known; put freeze-shapes before it")
        return False
    return bool(edit.evaluate([source], head.given)[0].shape[-1] == probe.shape[-1])


def _axes(node: gs.Node) -> list[int] | None:
    """Return the axes along which a Gather, Slice or Split picks, None where they can't be told."""
    if node.op != "Slice":
        return [attribute(node, "axis", 0)]
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    return None if axes is None else [int(axis) for axis in axes]


# --- masks ------------------------------------------------------------------------------------------------------


def _drop_pasting(output: gs.Tensor, graph: gs.Graph, edit: Editor) -> None:
    head = _head(output, [tensor for tensor in graph.outputs if tensor is not output], graph, edit)
    if head is None:
        return edit.skip(None, f"end: output '{output.name}' does not come from boxes and one head behind RoiAlign")
    *values, pasted = edit.evaluate([*head.necks, output], head.given)
    if pasted.shape != (_ROWS, 1, *head.canvas):
        return edit.skip(None, f"end: output '{output.name}' is {list(pasted.shape)}, not pasted on the canvas")
    for masks, value in zip(head.necks, values, strict=True):
        if value.dtype != np.float32 or value.ndim != 4 or value.shape[1] != 1:
            continue
        expected = np.stack(list(paste_masks(value, head.boxes, head.canvas)))[:, None]
        if np.allclose(pasted, expected, rtol=0, atol=_PASTED):
            rows = output.shape[0] if isinstance(output.shape[0], str) else None
            edit.retype(masks, dtype=np.dtype(np.float32), shape=[rows, *value.shape[1:]])
            edit.set_interface(outputs=[masks if tensor is output else tensor for tensor in graph.outputs])
            edit.metadata[MASKS_NOTE] = json.dumps(masks.name)
            return
    edit.skip(None, f"end: output '{output.name}' is not pasted as the runtime pastes masks")


@dataclass(frozen=True)
class _Head:
    """A head behind RoiAlign and how to run it alone.

    `necks` are the tensors that everything between its first Conv and the tensor asked for flows through, the last
    one first; `given` has values for what it reads, random features and `boxes` on the `canvas` among them.
    """

    necks: list[gs.Tensor]
    given: dict[str, np.ndarray]
    boxes: np.ndarray
    canvas: tuple[int, int]


def _head(tensor: gs.Tensor, others: Sequence[gs.Tensor], graph: gs.Graph, edit: Editor) -> _Head | None:
    """Return the head that `tensor` comes from when the graph outputs `others` are known, None where there is none."""
    image = image_input(graph)
    shape = None if image is None else static_shape(image)
    boxes = [t for t in others if t.dtype == np.float32 and t.shape is not None and list(t.shape[1:]) == [4]]
    if shape is None or len(boxes) != 1:
        return None
    varying = flow(graph, graph.inputs, at_fixed_shapes(edit), known=others)
    necks = bottlenecks(graph, [tensor], varying, lambda node: not is_op(node, "RoiAlign"))
    convs = [(i, _reading_conv(neck, varying)) for i, neck in enumerate(necks)]
    first, conv = next(((i, conv) for i, conv in reversed(convs) if conv is not None), (0, None))
    pools = [node for node in upstream(graph, necks[-1:], varying) if is_op(node, "RoiAlign")]
    sizes = {(attribute(node, "output_height", 1), attribute(node, "output_width", 1)) for node in pools}
    if conv is None or len(sizes) != 1:
        return None
    height, width = shape[-2:]
    features = np.random.default_rng(0).standard_normal((_ROWS, _channels(conv, edit), *sizes.pop()))
    places = _BOXES * np.array([width, height, width, height], np.float32)
    given = {**_blank_inputs(graph), **_probes(others), boxes[0].name: places}
    given[necks[first].name] = features.astype(np.float32)
    return _Head(necks[1:first], given, places, (height, width))


def _probes(tensors: Iterable[gs.Tensor]) -> dict[str, np.ndarray]:
    """Return values for graph outputs that other nodes read: label 1, and numbers in 0..1."""
    generator = np.random.default_rng(1)
    probes = {}
    for tensor in tensors:
        shape = [size if isinstance(size, int) else _ROWS for size in (tensor.shape or [_ROWS])]
        kind = np.dtype(tensor.dtype or np.float32)
        probes[tensor.name] = generator.random(shape).astype(kind) if kind.kind == "f" else np.ones(shape, kind)
    return probes


def _reading_conv(tensor: gs.Tensor, varying: set[int]) -> gs.Node | None:
    return next(
        (n for n in tensor.outputs if is_op(n, "Conv", "ConvTranspose") and weighted_input(n, varying) is tensor), None
    )


def _channels(conv: gs.Node, edit: Editor) -> int:
    """Return how many channels a Conv or ConvTranspose reads."""
    weights = constant(conv.inputs[1])
    shape = (edit.evaluate([conv.inputs[1]])[0] if weights is None else weights).shape
    return int(shape[1] * attribute(conv, "group", 1) if conv.op == "Conv" else shape[0])


def _blank_inputs(graph: gs.Graph) -> dict[str, np.ndarray]:
    """Return zeros for the inputs of fixed shape: a shape of one may be asked for."""
    shapes = [(tensor, static_shape(tensor)) for tensor in graph.inputs]
    return {t.name: np.zeros(shape, t.dtype) for t, shape in shapes if shape is not None and t.dtype is not None}
