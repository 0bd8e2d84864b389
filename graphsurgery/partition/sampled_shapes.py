"""Sizes of the tensors at a cut that nothing in the graph tells, from what the captured samples have.

An old exporter computes the shape of what it pools, and no inference follows that; then all samples say the same, and
an accelerator part must be told. Such a size is a claim, not a fact, so it is taken only

1. behind the first dimension, which counts boxes, and differs from image to image even where the samples agree
2. where all samples have it
3. for a tensor that an accelerator part reads, or one of which not even the number of dimensions is known

and it is noted in the parts that read and write it, for the manifest. An image for which it doesn't hold ends in an
error of ONNX Runtime, which compares shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from graphsurgery.partition.boundaries import Cut

Shape = Sequence[int | str | None] | None


def fill_from_samples(cut: Cut, shapes: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Write the sizes that all samples agree on into open shapes of crossing tensors, and note those in `cut.sampled`.

    `shapes` has for each crossing tensor its shape in each sample.
    """
    read = {id(tensor) for kind, given in zip(cut.accelerator, cut.inputs, strict=True) if kind for tensor in given}
    for tensor in cut.crossing():
        seen = shapes[tensor.name]
        if not seen:  # nothing was run
            continue
        if tensor.shape is None:
            tensor.shape = [f"{tensor.name}_rows", *[None] * (len(seen[0]) - 1)] if seen[0] else []
        elif id(tensor) not in read:
            continue
        if axes := _fill(tensor, seen):
            cut.sampled[tensor.name] = axes


def explain(sampled: Mapping[str, Sequence[int]], shapes: Mapping[str, Shape], count: int) -> list[str]:
    """Say of each tensor which of its sizes nothing but `count` samples tell; `shapes` are those of a part's ends."""
    said = []
    for name, axes in sampled.items():
        sizes = [str(size) if axis in axes else "?" for axis, size in enumerate(shapes[name] or ())]
        samples = f"all {count} samples have" if count != 1 else "the one sample has"
        said.append(f"{name}: [{', '.join(sizes)}] is what {samples}; nothing in the graph tells")
    return said


def _fill(tensor: gs.Tensor, seen: Sequence[Sequence[int]]) -> list[int]:
    filled = []
    shape = list(tensor.shape)
    for axis, sizes in enumerate(zip(*seen, strict=True)):
        if axis and not isinstance(shape[axis], int) and len(set(sizes)) == 1:
            shape[axis] = int(sizes[0])
            filled.append(axis)
    tensor.shape = shape
    return filled
