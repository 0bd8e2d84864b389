"""run.json as the report reads it: what it may hold, by type and size. What is not named here may be anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic brings it, and takes no other before Python 3.12

from graphsurgery import files
from graphsurgery.errors import InputError
from graphsurgery.parts.folder import RECORD

_MOST_BYTES = 64 * files.MB
_Value = TypeVar("_Value")


def _drawable(number: float) -> float:
    if math.isfinite(number) and abs(number) > 1e30:
        raise ValueError("a number beyond 1e30")
    return number


Number = Annotated[float, AfterValidator(_drawable)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Some = Annotated[dict[str, _Value], Field(min_length=1)]
Text = Annotated[str, Field(max_length=2_000)]  # what stands in a picture of a graph
Tensors = Annotated[dict[str, _Value], Field(max_length=5_000)]  # they are sorted by the kinds of their names


class _Worst(TypedDict):
    verdict: str
    reason: str
    tensor: str
    max_abs: NotRequired[Number | None]
    allowed: NotRequired[Number | None]
    sqnr_db: NotRequired[Number | None]
    asked_db: NotRequired[Number | None]


class _Skip(TypedDict):
    node: str
    reason: str


class _Layer(TypedDict):
    name: str
    op: str
    sqnr_db: Number | None


class _Details(TypedDict):
    excluded: NotRequired[list[str] | None]
    sqnr_db: NotRequired[Tensors[Number | None] | None]
    layers: NotRequired[list[_Layer] | None]
    sampled: NotRequired[list[str] | None]


class _Box(TypedDict):
    key: Text
    title: Text
    kind: NotRequired[Text]
    lines: NotRequired[Annotated[list[Text], Field(max_length=8)]]
    about: NotRequired[Annotated[list[Text], Field(max_length=40)]]
    outcomes: NotRequired[Annotated[dict[Text, Annotated[int, Field(ge=1, lt=2**31)]], Field(max_length=10)]]
    change: NotRequired[Text]


class _Line(TypedDict):
    source: Text
    target: Text
    label: NotRequired[Text]
    about: NotRequired[Annotated[str, Field(max_length=4_000)]]


class _Scene(TypedDict):
    boxes: Annotated[list[_Box], Field(max_length=200)]
    lines: Annotated[list[_Line], Field(max_length=1_000)]


class _Place(TypedDict):
    title: Annotated[str, Field(max_length=4_000)]
    count: int
    nodes: Annotated[list[int], Field(min_length=2, max_length=2)]
    before: _Scene
    after: _Scene


class _Changes(TypedDict):
    kinds: int
    places: Annotated[list[_Place], Field(max_length=20)]


class _Comparison(TypedDict):
    notes: NotRequired[list[str] | None]


class _Step(TypedDict):
    name: str
    verdict: str
    nodes_before: int
    nodes_after: int
    part: NotRequired[str | None]
    effect: NotRequired[str | None]
    seconds: Finite
    skips: NotRequired[list[_Skip]]
    details: NotRequired[_Details]
    brings: NotRequired[list[str] | None]
    changes: NotRequired[_Changes | None]
    worst: NotRequired[_Worst | None]
    worst_before: NotRequired[_Worst | None]
    comparison: NotRequired[_Comparison | None]


class _Part(TypedDict):
    name: str
    device: str
    accelerator: bool
    nodes: int
    inputs: Tensors[list[int | str | None] | None]
    outputs: Tensors[list[int | str | None] | None]
    ops: dict[str, Annotated[int, Field(ge=1, lt=2**53)]]


class _Left(TypedDict):
    op: str
    outcome: str
    why: str
    source: str
    fixes: NotRequired[list[str]]


class _Support(TypedDict):
    target: str
    precision: str
    nodes: int
    nodes_taken: int
    multiply_adds: int
    multiply_adds_taken: int
    left: list[_Left]


class _Tried(TypedDict):
    number: int
    setting: Annotated[dict[Text, Any], Field(max_length=1_000)]
    sqnr_db: NotRequired[Finite]
    cost: NotRequired[Finite]
    in_integers: NotRequired[Finite]
    bytes: NotRequired[Annotated[int, Field(ge=0, lt=2**63)]]
    front: NotRequired[bool]
    failed: NotRequired[str]
    ap_drop: NotRequired[Finite]


def _whole(row: _Tried) -> _Tried:
    if "failed" not in row and not {"sqnr_db", "cost", "in_integers", "bytes", "front"} <= row.keys():
        raise ValueError("a setting that has not failed has what came of it")
    return row


class _Search(TypedDict):
    sqnr: Finite
    settings: int
    trials: Annotated[list[Annotated[_Tried, AfterValidator(_whole)]], Field(max_length=20_000)]
    max_ap_drop: NotRequired[Finite | None]
    chosen: NotRequired[int | None]


class _Variant(TypedDict):
    verdict: str
    reason: NotRequired[str | None]
    devices: NotRequired[dict[str, str] | None]
    passes: NotRequired[list[_Step] | None]
    support: NotRequired[dict[str, _Support] | None]
    search: NotRequired[_Search | None]


class _Evaluation(TypedDict):
    samples: int
    ap: Some[Some[Number | None]]
    lines: NotRequired[dict[str, dict[str, dict[str, Number | None]]] | None]
    published: NotRequired[dict[str, dict[str, Number]] | None]
    seconds_per_image: NotRequired[dict[str, Finite] | None]


class _Times(TypedDict):
    mean_ms: Finite
    p50_ms: Finite
    p90_ms: Finite


class _Latency(TypedDict):
    parts: dict[str, _Times]
    total: _Times


class _Error(TypedDict):
    kind: NotRequired[str]
    message: NotRequired[str]
    hint: NotRequired[str]


class _Limited(TypedDict):
    max_ap_drop: NotRequired[Number | None]


class _Recipe(TypedDict):
    name: NotRequired[str]
    evaluate: NotRequired[_Limited | None]
    variants: NotRequired[dict[str, _Limited | None] | None]


class _Source(TypedDict):
    size: NotRequired[Annotated[list[int], Field(min_length=2, max_length=2)] | None]


class _Environment(TypedDict):
    packages: NotRequired[dict[str, str]]


class _Run(TypedDict):
    recipe: _Recipe
    source: NotRequired[_Source | None]
    passes: NotRequired[list[_Step] | None]
    checks: NotRequired[list[_Step] | None]
    parts: NotRequired[Annotated[list[_Part], Field(max_length=1_000)] | None]
    support: NotRequired[dict[str, _Support] | None]
    variants: NotRequired[dict[str, _Variant] | None]
    evaluation: NotRequired[_Evaluation | None]
    latency: NotRequired[dict[str, _Latency] | None]
    error: NotRequired[_Error | None]
    first_difference: NotRequired[_Place | None]
    seconds: NotRequired[dict[str, Finite] | None]
    peak_rss_mb: NotRequired[Finite | None]
    environment: NotRequired[_Environment | None]


_RUN = TypeAdapter(_Run)


def read_run(folder: Path) -> Mapping[str, Any]:
    """Read run.json in `folder`. Raises InputError where there is none or the report can't be made of it."""
    path = folder / RECORD
    try:
        content = files.read_json(path, _MOST_BYTES)
        _RUN.validate_python(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{path}: not of this version: {files.first_fault(error)}; apply again") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({files.reason(error)}); give a folder that 'apply' wrote") from error
    found: Mapping[str, Any] = content
    return found
