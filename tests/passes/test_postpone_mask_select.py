from __future__ import annotations

import json

import numpy as np
import pytest
from spellings.detectron2 import exported

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.graph.notes import as_captured, choosing, kept_notes, renamed_note
from graphsurgery.passes.postpone_mask_select import PostponeMaskSelect
from graphsurgery.rewrite import CHOICES_NOTE, apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
INPUTS = "float[N, 4, 2, 3] logits, int64[N] found"
OUTPUTS = "int64[N] labels, float[N, 1, 2, 3] masks"
LABELS = "labels = Abs (found)"
# logits[torch.arange(n), labels] as torch's exporter writes it
FLATTENED = """
    sizes = Shape (logits)
    rows = Gather <axis = 0> (sizes, zero)
    numbers = Range (zero, rows, one)
    classes = Gather <axis = 0> (sizes, one)
    offsets = Mul (numbers, classes)
    places = Add (labels, offsets)
    flat = Flatten <axis = 2> (logits)
    own = Gather <axis = 0> (flat, places)
    chosen = Reshape (own, size)"""
WEIGHTS = "int64 zero = {0}, int64 one = {1}, int64[4] size = {-1, 1, 2, 3}"


def model(nodes: str, outputs: str = OUTPUTS, inputs: str = INPUTS, weights: str = WEIGHTS) -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) {f'<{weights}>' if weights else ''} {{ {nodes} }}"


EVERY = OUTPUTS.replace("float[N, 1", "float[N, 4")


def test_what_stands_behind_is_done_to_all_classes() -> None:
    applied = assert_rewrites(
        PostponeMaskSelect(),
        model(f"{LABELS} {FLATTENED} masks = Sigmoid (chosen)"),
        model(f"{LABELS}  masks = Sigmoid (logits)", EVERY, weights=""),
        outputs_agree=False,
    )
    assert choosing(applied.model.proto) == ["labels"]


def test_what_is_chosen_last_becomes_the_output() -> None:
    before = f"{LABELS}  every = Sigmoid (logits) {FLATTENED.replace('logits', 'every')}"
    assert_rewrites(
        PostponeMaskSelect(),
        model(f"{before.replace('chosen = ', 'masks = ')}"),
        model(f"{LABELS}  masks = Sigmoid (logits)", EVERY, weights=""),
        outputs_agree=False,
    )


def test_rows_that_are_cut_off_are_cut_off_of_all_classes() -> None:
    cut = "many = Shape <end = 1> (labels)  masks = Slice (scores, first, many, first, step)"
    weights = "int64[1] first = {0}, int64[1] step = {1}"
    assert_rewrites(
        PostponeMaskSelect(),
        model(f"{LABELS} {FLATTENED} scores = Sigmoid (chosen)  {cut}", weights=f"{WEIGHTS}, {weights}"),
        model(f"{LABELS}  scores = Sigmoid (logits)  {cut}", EVERY, weights=weights),
        outputs_agree=False,
    )


OTHER_WAYS = {
    "GatherND": """
        sizes = Shape <start = 0, end = 1> (logits)
        rows = Squeeze (sizes)
        numbers = Range (zero, rows, one)
        a = Unsqueeze (numbers, last)
        b = Unsqueeze (labels, last)
        places = Concat <axis = 1> (a, b)
        own = GatherND (logits, places)
        chosen = Unsqueeze (own, last)""",
    "GatherND with a batch": """
        places = Unsqueeze (labels, last)
        own = GatherND <batch_dims = 1> (logits, places)
        chosen = Unsqueeze (own, last)""",
    "GatherElements": """
        places = Reshape (labels, column)
        sizes = Shape (logits)
        batch = Slice (sizes, none, last)
        size = Slice (sizes, two, four)
        wanted = Concat <axis = 0> (batch, last, size)
        wide = Expand (places, wanted)
        chosen = GatherElements <axis = 1> (logits, wide)""",
}
OTHER_WEIGHTS = {
    "GatherND": "int64 zero = {0}, int64 one = {1}, int64[1] last = {1}",
    "GatherND with a batch": "int64[1] last = {1}",
    "GatherElements": "int64[1] none = {0}, int64[1] last = {1}, int64[1] two = {2}, int64[1] four = {4},"
    "int64[4] column = {-1, 1, 1, 1}",
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_to_choose_are_the_same(way: str) -> None:
    assert_rewrites(
        PostponeMaskSelect(),
        model(f"{LABELS} {OTHER_WAYS[way]} masks = Sigmoid (chosen)", weights=OTHER_WEIGHTS[way]),
        model(f"{LABELS}  masks = Sigmoid (logits)", EVERY, weights=""),
        outputs_agree=False,
    )


@pytest.mark.parametrize("opset", [11, 17])
def test_the_gate_sees_the_masks_that_were_captured(opset: int) -> None:
    before = Model(exported(opset))
    after = apply_pass(PostponeMaskSelect(), before).model
    pixels = {before.inputs[0]: np.random.default_rng(0).uniform(0, 255, (3, 256, 320)).astype(np.float32)}
    expected, got = (session.run(each.proto, pixels) for each in (before, after))
    labels, masks = before.outputs[1:3]
    assert got[masks].shape == (len(got[labels]), 3, 28, 28)
    for name, value in as_captured(after.proto, got).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("known", [True, False])
def test_labels_may_come_from_another_part(known: bool) -> None:
    text = model(f"{LABELS} {FLATTENED} masks = Sigmoid (chosen)")
    after = apply_pass(PostponeMaskSelect(), Model(parse(text))).model.proto
    masks = np.random.default_rng(0).random((2, 4, 2, 3))
    seen = as_captured(after, {"masks": masks}, {"labels": np.array([3, 1])} if known else None)["masks"]
    np.testing.assert_array_equal(seen, masks[[0, 1], [3, 1]][:, None] if known else masks)


@pytest.mark.parametrize("labels", [[0, 4], [0, -1], [0], [0.0, 1.0]])
def test_masks_stay_as_they_are_where_labels_choose_none(labels: list[float]) -> None:
    text = model(f"{LABELS} {FLATTENED} masks = Sigmoid (chosen)")
    after = apply_pass(PostponeMaskSelect(), Model(parse(text))).model.proto
    masks = np.zeros((2, 4, 2, 3))
    assert as_captured(after, {"masks": masks, "labels": np.array(labels)})["masks"] is masks


def test_the_note_goes_with_names_and_with_the_output() -> None:
    note = json.dumps({"masks": "labels"})
    assert json.loads(renamed_note(CHOICES_NOTE, note, {"labels": "classes"})) == {"masks": "classes"}
    assert kept_notes({CHOICES_NOTE: note}, ["masks"]) == {CHOICES_NOTE: note}
    assert kept_notes({CHOICES_NOTE: note}, ["labels"]) == {}


# --- where it does not fire

DONE = "masks = Sigmoid (chosen)"


def test_leaves_masks_that_an_input_chooses_alone() -> None:
    nodes = f"{LABELS} {FLATTENED.replace('labels', 'found')} {DONE}"
    reason = "is chosen by 'found' (int64 ['N']), which is no output of labels [N]"
    assert_untouched(PostponeMaskSelect(), model(nodes), reason)


def test_leaves_masks_that_two_outputs_choose_alone() -> None:
    both = FLATTENED.replace("places = Add (labels", "both = Add (labels, other)  places = Add (both")
    nodes = f"{LABELS}  other = Neg (found) {both} {DONE}"
    assert_untouched(PostponeMaskSelect(), model(nodes, f"{OUTPUTS}, int64[N] other"), "; one output, the labels")


def test_leaves_masks_that_are_chosen_twice_alone() -> None:
    nodes = f"{LABELS} {FLATTENED}  again = Gather <axis = 0> (chosen, labels)  masks = Sigmoid (again)"
    assert_untouched(PostponeMaskSelect(), model(nodes), "is chosen by more than one tensor")


def test_leaves_labels_that_count_the_background_alone() -> None:
    less = FLATTENED.replace("places = Add (labels", "less = Sub (labels, one)  places = Add (less")
    reason = "does not hold the masks that the labels 'labels' number, from 0 on"
    assert_untouched(PostponeMaskSelect(), model(f"{LABELS} {less} {DONE}"), reason)


def test_leaves_masks_without_an_axis_for_the_class_alone() -> None:
    nodes = f"{LABELS} {FLATTENED} {DONE}".replace("Reshape (own, size)", "Reshape (own, whole)")
    weights = f"{WEIGHTS}, int64[3] whole = {{-1, 2, 3}}"
    outputs = OUTPUTS.replace("[N, 1, 2, 3]", "[N, 2, 3]")
    assert_untouched(PostponeMaskSelect(), model(nodes, outputs, weights=weights), "does not hold the masks")


@pytest.mark.parametrize("done", [DONE, ""])
def test_leaves_masks_that_are_read_in_the_graph_too_alone(done: str) -> None:
    chosen = FLATTENED if done else FLATTENED.replace("chosen = ", "masks = ")
    nodes = f"{LABELS} {chosen} {done}  mean = ReduceMean <keepdims = 0> (masks)"
    assert_untouched(PostponeMaskSelect(), model(nodes, f"{OUTPUTS}, float mean"), "not all that is read of 'masks'")


def test_leaves_masks_before_another_output_alone() -> None:
    nodes = f"{LABELS} {FLATTENED} scores = Sigmoid (chosen)  masks = Cast <to = 1> (scores)"
    outputs = f"{OUTPUTS}, float[N, 1, 2, 3] scores"
    assert_untouched(PostponeMaskSelect(), model(nodes, outputs), "not all that is read of 'scores'")


@pytest.mark.parametrize("nodes", ["y = Sigmoid (logits)", "y = Gather <axis = 1> (logits, one)"])
def test_says_nothing_of_outputs_that_nothing_chooses(nodes: str) -> None:
    shape = "N, 2, 3" if "Gather" in nodes else "N, 4, 2, 3"
    assert_untouched(PostponeMaskSelect(), model(nodes, f"float[{shape}] y", weights=WEIGHTS), None)


def test_says_nothing_of_chosen_rows_that_have_no_classes() -> None:
    nodes = f"{LABELS}  boxes = Gather <axis = 0> (table, labels)"
    text = model(nodes, "int64[N] labels, float[N, 4] boxes", "float[M, 4] table, int64[N] found", "")
    assert_untouched(PostponeMaskSelect(), text, None)
