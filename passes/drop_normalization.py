"""Let the host normalise the image: what stands between it and the first weights goes out of the graph.

    image [3,H,W] -> Sub(mean) -> Div(std) -> Pad(to a multiple of 32) -> Unsqueeze -> network
    ->  [1,3,H',W'] -> network

This is how detectron2 exports; other ways to write a * x + b per channel, BatchNormalization too, are taken alike. The
tensor through which everything that the first weighted nodes (Conv, ConvTranspose, Gemm, MatMul) take from the image
flows becomes the input, with the name that it has. That it is what the note says is proven by running the graph up to
it on images in 0..1 and in 0..255. Mean, standard deviation, and the zeros that the graph put below the image and to
its right go into the model's metadata, from there into the manifest, and the runtime does them, behind what the
recipe's `image:` says. Shapes of what stood before are constants.

`fold-normalization` lets the weights do it instead, where they can. For torchvision's detectors `drop-preprocessing`
takes the other end out as well. What a Conv that has no pads is given by a Pad belongs to the network.

It does not fire when
1. there is not one float32 input of rank 3 or 4, or no weighted node reads it
2. the image feeds the network as it is, or nothing before the network only normalises

A run ends with an error when
3. the size of the image is not fixed
4. the image is resized, padded elsewhere or with something else, or changed in another way, before it feeds the network
5. an input that a caller may set decides about the normalisation
6. something else reads the image, or it is an output, behind its normalisation
7. the recipe's `image:` normalises already, or has another layout or type: the manifest can't say both
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.operators.image_normalization import drop_normalization
from graphsurgery.rewrite import Editor, GraphPass


class DropNormalization(GraphPass):
    name = "drop-normalization"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graphs.drop_unused(graph)
        graphs.sort(graph)
        drop_normalization(graph, edit, may_pad=True)
