"""Holds the parts for an accelerator against what the recipe's target takes: at the end, and after each pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from graphsurgery.errors import InputError
from graphsurgery.parts.part import Part
from graphsurgery.recipe.target import ChosenTarget
from graphsurgery.targets.support import NodeVerdict, Support, support

_STOPS = ("refused", "crash")


@dataclass
class Certifier:
    """What `target` takes of parts, by their names; None where the recipe names no target."""

    chosen: ChosenTarget | None
    found: dict[str, Support] = field(default_factory=dict)

    def brought(self, part: Part) -> list[str]:
        """Look at a part before and after a pass, and say what isn't taken of what the pass brought, in a line each.

        The first look at a part brings nothing: it is what the passes begin with.
        """
        if self.chosen is None or not part.accelerator:
            return []
        before, after = self.found.get(part.name), self._look_at(part)
        if before is None:
            return []
        known = Counter((node.op, node.verdict.limit) for node in before.left)
        more = Counter((node.op, node.verdict.limit) for node in after.left) - known
        first = {(node.op, node.verdict.limit): node for node in reversed(after.left)}
        return [f"{number} {key[0]} more: {_told(first[key], after)}" for key, number in more.items()]

    def certify(self, part: Part) -> None:
        """Look at a finished part. Raises InputError for a node that the target's tool stops at, or dies of."""
        if self.chosen is None or not part.accelerator:
            return
        require_no_stop(part.name, self._look_at(part))

    def to_json(self) -> dict[str, Any]:
        """Return what was found of each part as run.json has it."""
        return {name: found.to_json() for name, found in self.found.items()}

    def _look_at(self, part: Part) -> Support:
        assert self.chosen is not None
        self.found[part.name] = found = support(part.model, self.chosen.target, self.chosen.precision)
        return found


def require_no_stop(part: str, found: Support) -> None:
    """Raise InputError for a node of a part that the target's tool stops at, or dies of."""
    stopping = [node for node in found.left if node.verdict.outcome in _STOPS]
    if stopping:
        node = stopping[0]
        others = f", and {len(stopping) - 1} more" if len(stopping) > 1 else ""
        raise InputError(f"part '{part}': node '{node.name}'{others}: {_told(node, found)}")


def _told(node: NodeVerdict, found: Support) -> str:
    """Say what becomes of a node, and what helps."""
    verdict = node.verdict
    does = {"cpu": "leaves it to the CPU", "refused": "refuses it", "crash": "dies of it"}
    says = does.get(verdict.outcome, "may not take it")
    helps = f"; {', '.join(verdict.fixes)} may help" if verdict.fixes else ""
    return f"{found.target} ({found.precision}) {says}: {node.op}, {verdict.reason} [{verdict.source}]{helps}"
