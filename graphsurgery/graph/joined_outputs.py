"""Outputs that a model gives in pieces: a pass took them apart, and a note in the model says how they are joined.

    boxes [1, 4, N], scores [1, C, N]   joined along axis 1   ->   output [1, 4 + C, N]

A quantizer gives every piece a scale of its own; the host joins them, which costs nothing there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from pydantic import TypeAdapter, ValidationError

from graphsurgery import files
from graphsurgery.errors import InputError, ModelError

JOINS_NOTE = "graphsurgery.joins"  # a list of JoinedOutput, in the order in which they are joined

Shape = Sequence[int | str | None] | None  # None or a name for what isn't known
_Array = npt.NDArray[Any]
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class JoinedOutput:
    """The output `name`: `tensors` joined along `axis` and, with `perm`, transposed by it behind that.

    A tensor is an output of the model, or one that is joined before. Raises ValueError for what can't be joined so.
    """

    __pydantic_config__ = {"extra": "forbid"}

    name: str
    tensors: tuple[str, ...]
    axis: int
    perm: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.tensors) < 2 or len(set(self.tensors)) < len(self.tensors) or "" in (self.name, *self.tensors):
            raise ValueError(f"'{self.name}' needs two or more tensors that have names, each another")
        if self.perm is not None and sorted(self.perm) != list(range(len(self.perm))):
            raise ValueError(f"'{self.name}': perm {list(self.perm)} is no order of dimensions")
        if not 0 <= self.axis < (8 if self.perm is None else len(self.perm)):
            raise ValueError(f"'{self.name}': there is no axis {self.axis} to join along")

    def of(self, tensors: Mapping[str, _Array]) -> _Array:
        """Return the output. Raises InputError where the shapes of its pieces don't fit."""
        pieces = [tensors[name] for name in self.tensors]
        try:
            whole: _Array = np.concatenate(pieces, self.axis)
            return whole if self.perm is None else whole.transpose(self.perm)
        except ValueError as error:
            seen = ", ".join(f"{name} {list(tensors[name].shape)}" for name in self.tensors)
            raise InputError(f"output '{self.name}': {seen} can't be joined along axis {self.axis}") from error

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Return the shape of the output as far as those of its pieces are known; None where the rank is not."""
        known = [shape for name in self.tensors if (shape := shapes[name]) is not None]
        rank = len(known[0]) if known else 0
        if self.axis >= rank or any(len(shape) != rank for shape in known) or len(self.perm or known[0]) != rank:
            return None
        sizes = [shape[self.axis] for shape in known]
        numbers = [size for size in sizes if isinstance(size, int)]
        whole = list(known[0])
        whole[self.axis] = sum(numbers) if len(numbers) == len(self.tensors) else None
        return whole if self.perm is None else [whole[place] for place in self.perm]


_NOTE = TypeAdapter(tuple[JoinedOutput, ...])


def joins_of(model: ModelProto) -> tuple[JoinedOutput, ...]:
    """Return how outputs of `model` are joined: all of it, or for a part what it gives all pieces of.

    Raises ModelError for a note that no pass leaves.
    """
    note = next((entry.value for entry in model.metadata_props if entry.key == JOINS_NOTE), None)
    return () if note is None else with_all_pieces(read_note(note), (info.name for info in model.graph.output))


def read_note(value: str) -> tuple[JoinedOutput, ...]:
    """Return what the note says. Raises ModelError for a note that no pass leaves."""
    try:
        return _NOTE.validate_json(value)
    except ValidationError as error:
        raise ModelError(f"{JOINS_NOTE} in the model's metadata: {files.first_fault(error)}; drop it") from error


def write_note(joins: Iterable[JoinedOutput]) -> str:
    """Return the note that says so."""
    return json.dumps([asdict(join) for join in joins])


def with_all_pieces(joins: Iterable[JoinedOutput], outputs: Iterable[str]) -> tuple[JoinedOutput, ...]:
    """Return those of `joins` whose pieces are all among `outputs`, or are joined of these."""
    there, kept = set(outputs), []
    for join in joins:
        if there.issuperset(join.tensors):
            there.add(join.name)
            kept.append(join)
    return tuple(kept)


def renamed(joins: Iterable[JoinedOutput], names: Mapping[str, str]) -> tuple[JoinedOutput, ...]:
    """Return `joins` after tensors were renamed, old name -> new. What is joined is no tensor: it keeps its name."""
    made: set[str] = set()
    changed = []
    for join in joins:
        tensors = tuple(name if name in made else names.get(name, name) for name in join.tensors)
        changed.append(replace(join, tensors=tensors))
        made.add(join.name)
    return tuple(changed)


def joined(outputs: Mapping[str, _Array], joins: Iterable[JoinedOutput]) -> dict[str, _Array]:
    """Return `outputs` with each joined one in the place of its first piece. Raises InputError for unfit shapes."""
    return _in_place(outputs, joins, JoinedOutput.of)


def joined_shapes(shapes: Mapping[str, Shape], joins: Iterable[JoinedOutput]) -> dict[str, Shape]:
    """Return the shapes of the outputs, joined likewise.

    Raises InputError where a piece is no output, or what is joined has the name of another one.
    """
    return _in_place(shapes, joins, JoinedOutput.shape)


def _in_place(
    outputs: Mapping[str, _Value],
    joins: Iterable[JoinedOutput],
    join_pieces: Callable[[JoinedOutput, Mapping[str, _Value]], _Value],
) -> dict[str, _Value]:
    made = dict(outputs)
    for join in joins:
        absent = [name for name in join.tensors if name not in made]
        if absent:
            raise InputError(f"output '{join.name}' is joined of '{absent[0]}', which is no output")
        if join.name in made.keys() - {*join.tensors}:
            raise InputError(f"output '{join.name}' is joined, and another one is called so")
        whole = join_pieces(join, made)
        first, *others = join.tensors
        made = {join.name if name == first else name: value for name, value in made.items() if name not in others}
        made[join.name] = whole
    return made
