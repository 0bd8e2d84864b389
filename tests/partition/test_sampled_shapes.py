"""Sizes of cut tensors that only the captured samples tell."""

from __future__ import annotations

from graphsurgery.partition.sampled_shapes import explain, fill_from_samples
from graphsurgery.partition.static import dynamic_values
from graphsurgery.parts.describe import describe_part
from partition.cutting import cut_of, parts_of

# An exporter computes the shape that what is pooled is scattered into, here from the image itself
POOLED = """
g (float[1, 4, 8, 8] image, float[n, 4] boxes, int64[4] sizes) => (float[m, 4] y) {
    zero = Constant <value = int64[1] {0}> ()
    features = Conv <kernel_shape = [1, 1]> (image, w0)
    count = Shape (boxes)
    first = Gather <axis = 0> (count, zero)
    nothing = ConstantOfShape (first)
    index = Cast <to = 7> (nothing)
    pooled = RoiAlign <output_height = 2, output_width = 2, spatial_scale = 1.0> (features, boxes, index)
    shaped = Reshape (pooled, sizes)
    flat = Flatten (shaped)
    y = MatMul (flat, w1)
}"""
WEIGHTS = {"w0": [4, 4, 1, 1], "w1": [16, 4]}


def test_what_all_samples_have_is_filled_in_but_never_the_first_axis_and_noted_in_both_parts() -> None:
    cut = cut_of(POOLED, weights=WEIGHTS)
    (shaped,) = [tensor for tensor in cut.crossing() if tensor.name == "shaped"]
    fill_from_samples(cut, {each.name: [(7, 4, 2, 2), (7, 4, 2, 2)] for each in cut.crossing()})
    assert list(shaped.shape)[1:] == [4, 2, 2]
    assert not isinstance(shaped.shape[0], int)
    entries = [describe_part(part) for part in parts_of(cut)]
    assert [entry.sampled for entry in entries] == [{}, {"shaped": [1, 2, 3]}, {"shaped": [1, 2, 3]}]
    head = parts_of(cut)[2].model
    assert [name for name, _ in dynamic_values(head)] == ["shaped", "flat", "y"]  # by their rows alone
    said = explain(entries[2].sampled, {"shaped": entries[2].inputs["shaped"].shape}, 2)
    assert said == ["shaped: [?, 4, 2, 2] is what all 2 samples have; nothing in the graph tells"]


def test_a_size_in_which_samples_differ_stays_open() -> None:
    cut = cut_of(POOLED, weights=WEIGHTS)
    fill_from_samples(cut, {each.name: [(7, 4, 2, 2), (7, 4, 3, 2)] for each in cut.crossing()})
    assert cut.sampled == {"shaped": [1, 3]}


def test_what_the_graph_tells_and_what_no_accelerator_reads_are_left_alone() -> None:
    cut = cut_of(POOLED, weights=WEIGHTS)
    fill_from_samples(cut, {each.name: [(7, 4, 2, 2)] for each in cut.crossing()})
    assert list(cut.sampled) == ["shaped"]
    (features,) = [tensor for tensor in cut.crossing() if tensor.name == "features"]
    assert list(features.shape) == [1, 4, 8, 8]
