"""What a target leaves of a graph, by reason, out of the JSON form of it: for the terminal and for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple


class Left(NamedTuple):
    """Nodes that aren't taken for one reason: which, what becomes of them, why, what helps, and who says so."""

    nodes: str
    outcome: str
    why: str
    helps: str
    source: str


def left_by_reason(left: list[Mapping[str, Any]]) -> list[Left]:
    """Return the nodes that aren't taken by reason, the reason of the most nodes first."""
    reasons: dict[Left, Counter[str]] = {}
    for node in left:
        reason = Left("", node["outcome"], node["why"], ", ".join(node.get("fixes") or ()), node["source"])
        reasons.setdefault(reason, Counter())[node["op"]] += 1
    most_first = sorted(reasons.items(), key=lambda item: -item[1].total())
    listed = ((reason, ", ".join(f"{number} {op}" for op, number in ops.most_common())) for reason, ops in most_first)
    return [reason._replace(nodes=nodes) for reason, nodes in listed]


def contradicted(nodes: list[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the nodes of which a measurement says another thing than a document: which, and both."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for node in nodes:
        outcome = node["outcome"] + (f": {node['why']}" if node["why"] else "")
        said = node.get("against") or outcome
        measured = node.get("measured") or f"{outcome} ({node['source']})"
        groups.setdefault((said, measured), Counter())[node["op"]] += 1
    listed = sorted(groups.items(), key=lambda item: -item[1].total())
    return [(", ".join(f"{n} {op}" for op, n in ops.most_common()), *both) for both, ops in listed]


def share(found: Mapping[str, Any]) -> str:
    """Return how much of the multiply-adds is taken, a dash where there are none."""
    total = found["multiply_adds"]
    return f"{100 * found['multiply_adds_taken'] / total:.1f}%" if total else "-"
