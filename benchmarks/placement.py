"""How often `support` says of a node what the vendor's provider really does with it.

    python benchmarks/placement.py model/shapes/backbone_rpn.onnx --target qnn-htp
    python benchmarks/placement.py a.onnx b.onnx --target qnn-htp --precision int8 --json figures.json

Each model is placed by the provider of ONNX Runtime that the target stands for, falling back allowed, and its nodes are
held against the target's file. Nodes that ONNX Runtime computes beforehand or merges into others run nowhere and don't
count. Goal: at least 98 % of the nodes on the exact outcome. Misses are listed by operator, both outcomes and causes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from graphsurgery.devices.placement import FOLDED, place
from graphsurgery.devices.providers import PROVIDERS, DeviceChoice
from graphsurgery.graph.model import Model
from graphsurgery.rewrite.registry import discover
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.support import support


def agreement(path: Path, named: Named, precision: str | None, choice: DeviceChoice) -> dict[str, Any]:
    """Return how many nodes of a model agree, and the misses: operator, both outcomes, both reasons, and how many."""
    start = time.monotonic()
    model = Model.load(path)
    said = {node.number: node for node in support(model, named, precision).nodes}
    placed = place(model, choice, name=path.name)
    live = [(said[at], node) for at, node in enumerate(placed.nodes) if at in said and node.ran != FOLDED]
    misses: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], str] = {}
    for node, real in live:
        ran = "taken" if real.ran == choice.provider else real.ran
        if node.verdict.outcome != ran:
            key = (node.op, node.verdict.outcome, ran, node.verdict.reason or "-", real.reason or "-")
            misses[key] += 1
            examples.setdefault(key, node.name)
    right = len(live) - sum(misses.values())
    return {
        "model": str(path),
        "precision": precision or named.target.precisions[0],
        "nodes": len(live),
        "agree": right,
        "share": right / len(live) if live else None,
        "taken": sum(real.ran == choice.provider for _, real in live),
        "seconds": round(time.monotonic() - start, 1),
        "misses": [
            dict(
                zip(("op", "said", "ran", "why_said", "why_ran"), key, strict=True), nodes=count, example=examples[key]
            )
            for key, count in misses.most_common()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--target", default="qnn-htp", help="a target that a provider of ONNX Runtime stands for")
    parser.add_argument("--precision", help="of the target; its usual one if not given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    named = load_target(options.target, discover())
    provider = next((name for name, each in PROVIDERS.items() if each.target == named.name), None)
    if provider is None:
        parser.error(f"no provider of ONNX Runtime stands for {named.name}")
    found = []
    for path in options.models:
        figures = agreement(path, named, options.precision, DeviceChoice(provider))
        found.append(figures)
        share = "-" if figures["share"] is None else f"{100 * figures['share']:.2f} %"
        print(f"{path}: {figures['agree']} of {figures['nodes']} nodes, {share}, in {figures['seconds']} s", flush=True)
        for miss in figures["misses"]:
            print(f"  {miss['nodes']} {miss['op']} ({miss['example']}): {miss['said']} ({miss['why_said']}),")
            print(f"      really {miss['ran']} ({miss['why_ran']})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
