"""Split the pads of a MaxPool off into a Pad, where no element is below zero and zero does for the smallest number.

    Relu -> h -> MaxPool(pads p) -> y   ->   Relu -> h -> Pad(zeros, p) -> MaxPool(pads 0) -> y

A MaxPool reads nothing outside its input, as if -Inf stood there. A converter that has no such pool (onnx2tf, since
TFLite pads by SAME alone) writes a Pad with the smallest number of float32, and a quantizer gives the tensor behind
that Pad a scale on which all else is zero: the features of a ResNet kept -3 to 3 dB in int8, and 31 to 34 dB behind
this pass. Vela 5.2.0 also leaves such a Pad to the CPU, and takes one of zeros. `merge-pads` is the way back.

It does not fire when
1. the MaxPool doesn't pad
2. its input may hold negative numbers: what writes it is no Relu, Sigmoid, HardSigmoid, Softmax, or Clip from zero
3. it rounds up (ceil_mode) or dilates: a window may read nothing but padding
4. the indices of the maxima are read too: they count the padding
5. auto_pad depends on a size that is not known, or its attributes contradict each other
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute
from graphsurgery.operators.requirements import require_unread
from graphsurgery.operators.signs import is_never_negative
from graphsurgery.operators.slices import Link, chain, padding
from graphsurgery.operators.windows import window_of
from graphsurgery.rewrite import Editor, NodePass, Refuse


class SplitMaxpoolPads(NodePass):
    name = "split-maxpool-pads"
    effect = "exact"
    matches = ("MaxPool",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        own = window_of(node, edit)
        if own is None:
            raise Refuse("its attributes contradict each other, or its auto_pad depends on a size that is not known")
        if not own.padded:
            return
        if min(own.pads) < 0 or any(pad >= size for pad, size in zip(own.pads, own.kernel * 2, strict=True)):
            raise Refuse("its attributes contradict each other, or it pads by a window or more")
        if attribute(node, "ceil_mode", 0) or any(size != 1 for size in own.dilations):
            raise Refuse("it rounds up or dilates")
        require_unread(node, edit, "the indices of the maxima are")
        if not is_never_negative(node.inputs[0]):
            raise Refuse("its input may hold negative numbers, among which a zero would be the maximum")
        pads = [0, 0, *own.begins, 0, 0, *own.ends]
        attrs = {name: value for name, value in node.attrs.items() if name != "auto_pad"}
        attrs["pads"] = [0] * len(own.pads)
        links = [padding(edit, node.outputs[0].name, pads), Link("MaxPool", (), attrs)]
        chain(edit, node, node.inputs[0], links)
