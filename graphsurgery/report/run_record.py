"""run.json: what a run did, step by step, for the report and for other tools."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from graphsurgery.gate.gate import Judgement, Ruling
from graphsurgery.gate.verdicts import TensorReport, Verdict
from graphsurgery.graph.protos import walk_protos
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.part import Part
from graphsurgery.report import environment
from graphsurgery.rewrite import Skip


@dataclass
class Step:
    """One pass, or one check that belongs to no pass (`effect` None): the export, the cut, the chain.

    `comparison` is with the captured tensors, `before` with the graph before it, where the gate asked for that.
    `brings` says what the recipe's target doesn't take of what the pass made, `changes` where it changed the graph: the
    largest kinds of places and how many `kinds` there are.
    """

    name: str
    part: str | None = None
    effect: str | None = None
    nodes_before: int = 0
    nodes_after: int = 0
    seconds: float = 0.0
    skips: Sequence[Skip] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    brings: Sequence[str] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    verdict: Judgement = "unchecked"
    comparison: Verdict | None = None
    before: Verdict | None = None

    def judge(self, ruling: Ruling) -> None:
        """Take over what the gate found."""
        self.comparison, self.before, self.verdict = ruling.captured, ruling.before, ruling.verdict

    @property
    def _telling(self) -> Verdict | None:
        """The comparison that decides: the one that failed, else that with the captured tensors."""
        if self.before is not None and self.before.verdict == "failed":
            return self.before
        return self.comparison

    @property
    def worst(self) -> TensorReport | None:
        """The tensor that decides, None where nothing was compared."""
        return self._telling.worst if self._telling else None

    def explain(self) -> str:
        """Say what a failed step differs from, and by how much."""
        if self._telling is None:
            return "was not compared"
        reference = "the graph before it" if self._telling is self.before else "the original model"
        return f"differs from {reference}: {self._telling.explain()}"

    def to_json(self) -> dict[str, Any]:
        """Return the step as run.json has it."""
        return {
            "name": self.name,
            "part": self.part,
            **({"effect": self.effect} if self.effect else {}),
            "nodes_before": self.nodes_before,
            "nodes_after": self.nodes_after,
            "seconds": round(self.seconds, 3),
            "skips": [{"node": skip.node, "reason": skip.reason} for skip in self.skips],
            **({"details": self.details} if self.details else {}),
            **({"brings": list(self.brings)} if self.brings else {}),
            **({"changes": self.changes} if self.changes else {}),
            "verdict": self.verdict,
            "worst": _worst(self.worst),
            "comparison": self.comparison.to_json() if self.comparison else None,
            **({"before": self.before.to_json(), "worst_before": _worst(self.before.worst)} if self.before else {}),
        }


def _worst(report: TensorReport | None) -> dict[str, object] | None:
    if report is None:
        return None
    return {**{key: value for key, value in report.to_json().items() if key != "name"}, "tensor": report.name}


@dataclass
class VariantRecord:
    """What became of a variant: its passes and parts; `reason` says why it was left out, or what is wrong with it.

    `search` is what its search has tried, where it has one.
    """

    name: str
    devices: Mapping[str, str] = field(default_factory=dict)
    verdict: Literal["passed", "failed", "skipped"] = "failed"
    reason: str | None = None
    passes: Sequence[Step] = ()
    parts: Sequence[Mapping[str, Any]] = ()
    support: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the variant as run.json has it."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "devices": dict(self.devices),
            "passes": [step.to_json() for step in self.passes],
            "parts": list(self.parts),
            **({"support": dict(self.support)} if self.support else {}),
            **({"search": dict(self.search)} if self.search else {}),
        }


@dataclass
class Record:
    """A run so far; complete when it ended well, and worth keeping when it did not."""

    recipe: Mapping[str, Any]
    source: Mapping[str, Any] = field(default_factory=dict)
    passes: list[Step] = field(default_factory=list)
    checks: list[Step] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    variants: list[VariantRecord] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    capture: dict[str, Any] | None = None
    support: dict[str, Any] = field(default_factory=dict)  # what the target takes of each part
    compiled: dict[str, str] = field(default_factory=dict)  # of the parts, when these are written: not in run.json
    error: dict[str, str] | None = None
    first_difference: Mapping[str, Any] | None = None  # of the graphs around the pass that failed

    def spent(self, what: str, seconds: float) -> None:
        """Add to the time of export, capture, surgery, checks or evaluate."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def describe(self, parts: Sequence[Part]) -> None:
        """Note what the parts are."""
        self.parts = []
        for part in parts:
            entry = describe_part(part).model_dump(mode="json")
            self.parts.append(
                {
                    "name": part.name,
                    "device": part.device,
                    "accelerator": part.accelerator,
                    "file": entry["file"],
                    "nodes": part.model.nodes,
                    "inputs": {name: tensor["shape"] for name, tensor in entry["inputs"].items()},
                    "outputs": {name: tensor["shape"] for name, tensor in entry["outputs"].items()},
                    "ops": dict(Counter(n.op_type for n in walk_protos(part.model.proto.graph)).most_common()),
                }
            )

    def to_json(self) -> dict[str, Any]:
        """Return the content of run.json."""
        return {
            "recipe": self.recipe,
            "source": self.source,
            "passes": [step.to_json() for step in self.passes],
            "checks": [step.to_json() for step in self.checks],
            "parts": self.parts,
            **({"support": self.support} if self.support else {}),
            "variants": {variant.name: variant.to_json() for variant in self.variants},
            "evaluation": self.evaluation,
            "latency": self.latency,
            "capture": self.capture,
            "error": self.error,
            **({"first_difference": self.first_difference} if self.first_difference else {}),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "environment": environment.describe(),
        }


def peak_rss_mb() -> float:
    """Return the largest resident memory that this process has had, in MB of 2**20 bytes."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
