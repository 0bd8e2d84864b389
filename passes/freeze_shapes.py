"""Give the model one fixed input size, and turn all arithmetic on shapes into constants.

    x: [N, 3, H, W]                                             x: [1, 3, 480, 640]
    Shape(x) -> Gather -> Floor -> Concat -> Resize.sizes  ->   Constant [1, 8, 240, 320] -> Resize.sizes

An image input is one of float or uint8 elements, either [N, C, H, W] with 1, 3, 4 or an unknown number of channels,
or [C, H, W] with 1, 3 or 4: `batch`, `height` and `width` apply to those. `inputs` gives the whole shape of any
input, `dims` the size of every dimension of that name. A name that one input gets a size for has it in all inputs. In
a recipe an image whose height or width is left open gets that of the canvas, the source's size, and one whose batch is
left open the source's batch, if it has one.
Then shapes are inferred anew in the whole model, If and Loop bodies included; graph outputs keep the names of the
dimensions that can't be told.

It raises PassError when
1. a dimension is fixed already to another size: what was traced with it is baked into the graph; export anew
2. two options give one dimension different sizes
3. `inputs` names no input, or gives it another rank
4. there is no image input, or one with the channels last, for `batch`, `height` or `width` to apply to
5. `strict` is set and something is dynamic still, such as the number of boxes behind a NonMaxSuppression
6. the batch was open, and a Reshape holds another one: it was traced with that
7. in a recipe the batch of an image would be another than the source's, which is 1 where nothing is said

It does not fire when
1. every input is static and the graph asks for no shape
2. an image input without batch dimension is there for `batch`, or a name of `dims` occurs in no input
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.graph import is_op
from graphsurgery.graph.model import Model
from graphsurgery.operators.batch_rows import PROBE
from graphsurgery.operators.static_shapes import (
    dynamic_values,
    fold_shapes,
    free_inputs,
    require_batch_of_source,
    shape_text,
    size_of,
)
from graphsurgery.rewrite import Editor, GraphPass, PassContext

_CHANNELS = (1, 3, 4)
_LISTED = 8


@dataclass(frozen=True)
class _Wish:
    """That dimension `axis` of `tensor` be `size`, because of `option`."""

    tensor: gs.Variable
    axis: int
    size: int
    option: str


@dataclass(frozen=True)
class FreezeShapes(GraphPass):
    """`batch`, `height`, `width`: of images; `inputs`, `dims`: of the rest; `strict`: nothing may stay dynamic."""

    name = "freeze-shapes"
    effect = "exact"

    batch: int | None = None
    height: int | None = None
    width: int | None = None
    inputs: dict[str, list[int]] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        given = {"batch": [self.batch], "height": [self.height], "width": [self.width]}
        given |= {f"inputs.{name}": list(shape) for name, shape in self.inputs.items()}
        given |= {f"dims.{name}": [size] for name, size in self.dims.items()}
        for option, sizes in given.items():
            if any(size is not None and size < 1 for size in sizes):
                raise ValueError(f"{option} must be 1 or more, not {sizes if len(sizes) > 1 else sizes[0]}")

    @classmethod
    def suited(cls, model: Model, context: PassContext) -> FreezeShapes:
        """Return it for one image at a time, or as many as the recipe's source is fed; the source says their size."""
        return cls(batch=context.batch or 1)

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        wishes = [*self._whole_shapes(graph, edit), *self._images(graph, edit), *self._names(graph, edit)]
        wishes += _of_the_source(wishes, graph, edit)
        images = [tensor for tensor in free_inputs(graph) if _is_image(tensor) and len(tensor.shape) == 4]
        open_ = [image for image in images if size_of(image.shape[0]) is None]
        frozen = _grant(wishes, graph, edit)
        batched = [image for image in open_ if size_of(image.shape[0]) is not None]
        for image in batched:
            require_batch_of_source(image.shape[0], f"input '{image.name}' {shape_text(image.shape)}", edit)
        if batched:
            _fold_batched(batched, graph, edit)
        elif frozen or any(is_op(node, "Shape", "Size") for node in graphs.walk_nodes(graph)):
            fold_shapes(edit, frozen)
        elif not self.strict:
            return edit.skip(None, "every input that it is to freeze is static, and no node asks for a shape")
        if self.strict:
            graphs.drop_unused(graph)
            left = dynamic_values(graph)
            if left:
                more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
                raise edit.fail(
                    f"{len(left)} values are dynamic still: {'; '.join(left[:_LISTED])}{more}; "
                    "freeze the inputs they come from, or cut the graph before them"
                )
        for tensor in free_inputs(graph):
            if tensor.shape is None or any(size_of(size) is None for size in tensor.shape):
                shape = "of unknown rank" if tensor.shape is None else shape_text(tensor.shape)
                edit.skip(None, f"input '{tensor.name}' {shape} stays open: no option gives it a size")

    def _whole_shapes(self, graph: gs.Graph, edit: Editor) -> list[_Wish]:
        named = {tensor.name: tensor for tensor in free_inputs(graph)}
        wishes = []
        for name, shape in self.inputs.items():
            tensor = named.get(name)
            if tensor is None:
                raise edit.fail(f"inputs: there is no input '{name}'; the model has {', '.join(named) or 'none'}")
            if tensor.shape is None:
                edit.retype(tensor, shape=[None] * len(shape))
            if len(tensor.shape) != len(shape):
                raise edit.fail(f"inputs: '{name}' is {shape_text(tensor.shape)}, which {shape} does not fit")
            wishes += [_Wish(tensor, axis, size, f"inputs.{name}") for axis, size in enumerate(shape)]
        return wishes

    def _images(self, graph: gs.Graph, edit: Editor) -> list[_Wish]:
        asked = {
            option: size
            for option, size in (("batch", self.batch), ("height", self.height), ("width", self.width))
            if size is not None
        }
        images = [tensor for tensor in free_inputs(graph) if _is_image(tensor)]
        if asked and not images:
            raise edit.fail(
                f"{', '.join(asked)}: no input is an image [N, C, H, W] or [C, H, W]; the model has "
                f"{_interface(graph)}; use the options inputs or dims"
            )
        wishes = []
        for image in images:
            if ("height" in asked or "width" in asked) and _channels_last(image):
                raise edit.fail(
                    f"input '{image.name}' {shape_text(image.shape)} looks as if its channels came last; "
                    "give its whole shape with the option inputs"
                )
            for option, size in asked.items():
                axis = len(image.shape) + {"batch": -4, "height": -2, "width": -1}[option]
                if axis < 0:
                    edit.skip(None, f"input '{image.name}' {shape_text(image.shape)} has no batch dimension")
                else:
                    wishes.append(_Wish(image, axis, size, option))
        return wishes

    def _names(self, graph: gs.Graph, edit: Editor) -> list[_Wish]:
        wishes = []
        for name, size in self.dims.items():
            places = [(t, axis) for t in free_inputs(graph) for axis, have in enumerate(t.shape or []) if have == name]
            if not places:
                edit.skip(None, f"no input has a dimension called '{name}': {_interface(graph)}")
            wishes += [_Wish(tensor, axis, size, f"dims.{name}") for tensor, axis in places]
        return wishes


def _of_the_source(wishes: list[_Wish], graph: gs.Graph, edit: Editor) -> list[_Wish]:
    """Return the wishes that images be as large as the canvas, and as many as the source feeds at once, where that is
    open and nobody wishes another size."""
    if edit.context.canvas is None:
        return []
    places = {(wish.tensor.name, wish.axis) for wish in wishes}
    names = {wish.tensor.shape[wish.axis] for wish in wishes}
    height, width = edit.context.canvas
    known = {-4: (edit.context.batch, "batch"), -2: (height, "size"), -1: (width, "size")}
    found = []
    for image in free_inputs(graph):
        if not _is_image(image) or _channels_last(image):
            continue
        for place, (size, what) in known.items():
            axis = len(image.shape) + place
            if axis < 0 or size is None:
                continue
            have = image.shape[axis]
            wished = (image.name, axis) in places or (isinstance(have, str) and have in names)
            if size_of(have) is None and not wished:
                found.append(_Wish(image, axis, size, f"the source's {what}"))
    return found


def _fold_batched(images: list[gs.Variable], graph: gs.Graph, edit: Editor) -> None:
    """Fold the shapes; raise PassError for a Reshape that does not fit the batch of `images`, which was open.

    One image at a time shows by the sizes of a Reshape that it holds another batch, which is then told whose it is.
    """
    before = Model.of(graph, edit.folder)
    fold_shapes(edit, frozen=True)
    misfit = any(map(_misfits, graphs.walk_nodes(graph)))
    for image in images:
        if misfit or image.shape[0] > 1:
            _refuse_another_batch(image, before, edit)


def _target(node: gs.Node) -> np.ndarray | None:
    """Return the constant shape that a node reshapes to; None where it is no Reshape, or the shape is computed."""
    return graphs.constant(node.inputs[1]) if is_op(node, "Reshape") and len(node.inputs) > 1 else None


def _misfits(node: gs.Node) -> bool:
    """Whether a node is a Reshape to another number of elements than it is given."""
    target = _target(node)
    shape = None if target is None or target.min(initial=1) < 1 else graphs.static_shape(node.inputs[0])
    return target is not None and shape is not None and math.prod(shape) != math.prod(target.tolist())


def _refuse_another_batch(image: gs.Variable, model: Model, edit: Editor) -> None:
    """Raise PassError for a Reshape in `model` that does not fit the batch of `image`, which was open.

    Where a batch goes is told with one that occurs nowhere else.
    """
    probed = Editor(model.graph(), folder=edit.folder)
    for tensor in probed.root.inputs:
        if tensor.name == image.name:
            probed.retype(tensor, shape=[PROBE, *tensor.shape[1:]])
    fold_shapes(probed, frozen=True)
    batch = image.shape[0]
    for node in graphs.walk_nodes(probed.root):
        target = _target(node)
        shape = None if target is None else probed.shape(node.inputs[0])
        if target is None or not target.size or not shape or shape[0] != PROBE:
            continue
        if target[0] == 0 or np.any((target > 0) & (target % PROBE == 0)):
            continue  # it takes the batch over, or is computed from it
        others = [size for size in shape[1:] if isinstance(size, int)]
        known = target.min() > 0 and len(others) == len(shape) - 1
        misfits = known and batch * math.prod(others) != math.prod(target.tolist())
        if misfits or (batch > 1 and 0 < target[0] != batch):
            raise edit.fail(
                f"node '{node.name or node.outputs[0].name}' (Reshape) has the target {target.tolist()}, which fits no "
                f"batch of {batch}: the model was traced with another one; export it with a dynamic batch"
            )


def _grant(wishes: list[_Wish], graph: gs.Graph, edit: Editor) -> bool:
    """Write the sizes into the inputs, and into every dimension of the same name; return whether any changed."""
    wanted: dict[str | tuple[str, int], _Wish] = {}  # by the name of the dimension, or by its place
    for wish in wishes:
        place = f"input '{wish.tensor.name}' {shape_text(wish.tensor.shape)}"
        have = wish.tensor.shape[wish.axis]
        size = size_of(have)
        if size is not None and size != wish.size:
            raise edit.fail(
                f"{wish.option}: dimension {wish.axis} of {place} is fixed to {size}, not {wish.size}; "
                f"export the model with {wish.size} or with a dynamic size there"
            )
        if size is None:
            first = wanted.setdefault(have if isinstance(have, str) else (wish.tensor.name, wish.axis), wish)
            if first.size != wish.size:
                raise edit.fail(
                    f"dimension {wish.axis} of {place} would be {first.size} by {first.option} "
                    f"and {wish.size} by {wish.option}; give it one size"
                )
    for tensor in graph.inputs:
        if tensor.shape is not None:
            places = [have if isinstance(have, str) else (tensor.name, axis) for axis, have in enumerate(tensor.shape)]
            sizes = zip(tensor.shape, places, strict=True)
            edit.retype(tensor, shape=[wanted[place].size if place in wanted else have for have, place in sizes])
    return bool(wanted)


def _is_image(tensor: gs.Variable) -> bool:
    if tensor.dtype is None or tensor.shape is None or not (tensor.dtype.kind == "f" or tensor.dtype == np.uint8):
        return False
    if len(tensor.shape) == 4:
        return size_of(tensor.shape[1]) in (None, *_CHANNELS) or _channels_last(tensor)
    return len(tensor.shape) == 3 and size_of(tensor.shape[0]) in _CHANNELS


def _channels_last(tensor: gs.Variable) -> bool:
    shape = tensor.shape
    return size_of(shape[-1]) in _CHANNELS and size_of(shape[-3]) not in _CHANNELS


def _interface(graph: gs.Graph) -> str:
    inputs = (f"{t.name} {'of unknown rank' if t.shape is None else shape_text(t.shape)}" for t in free_inputs(graph))
    return ", ".join(inputs) or "no inputs"
