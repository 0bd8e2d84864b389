"""Which tensors share their rows with detections or proposals, beyond those that `Group` lists.

What a pass makes an output, or what crosses from part to part, may have a name that nobody knows. It is told by the
captured samples: a tensor that has as many rows as there are boxes on every sample belongs to them. A graph that a pass
has changed has no say in it, so a wrong one can't choose a pairing that suits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.row_groups import Group
from graphsurgery.gate.matched_rows import align

Array = NDArray[Any]


def found_in(samples: Sequence[Sample], names: Sequence[str], groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups with those of the captured tensors `names` that share their rows as further members."""
    listed = {name for group in groups for name in (*group.keys, *group.members)}
    known = [name for name in names if name not in listed and all(name in sample for sample in samples)]
    if not known:
        return tuple(groups)
    present = [group for group in groups if all(group.keys[0] in sample for sample in samples)]
    boxes = [group.keys[0] for group in present]
    rows = {name: [_rows(sample.shape(name)) for sample in samples] for name in (*known, *boxes)}
    owner = _owners(present, rows)
    return tuple(
        replace(group, members=(*group.members, *(name for name in known if owner.get(name) == group.keys[0])))
        for group in groups
    )


def aside(sample: Sample, names: Sequence[str], groups: Sequence[Group]) -> dict[str, Array]:
    """Load what the captured tensors `names` are judged with and not compared: what rows are worth, masks to paste."""
    wanted = [name for group in groups if group.worth and group.keys[0] in names for name in group.worth.names]
    wanted += [group.pasted.masks for group in groups if group.pasted and group.pasted.name in names]
    return {name: sample.load(name) for name in wanted if name in sample}


def remember(
    values: Sequence[Mapping[str, Array]],
    samples: Sequence[Sample],
    groups: Sequence[Group],
    beside: Sequence[Mapping[str, Array]] | None = None,
) -> None:
    """Keep tensors that were not captured as references, their rows in the order in which the boxes were captured.

    `values[i]` were computed on `samples[i]`, and in the same run `beside[i]`, with the boxes; None: those are among
    the values. What was captured stays as it is.
    """
    ends = values if beside is None else beside
    both = [{**one, **other} for one, other in zip(ends, values, strict=True)]
    names = [name for name in (both[0] if both else ()) if all(name in each for each in both)]
    present = [group for group in groups if all(key in names for key in group.keys)]
    owner = _owners(present, {name: [_rows(each[name].shape) for each in both] for name in names})
    for computed, given, sample in zip(both, values, samples, strict=True):
        kept = dict(computed)
        for group in present:
            order = _captured_order(computed, sample, group)
            if order is not None:
                shared = [name for name in names if name in group.members or owner.get(name) == group.keys[0]]
                kept.update(
                    (name, computed[name][order]) for name in shared if _rows(computed[name].shape) == len(order)
                )
        sample.remember({name: kept.get(name, value) for name, value in given.items()})


def _captured_order(computed: Mapping[str, Array], sample: Sample, group: Group) -> NDArray[np.intp] | None:
    """Return which computed row stands for each captured one; None where they are not as many, or were not captured.

    A captured row without partner gets one without partner: neither is compared with anything.
    """
    if not all(key in sample for key in group.keys):
        return None
    alignment = align({key: sample.load(key) for key in group.keys}, computed, group)
    if alignment is None or len(alignment.match.missing) != len(alignment.match.extra):
        return None
    match = alignment.match
    order = np.empty(len(match.reference) + len(match.missing), dtype=np.intp)
    order[match.reference], order[match.missing] = match.candidate, match.extra
    return order


def _owners(groups: Sequence[Group], rows: Mapping[str, Sequence[int | None]]) -> dict[str, str]:
    """Return the boxes that each tensor shares its rows with, given the number of rows on every sample.

    One row or none may be a coincidence; where two groups have as many rows everywhere, nobody knows which it is.
    """
    found: dict[str, str] = {}
    listed = {name for group in groups for name in (*group.keys, *group.members)}
    for name, counts in rows.items():
        fitting = [group.keys[0] for group in groups if rows[group.keys[0]] == counts]
        if name not in listed and len(fitting) == 1 and any(count is not None and count > 1 for count in counts):
            found[name] = fitting[0]
    return found


def _rows(shape: Sequence[int]) -> int | None:
    return shape[0] if shape else None
