"""Merge a Pad into the pads of the Conv or pool behind it, for NPUs that pad inside a window but have no Pad.

    x -> Pad(zeros) -> Conv(pads p) -> y                       ->  x -> Conv(pads p + those of the Pad) -> y
    x -> Pad(zeros) -> AveragePool -> y                        ->  x -> AveragePool(pads, count_include_pad 1) -> y
    x -> Pad(-Inf, or zeros behind a Relu) -> MaxPool -> y     ->  x -> MaxPool(pads) -> y
    x -> Pad(v) -> Pad(v) -> y                                 ->  x -> Pad(v, both) -> y

Keras' ZeroPadding2D and PyTorch's ZeroPad2d leave the first, the one in each ResNet. A Conv reads zeros outside its
input, and an AveragePool zeros that it counts or does not; a MaxPool reads nothing there, which is as good as the
smallest number, or as zero where no element is below it. A pad that depends on the size of the input (auto_pad) is
written out first. The Pad stays where something else reads it. One limit: ONNX leaves open what a MaxPool makes of NaN.

It does not fire when
1. the Pad's mode is not constant, or its pads or its value are not known
2. the Pad crops (a negative number), or pads the batch or the channels
3. the value is not zero before a Conv or an AveragePool, nor, before a MaxPool, the smallest of its type, or at most
   zero with an input that never is below (behind Relu, Sigmoid, HardSigmoid, Softmax, or Clip from zero)
4. auto_pad depends on a size that is not known
5. a pool rounds up (ceil_mode), dilates, reads an empty input, or would pad as much as its kernel (ONNX Runtime
   refuses that)
6. the AveragePool pads by itself and does not count that
7. the indices of the maxima are read
8. two Pads fill in different values
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, is_op, producer
from graphsurgery.operators.pads import Padding, require_padding
from graphsurgery.operators.requirements import require_shape, require_unread
from graphsurgery.operators.signs import is_never_negative
from graphsurgery.operators.windows import Window, require_window
from graphsurgery.rewrite import Editor, NodePass, Refuse


class MergePads(NodePass):
    name = "merge-pads"
    effect = "exact"
    matches = ("Conv", "AveragePool", "MaxPool", "Pad")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        pad = producer(node.inputs[0])
        if pad is None or not is_op(pad, "Pad"):
            return
        if node.op == "Pad":
            return _merge_two(pad, node, edit)
        own = require_window(node, edit)
        inner = _padding(pad, 2 + len(own.kernel), "the Pad before it")
        if any((*inner.begins[:2], *inner.ends[:2])):
            raise Refuse("the Pad before it pads the batch or the channels")
        pads = [a + b for a, b in zip(own.pads, inner.begins[2:] + inner.ends[2:], strict=True)]
        _require_same(node, pad.inputs[0], own, pads, inner.value, edit)
        attrs = {name: value for name, value in node.attrs.items() if name != "auto_pad"} | {"pads": pads}
        if node.op == "AveragePool":
            attrs["count_include_pad"] = 1
        edit.replace(node, node.op, [pad.inputs[0], *node.inputs[1:]], attrs)


def _merge_two(pad: gs.Node, node: gs.Node, edit: Editor) -> None:
    rank = len(require_shape(node.inputs[0], edit))
    inner, outer = _padding(pad, rank, "the Pad before it"), _padding(node, rank, "it")
    if not (inner.value == outer.value).all():
        raise Refuse(f"it fills in {outer.value}, the Pad before it {inner.value}")
    pads = [a + b for a, b in zip(inner.begins + inner.ends, outer.begins + outer.ends, strict=True)]
    if "pads" in node.attrs:
        return edit.replace(node, "Pad", [pad.inputs[0]], dict(node.attrs) | {"pads": pads})
    sizes = edit.constant(f"{node.outputs[0].name}_pads", pads)
    value = [tensor for tensor in node.inputs[2:3] if tensor.name]
    edit.replace(node, "Pad", [pad.inputs[0], sizes, *value], dict(node.attrs))


def _padding(pad: gs.Node, rank: int, named: str) -> Padding:
    """Return what `pad` puts around its input, which is one value everywhere."""
    if attribute(pad, "mode", "constant") != "constant":
        raise Refuse(f"{named} has the mode {attribute(pad, 'mode', '')}, not constant")
    return require_padding(pad, rank, named)


def _require_same(
    node: gs.Node, data: gs.Tensor, own: Window, pads: list[int], value: np.ndarray, edit: Editor
) -> None:
    """Demand that `node` computes the same where it pads `data` by itself."""
    if not is_op(node, "MaxPool") and (value != 0).any():
        raise Refuse(f"the Pad before it fills in {value}, not zero")
    if is_op(node, "Conv"):
        return
    if attribute(node, "ceil_mode", 0) or any(size != 1 for size in own.dilations):
        raise Refuse("it rounds up or dilates")
    if 0 in (edit.shape(data) or [])[2:]:
        raise Refuse("its input is empty, which a pool does not take")
    if any(pad >= size for pad, size in zip(pads, own.kernel * 2, strict=True)):
        raise Refuse(f"it would pad {pads}, as much as its kernel is wide")
    if is_op(node, "AveragePool"):
        if own.padded and not attribute(node, "count_include_pad", 0):
            raise Refuse("it pads too, and does not count that as the Pad is counted")
        return
    require_unread(node, edit, "the indices of the maxima are")
    if not _is_lowest(value, data, edit):
        raise Refuse(f"the Pad fills in {value}, which may be above the maximum")


def _is_lowest(value: np.ndarray, data: gs.Tensor, edit: Editor) -> bool:
    """Whether no element of `data` is below `value`."""
    if is_never_negative(data):
        return bool((value <= 0).all())
    dtype = edit.dtype(data)
    if dtype is None or dtype.kind not in "iuf":
        return False
    lowest = np.iinfo(dtype).min if dtype.kind in "iu" else np.finfo(dtype).min
    return bool((value <= lowest).all())
