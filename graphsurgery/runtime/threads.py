"""How many threads an operator takes on the CPU, by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from graphsurgery.errors import InputError, did_you_mean

_MOST = 1024


@dataclass(frozen=True)
class Threads:
    """`parts` have a number of their own, all others take `others`; 0 leaves it to ONNX Runtime."""

    others: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def parse(options: Iterable[str]) -> Threads:
        """Read `--threads 2 --threads box_head=4`. Raises InputError for what is no number, or is said twice."""
        said: dict[str, int] = {}
        for option in options:
            part, _, number = option.rpartition("=")
            if not (number.isascii() and number.isdigit() and int(number) <= _MOST):
                raise InputError(f"--threads {option}: write it as N, or PART=N, with N from 0 to {_MOST}")
            if part in said:
                what = f"part '{part}'" if part else "the number"
                raise InputError(f"--threads {option}: {what} is given twice")
            said[part] = int(number)
        others = said.pop("", 0)
        return Threads(others, said)

    def of(self, part: str) -> int:
        """Return the number for a part."""
        return self.parts.get(part, self.others)

    def require_parts(self, there: Iterable[str]) -> None:
        """Raise InputError where a part is named that isn't there."""
        names = list(there)
        for part in self.parts:
            if part not in names:
                hint = did_you_mean(part, names)
                raise InputError(
                    f"--threads {part}={self.parts[part]}: no such part; there are {', '.join(names)}.{hint}"
                )


AS_IT_LIKES = Threads()
