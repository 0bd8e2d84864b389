"""Small one-stage detectors of known structure that answer to bright squares, made of numpy, the same every time.

Each finds a square of 32 pixels whose red, green or blue is bright (class 0, 1, 2) and whose centre is that of a cell
of stride 8. The three colours go through all layers, in known channels, as 2x2 means; what the other channels hold is
of random weights, and reaches every output, so that no layer is idle. Boxes are as large as a square by the bias of the
last layer; scores follow from a mean over 3x3 cells, which is 1 in the middle and 5/6 one cell off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
HEIGHT, WIDTH = 96, 128
CLASSES, SIDE = 3, 32
STRIDES = (8, 16, 32)
NAMES = ("red", "green", "blue")
_BRIGHT = 6.0  # what a bright colour is inside: SiLU hardly changes it
_LIKELY, _STEEP = 0.9, 24.0  # score 1/2 at this share of the colour's brightness; slope of the logit over that share


class Net:
    """A graph that grows node by node; a tensor is known by its name, and by how many channels it has."""

    def __init__(self, seed: int = 0, act: str = "SiLU") -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.channels = {"images": 3}
        self.act_kind = act

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, outputs: int = 1, hint: str = "", channels: int = 0, **own: Any) -> Any:
        """Add a node; return the name of its output, or of all of them."""
        number = len(self.nodes)
        names = [hint or f"/{number}/{kind}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"/{number}/{kind}", **own))
        self.channels.update(dict.fromkeys(names, channels or self.channels.get(inputs[0], 0)))
        return names[0] if outputs == 1 else names

    def layer(self, x: str, weight: Array, bias: Sequence[float] | Array, stride: int = 1, **attributes: Any) -> str:
        kernel = weight.shape[-1]
        attributes.setdefault("pads", [kernel // 2] * 4)
        names = self.constant(weight), self.constant(bias)
        sizes = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "channels": len(weight)}
        return str(self.op("Conv", x, *names, **(sizes | attributes)))

    def act(self, x: str) -> str:
        if self.act_kind != "SiLU":
            return str(self.op(self.act_kind, x))
        return str(self.op("Mul", x, self.op("Sigmoid", x)))

    def conv(
        self, x: str, out: int, kernel: int = 1, stride: int = 1, colour: int | None = 0, mean: bool = False
    ) -> str:
        """A layer and its activation; colours lie in channels `colour` to `colour` + 2 of its input, then in the first.

        A stride takes the mean of 2x2, `mean` that of 3x3. None: there are no colours.
        """
        wide = self.channels[x]
        weight = self.random.normal(0, 1 / (kernel * np.sqrt(wide)), (out, wide, kernel, kernel))
        bias = self.random.normal(0, 0.1, out)
        if colour is not None:
            weight[:, colour : colour + 3] *= 0.2
            weight[:3], bias[:3] = 0, 0
            weight[range(3), range(colour, colour + 3)] = _kernel(kernel, stride, mean)
        return self.act(self.layer(x, weight.astype(np.float32), bias.astype(np.float32), stride))

    def concat(self, *tensors: str, axis: int = 1, **own: Any) -> str:
        return str(self.op("Concat", *tensors, axis=axis, channels=sum(self.channels[each] for each in tensors), **own))

    def up(self, x: str) -> str:
        """Twice as large, as PyTorch exports it."""
        way = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return str(self.op("Resize", x, "", self.constant([1, 1, 2, 2]), **way))

    def bottleneck(self, x: str, colour: int | None = None) -> str:
        wide = self.channels[x]
        return str(self.op("Add", x, self.conv(self.conv(x, wide, 3, colour=colour), wide, 3, colour=colour)))

    def c2f(self, x: str, out: int, colour: int = 0) -> str:
        """YOLOv8's block: split, a bottleneck on one half, all joined."""
        wide = self.conv(x, out, colour=colour)
        halves = self.op("Split", wide, self.ints(out // 2, out - out // 2), outputs=2, axis=1, channels=out // 2)
        return self.conv(self.concat(*halves, self.bottleneck(halves[1])), out)

    def csp(self, x: str, out: int, colour: int = 0) -> str:
        """YOLOX's block: two layers side by side, a bottleneck on one, both joined."""
        short, main = self.conv(x, out // 2, colour=colour), self.bottleneck(self.conv(x, out // 2, colour=None))
        return self.conv(self.concat(short, main), out)

    def sppf(self, x: str) -> str:
        """Three pools of 5x5 one behind the other, joined."""
        levels = [self.conv(x, self.channels[x] // 2)]
        for _ in range(3):
            levels.append(self.op("MaxPool", levels[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
        return self.conv(self.concat(*levels), self.channels[x])

    def pan(self, p3: str, p4: str, p5: str, block: Callable[[str, int, int], str]) -> list[str]:
        """Down from the coarsest level and up again; colours come from the finer side."""

        def joined(first: str, second: str) -> str:
            return block(self.concat(first, second), self.channels[second], self.channels[first])

        n4 = joined(self.up(p5), p4)
        n3 = joined(self.up(n4), p3)
        n4 = joined(self.conv(n3, self.channels[n3], 3, 2), n4)
        return [n3, n4, joined(self.conv(n4, self.channels[n4], 3, 2), p5)]

    def scores(self, x: str, anchors: int = 1) -> str:
        """Logits of three classes for each cell, and of so many anchors, of which but the first find nothing."""
        weight = self.random.normal(0, 0.02, (anchors * CLASSES, self.channels[x], 1, 1)).astype(np.float32)
        bias = np.full(anchors * CLASSES, -_STEEP * _LIKELY / 2, np.float32)
        weight[:CLASSES, :3, 0, 0] += np.eye(3) * _STEEP / _BRIGHT
        bias[:CLASSES] = -_STEEP * _LIKELY
        return self.layer(x, weight, bias)

    def answer(self, x: str, bias: Sequence[float], spread: float = 0.01) -> str:
        """Return what is `bias` but for a bit of everything that goes on."""
        weight = self.random.normal(0, spread, (len(bias), self.channels[x], 1, 1)).astype(np.float32)
        return self.layer(x, weight, np.asarray(bias, np.float32))

    def model(self, outputs: dict[str, Sequence[int]], height: int = HEIGHT, width: int = WIDTH) -> ModelProto:
        given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])]
        found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "detector", given, found, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made, full_check=True)
        return made


def _kernel(size: int, stride: int, mean: bool) -> Array:
    """The middle alone, the 2x2 that one of stride 2 stands for, or the mean of all."""
    kernel = np.zeros((size, size), np.float32)
    if mean:
        kernel[:] = 1 / size**2
    elif stride == 2:
        kernel[1:3, 1:3] = 1 / 4
    else:
        kernel[size // 2, size // 2] = 1
    return kernel


def cells(strides: Sequence[int] = STRIDES, height: int = HEIGHT, width: int = WIDTH) -> Array:
    """Centre and stride of each cell in pixels, [N, 3]."""
    rows = []
    for stride in strides:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)] + 0.5
        rows.append(np.stack([x * stride, y * stride, np.full(x.shape, stride)], -1).reshape(-1, 3))
    return np.concatenate(rows).astype(np.float32)


def _yolo(net: Net) -> list[str]:
    """Backbone and PAN of YOLOv8, 3 to 16 channels wide."""
    stem = net.act(net.layer("images", _first_layer(8, 3, range(3), 1.0), np.zeros(8), 2))
    p3 = net.c2f(net.conv(net.c2f(net.conv(stem, 8, 3, 2), 8), 12, 3, 2), 12)
    p4 = net.c2f(net.conv(p3, 16, 3, 2), 16)
    p5 = net.sppf(net.c2f(net.conv(p4, 16, 3, 2), 16))
    return net.pan(p3, p4, p5, net.c2f)


def _first_layer(out: int, kernel: int, colours: Sequence[int], scale: float) -> Array:
    """A layer that makes colours as bright as they are inside, out of pixels up to `scale`."""
    weight = np.random.default_rng(9).normal(0, 0.3 / scale, (out, 3, kernel, kernel)).astype(np.float32)
    weight[:3] = 0
    weight[range(3), list(colours)] = _kernel(kernel, 2, False) * _BRIGHT / scale
    return weight


def _heads(net: Net, levels: Sequence[str], bins: int, more: int = 0) -> tuple[str, str, str]:
    """YOLOv8's heads over all levels: sides [1, 4 * bins, N], logits [1, 3, N], and `more` columns."""
    reach, rows, coefficients = SIDE / 2 / STRIDES[0], [], []
    peak = [8.0 * (number == reach) for number in range(bins)] if bins > 1 else [reach]
    for level in levels:
        side = net.conv(net.conv(level, 12, 3), 12, 3)
        score = net.conv(net.conv(level, 12, 3, mean=True), 12, 3)
        both = net.concat(net.answer(side, peak * 4), net.scores(score))
        rows.append(net.op("Reshape", both, net.ints(1, 4 * bins + CLASSES, -1)))
        if more:
            own = net.answer(net.conv(net.conv(level, 8, 3), 8, 3), [4.0, *[0.5] * (more - 1)])
            coefficients.append(net.op("Reshape", own, net.ints(1, more, -1)))
    sizes = net.ints(4 * bins, CLASSES)
    sides, logits = net.op("Split", net.op("Concat", *rows, axis=2), sizes, outputs=2, axis=1)
    return sides, logits, net.op("Concat", *coefficients, axis=2) if more else ""


def _decoded(net: Net, sides: str, bins: int, corners: bool) -> str:
    """Boxes [1, 4, N] in pixels, as ultralytics/utils/tal.py makes them (dist2bbox)."""
    place = cells()
    count = len(place)
    if bins > 1:
        split = net.op("Transpose", net.op("Reshape", sides, net.ints(1, 4, bins, count)), perm=[0, 2, 1, 3])
        weight = np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)
        mean = net.op("Conv", net.op("Softmax", split, axis=1), net.constant(weight))
        sides = net.op("Reshape", mean, net.ints(1, 4, count))
    centre = net.constant((place[:, :2] / place[:, 2:]).T[None])
    low, high = (net.op("Slice", sides, net.ints(at), net.ints(at + 2), net.ints(1)) for at in (0, 2))
    first, last = net.op("Sub", centre, low), net.op("Add", centre, high)
    if not corners:
        middle = net.op("Div", net.op("Add", first, last), net.constant(2))
        first, last = middle, net.op("Sub", last, first)
    return str(net.op("Mul", net.op("Concat", first, last, axis=1), net.constant(place[:, 2][None, None])))


def yolo(bins: int = 16) -> ModelProto:
    """YOLOv8, 11 and 12 as ultralytics exports them: output0 [1, 4 + C, N]."""
    net = Net()
    sides, logits, _ = _heads(net, _yolo(net), bins)
    net.op("Concat", _decoded(net, sides, bins, False), net.op("Sigmoid", logits), axis=1, hint="output0")
    return net.model({"output0": [1, 4 + CLASSES, len(cells())]})


def yolo_seg() -> ModelProto:
    """The same with 32 coefficients behind the classes, and prototypes whose first shows what is bright."""
    net = Net()
    levels = _yolo(net)
    sides, logits, coefficients = _heads(net, levels, 16, 32)
    finer = net.conv(levels[0], 8, 3)
    weight = net.random.normal(0, 0.1, (8, 8, 2, 2)).astype(np.float32)
    weight[range(3), :, :, :] = 0
    weight[range(3), range(3)] = 1
    sizes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    finer = net.op("ConvTranspose", finer, net.constant(weight), net.constant(np.zeros(8)), **sizes)
    last = net.random.normal(0, 0.1, (32, 8, 1, 1)).astype(np.float32)
    last[0, :3] = 1
    bias = [-_BRIGHT / 2, *[0.5] * 31]
    net.op("Identity", net.act(net.layer(net.conv(finer, 8, 3), last, bias)), hint="output1")
    boxes = _decoded(net, sides, 16, False)
    net.op("Concat", boxes, net.op("Sigmoid", logits), coefficients, axis=1, hint="output0")
    return net.model({"output0": [1, 36 + CLASSES, len(cells())], "output1": [1, 32, HEIGHT // 4, WIDTH // 4]})


def yolo_end2end(bins: int = 16, most: int = 60) -> ModelProto:
    """YOLOv10, and with one bin YOLO26: the best by two TopK, output0 [1, most, 6] (ultralytics Detect.postprocess)."""
    net = Net()
    sides, logits, _ = _heads(net, _yolo(net), bins)
    whole = net.op("Concat", _decoded(net, sides, bins, True), net.op("Sigmoid", logits), axis=1)
    table = net.op("Transpose", whole, perm=[0, 2, 1])
    boxes, scores = net.op("Split", table, net.ints(4, CLASSES), outputs=2, axis=2)
    best = net.op("ReduceMax", scores, axes=[2], keepdims=0)
    _, places = net.op("TopK", best, net.ints(most), outputs=2, axis=1)
    column = net.op("Unsqueeze", places, net.ints(2))
    boxes = net.op("GatherElements", boxes, net.op("Tile", column, net.ints(1, 1, 4)), axis=1)
    scores = net.op("GatherElements", scores, net.op("Tile", column, net.ints(1, 1, CLASSES)), axis=1)
    values, index = net.op("TopK", net.op("Flatten", scores, axis=1), net.ints(most), outputs=2, axis=1)
    classes = net.constant(CLASSES, np.int64)
    row = net.op("Unsqueeze", net.op("Div", index, classes), net.ints(2))
    found = net.op("GatherElements", boxes, net.op("Tile", row, net.ints(1, 1, 4)), axis=1)
    label = net.op("Cast", net.op("Mod", index, classes), to=TensorProto.FLOAT)
    columns = [net.op("Unsqueeze", each, net.ints(2)) for each in (values, label)]
    net.op("Concat", found, *columns, axis=2, hint="output0")
    return net.model({"output0": [1, most, 6]})


def yolox() -> ModelProto:
    """YOLOX as tools/export_onnx.py writes it: blue first, up to 255, the grid left to do; output [1, N, 5 + C]."""
    net = Net()
    pieces = []
    for x, y in ((0, 0), (0, 1), (1, 0), (1, 1)):  # as yolox/models/network_blocks.py, Focus
        rows = net.op("Slice", "images", net.ints(y), net.ints(HEIGHT), net.ints(2), net.ints(2))
        pieces.append(net.op("Slice", rows, net.ints(x), net.ints(WIDTH), net.ints(3), net.ints(2)))
    focus = net.concat(*pieces)
    weight = net.random.normal(0, 0.1 / 255, (8, 12, 3, 3)).astype(np.float32)
    weight[:3] = 0
    for first in (0, 3, 6, 9):
        weight[range(3), [first + 2, first + 1, first], 1, 1] = _BRIGHT / 255 / 4
    stem = net.act(net.layer(focus, weight, np.zeros(8)))
    p3 = net.csp(net.conv(net.csp(net.conv(stem, 8, 3, 2), 8), 12, 3, 2), 12)
    p4 = net.csp(net.conv(p3, 16, 3, 2), 16)
    p5 = net.csp(net.sppf(net.conv(p4, 16, 3, 2)), 16)
    rows = []
    for level in net.pan(p3, p4, p5, net.csp):
        level = net.conv(level, 12)
        score, side = net.conv(net.conv(level, 12, 3, mean=True), 12, 3), net.conv(net.conv(level, 12, 3), 12, 3)
        size = float(np.log(SIDE / STRIDES[0]))
        box, sure = net.answer(side, [0.5, 0.5, size, size]), net.answer(side, [3.0])
        joined = [box, net.op("Sigmoid", sure), net.op("Sigmoid", net.scores(score))]
        rows.append(net.op("Reshape", net.concat(*joined), net.ints(1, 5 + CLASSES, -1)))
    net.op("Transpose", net.op("Concat", *rows, axis=2), perm=[0, 2, 1], hint="output")
    return net.model({"output": [1, len(cells()), 5 + CLASSES]})


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def efficientdet(size: int = 128) -> ModelProto:
    """EfficientDet as effdet exports it: class logits [1, 9C, h, w] of five levels, then box deltas [1, 36, h, w]."""
    net = Net()
    weight = _first_layer(8, 3, range(3), 1.0)
    weight = np.roll(weight, (-1, -1), (2, 3)) * STD[:, None, None].astype(np.float32)  # its pads are behind the image
    bias = np.zeros(8)
    bias[:3] = MEAN * _BRIGHT
    x = net.act(net.layer("images", weight, bias, 2, pads=[0, 0, 1, 1]))
    x = _separable(net, _inverted(net, _inverted(net, x, 8, 2), 8, 2), 8)
    levels = [x]
    for _ in range(2):
        levels.append(_inverted(net, levels[-1], 8, 2))
    for _ in range(2):
        levels.append(net.op("MaxPool", levels[-1], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]))
    for _ in range(2):
        levels = _bifpn(net, levels)
    score_layers, box_layers = [net.random.bit_generator.state for _ in range(2)]
    scores, boxes = [], []
    for level in levels:  # the weights of a head are those of every level
        net.random.bit_generator.state = score_layers
        scores.append(net.scores(_separable(net, _separable(net, level, 8, mean=True), 8), 9))
        net.random.bit_generator.state = box_layers
        boxes.append(net.answer(_separable(net, level, 8), [0.0] * 36, 0.002))
    names: dict[str, Sequence[int]] = {}
    for kind, tensors, channels in (("class", scores, 9 * CLASSES), ("box", boxes, 36)):
        for number, tensor in enumerate(tensors):
            edge = size // (8 << number)
            net.op("Identity", tensor, hint=f"{kind}_{number}")
            names[f"{kind}_{number}"] = [1, channels, edge, edge]
    return net.model(names, size, size)


def _depthwise(net: Net, x: str, stride: int = 1, mean: bool = False) -> str:
    wide = net.channels[x]
    weight = net.random.normal(0, 0.3, (wide, 1, 3, 3)).astype(np.float32)
    weight[:3, 0] = _kernel(3, stride, mean)
    return net.layer(x, weight, np.zeros(wide), stride, group=wide)


def _separable(net: Net, x: str, out: int, mean: bool = False) -> str:
    return net.conv(_depthwise(net, x, mean=mean), out)


def _inverted(net: Net, x: str, out: int, stride: int) -> str:
    """MBConv: wider, a layer for each channel, squeeze and excitation, narrower."""
    wide = net.act(_depthwise(net, net.conv(x, 2 * net.channels[x]), stride))
    squeezed = net.conv(net.op("GlobalAveragePool", wide), 4, colour=None)
    opened = net.answer(squeezed, [6.0] * net.channels[wide], 0.1)  # a gate that is all but open
    return net.conv(net.op("Mul", wide, net.op("Sigmoid", opened)), out)


def _bifpn(net: Net, levels: Sequence[str]) -> list[str]:
    """Down and up over all levels, each a sum of weighted ones of which its own weighs most."""

    def fused(own: str, *others: str) -> str:
        shares = [1 - 0.04 * len(others), *[0.04] * len(others)]
        parts = [net.op("Mul", each, net.constant(share)) for each, share in zip((own, *others), shares, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = net.op("Add", total, part)
        return _separable(net, net.act(total), net.channels[own])

    down = [levels[-1]]
    for level in reversed(levels[:-1]):
        down.insert(0, fused(level, net.up(down[0])))
    up = [down[0]]
    for number in range(1, len(levels)):
        finer = net.op("MaxPool", up[-1], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
        up.append(fused(levels[number], *([down[number]] if number < len(levels) - 1 else []), finer))
    return up


def squares(places: Sequence[tuple[int, int, int]], height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """An image with a bright square for each (class, row, column), around that cell of stride 8."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    for label, row, column in places:
        y, x = 8 * row + 4, 8 * column + 4
        pixels[max(0, y - SIDE // 2) : y + SIDE // 2, max(0, x - SIDE // 2) : x + SIDE // 2, label] = 250
    return pixels
