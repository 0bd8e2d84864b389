"""The comparison as a source of torchvision's has it, whose detections and proposals are sets of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphsurgery.detections.row_groups import Group
from graphsurgery.gate import equivalence
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison
from graphsurgery.sources.row_groups import ROW_GROUPS


def compare(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    tolerances: Tolerances,
    groups: Sequence[Group] = ROW_GROUPS,
    aside: Mapping[str, Any] | None = None,
) -> Comparison:
    return equivalence.compare(reference, candidate, tolerances, groups, aside)
