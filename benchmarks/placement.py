"""How often `support` says of a node what the vendor's provider or compiler really does with it.

    python benchmarks/placement.py model/shapes/backbone_rpn.onnx --target qnn-htp
    python benchmarks/placement.py a.onnx b.onnx --target qnn-htp --precision int8 --json figures.json
    python -m graphsurgery compile model/shapes --target rk3588 --inputs model/model_io/shapes
    python benchmarks/placement.py model/shapes --target rk3588

A model is placed by the provider of ONNX Runtime that the target stands for, falling back allowed, and its nodes are
held against the target's file. Nodes that ONNX Runtime computes beforehand or merges into others run nowhere and don't
count; one that `support` takes for such a node, and that runs, is a miss. Of a folder of parts that a target's compiler
made something of, its report says what it left to the CPU, by the names of nodes; the others count as taken, those too
that it merged. Goal: at least 98 % of the nodes on the exact outcome. Misses are listed by operator, both outcomes and
causes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.compiling.compiled import Compiled
from graphsurgery.compiling.report import Report
from graphsurgery.devices.placement import FOLDED, place
from graphsurgery.devices.providers import CPU, PROVIDERS, DeviceChoice
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.parts.manifest import COMPILED
from graphsurgery.rewrite.registry import discover
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.support import NodeVerdict, support


@dataclass(frozen=True)
class Said:
    """What `support` says of a node."""

    node: str
    op: str
    outcome: str
    why: str

    @classmethod
    def of(cls, found: NodeVerdict) -> Said:
        return cls(found.name, found.op, found.verdict.outcome, found.verdict.reason or "-")


@dataclass(frozen=True)
class Ran:
    """What became of a node that runs, and why, beside what was said."""

    said: Said
    outcome: str
    why: str


def by_provider(path: Path, named: Named, precision: str | None) -> dict[str, Any]:
    """Return the figures of a model that the target's provider of ONNX Runtime places."""
    provider = next((name for name, each in PROVIDERS.items() if each.target == named.name), None)
    if provider is None:
        raise InputError(f"no provider of ONNX Runtime stands for {named.name}; give a folder that was compiled for it")
    start, model = time.monotonic(), Model.load(path)
    said = {node.number: Said.of(node) for node in support(model, named, precision).nodes}
    placed = place(model, DeviceChoice(provider), name=path.name)
    ran = [
        Ran(
            said.get(at) or Said(node.name, node.op, FOLDED, "it depends on no input"),
            "taken" if node.ran == provider else node.ran,
            node.reason or "-",
        )
        for at, node in enumerate(placed.nodes)
        # a weight's DequantizeLinear is folded by one and part of the operator for the other; on the CPU it is a miss
        if node.ran != FOLDED and (at in said or node.ran == CPU.provider)
    ]
    return figures(path, precision or named.target.precisions[0], ran, start)


def by_compiler(part: Path, report: Report, named: Named, precision: str | None) -> dict[str, Any]:
    """Return the figures of a part as it was compiled, whose nodes all have names."""
    start = time.monotonic()
    left = {each.name.partition("#")[0]: each.why or "-" for each in report.left}
    ran = [
        Ran(Said.of(node), "cpu" if node.name in left else "taken", left.get(node.name, "-"))
        for node in support(Model.load(part), named, precision).nodes
    ]
    return figures(part, precision or named.target.precisions[0], ran, start)


def figures(path: Path, precision: str, ran: list[Ran], start: float) -> dict[str, Any]:
    """Return how many nodes agree, and the misses: operator, both outcomes, both reasons, and how many."""
    misses: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], str] = {}
    for each in ran:
        if each.said.outcome != each.outcome:
            key = (each.said.op, each.said.outcome, each.outcome, each.said.why, each.why)
            misses[key] += 1
            examples.setdefault(key, each.said.node)
    right = len(ran) - sum(misses.values())
    return {
        "model": str(path),
        "precision": precision,
        "nodes": len(ran),
        "agree": right,
        "share": right / len(ran) if ran else None,
        "taken": sum(each.outcome == "taken" for each in ran),
        "seconds": round(time.monotonic() - start, 1),
        "misses": [
            dict(
                zip(("op", "said", "ran", "why_said", "why_ran"), key, strict=True), nodes=count, example=examples[key]
            )
            for key, count in misses.most_common()
        ],
    }


def of_path(path: Path, named: Named, precision: str | None) -> Iterator[dict[str, Any]]:
    """Yield the figures of a model, or of each part in a folder."""
    if not path.is_dir():
        yield by_provider(path, named, precision)
        return
    for compiler in named.target.compiler:
        place = path / COMPILED / compiler
        for part, report in Compiled.read(place).reports.items():
            yield by_compiler(place / part / f"{part}.onnx", report, named, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default="qnn-htp", help="that a provider stands for, or what was compiled is for")
    parser.add_argument("--precision", help="of the target; its usual one if not given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    named = load_target(options.target, discover())
    found = []
    for each in (each for path in options.models for each in of_path(path, named, options.precision)):
        found.append(each)
        share = "-" if each["share"] is None else f"{100 * each['share']:.2f} %"
        print(f"{each['model']}: {each['agree']} of {each['nodes']} nodes, {share}, in {each['seconds']} s", flush=True)
        for miss in each["misses"]:
            print(f"  {miss['nodes']} {miss['op']} ({miss['example']}): {miss['said']} ({miss['why_said']}),")
            print(f"      really {miss['ran']} ({miss['why_ran']})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
