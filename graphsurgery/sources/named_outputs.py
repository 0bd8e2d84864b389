"""Outputs by names that a recipe gives them: exporters make names up, and another version makes up others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onnx import ModelProto

from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.graph.renaming import rename_tensors
from graphsurgery.text import shortened


def with_named_outputs(model: ModelProto, names: Sequence[str], place: str) -> ModelProto:
    """Return `model` with its outputs called `names`; another tensor that is called so makes way.

    Raises InputError for another number of names, for one that is there twice, and for the name of an input. `place`
    is the file.
    """
    has = [value.name for value in model.graph.output]
    if len(names) != len(has):
        seen = shortened(", ".join(has), 160)
        raise InputError(f"source.outputs: gives {len(names)} names, and {place} has {len(has)} outputs: {seen}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    taken = [value.name for value in model.graph.input if value.name in set(names) - set(has)]
    if twice or taken or "" in names:
        wrong = f"'{twice[0]}' is there twice" if twice else f"'{taken[0]}' is an input" if taken else "one is empty"
        raise InputError(f"source.outputs: {wrong}; give each output of {place} a name of its own")
    changed = {old: new for old, new in zip(has, names, strict=True) if old != new}
    return rename_tensors(Model(model), changed).proto
