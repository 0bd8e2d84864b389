"""Computes the convolutions of a head with a third of the products, for a processor that multiplies many boxes at once.

    x [N, C, H, W] -> Conv 3x3 -> y [N, K, H, W]
    x -> Transpose -> MatMul by B -> MatMul by U [6, 6, C, K] -> MatMul by A -> Transpose -> y

An output of 4 x 4 pixels takes 6 x 6 products instead of 9 x 16 (Winograd's F(4 x 4, 3 x 3): Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2015). B takes tiles of 6 x 6 into where a convolution is a product of
each element, U are the weights there, and A takes 4 x 4 pixels back. Pads stand in B, and ONNX Runtime drops the pairs
of Transposes between two such layers. What comes out differs from the Conv by up to 4e-6 of the largest value.

It does not fire when
1. the kernel is not 3 x 3 over every pixel with one pixel of padding, or has groups
2. the weights or the bias are not constant, or not float32
3. it has fewer than 128 channels, in or out: to get there and back then takes as long as what is saved
4. the batch is not open: for few images the weights are most of what is read. Below five boxes the heads of Mask R-CNN
   take up to 7 ms longer, of a thousand they take half as long
5. height or width is not known, or above 32: B and A have a row for each pixel
6. the operator set is before 7, where Add doesn't broadcast
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs
from numpy.polynomial import polynomial
from onnx import ModelProto

from graphsurgery.graph import attribute
from graphsurgery.graph.model import Model
from graphsurgery.operators.channels import require_bias, require_weights
from graphsurgery.operators.windows import Window, window_of
from graphsurgery.rewrite import Editor, NodePass, Refuse, apply_passes

_FEWEST_CHANNELS = 128
_LARGEST = 32
_LAYER = Window(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), begins=(1, 1), ends=(1, 1))
_WRITTEN, _READ = 4, 6  # pixels of a tile, along an axis
# Where two polynomials are multiplied, infinity besides. Of the sets tried these give the smallest errors: 1.5e-5 at
# most for 256 channels of normal values, where 0, 1, -1, 2, -2 give 3.4e-5.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)


def with_fewer_products(model: ModelProto) -> ModelProto:
    """Return `model` with its convolutions over an open batch in that form."""
    return apply_passes([Winograd()], Model(model)).model.proto


@dataclass(frozen=True)
class Winograd(NodePass):
    """Not for recipes: it makes a model faster on this processor, not one that an accelerator takes."""

    name = "winograd"
    effect = "approximate"
    matches = ("Conv",)

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        weight, bias = require_weights(node), require_bias(node)
        if weight.dtype != np.float32:
            raise Refuse(f"its weights are {weight.dtype.name}")
        if attribute(node, "group", 1) != 1 or window_of(node, edit) != _LAYER:
            raise Refuse("it is not 3 x 3 over every pixel with one pixel of padding")
        filters, channels = weight.shape[:2]
        if min(filters, channels) < _FEWEST_CHANNELS:
            raise Refuse(f"it has {channels} channels and {filters} filters, below {_FEWEST_CHANNELS}")
        if edit.opset < 7:
            raise Refuse(f"Add doesn't broadcast in operator set {edit.opset}")
        rows, _, *area = edit.shape(node.inputs[0]) or [None] * 4
        if isinstance(rows, int):
            raise Refuse("its batch is not open")
        sizes = [size for size in area if isinstance(size, int) and 0 < size <= _LARGEST]
        if len(sizes) != 2:
            raise Refuse(f"its height and width must be known and at most {_LARGEST}, but are {area}")
        down, along = map(_Axis, sizes)
        name = node.outputs[0].name

        def shaped(data: gs.Tensor, sizes: list[int]) -> gs.Tensor:
            return edit.emit("Reshape", [data, edit.constant(f"{name}_shape", sizes)], hint=f"{name}_shaped")

        def matrix(values: np.ndarray) -> gs.Tensor:
            return edit.constant(f"{name}_matrix", values.astype(np.float32))

        def times(left: gs.Tensor, right: gs.Tensor) -> gs.Tensor:
            return edit.emit("MatMul", [left, right], hint=f"{name}_product")

        pixels = edit.emit("Transpose", [node.inputs[0]], {"perm": [2, 3, 0, 1]}, hint=f"{name}_pixels")
        tall = times(matrix(down.into), shaped(pixels, [down.size, -1]))
        tiles = times(matrix(along.into), shaped(tall, [down.read, along.size, -1]))
        by_point = shaped(tiles, [_READ, down.tiles, _READ, -1, channels])
        products = times(by_point, matrix(_of_weights(weight)[:, None]))
        tall = times(matrix(along.back), shaped(products, [down.read, along.read, -1]))
        pixels = shaped(times(matrix(down.back), shaped(tall, [down.read, -1])), [down.size, along.size, -1, filters])
        if bias is not None:
            pixels = edit.emit("Add", [pixels, node.inputs[2]], hint=f"{name}_biased")
        edit.replace(node, "Transpose", [pixels], {"perm": [2, 3, 0, 1]})


@dataclass(frozen=True)
class _Axis:
    """An axis of `size` pixels, cut into tiles that overlap by two; the points come before the tiles, [6 x tiles]."""

    size: int

    @property
    def tiles(self) -> int:
        return -(-self.size // _WRITTEN)

    @property
    def read(self) -> int:
        return _READ * self.tiles

    @cached_property
    def into(self) -> np.ndarray:
        """[6 x tiles, size]; what lies outside, the pads, has no column."""
        found = np.zeros((_READ, self.tiles, self.size))
        for tile in range(self.tiles):
            for place in range(_READ):
                pixel = _WRITTEN * tile + place - 1
                if 0 <= pixel < self.size:
                    found[:, tile, pixel] = _FORMS.of_data[:, place]
        return found.reshape(self.read, self.size)

    @cached_property
    def back(self) -> np.ndarray:
        """[size, 6 x tiles]"""
        found = np.zeros((self.size, _READ, self.tiles))
        for pixel in range(self.size):
            tile, place = divmod(pixel, _WRITTEN)
            found[pixel, :, tile] = _FORMS.of_products[place]
        return found.reshape(self.size, self.read)


@dataclass(frozen=True)
class _Forms:
    """What takes 6 pixels, 3 weights and 6 products to and from the points, along one axis."""

    of_data: np.ndarray  # [6, 6]
    of_weights: np.ndarray  # [6, 3]
    of_products: np.ndarray  # [4, 6]


def _forms() -> _Forms:
    """Return them for _POINTS and infinity, by Toom and Cook's theorem as Lavin and Gray transpose it."""
    data, weights, products = (np.zeros(shape) for shape in ((_READ, _READ), (_READ, 3), (_WRITTEN, _READ)))
    for row, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        data[row, :-1] = polynomial.polyfromroots(others)
        weights[row] = point ** np.arange(3) / np.prod(point - np.array(others))
        products[:, row] = point ** np.arange(_WRITTEN)
    data[-1] = polynomial.polyfromroots(_POINTS)
    weights[-1, -1] = products[-1, -1] = 1
    return _Forms(data, weights, products)


_FORMS = _forms()


def _of_weights(weight: np.ndarray) -> np.ndarray:
    """Return the weights [K, C, 3, 3] at the points, [6, 6, C, K]."""
    form = _FORMS.of_weights
    return np.asarray(np.einsum("pi,kcij,qj->pqck", form, weight.astype(np.float64), form, optimize=True))
