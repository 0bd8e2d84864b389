"""How the time and the memory of passes grow with the graph, and what all exact passes take on the real Mask R-CNN.

    python benchmarks/node_passes.py                      # a synthetic graph of 100,000 nodes, and of ten times as many
    python benchmarks/node_passes.py --base 10000         # the same from 10,000, in half a minute
    python benchmarks/node_passes.py --model whole.onnx   # besides, all exact passes on a model, unchecked

The synthetic graph is a chain of Conv, BatchNormalization, Clip, Transpose, Transpose, Identity, over and over; five
node passes have work at each of them. Goals, idle: 100,000 nodes in at most 8 s, 1,000,000 in at most eleven times the
time and 6 GB; all exact passes on Mask R-CNN in under 2 s. Each size runs in a process of its own. Prints the figures
with the machine; growth is that of the processor's time, which other jobs beside it disturb less. The walk beside it
reads all names of the same model by onnx alone: what it grows by is the machine's own, whose caches hold 100,000 nodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.rewrite import ModelPass, Pass, apply_passes, registry

NODE_PASSES = ("fold-batchnorm", "lower-clip", "merge-transposes", "drop-identity", "fill-default-attributes")
BASE = 100_000


def synthetic(nodes: int) -> ModelProto:
    """Return a chain of so many nodes, with weights of its own for every layer."""
    made, weights, current = [], [], "x"
    generator = np.random.default_rng(0)
    for number in range(nodes // 6):
        names = {kind: f"{kind}{number}" for kind in ("conv", "norm", "clip", "there", "back", "same")}
        stored = {f"w{number}": (4, 4, 1, 1)} | {f"{kind}{number}": (4,) for kind in ("scale", "shift", "mean", "var")}
        weights += [
            numpy_helper.from_array(generator.uniform(0.5, 1, shape).astype(np.float32), name)
            for name, shape in stored.items()
        ]
        chain: list[tuple[str, str, list[str], dict[str, Any]]] = [
            ("Conv", "conv", [f"w{number}"], {}),
            ("BatchNormalization", "norm", list(stored)[1:], {}),
            ("Clip", "clip", ["zero"], {}),
            ("Transpose", "there", [], {"perm": [0, 2, 3, 1]}),
            ("Transpose", "back", [], {"perm": [0, 3, 1, 2]}),
            ("Identity", "same", [], {}),
        ]
        for op, kind, more, attributes in chain:
            made.append(helper.make_node(op, [current, *more], [names[kind]], name=f"{op}{number}", **attributes))
            current = names[kind]
    weights.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", current)]
    graph = helper.make_graph(made, "synthetic", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def exact_passes() -> list[Pass]:
    """Return all exact passes that need no options, but for those that call another tool."""
    found = registry.discover()
    classes = [found.get(name) for name in found.names()]
    return [
        cls()
        for cls in classes
        if cls.effect == "exact"
        and not issubclass(cls, ModelPass)
        and all(
            option.default is not dataclasses.MISSING or option.default_factory is not dataclasses.MISSING
            for option in dataclasses.fields(cls)
        )
    ]


def measure_synthetic(nodes: int) -> dict[str, float]:
    """Apply the five passes on one view."""
    model = Model(synthetic(nodes))
    found = registry.discover()
    passes = [found.get(name)() for name in NODE_PASSES]
    begin, worked = time.perf_counter(), time.process_time()
    after = apply_passes(passes, model).model
    seconds, worked = time.perf_counter() - begin, time.process_time() - worked
    most = getattr(psutil.Process().memory_info(), "peak_wset", None) or _peak_rss()
    # last, so that the passes find no memory that it has used before them
    begin = time.process_time()
    names = [(node.name, list(node.input), list(node.output)) for node in model.proto.graph.node]
    stored = [tensor.name for tensor in model.proto.graph.initializer]
    walked = time.process_time() - begin
    del names, stored
    return {
        "nodes": nodes,
        "seconds": round(seconds, 2),
        "processor": round(worked, 2),
        "walk": round(walked, 3),
        "peak_mb": round(most / 2**20),
        "nodes_after": after.nodes,
    }


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_model(path: Path) -> dict[str, float]:
    """Apply all exact passes on one view of the model."""
    model = Model.load(path).with_values_inside()
    passes = exact_passes()
    begin = time.perf_counter()
    after = apply_passes(passes, model).model
    seconds = time.perf_counter() - begin
    return {"passes": len(passes), "nodes": model.nodes, "nodes_after": after.nodes, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="an ONNX file, such as a simplified Mask R-CNN")
    parser.add_argument("--base", type=int, default=BASE, help="nodes of the smaller graph")
    parser.add_argument("--nodes", type=int, help="measure one size in this process and print it as JSON")
    options = parser.parse_args()
    if options.nodes:
        print(json.dumps(measure_synthetic(options.nodes)))
        return
    rows = []
    for nodes in (options.base, 10 * options.base):
        run = subprocess.run(
            [sys.executable, __file__, "--nodes", str(nodes)], check=True, capture_output=True, text=True
        )
        rows.append(json.loads(run.stdout))
    result = {
        "five_node_passes": rows,
        "growth": round(rows[1]["processor"] / rows[0]["processor"], 2),
        "growth_of_the_walk": round(rows[1]["walk"] / rows[0]["walk"], 2),
        **({"all_exact_passes": measure_model(options.model)} if options.model else {}),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
