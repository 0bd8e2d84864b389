"""How far off a tensor may be, and how many rows may lack a partner."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from graphsurgery.errors import InputError
from graphsurgery.graph.names import matches

Kind = Literal["absolute", "relative"]


@dataclass(frozen=True)
class Tolerance:
    """How far a tensor may be off: `absolute`, or `relative` to the reference's largest finite magnitude.

    With both, the larger is allowed. `sqnr` is for quantized networks, where single values may be far off: a
    signal-to-quantization-noise ratio in dB that is enough, whatever the largest difference is. For integers and bools
    `relative` counts as 0 and `sqnr` for nothing: they must be equal unless `absolute` says otherwise.
    Raises InputError unless the numbers are finite and at least 0.
    """

    absolute: float | None = None
    relative: float | None = None
    sqnr: float | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.absolute, self.relative, self.sqnr) if number is not None]
        if not given:
            raise InputError("a tolerance needs a number: absolute, relative or sqnr")
        for number in given:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if not is_number or not 0 <= number <= sys.float_info.max:
                raise InputError(f"{number!r} is no tolerance: give a finite number of at least 0")

    def allows(self, largest: float, *, floating: bool) -> tuple[float, Kind]:
        """Return the absolute number allowed and its kind; `largest` is max |finite reference|."""
        relative = self.relative * largest if floating and self.relative is not None else None
        if relative is not None and (self.absolute is None or relative > self.absolute):
            return relative, "relative"
        return self.absolute or 0.0, "absolute"

    def noise(self, largest: float, signal: float) -> float:
        """Return the amplitude of noise allowed, as a share of the signal's; `signal` is the reference's RMS.

        It follows from `sqnr`, or from the number that every single value may be off.
        """
        if self.sqnr is not None:
            return float(10 ** (-self.sqnr / 20))
        allowed, _ = self.allows(largest, floating=True)
        return allowed / signal if signal else math.inf

    def or_larger(self, other: Tolerance) -> Tolerance:
        """Return the tolerance that allows what either of the two allows."""
        ratios = [ratio for ratio in (self.sqnr, other.sqnr) if ratio is not None]
        absolute, relative = _larger(self.absolute, other.absolute), _larger(self.relative, other.relative)
        return Tolerance(absolute, relative, min(ratios, default=None))


_SHARE = 1e-4
DEFAULT_TOLERANCE = Tolerance(relative=_SHARE)
# A label is a number that has no neighbour
_DEFAULT_OF_ROLE = {"labels": Tolerance(absolute=0)}


@dataclass(frozen=True)
class Limit:
    """What a tensor may be off in all: a pass's `own` tolerance, and what was `granted` to the passes before it.

    They add up, as errors do at worst: a pass that is within its own tolerance of a graph that is within what was
    granted can't be beyond the limit. `share_of_column` is what each column may be off of its own largest magnitude
    besides, where no rule says what the tensor may be off as a whole.
    """

    own: Tolerance
    granted: tuple[Tolerance, ...] = ()
    share_of_column: float | None = None

    def allows(self, largest: float, *, floating: bool) -> tuple[float, Kind]:
        """Return the absolute number allowed and its kind; `largest` is max |finite reference|."""
        own, kind = self.own.allows(largest, floating=floating)
        if not self.granted:
            return own, kind
        return own + sum(grant.allows(largest, floating=floating)[0] for grant in self.granted), "absolute"

    def asks_sqnr(self, largest: float, signal: float) -> float | None:
        """Return the SQNR in dB that is enough whatever the largest difference is; None where none is.

        `signal` is the root of the mean square of the reference. Amplitudes of noise add up, decibels don't.
        """
        every = (self.own, *self.granted)
        if all(tolerance.sqnr is None for tolerance in every):
            return None
        if not self.granted:
            return self.own.sqnr
        noise = sum(tolerance.noise(largest, signal) for tolerance in every)
        return -20 * math.log10(noise) if 0 < noise < math.inf else None


@dataclass(frozen=True)
class Tolerances:
    """Tolerances by tensor name or pattern: the exact name, else the first matching pattern, else a default.

    Columns that have a role (boxes, scores) go by the rule of that name before the tensor's. Patterns are case
    sensitive. Of each group (`matched_rows`), `unmatched` rows may be without partner, both sides counted together;
    `unmatched_of` says it for one group, by its first tensor. `grants` only ever widen; `earlier` are those of passes
    before this one, whose cost comes on top.
    """

    rules: Mapping[str, Tolerance] = field(default_factory=dict)
    unmatched: int = 0
    unmatched_of: Mapping[str, int] = field(default_factory=dict)
    grants: tuple[Tolerances, ...] = ()
    earlier: tuple[Tolerances, ...] = ()

    @classmethod
    def parse(cls, mapping: Mapping[str, float | int | Mapping[str, float]]) -> Tolerances:
        """Read `{name: number}`, `{name: {relative: number}}`, `{name: {sqnr: dB}}`.

        `unmatched` is a count, or `{tensor: count}` for one group of rows.

        Raises InputError that names the key.
        """
        rules = {name: _parse_rule(name, value) for name, value in mapping.items() if name != "unmatched"}
        unmatched = mapping.get("unmatched", 0)
        groups = unmatched if isinstance(unmatched, Mapping) else {"": unmatched}
        if not groups.keys().isdisjoint(("absolute", "relative", "sqnr")):
            raise InputError(f"tolerance 'unmatched': {unmatched!r} is no count: give a whole number >= 0")
        for count in groups.values():
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise InputError(f"tolerance 'unmatched': {count!r} is no count: give a whole number >= 0")
        counts = {name: int(count) for name, count in groups.items()}
        return cls(rules, counts.pop("", 0), counts)

    def may_lack_partner(self, group: str) -> int:
        """Return how many rows of the group whose first tensor is `group` may be without partner."""
        own = max(self.unmatched_of.get(group, self.unmatched), *(g.may_lack_partner(group) for g in self.grants), 0)
        return own + sum(grant.may_lack_partner(group) for grant in self.earlier)

    def limit(self, name: str, role: str = "") -> Limit:
        """Return what a tensor, or its columns of a role, may be off in all."""
        rules = (grant._rule(name, role) for grant in self.earlier)
        granted = tuple(rule for rule in rules if rule is not None)
        own = self.lookup(name, role)
        return Limit(own, granted, _SHARE if own is DEFAULT_TOLERANCE and not granted else None)

    def lookup(self, name: str, role: str = "") -> Tolerance:
        """Return the own tolerance of a tensor, or of its columns of a role, grants included."""
        found = self._rule(name, role) or _DEFAULT_OF_ROLE.get(role, DEFAULT_TOLERANCE)
        for grant in self.grants:
            granted = grant._rule(name, role)
            found = found.or_larger(granted) if granted else found
        return found

    def widened(self, grant: Tolerances) -> Tolerances:
        """Allow what either allows; a tensor that `grant` doesn't name stays as it is."""
        grants = (*self.grants, replace(grant, grants=()), *grant.grants)
        return replace(self, grants=grants)

    def behind(self, earlier: Sequence[Tolerances]) -> Tolerances:
        """Return what may be off behind passes that were granted `earlier`; the cost of each comes on top."""
        return replace(self, earlier=(*self.earlier, *earlier))

    def _rule(self, name: str, role: str = "") -> Tolerance | None:
        for exact in (role, name):
            if exact in self.rules:
                return self.rules[exact]
        return next((rule for pattern, rule in self.rules.items() if matches(name, [pattern])), None)


def _parse_rule(name: object, value: object) -> Tolerance:
    try:
        if not isinstance(name, str):
            raise InputError("a tensor name or pattern is text")
        if not isinstance(value, Mapping):
            return Tolerance(absolute=value)  # type: ignore[arg-type]  # __post_init__ refuses what is no number
        unknown = sorted(map(str, value.keys() - {"absolute", "relative", "sqnr"}))
        if unknown:
            raise InputError(f"unknown key {unknown[0]!r}: give a number, {{relative: number}} or {{sqnr: dB}}")
        return Tolerance(**value)
    except InputError as error:
        raise InputError(f"tolerance {name!r}: {error}") from None


def _larger(one: float | None, other: float | None) -> float | None:
    return max((number for number in (one, other) if number is not None), default=None)
