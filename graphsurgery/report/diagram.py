"""The partition as boxes and what flows between them: data for the report's drawing.

Tensors that differ in a number behind their name, features_0 to features_3, are one line of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.picture.scene import OUTCOMES

Shape = Sequence[int | str | None] | None


@dataclass(frozen=True)
class Flow:
    """One tensor, or several that are numbered: `name` and `shape` as they are shown."""

    name: str
    shape: str
    count: int = 1


@dataclass(frozen=True)
class Box:
    """A part. `reads` are the detector's inputs, `gives` its outputs, `arrives` what the part before it hands over.

    `also` is what it reads of parts further back, by their names; `outcomes` counts its nodes by what becomes of them
    at the recipe's target, in the order of a legend.
    """

    name: str
    device: str
    accelerator: bool
    nodes: int | None
    batch: str
    reads: tuple[Flow, ...]
    arrives: tuple[Flow, ...]
    also: tuple[tuple[str, tuple[Flow, ...]], ...]
    gives: tuple[Flow, ...]
    outcomes: tuple[tuple[str, int], ...] = ()


def boxes(
    parts: Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any] | None,
    support: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Box]:
    """Return the parts of a run in their order.

    The manifest adds dtypes, batches, and which tensors are results, `support` what a target takes of each part.
    """
    entries = {entry["name"]: entry for entry in (manifest or {}).get("parts", ())}
    read = {name for part in parts for name in part["inputs"]}
    results = (manifest or {}).get("outputs") or [n for part in parts for n in part["outputs"] if n not in read]
    writer: dict[str, int] = {}
    found = []
    for index, part in enumerate(parts):
        entry = entries.get(part["name"], {})
        dtypes = {name: each["dtype"] for side in ("inputs", "outputs") for name, each in entry.get(side, {}).items()}
        read_from: dict[int, dict[str, Shape]] = {}
        for name, shape in part["inputs"].items():
            source = writer.get(name, -1)
            # as it is handed over: the rows that fill up a frozen batch are neither written nor read
            cut_off = source < 0 or entries.get(parts[source]["name"], {}).get("batch")
            read_from.setdefault(source, {})[name] = shape if cut_off else parts[source]["outputs"][name]
        flows = {source: _grouped(shapes, dtypes) for source, shapes in read_from.items()}
        given = {name: shape for name, shape in part["outputs"].items() if name in results}
        found.append(
            Box(
                part["name"],
                part["device"],
                bool(part["accelerator"]),
                part.get("nodes"),
                _batch(entry.get("batch")),
                reads=flows.pop(-1, ()),
                arrives=flows.pop(index - 1, ()),
                also=tuple((parts[source]["name"], tensors) for source, tensors in sorted(flows.items())),
                gives=_grouped(given, dtypes),
                outcomes=_outcomes((support or {}).get(part["name"])),
            )
        )
        writer.update(dict.fromkeys(part["outputs"], index))
    return found


def _outcomes(support: Mapping[str, Any] | None) -> tuple[tuple[str, int], ...]:
    if not support:
        return ()
    counts = Counter(str(node["outcome"]) for node in support["left"])
    counts["taken"] = support["nodes_taken"]
    return tuple((outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome] > 0)


def _batch(batch: Mapping[str, Any] | None) -> str:
    if not batch:
        return ""
    return f"batches of {batch['size']}"


def _grouped(shapes: Mapping[str, Shape], dtypes: Mapping[str, str]) -> tuple[Flow, ...]:
    """Return the tensors as they are shown, those with consecutive numbers, equal rank and dtype as one."""
    kinds = list(dict.fromkeys(stem(name)[0] for name in shapes))  # each where its first tensor stood
    runs: list[list[str]] = []
    for name in sorted(shapes, key=lambda name: (kinds.index(stem(name)[0]), stem(name)[1])):
        if runs and _follows(runs[-1][-1], name, shapes, dtypes):
            runs[-1].append(name)
        else:
            runs.append([name])
    return tuple(_flow(run, shapes, dtypes.get(run[0], "float32")) for run in runs)


def _follows(before: str, name: str, shapes: Mapping[str, Shape], dtypes: Mapping[str, str]) -> bool:
    kind, number = stem(before)
    ranks = [None if shape is None else len(shape) for shape in (shapes[before], shapes[name])]
    return (kind, number + 1) == stem(name) and ranks[0] == ranks[1] and dtypes.get(before) == dtypes.get(name)


def stem(name: str) -> tuple[str, int]:
    """Return the name without the number at its end, and that number: numbered tensors sort by it."""
    match = re.fullmatch(r"(.*\D)(\d{1,9})", name)
    return (match[1], int(match[2])) if match else (name, 0)


def _flow(names: Sequence[str], shapes: Mapping[str, Shape], dtype: str) -> Flow:
    shown = list(dict.fromkeys(_shape(shapes[name]) for name in names))
    name = names[0] if len(names) == 1 else f"{names[0]}…{stem(names[-1])[1]}"
    shape = shown[0] if len(shown) == 1 else f"{shown[0]} … {shown[-1]}"
    return Flow(name, shape if dtype == "float32" else f"{shape}, {dtype}", len(names))


def _shape(shape: Shape) -> str:
    """Return the sizes with times signs between; N is one that varies: what the exporter calls it says nothing."""
    if shape is None:
        return "shape unknown"
    return "\N{MULTIPLICATION SIGN}".join(str(size) if isinstance(size, int) else "N" for size in shape) or "scalar"
