"""The way of an image from the input of a graph to its first weights, where that only normalises and pads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import attribute, constant, is_op, producer, static_shape
from graphsurgery.operators.dataflow import bottlenecks, flow, is_shape, upstream, weighted_input
from graphsurgery.operators.windows import is_of_a_layer
from graphsurgery.rewrite import NORMALISATION_NOTE, Editor, Refuse

_ROUNDING = 8 * float(np.finfo(np.float32).eps)
_BRIGHTEST = 255.0  # a pixel in either of the ranges that networks take


@dataclass(frozen=True)
class _Normalised:
    """(image - mean) / std per channel, and how many rows of zeros are below it and columns to its right."""

    mean: np.ndarray
    std: np.ndarray
    margin: tuple[int, int]

    def to_json(self) -> str:
        own = {"mean": shortest(self.mean), "std": shortest(self.std)}
        return json.dumps(own | ({"margin": list(self.margin)} if any(self.margin) else {}))


def drop_normalization(graph: gs.Graph, edit: Editor, *, may_pad: bool = False) -> None:
    """Make the normalised image the input of a sorted graph, and note mean and std for the runtime.

    What stands before it must be a * x + b per channel and, where it `may_pad`, zeros below it and to its right, which
    the note then counts. Raises Refuse where the graph has no such image or does nothing to it, and PassError where
    more than that would be lost.
    """
    image = image_input(graph)
    if image is None:
        raise Refuse("there is not one float32 input of rank 3 or 4, an image")
    channels = image.shape[-3] if image.shape is not None else None
    if isinstance(channels, int) and channels != 3:
        raise Refuse(f"the input '{image.name}' has {channels} channels, and an image has three")
    varying = flow(graph, [image], lambda node, found: is_shape(node) or weighted_input(node, found) is not None)
    entries = {id(t): t for t in (weighted_input(node, varying) for node in graph.nodes) if t is not None}
    if not entries:
        raise Refuse(f"no weighted node reads the input '{image.name}'")
    necks = bottlenecks(graph, list(entries.values()), varying, lambda node: True)
    if necks[0] is image and set(entries) == {id(image)}:
        raise Refuse(f"the input '{image.name}' feeds the network as it is")
    shape = static_shape(image)
    if shape is None or shape[:-3] not in ((), (1,)):
        seen = list(image.shape)
        raise edit.fail(f"the input '{image.name}' has shape {seen}, not one fixed image; put freeze-shapes before it")

    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    probes = [np.zeros_like(noise), np.ones_like(noise), noise, noise * np.float32(_BRIGHTEST)]
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
        pads = may_pad and not (is_op(maker := producer(neck), "Pad") and is_of_a_layer(maker, edit))
        fitted = _fit(probes, results, written, may_pad=pads)
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
        raise Refuse(f"nothing between the input '{image.name}' and the network only normalises")
    _enter(graph, edit, image, cut, before, probes, fitted.margin)
    edit.metadata[NORMALISATION_NOTE] = fitted.to_json()


def image_input(graph: gs.Graph) -> gs.Tensor | None:
    """Return the one float32 input of rank 3 or 4; None where there is none, or another one."""
    images = [t for t in graph.inputs if t.dtype == np.float32 and t.shape is not None and len(t.shape) in (3, 4)]
    return images[0] if len(images) == 1 else None


def _enter(
    graph: gs.Graph,
    edit: Editor,
    image: gs.Tensor,
    cut: gs.Tensor,
    before: Sequence[gs.Node],
    probes: Sequence[np.ndarray],
    margin: tuple[int, int],
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
    edit.retype(cut, dtype=np.dtype(np.float32), shape=[1, channels, height + margin[0], width + margin[1]])
    edit.set_interface(inputs=[cut if tensor is image else tensor for tensor in graph.inputs])


def _fit(
    probes: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    written: tuple[np.ndarray, np.ndarray] | None,
    *,
    may_pad: bool,
) -> _Normalised | None:
    """Return what made the results of the probes when each is (probe - mean) / std with a batch axis, else None."""
    images = [probe.reshape(1, *probe.shape[-3:]).astype(np.float64) for probe in probes]
    channels, height, width = images[0].shape[1:]
    shape = results[0].shape
    if any(result.shape != shape for result in results) or len(shape) != 4 or shape[:2] != (1, channels):
        return None
    margin = shape[2] - height, shape[3] - width
    if min(margin) < 0 or (any(margin) and not may_pad):
        return None
    if any(result[:, :, height:].any() or result[..., width:].any() for result in results):
        return None
    results = [result[:, :, :height, :width] for result in results]
    shift = results[0][0, :, 0, 0].astype(np.float64)
    scale = results[1][0, :, 0, 0] - shift
    if not np.all(scale > 0):
        return None
    for mean, std in [*([written] if written is not None else []), (-shift / scale, 1 / scale)]:
        mean_, std_ = mean[:, None, None], std[:, None, None]
        rounding = [_ROUNDING * (max(1.0, x.max()) + np.abs(mean_)) / np.abs(std_) for x in images]
        found = zip(images, results, rounding, strict=True)
        if all(np.all(np.abs((x - mean_) / std_ - y) <= allowed) for x, y, allowed in found):
            return _Normalised(mean, std, margin)
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


def shortest(values: np.ndarray) -> list[float]:
    """Return the shortest numbers that are the same in float32: 0.485, not 0.48500001430511475."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _name(node: gs.Node) -> str:
    return str(node.name or node.outputs[0].name)
