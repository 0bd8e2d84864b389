"""What was measured of the lines of a target: `graphsurgery/targets/measured/NAME.json`, which `probe` writes.

Each case is a one-node model inside, at or beyond a limit of a line, through the vendor's compiler and simulator. It
contradicts the target's file where that says another outcome.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # as in images.annotations

from graphsurgery.errors import InputError
from graphsurgery.files import MB, first_fault, read_json
from graphsurgery.files import reason as told_of
from graphsurgery.targets.schema import Outcome, Scalar
from graphsurgery.text import without_folders

FORMAT = 1
FOLDER = "measured"
_LARGEST = 64 * MB
EQUAL = "equal"


@dataclass(frozen=True)
class Tool:
    """What measured: a package, its version, what it ran with, and on which kind of machine."""

    name: str
    version: str
    beside: str = ""
    system: str = ""

    def __str__(self) -> str:
        """The tool in a message."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Found:
    """What became of a node: the outcome, how near its results are (dB, infinite: equal), a remark, or why not.

    A reason is a tool's words, in which files go by their names: it is published with the package.
    """

    outcome: Outcome
    decibels: float | None = None
    remark: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.reason is not None:
            object.__setattr__(self, "reason", without_folders(self.reason))

    @property
    def told(self) -> str:
        """The outcome in a line."""
        near = "" if self.decibels is None else f", {_decibels(self.decibels)}"
        more = self.remark or self.reason
        return f"{self.outcome}{near}" + (f" ({more})" if more else "")


@with_config(ConfigDict(extra="forbid"))
class Written(TypedDict):
    """A case as the file has it."""

    op: str
    line: int
    precision: str
    side: str
    said: Outcome
    outcome: Outcome
    limit: NotRequired[str]
    value: NotRequired[Scalar]
    decibels: NotRequired[float | str]
    remark: NotRequired[str]
    reason: NotRequired[str]


@dataclass(frozen=True)
class Measured:
    """A case of a line and what became of it. `said` is the outcome that the target's file has for it."""

    op: str
    line: int
    precision: str
    side: str
    limit: str | None
    value: Scalar | None
    said: Outcome
    found: Found

    @property
    def contradicts(self) -> bool:
        """Whether the target's file says another outcome. Where either doesn't know, nothing is contradicted."""
        return self.said != self.found.outcome and "unknown" not in (self.said, self.found.outcome)

    @property
    def what(self) -> str:
        """The case in words: the limit and the value that the node has there."""
        value = str(self.value).lower() if isinstance(self.value, bool) else str(self.value)
        return "as usual" if self.limit is None else f"{self.limit} {value}"

    def to_json(self) -> dict[str, Any]:
        """Return it as the file has it."""
        told = {key: value for key, value in asdict(self).items() if key != "found"} | asdict(self.found)
        near = self.found.decibels
        if near is not None:
            told["decibels"] = EQUAL if near == math.inf else round(near, 1) if math.isfinite(near) else str(near)
        return {key: value for key, value in told.items() if value is not None}

    @staticmethod
    def of(written: Written) -> Measured:
        """Return what `to_json` wrote. Raises ValueError for decibels that are no number."""
        near = written.get("decibels")
        decibels = None if near is None else math.inf if near == EQUAL else float(near)
        return Measured(
            written["op"],
            written["line"],
            written["precision"],
            written["side"],
            written.get("limit"),
            written.get("value"),
            written["said"],
            Found(written["outcome"], decibels, written.get("remark"), written.get("reason")),
        )


@dataclass(frozen=True)
class Contradiction:
    """What was measured of nodes like one of which the target's file says something else, and by which tool, when."""

    case: Measured
    tool: Tool
    date: str

    def __str__(self) -> str:
        """It in a line, behind what the file says."""
        return f"{self.case.found.told}, with {self.case.what} ({self.tool}, {self.date})"


@dataclass(frozen=True)
class Measurements:
    """All that was measured of a target with one tool, and what could not be, by line, with the reason."""

    target: str
    tool: Tool
    date: str
    cases: tuple[Measured, ...] = ()
    not_measured: tuple[Mapping[str, Any], ...] = ()

    @property
    def contradictions(self) -> list[Measured]:
        """The cases of which the target's file says something else."""
        return [case for case in self.cases if case.contradicts]

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds."""
        head = {"format": FORMAT, "target": self.target, "date": self.date, "tool": asdict(self.tool)}
        return head | {"cases": [case.to_json() for case in self.cases], "not_measured": list(self.not_measured)}

    def text(self) -> str:
        """Return the file: a line for each case, so that a change of one is a change of a line."""
        entries = [f" {json.dumps(key)}: {_listed(value)}" for key, value in self.to_json().items()]
        return "{\n" + ",\n".join(entries) + "\n}\n"


def _listed(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in value) + "\n ]"


@with_config(ConfigDict(extra="forbid"))
class _File(TypedDict):
    format: Literal[1]
    target: str
    date: str
    tool: Tool
    cases: list[Written]
    not_measured: list[dict[str, str | int]]


_FILE = TypeAdapter(_File)


def read_measurements(path: Path) -> Measurements:
    """Return what `probe` wrote. Raises InputError for any other file."""
    try:
        written = _FILE.validate_python(read_json(path, _LARGEST))
        cases = tuple(map(Measured.of, written["cases"]))
        return Measurements(written["target"], written["tool"], written["date"], cases, tuple(written["not_measured"]))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({told_of(error)})") from error
    except ValueError as error:
        said = first_fault(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: these are no measurements of probe ({said}); measure again") from error


def _decibels(value: float) -> str:
    return "equal" if value == math.inf else f"{value:.0f} dB" if math.isfinite(value) else "nothing in common"
