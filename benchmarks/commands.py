"""How the time and the memory of commands grow with the nodes of a graph.

    python benchmarks/commands.py                              # 1,000, 10,000 and 100,000 nodes
    python benchmarks/commands.py --sizes 1000 10000           # the same in a minute or two
    python benchmarks/commands.py --only bisect reduce

The graph is an unrolled cell that turns a small matrix, MatMul, Neg, Identity, Transpose, Transpose, Add over and over,
with weights of its own for each round, so that what changes in one round is seen behind it. In another version one
round in the middle is wrong, and a pass makes that mistake. `apply` takes two passes, with all checks. Each command
runs in a process of its own. Printed are its seconds of the processor, those of its children included, the memory of
the largest of these processes, and how the time grows from the second last size to the last: 1 is linear. What a
command takes with the smallest graph, which is mostly its start, is left out of that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import ModelProto, TensorProto, helper, numpy_helper

SIZES = (1_000, 10_000, 100_000)
PLUGIN = '''\
"""Makes one round wrong."""

import numpy as np

from graphsurgery.rewrite import GraphPass


class SpoilRound(GraphPass):
    name = "spoil-round"
    effect = "exact"

    def rewrite(self, graph, edit):
        node = next((node for node in graph.nodes if node.name == "spoil"), None)
        if node is not None and not node.inputs[1].name.startswith("spoilt"):
            edit.set_input(node, 1, edit.constant("spoilt", node.inputs[1].values * np.float32(1.01)))
'''


RECIPE = """source: {onnx: image.onnx}
passes: [drop-identity, merge-transposes]
capture: {samples: 1}
"""


def unrolled(nodes: int, spoilt: bool = False, shape: tuple[int, ...] = (4, 4)) -> ModelProto:
    """Return the graph with so many nodes, over a tensor of `shape`, which ends with 4 and 4."""
    perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    made, weights, current = [], [], "x"
    generator = np.random.default_rng(0)
    rounds = max(1, nodes // 6)
    for number in range(rounds):
        is_spoilt = number == rounds // 2
        turn = np.linalg.qr(generator.standard_normal((4, 4)))[0].astype(np.float32)
        weights.append(numpy_helper.from_array(turn * np.float32(1.01 if is_spoilt and spoilt else 1), f"w{number}"))
        chain: list[tuple[str, list[str], dict[str, Any]]]
        chain = [("MatMul", [f"w{number}"], {}), ("Neg", [], {}), ("Identity", [], {})]
        chain += [("Transpose", [], {"perm": perm}), ("Transpose", [], {"perm": perm}), ("Add", ["zero"], {})]
        for step, (op, more, attributes) in enumerate(chain):
            name = "spoil" if is_spoilt and op == "MatMul" else f"{op}{number}_{step}"
            made.append(helper.make_node(op, [current, *more], [f"t{number}_{step}"], name=name, **attributes))
            current = f"t{number}_{step}"
    weights.append(numpy_helper.from_array(np.zeros((1, 4), np.float32), "zero"))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", current)]
    graph = helper.make_graph(made, "unrolled", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands by name; `folder` has the two models and the plug-in."""
    right, wrong, plugin = (str(folder / name) for name in ("right.onnx", "wrong.onnx", "plugin.py"))
    recipe, parts, io = (str(folder / name) for name in ("recipe.yaml", "parts", "io"))
    return {
        "inspect": ["inspect", right],
        "inspect --cuts": ["inspect", right, "--cuts"],
        "check": ["check", right, wrong],
        "bisect": ["bisect", right, wrong],
        "reduce": ["reduce", right, "--pass", "spoil-round", "--plugin", plugin, "--out", str(folder / "reduced")],
        "support": ["support", right, "--target", "rk3588"],
        "picture": ["picture", right, "-o", str(folder / "picture.svg")],
        "apply": ["apply", recipe, "--out", parts, "--model-io", io],
        "report": ["report", parts],  # of what apply wrote
    }


def measured(command: list[str], limit: float) -> dict[str, float | None]:
    """Run a command in a process that measures it."""
    code = f"import benchmarks_commands as b; b.report({command!r})"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    }
    code = code.replace("benchmarks_commands", Path(__file__).stem)
    try:
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=limit, check=True, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"seconds": None, "peak_mb": None, "exit": None}
    found: dict[str, float | None] = json.loads(run.stdout)
    return found


def report(command: list[str]) -> None:
    """Run a command, and print what it took as JSON."""
    run = subprocess.run([sys.executable, "-m", "graphsurgery", *command], capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):
        print(run.stderr[-2000:], file=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": used.ru_maxrss // 1024, "exit": run.returncode}))


def growth(sizes: list[int], seconds: list[float | None]) -> float | None:
    """Return the exponent of the time between the last two sizes, without what the first one takes."""
    if len(sizes) < 3 or any(each is None for each in seconds):
        return None
    first, second, last = (float(each or 0) for each in (seconds[0], *seconds[-2:]))
    if second - first < 0.2:  # too little to tell
        return None
    grown = (last - first) / (second - first)
    nodes = (sizes[-1] - sizes[0]) / (sizes[-2] - sizes[0])
    return round(math.log(max(grown, 1e-3)) / math.log(nodes), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", help="commands by their first word; report needs apply")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each; - stands for what took longer")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float | None]]] = {}
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            onnx.save(unrolled(size), folder / "right.onnx")
            onnx.save(unrolled(size, spoilt=True), folder / "wrong.onnx")
            onnx.save(unrolled(size, shape=(1, 3, 4, 4)), folder / "image.onnx")
            (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
            (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
            for name, command in commands(folder).items():
                if not options.only or command[0] in options.only:
                    rows.setdefault(name, []).append(measured(command, options.limit))
                    print(f"{size:9} {name:16} {rows[name][-1]}", file=sys.stderr, flush=True)
    print("| command | " + " | ".join(f"{size:,} nodes" for size in options.sizes) + " | grows by n to the |")
    print("|---" * (len(options.sizes) + 2) + "|")
    for name, row in rows.items():
        cells = ["-" if each["seconds"] is None else f"{each['seconds']} s, {each['peak_mb']} MB" for each in row]
        exponent = growth(options.sizes, [each["seconds"] for each in row])
        print(f"| {name} | " + " | ".join(cells) + f" | {'-' if exponent is None else exponent} |")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, {sys.version[:6]}")


if __name__ == "__main__":
    main()
