"""The Pareto front of a search in rows, for the terminal and for the report's plot and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Data = Mapping[str, Any]

_MB = 1e6


class FrontRow(NamedTuple):
    """A setting of the front: dB of its worst output, its cost as a share of float32, and what it chose."""

    number: int
    sqnr_db: float
    cost: float
    in_integers: float
    megabytes: float
    ap_drop: float | None
    chose: str
    chosen: bool


def front_rows(search: Data) -> list[FrontRow]:
    """Return the settings of the front, the cheapest first; of what they chose that in which they differ."""
    rows = sorted((row for row in search["trials"] if row.get("front")), key=lambda row: row["cost"])
    told = _telling([row["setting"] for row in rows])
    return [
        FrontRow(
            row["number"],
            row["sqnr_db"],
            row["cost"],
            row["in_integers"],
            row["bytes"] / _MB,
            row.get("ap_drop"),
            _said({name: row["setting"].get(name) for name in told}),
            row["number"] == search["chosen"],
        )
        for row in rows
    ]


def in_common(search: Data) -> str:
    """Say what all settings of the front chose alike."""
    settings = [row["setting"] for row in search["trials"] if row.get("front")]
    told = set(_telling(settings))
    return _said({name: value for name, value in settings[0].items() if name not in told}) if settings else ""


def summary(search: Data) -> str:
    """Say how many settings were tried, how many can't be had and why, and what was asked for."""
    rows = search["trials"]
    failed = [row["failed"] for row in rows if row.get("failed")]
    said = [f"{len(rows)} of {search['settings']:,} settings tried"]
    if failed:
        said.append(f"{len(failed)} failed, the first: {failed[0]}")
    asked = f"asked for: {search['sqnr']:g} dB"
    if search.get("max_ap_drop") is not None:
        asked += f", and no more than {search['max_ap_drop']:g} AP lost"
    return "; ".join([*said, asked])


def _telling(settings: Sequence[Data]) -> list[str]:
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if any(setting.get(name) != settings[0].get(name) for setting in settings)]


def _said(setting: Data) -> str:
    """Name what was chosen part by part; of what several parts chose alike, once."""
    parts: dict[str, list[str]] = {}
    for name, value in setting.items():
        part, _, option = name.partition(": ")
        parts.setdefault(part, []).append(f"{option.rpartition('.')[2]} {_value(value)}")
    alike: dict[str, list[str]] = {}
    for part, chose in parts.items():
        alike.setdefault(", ".join(chose), []).append(part)
    return "; ".join(f"{', '.join(names)}: {chose}" for chose, names in alike.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} layers" if len(value) != 1 else "1 layer"
    return str(value).lower() if isinstance(value, bool | None) else str(value)
