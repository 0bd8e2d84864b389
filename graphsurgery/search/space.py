"""What a search chooses from, and the passes of each part that a setting stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.search import EXCLUDE, EXPLAIN, Choice, with_options

Setting = tuple[int, ...]  # of each choice the place of its value, or the number of layers that stay float
PartPasses = Mapping[str, tuple[PassUse, ...]]


@dataclass(frozen=True)
class Space:
    """Choices in the passes of some parts. `ranked` are the layers by part and place of the pass, worst first."""

    choices: tuple[Choice, ...]
    part_passes: PartPasses
    ranked: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many settings there are."""
        return math.prod(map(len, self.choices))

    @property
    def first(self) -> Setting:
        """The setting that the recipe has where nothing is looked for, or the first values."""
        return tuple(self._now(choice) for choice in self.choices)

    def to_rank(self) -> dict[tuple[str, int], tuple[PassUse, ...]]:
        """Return the passes that rank the layers of each pass that may leave some float, by part and place."""
        asked = {(choice.part, choice.place) for choice in self.choices if choice.worst is not None}
        return {(part, place): self._with(part, {place: {EXPLAIN: True}}) for part, place in sorted(asked)}

    def passes(self, setting: Setting) -> PartPasses:
        """Return the passes of each part. Raises InputError where a pass doesn't take its options together."""
        values: dict[str, dict[int, dict[str, Any]]] = {}
        for choice, at in zip(self.choices, setting, strict=True):
            of_pass = values.setdefault(choice.part, {}).setdefault(choice.place, {})
            of_pass[choice.option] = self._value(choice, at)
        return {part: self._with(part, values.get(part, {})) for part in self.part_passes}

    def told(self, setting: Setting) -> dict[str, Any]:
        """Return the setting in words: what was chosen of each option of each part's passes, as JSON can hold it."""
        said: dict[str, Any] = {}
        for choice, at in zip(self.choices, setting, strict=True):
            name = self.part_passes[choice.part][choice.place].name
            value = self._value(choice, at)
            said[f"{choice.part}: {name}.{choice.option}"] = list(value) if isinstance(value, tuple) else value
        return said

    def _with(self, part: str, values: Mapping[int, Mapping[str, Any]]) -> tuple[PassUse, ...]:
        return tuple(
            replace(use, pass_=with_options(use.pass_, values[place])) if place in values else use
            for place, use in enumerate(self.part_passes[part])
        )

    def _now(self, choice: Choice) -> int:
        if choice.worst is not None:
            return 0
        now = getattr(self.part_passes[choice.part][choice.place].pass_, choice.option)
        return choice.values.index(now) if now in choice.values else 0

    def _value(self, choice: Choice, at: int) -> Any:
        if choice.worst is None:
            return choice.values[at]
        own = getattr(self.part_passes[choice.part][choice.place].pass_, EXCLUDE)
        return (*own, *self.ranked[choice.part, choice.place][:at])
