"""Take the image's way into a torchvision detector, and its detections' way back to the image, out of the graph.

    image [3,H,W] -> Sub -> Div -> Resize -> Pad -> Unsqueeze -> network     ->    [1,3,H,W] -> network
    network -> boxes -> Split -> Mul by original/resized -> Concat -> boxes  ->    network -> boxes
    network -> masks [M,1,m,m] -> Pad -> Loop(Resize, Slice, Pad) -> masks   ->    network -> masks [M,1,m,m]

The runtime does all this on a canvas of the graph's own size, so what goes must do nothing there but normalise and
paste. Every cut is found by structure and then proven by running what it would remove:

- Start. The tensor through which everything that the first weighted nodes (Conv, ConvTranspose, Gemm, MatMul) take
  from the image flows. It must be the image, per channel a * x + b. It becomes the input, and mean and standard
  deviation go into the model's metadata. Shapes of what stood before it are constants.
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
from graphsurgery.images.canvas import paste_masks
from graphsurgery.operators.dataflow import at_fixed_shapes, bottlenecks, flow, is_shape, upstream, weighted_input
from graphsurgery.operators.windows import is_of_a_layer
from graphsurgery.rewrite import MASKS_NOTE, NORMALISATION_NOTE, Editor, GraphPass

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
        _drop_normalisation(graph, edit)
        graphs.drop_unused(graph)
        for output in list(graph.outputs):
            if output.dtype == np.float32 and output.shape is not None and len(output.shape) in (2, 3):
                _drop_rescaling(output, graph, edit)
        graphs.drop_unused(graph)
        for output in list(graph.outputs):
            if output.dtype == np.float32 and output.shape is not None and len(output.shape) == 4:
                _drop_pasting(output, graph, edit)


# --- start ------------------------------------------------------------------------------------------------------


def _drop_normalisation(graph: gs.Graph, edit: Editor) -> None:
    image = _image(graph)
    if image is None:
        return edit.skip(None, "start: there is not one float32 input of rank 3 or 4, an image")
    varying = flow(graph, [image], lambda node, found: is_shape(node) or weighted_input(node, found) is not None)
    entries = {id(t): t for t in (weighted_input(node, varying) for node in graph.nodes) if t is not None}
    if not entries:
        return edit.skip(None, f"start: no weighted node reads the input '{image.name}'")
    necks = bottlenecks(graph, list(entries.values()), varying, lambda node: True)
    if necks[0] is image and set(entries) == {id(image)}:
        return edit.skip(None, f"start: the input '{image.name}' feeds the network as it is")
    shape = static_shape(image)
    if shape is None or shape[:-3] not in ((), (1,)):
        seen = list(image.shape)
        raise edit.fail(f"the input '{image.name}' has shape {seen}, not one fixed image; put freeze-shapes before it")

    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    probes = [np.zeros_like(noise), np.ones_like(noise), noise]
    inner = [neck for neck in necks if neck is not image]
    others = flow(graph, [tensor for tensor in graph.inputs if tensor is not image], lambda node, found: is_shape(node))
    for node in upstream(graph, inner, varying):
        other = next((tensor for tensor in node.inputs if id(tensor) in others), None)
        if other is not None:
            raise edit.fail(
                f"'{_name(node)}' ({node.op}) on the way into the network reads '{other.name}', which a caller may set;"
                " put drop-initializer-inputs before it, or export without it"
            )
    values = [edit.evaluate(inner, {image.name: probe}) if inner else [] for probe in probes]
    cut, fitted = (image if len(shape) == 4 else None), None
    for neck, results in zip(inner, zip(*values, strict=True), strict=True):
        written = _written(upstream(graph, [neck], varying), varying, shape[-3])
        fitted = _fit(probes, results, written)
        if fitted is not None:
            cut = neck
            break
    before = [] if cut is None else upstream(graph, [cut], varying)
    beyond = [n for n in upstream(graph, list(entries.values()), varying) if all(n is not other for other in before)]
    for node in beyond:
        if is_op(node, "Resize", "Upsample", "Pad") and not (node.op == "Pad" and is_of_a_layer(node, edit)):
            canvas = f"the input '{image.name}' {list(shape)} is resized or padded by '{_name(node)}' ({node.op})"
            raise edit.fail(f"{canvas}; export it at the canvas size, in multiples of 32, with no resize in the model")
    if cut is None:
        raise edit.fail(
            f"what stands between '{image.name}' and the network is no a * x + b per channel; export without it"
        )
    if fitted is None:
        return edit.skip(None, f"start: nothing between the input '{image.name}' and the network only normalises")
    _enter(graph, edit, image, cut, before, probes)
    edit.metadata[NORMALISATION_NOTE] = json.dumps({"mean": _shortest(fitted[0]), "std": _shortest(fitted[1])})


def _image(graph: gs.Graph) -> gs.Tensor | None:
    images = [t for t in graph.inputs if t.dtype == np.float32 and t.shape is not None and len(t.shape) in (3, 4)]
    return images[0] if len(images) == 1 else None


def _enter(
    graph: gs.Graph,
    edit: Editor,
    image: gs.Tensor,
    cut: gs.Tensor,
    before: Sequence[gs.Node],
    probes: Sequence[np.ndarray],
) -> None:
    """Make `cut` the input in place of `image`; raises PassError where anything else reads the image."""
    gone = flow(graph, [image], lambda node, found: is_shape(node), known=[cut])
    own = {id(node) for node in before}
    measured: dict[int, gs.Tensor] = {}
    readers = []
    for node in graphs.walk_nodes(graph):
        taken = [t for t in node.inputs if id(t) in gone]
        if taken and is_shape(node):
            measured[id(taken[0])] = taken[0]
            readers.append(node)
        elif taken and id(node) not in own:
            raise edit.fail(f"node '{_name(node)}' ({node.op}) reads the image past '{cut.name}'; it can't be removed")
    for output in graph.outputs:
        if id(output) in gone or output is cut:
            raise edit.fail(f"output '{output.name}' is the image on its way into the network; drop it first")

    inner = [t for t in measured.values() if t is not image]
    sizes = [[v.shape for v in edit.evaluate(inner, {image.name: probe})] for probe in probes[1:] if inner]
    if sizes and sizes[0] != sizes[1]:
        raise edit.fail(f"a shape before '{cut.name}' depends on the pixels of '{image.name}'")
    known = {id(image): static_shape(image), **dict(zip(map(id, inner), sizes[0] if sizes else [], strict=True))}
    for node in readers:
        shape = np.array(known[id(node.inputs[0])], dtype=np.int64)
        piece = shape[slice(attribute(node, "start", 0), attribute(node, "end", None))]
        value = edit.constant("shape", piece if node.op == "Shape" else np.array(shape.prod()))
        edit.bypass(node, value)
    edit.remove(producer(cut))
    channels, height, width = (static_shape(image) or ())[-3:]
    edit.retype(cut, dtype=np.dtype(np.float32), shape=[1, channels, height, width])
    edit.set_interface(inputs=[cut if tensor is image else tensor for tensor in graph.inputs])


def _fit(
    probes: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    written: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and std per channel when each result is (probe - mean) / std with a batch axis, else None."""
    images = [probe.reshape(1, *probe.shape[-3:]).astype(np.float64) for probe in probes]
    if any(result.shape != image.shape for result, image in zip(results, images, strict=True)):
        return None
    shift = results[0][0, :, 0, 0].astype(np.float64)
    scale = results[1][0, :, 0, 0] - shift
    if not np.all(scale > 0):
        return None
    for mean, std in [*([written] if written is not None else []), (-shift / scale, 1 / scale)]:
        mean_, std_ = mean[:, None, None], std[:, None, None]
        rounding = _ROUNDING * (1 + np.abs(mean_)) / np.abs(std_)
        if all(np.all(np.abs((x - mean_) / std_ - y) <= rounding) for x, y in zip(images, results, strict=True)):
            return mean, std
    return None


def _written(nodes: Iterable[gs.Node], varying: set[int], channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and std as the constants of the arithmetic in `nodes` say them, None where they don't."""
    mean, std = np.zeros(channels), np.ones(channels)
    for node in nodes:
        if not is_op(node, "Sub", "Div", "Add", "Mul"):
            continue
        second = id(node.inputs[0]) in varying
        value = constant(node.inputs[1 if second else 0])
        if value is None or (not second and node.op in ("Sub", "Div")):
            return None
        if value.size != 1 and value.shape[-3:] != (channels, 1, 1):
            return None
        factor = np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))
        if node.op in ("Sub", "Add"):
            mean = mean + factor * std * (1 if node.op == "Sub" else -1)
        elif np.all(factor != 0):
            std = std * factor if node.op == "Div" else std / factor
        else:
            return None
    return mean, std


def _shortest(values: np.ndarray) -> list[float]:
    """The shortest numbers that are the same in float32: 0.485, not 0.48500001430511475."""
    return [float(str(value)) for value in values.astype(np.float32)]


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
                f"output '{output.name}' is '{source.name}' times {_shortest(ratio[0])}: the graph was exported for "
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
    image = _image(graph)
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


def _name(node: gs.Node) -> str:
    return str(node.name or node.outputs[0].name)
