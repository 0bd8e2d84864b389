"""Outputs in pieces: what joins them, and what becomes of the note that says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.joined_outputs import (
    JOINS_NOTE,
    JoinedOutput,
    joined,
    joined_shapes,
    joins_of,
    read_note,
    write_note,
)
from graphsurgery.graph.notes import MASKS_NOTE, kept_notes, renamed_note
from graphsurgery.testing import parse

BOXES = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
SCORES = np.arange(6, dtype=np.float32).reshape(1, 3, 2) / 10
WHOLE = JoinedOutput("y", ("boxes", "scores"), 1)
# what is joined first is a piece of what is joined behind it
NESTED = (JoinedOutput("boxes", ("centre", "size"), 1), JoinedOutput("y", ("boxes", "scores"), 1, (0, 2, 1)))
PIECES = {"centre": BOXES[:, :2], "other": SCORES, "size": BOXES[:, 2:], "scores": SCORES}
MODEL = "g (float[1, 4] x) => (float[1, 4] boxes, float[1, 4] scores) { boxes = Neg (x)  scores = Abs (x) }"


def test_pieces_are_joined_in_the_place_of_the_first() -> None:
    made = joined({"a": BOXES, "scores": SCORES, "boxes": BOXES, "b": SCORES}, [WHOLE])
    assert list(made) == ["a", "y", "b"]
    np.testing.assert_array_equal(made["y"], np.concatenate([BOXES, SCORES], 1))


def test_what_is_joined_may_be_a_piece_and_be_transposed() -> None:
    made = joined(PIECES, NESTED)
    assert list(made) == ["y", "other"]
    np.testing.assert_array_equal(made["y"], np.concatenate([BOXES, SCORES], 1).transpose(0, 2, 1))


def test_shapes_are_joined_as_far_as_they_are_known() -> None:
    shapes: dict[str, list[int | str | None] | None] = {"boxes": [1, 4, "N"], "scores": [1, 80, "N"]}
    assert joined_shapes(shapes, [WHOLE]) == {"y": [1, 84, "N"]}
    assert joined_shapes(shapes, [JoinedOutput("y", ("boxes", "scores"), 1, (2, 1, 0))]) == {"y": ["N", 84, 1]}
    assert joined_shapes(shapes | {"scores": [1, "C", "N"]}, [WHOLE]) == {"y": [1, None, "N"]}
    assert joined_shapes(shapes | {"scores": None}, [WHOLE]) == {"y": [1, None, "N"]}
    assert joined_shapes(shapes | {"scores": [1, 80]}, [WHOLE]) == {"y": None}
    assert joined_shapes({"boxes": None, "scores": None}, [WHOLE]) == {"y": None}


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(
        InputError, match=r"output 'y': boxes \[1, 4, 2\], scores \[3, 2\] can't be joined along axis 1"
    ):
        joined({"boxes": BOXES, "scores": SCORES[0]}, [WHOLE])
    with pytest.raises(InputError, match="output 'y' is joined of 'scores', which is no output"):
        joined({"boxes": BOXES}, [WHOLE])
    with pytest.raises(InputError, match="output 'y' is joined, and another one is called so"):
        joined({"y": BOXES, "boxes": BOXES, "scores": SCORES}, [WHOLE])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tensors": ["a"]}, "'y' needs two or more tensors"),
        ({"tensors": ["a", "a"]}, "'y' needs two or more tensors that have names, each another"),
        ({"tensors": ["a", ""]}, "'y' needs two or more tensors that have names"),
        ({"axis": -1}, "there is no axis -1"),
        ({"axis": 3, "perm": [0, 2, 1]}, "there is no axis 3"),
        ({"perm": [0, 2, 2]}, r"perm \[0, 2, 2\] is no order"),
        ({"axis": "one"}, r"\[0\].axis: "),
        ({"more": 1}, r"\[0\].more: "),
    ],
)
def test_a_note_that_no_pass_leaves_is_refused(entry: dict[str, object], message: str) -> None:
    note = json.dumps([{"name": "y", "tensors": ["a", "b"], "axis": 1, "perm": None} | entry])
    with pytest.raises(ModelError, match=f"{JOINS_NOTE} in the model's metadata: .*{message}.*; drop it"):
        read_note(note)
    with pytest.raises(ModelError, match="drop it"):
        read_note("no JSON")


def test_the_note_says_what_is_read() -> None:
    assert read_note(write_note(NESTED)) == NESTED


def test_of_a_part_holds_what_it_gives_all_pieces_of() -> None:
    model = parse(f'<ir_version: 8, opset_import: ["": 17]>\n{MODEL}')
    assert joins_of(model) == ()
    model.metadata_props.add(key=JOINS_NOTE, value=write_note([WHOLE, JoinedOutput("z", ("y", "elsewhere"), 0)]))
    assert joins_of(model) == (WHOLE,)


def test_a_note_follows_its_tensors_and_what_is_joined_keeps_its_name() -> None:
    names = {"centre": "middle", "boxes": "never", "scores": "classes", "y": "never"}
    assert read_note(renamed_note(JOINS_NOTE, write_note(NESTED), names)) == (
        JoinedOutput("boxes", ("middle", "size"), 1),
        JoinedOutput("y", ("boxes", "classes"), 1, (0, 2, 1)),
    )


def test_a_note_goes_with_the_outputs_that_it_is_of() -> None:
    notes = {JOINS_NOTE: write_note(NESTED), MASKS_NOTE: '"m"', "author": "me"}
    assert kept_notes(notes, ["centre", "size", "scores", "m"]) == notes
    kept = kept_notes(notes, ["centre", "size"])  # boxes can be joined still, what they are a piece of can't
    assert (read_note(kept.pop(JOINS_NOTE)), kept) == (NESTED[:1], {"author": "me"})
    assert kept_notes(notes, ["size", "scores"]) == {"author": "me"}
