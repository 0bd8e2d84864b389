"""Fold the normalisation of the image, and the swap of its colours, into the weights of the first Conv.

    x -> Sub(mean) -> Div(std) -> Conv(W, b)            ->  x -> Conv(W', b')            where the Conv does not pad
    x -> Sub(mean) -> Div(std) -> Conv(W, b, pads)      ->  x -> Pad(mean) -> Conv(W', b')   where all means are equal
    x -> Gather([2, 1, 0], axis 1) -> Conv(W)           ->  x -> Conv(W with its input channels in that order)
    x [3,H,W] -> Sub -> Div -> Unsqueeze -> Conv(W, b)  ->  x -> Unsqueeze -> Conv(W', b')

Any chain of Add, Sub, Mul, Div with constants per channel, and of Gather that reorders the channels. So the camera's
pixels go to the accelerator as they are, and the first layer is the Conv, as in Cambricon's MagicMind flow. The Conv
pads the normalised image with zeros, which is the mean before normalisation: one Pad fills in one value, so means that
differ can't be folded into a Conv that pads (scales still can, and colours). Such a chain becomes one layer with

    fold-normalization: {as_batchnorm: true}
    x -> Sub(mean) -> Div(std) -> Conv(W, b, pads)      ->  x -> BatchNormalization(1 / std, 0, mean, 1) -> Conv(W, b)

as Cambricon's insert_bn_before_firstnode asks for one. An Unsqueeze or Reshape that only gives the image its
batch axis may stand behind the arithmetic; it goes in front.
The new weights are computed in float64 and rounded once. It works at any Conv, not only at the first.

It does not fire when
1. a constant is not one value per channel, or might be what gives the tensor its channels or its rank
2. a constant is divided by the data, or a scale is not finite
3. what the Conv reads is read elsewhere too, or is a graph output; the chain ends at such a tensor
4. the weights or the bias of the Conv are not constant, or not floating-point numbers
5. the Conv pads and the shift is not zero, unless one Pad will do or `as_batchnorm` says otherwise; before opset 11 the
   value of the Pad must be a float32
6. the Gather leaves out or repeats channels, or the Conv has groups
7. the folded weights are too large or too small for their type
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute, constant, is_op, producer
from graphsurgery.operators.axes import integers
from graphsurgery.operators.channels import Affine, Weights, arithmetic, fold_in, held, require_weights
from graphsurgery.operators.requirements import require_read_once
from graphsurgery.operators.slices import padding
from graphsurgery.operators.windows import Window, window_of
from graphsurgery.rewrite import Editor, NodePass, Refuse


@dataclass(frozen=True)
class _Chain:
    """What a Conv reads: channel c is channel order[c] of `source`, times scale[c] plus shift[c].

    `batching` is the node behind it that gives `source` its batch axis, None where it has one.
    """

    source: gs.Tensor
    affine: Affine
    order: np.ndarray
    batching: gs.Node | None = None

    def batched(self, edit: Editor) -> gs.Tensor:
        """Return `source` with a batch axis."""
        if self.batching is None:
            return self.source
        _, *shape = self.batching.inputs
        return edit.emit(
            self.batching.op, [self.source, *shape], self.batching.attrs, hint=f"{self.source.name}_batched"
        )

    def ordered(self, weight: np.ndarray) -> np.ndarray | None:
        """Return the weights of the Conv with its input channels in the order of `source`; None where that is so."""
        return weight[:, np.argsort(self.order)] if (np.diff(self.order) != 1).any() else None

    def pad_value(self, dtype: np.dtype[Any]) -> np.ndarray | None:
        """Return the value that becomes zero in every channel; None where there is no such one."""
        with np.errstate(all="ignore"):
            zeros = -self.affine.shift / self.affine.scale
        if not zeros.size or not np.isfinite(zeros).all() or np.ptp(zeros) > 4 * np.finfo(dtype).eps * np.abs(zeros[0]):
            return None
        try:
            return held(zeros[:1].reshape(()), dtype)
        except Refuse:
            return None


@dataclass(frozen=True)
class FoldNormalization(NodePass):
    """`as_batchnorm` makes a BatchNormalization of a chain that the weights can't take in, as the Conv pads."""

    name = "fold-normalization"
    effect = "exact"
    matches = ("Conv",)

    as_batchnorm: bool = False

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        first = producer(node.inputs[0])
        if not _may_fold(first) and not _gives_batch(first, edit):
            return
        dtype, chains = require_weights(node).dtype, []
        try:
            for chain in _chains(node, edit):
                chains.append(chain)
        except Refuse:
            if not chains:
                raise
        window, whole, value = window_of(node, edit), chains[-1], chains[-1].pad_value(dtype)
        if not whole.affine.shifts or (window is not None and not window.padded):
            return self._fold(node, whole, edit)
        fits = value is not None and (edit.opset >= 11 or np.float32(value) == value)
        if fits and window is not None and value is not None:
            return self._fold(node, whole, edit, window, value)
        if self.as_batchnorm and edit.opset >= 7:
            return _normalise(node, whole, dtype, edit)
        for chain in reversed(chains):
            if not chain.affine.shifts:
                return self._fold(node, chain, edit)
        raise Refuse("the Conv pads with zeros, and before the shift these are no one value that a Pad could fill in")

    def _fold(
        self, conv: gs.Node, chain: _Chain, edit: Editor, window: Window | None = None, value: np.ndarray | None = None
    ) -> None:
        """Let `conv` read the source of `chain`, with `value` around it where a `window` is given."""
        folded = fold_in(conv, chain.affine)
        ordered = chain.ordered(folded.weight if folded.weight is not None else require_weights(conv))
        folded = Weights(folded.weight if ordered is None else ordered, folded.bias)
        attrs, source = dict(conv.attrs), chain.batched(edit)
        if window is not None and value is not None:
            name = f"{chain.source.name}_padded"
            pad = padding(edit, name, [0, 0, *window.begins, 0, 0, *window.ends], value)
            source = edit.emit("Pad", [source, *pad.parameters], {"mode": "constant"} | pad.attrs, hint=name)
            attrs.pop("auto_pad", None)
            attrs["pads"] = [0] * len(window.pads)
        edit.replace(conv, "Conv", [source, *conv.inputs[1:]], attrs)
        folded.put(conv, edit)


def _normalise(conv: gs.Node, chain: _Chain, dtype: np.dtype[Any], edit: Editor) -> None:
    """Let `conv` read what one BatchNormalization makes of the source of `chain`."""
    scale, shift = np.empty_like(chain.affine.scale), np.empty_like(chain.affine.shift)
    scale[chain.order], shift[chain.order] = chain.affine.scale, chain.affine.shift
    with np.errstate(all="ignore"):
        mean = -shift / scale
    bias = np.zeros_like(shift)
    if not np.isfinite(mean).all():
        mean, bias = bias, shift
    values = {"scale": scale, "bias": bias, "mean": mean, "variance": np.ones_like(scale)}
    per_channel = {name: held(value, dtype, [len(value)]) for name, value in values.items()}
    name = chain.source.name
    parameters = [edit.constant(f"{name}_{kind}", value) for kind, value in per_channel.items()]
    read = [chain.batched(edit), *parameters]
    edit.set_input(conv, 0, edit.emit("BatchNormalization", read, {"epsilon": 0.0}, hint=f"{name}_normalised"))
    Weights(chain.ordered(require_weights(conv)), None).put(conv, edit)


def _may_fold(node: gs.Node | None) -> bool:
    return arithmetic(node) is not None or (is_op(node, "Gather") and _order(node) is not None)


def _gives_batch(node: gs.Node | None, edit: Editor) -> bool:
    """Whether an Unsqueeze or Reshape only puts an axis of size 1 in front of what such a chain writes."""
    if node is None or not is_op(node, "Unsqueeze", "Reshape") or not _may_fold(producer(node.inputs[0])):
        return False
    if is_op(node, "Unsqueeze"):
        return integers(node, "axes", 1) == [0]
    given, made = edit.static_shape(node.inputs[0]), edit.static_shape(node.outputs[0])
    return given is not None and made == (1, *given)


def _chains(conv: gs.Node, edit: Editor) -> Iterator[_Chain]:
    """Yield what `conv` reads as one step of its source, as two, and so on; raise Refuse where there might be more."""
    weight, group = require_weights(conv), attribute(conv, "group", 1)
    rank, channels = weight.ndim, weight.shape[1] * group
    tensor, order, axis, batching = conv.inputs[0], np.arange(channels), 1, None
    total = Affine(np.ones(channels), np.zeros(channels))
    while (node := producer(tensor)) is not None:
        if batching is None and _gives_batch(node, edit):
            require_read_once(tensor, edit)
            tensor, axis, rank, batching = node.inputs[0], 0, rank - 1, node
            continue
        if not _may_fold(node):
            return
        require_read_once(tensor, edit)
        step = arithmetic(node)
        tensor = node.inputs[0] if step is None else step[0]
        if step is None:
            taken, known = _order(node), edit.shape(tensor)
            along = attribute(node, "axis", 0) in (axis, axis - rank)
            if not along or group != 1 or known is None or len(known) != rank:
                raise Refuse("the Gather before the Conv does not reorder the channels, or the Conv has groups")
            if taken is None or known[axis] != channels or sorted(taken % channels) != list(range(channels)):
                raise Refuse("the Gather before the Conv leaves out channels or repeats them")
            order = (taken % channels)[order]
        else:
            spread = step[1].along(axis, rank, channels)
            if spread is None or not spread.finite:
                raise Refuse(f"the constant of the {node.op} before the Conv is not one finite value per channel")
            wide = step[1].scale.ndim == rank or step[1].scale.size > 1
            known = edit.shape(tensor) if wide else None
            if wide and (known is None or len(known) != rank or (step[1].scale.size > 1 and known[axis] != channels)):
                raise Refuse(f"nothing tells that the input of the {node.op} has {channels} channels already")
            total = Affine(total.scale * spread.scale[order], total.shift + total.scale * spread.shift[order])
        yield _Chain(tensor, total, order, batching)


def _order(gather: gs.Node) -> np.ndarray | None:
    """Return the indices of a Gather that takes some of its input, in one dimension; None if not constant."""
    taken = constant(gather.inputs[1])
    return taken if taken is not None and taken.ndim == 1 and constant(gather.inputs[0]) is None else None
