"""Notes that a pass leaves in the model's metadata_props for the manifest (each is JSON)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from graphsurgery.graph.joined_outputs import JOINS_NOTE, read_note, renamed, with_all_pieces, write_note
from graphsurgery.graph.protos import required_inputs

# {"mean": [3 floats], "std": [3 floats]}: now the runtime's job. "margin": [rows, columns] may tell how many zeros it
# puts below and to the right of the canvas behind that.
NORMALISATION_NOTE = "graphsurgery.normalisation"
MASKS_NOTE = "graphsurgery.masks"  # name of the output with mask probabilities, which the runtime pastes now
# {"size": 1000}: all inputs and outputs have that many rows, which the runtime fills up. "parameters" may list inputs
# that have none and are given to each run as they are.
BATCH_NOTE = "graphsurgery.batch"
TYPES_NOTE = "graphsurgery.types"  # {"labels": ["int64", "int32"]}: the type that an output had, and has
# {"features": [1, 2, 3]}: axes of inputs and outputs whose sizes the captured samples tell, all of them, not the graph
SAMPLED_NOTE = "graphsurgery.sampled"
NOTES = "graphsurgery."  # what the keys of all such notes begin with


def renamed_note(key: str, value: str, names: Mapping[str, str]) -> str:
    """Return the value of a note after tensors were renamed, old name -> new."""
    if key == MASKS_NOTE:
        name = json.loads(value)
        return json.dumps(names.get(name, name))
    if key == BATCH_NOTE and "parameters" in (batch := json.loads(value)):
        return json.dumps(batch | {"parameters": [names.get(name, name) for name in batch["parameters"]]})
    if key in (TYPES_NOTE, SAMPLED_NOTE):
        return json.dumps({names.get(name, name): each for name, each in json.loads(value).items()})
    return value if key != JOINS_NOTE else write_note(renamed(read_note(value), names))


def kept_notes(notes: Mapping[str, str], outputs: Collection[str]) -> dict[str, str]:
    """Return what is still true of `notes` when `outputs` are the model's; other metadata stays."""
    kept = dict(notes)
    if MASKS_NOTE in kept and json.loads(kept[MASKS_NOTE]) not in outputs:
        del kept[MASKS_NOTE]  # no masks, nothing to paste
    if JOINS_NOTE in kept:
        joins = read_note(kept.pop(JOINS_NOTE))
        whole = with_all_pieces(joins, outputs)
        kept |= {JOINS_NOTE: notes[JOINS_NOTE] if whole == joins else write_note(whole)} if whole else {}
    return kept


def drop_notes(model: ModelProto) -> None:
    """Take the notes of an earlier run out of a model that is an original now."""
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(NOTES)]
    if len(kept) < len(model.metadata_props):
        del model.metadata_props[:]
        model.metadata_props.extend(kept)


def in_captured_types(model: ModelProto, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what `model` computed with the integers that a pass widened or narrowed in the type that they had.

    A number that this type can't hold stays, and so does the type then.
    """
    types: dict[str, list[str]] = next(
        (json.loads(entry.value) for entry in model.metadata_props if entry.key == TYPES_NOTE), {}
    )
    found = dict(tensors)
    for name, (had, has) in types.items():
        value = found.get(name)
        if value is not None and value.dtype == has and np.array_equal(value.astype(had), value):
            found[name] = value.astype(had)
    return found


@dataclass(frozen=True)
class FrozenBatch:
    """The batch that a pass froze: how many rows, and which inputs and outputs have them."""

    size: int
    inputs: list[str]
    outputs: list[str]


def frozen_batch(model: ModelProto) -> FrozenBatch | None:
    """Return the batch that a pass froze; None where none did, or where what was cut off has no rows."""
    note = next((json.loads(entry.value) for entry in model.metadata_props if entry.key == BATCH_NOTE), None)
    if note is None:
        return None
    inputs = [info.name for info in required_inputs(model.graph)]
    rows = [name for name in inputs if name not in note.get("parameters", ())]
    return FrozenBatch(note["size"], rows, [info.name for info in model.graph.output]) if rows else None
