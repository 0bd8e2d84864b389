"""Notes that a pass leaves in the model's metadata_props for the manifest (each is JSON)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

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
CHOICES_NOTE = "graphsurgery.choices"  # {"masks": "labels"}: masks [N,C,h,w], where [N,1,h,w] by the labels were
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
    if key == CHOICES_NOTE:
        return json.dumps({names.get(one, one): names.get(by, by) for one, by in json.loads(value).items()})
    return value if key != JOINS_NOTE else write_note(renamed(read_note(value), names))


def kept_notes(notes: Mapping[str, str], outputs: Collection[str]) -> dict[str, str]:
    """Return what is still true of `notes` when `outputs` are the model's; other metadata stays."""
    kept = dict(notes)
    if MASKS_NOTE in kept and json.loads(kept[MASKS_NOTE]) not in outputs:
        del kept[MASKS_NOTE]  # no masks, nothing to paste
    if CHOICES_NOTE in kept:
        choices = {name: by for name, by in json.loads(kept.pop(CHOICES_NOTE)).items() if name in outputs}
        kept |= {CHOICES_NOTE: json.dumps(choices)} if choices else {}
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


def as_captured(
    model: ModelProto, tensors: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return what `model` computed in the form that its outputs had when they were captured, before passes.

    Integers that a pass widened or narrowed get the type back that they had; a number that it can't hold stays, and so
    does the type then. Of masks [N,C,h,w] for each class, that of the label is taken, [N,1,h,w]. Labels that are not
    among the `tensors` are `beside` them, which needs no more than `choosing` says.
    """
    types: dict[str, list[str]] = _note(model, TYPES_NOTE) or {}
    found = dict(tensors)
    for name, (had, has) in types.items():
        value = found.get(name)
        if value is not None and value.dtype == has and np.array_equal(value.astype(had), value):
            found[name] = value.astype(had)
    for name, by in _choices(model).items():
        masks, labels = found.get(name), found.get(by, (beside or {}).get(by))
        if masks is not None and labels is not None and _may_choose(masks, labels):
            found[name] = masks[np.arange(len(labels)), labels][:, None]
    return found


def gives_as_captured(model: ModelProto) -> bool:
    """Whether `as_captured` leaves what `model` computes as it is."""
    return not _note(model, TYPES_NOTE) and not _choices(model)


def choosing(model: ModelProto) -> list[str]:
    """Return the tensors by which the host chooses among outputs of `model`: labels, as a rule."""
    return list(dict.fromkeys(_choices(model).values()))


def _choices(model: ModelProto) -> dict[str, str]:
    return _note(model, CHOICES_NOTE) or {}


def _may_choose(masks: np.ndarray, labels: np.ndarray) -> bool:
    """Whether there is a mask of each label: else they stay as they are, which the comparison tells."""
    if masks.ndim != 4 or labels.shape != masks.shape[:1] or labels.dtype.kind not in "iu":
        return False
    return bool(((labels >= 0) & (labels < masks.shape[1])).all())


def _note(model: ModelProto, key: str) -> Any:
    return next((json.loads(entry.value) for entry in model.metadata_props if entry.key == key), None)


@dataclass(frozen=True)
class FrozenBatch:
    """The batch that a pass froze: how many rows, and which inputs and outputs have them."""

    size: int
    inputs: list[str]
    outputs: list[str]


def frozen_batch(model: ModelProto) -> FrozenBatch | None:
    """Return the batch that a pass froze; None where none did, or where what was cut off has no rows."""
    note = _note(model, BATCH_NOTE)
    if note is None:
        return None
    inputs = [info.name for info in required_inputs(model.graph)]
    rows = [name for name in inputs if name not in note.get("parameters", ())]
    return FrozenBatch(note["size"], rows, [info.name for info in model.graph.output]) if rows else None
