"""How long the search for a first difference takes, and how much memory, on a whole detector.

    python benchmarks/bisection.py                                     # Mask R-CNN, 544 x 960, random weights
    python benchmarks/bisection.py --model whole.onnx --inputs model_io   # a model that is there already

The model is searched against itself and against three versions of it: the weight of an early Conv 1 % larger, that of
the last one, and the first one larger by a rounding, so that every tensor is computed twice and nearly all are equal.
Each search is a process of its own. Prints a table; --json FILE writes the figures with the machine. Needs a system
that tells a child's peak memory (Linux, macOS).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil

from graphsurgery.capture import take
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import load_recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite.registry import discover
from graphsurgery.sources import open_source

# which Conv's weight is multiplied, and by what
FAULTS = {"equal": None, "an early Conv": (3, 1.01), "the last Conv": (-1, 1.01), "a rounding": (0, 1 + 2e-7)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="maskrcnn")
    parser.add_argument("--weights", default="random:0", help="of a torchvision recipe")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.model is None) != (options.inputs is None):
        parser.error("--model and --inputs go together")

    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        folder = Path(name)
        if options.model is None:
            model, inputs = build(options.recipe, options.weights, folder)
        else:
            model, inputs = options.model, options.inputs
        rows = []
        for what, fault in FAULTS.items():
            other = with_fault(model, fault, folder / "other.onnx")
            rows.append({"against": what, **search(model, other, inputs, folder / "found.json")})
            print("{against:15} {seconds:6.1f} s  user {user:6.1f} s  {peak_mb:6.0f} MB  {first}".format(**rows[-1]))
    result = {
        "recipe": options.recipe if options.model is None else str(options.model.name),
        "searches": rows,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def build(name: str, weights: str, folder: Path) -> tuple[Path, Path]:
    """Take a detector through its recipe up to the cut, and capture one image."""
    whole = ["partition=", "part_passes=", *(["evaluate="] if name == "shapes" else [])]
    recipe = load_recipe(name, whole, registry=discover(), weights=None if name == "shapes" else weights)
    source = open_source(recipe.source)
    capture = take.capture(source, take.embedded_samples(1), folder / "model_io")
    with OutputFolder(folder / "parts") as output:
        pipeline.apply(Run(recipe, source, capture.samples, None, Record(recipe.to_json())), output)
        output.publish()
    return folder / "parts" / f"{recipe.name}.onnx", folder / "model_io"


def with_fault(model: Path, fault: tuple[int, float] | None, target: Path) -> Path:
    """Write the model with one Conv's weight multiplied."""
    proto = onnx.load(model)
    if fault is not None:
        number, factor = fault
        conv = [node for node in proto.graph.node if node.op_type == "Conv"][number]
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == conv.input[1])
        values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(proto, target)
    return target


def search(a: Path, b: Path, inputs: Path, report: Path) -> dict[str, Any]:
    """Run `bisect` in a process of its own and return what it took."""
    command = [sys.executable, "-m", "graphsurgery", "bisect", str(a), str(b), "--inputs", str(inputs)]
    begin = time.perf_counter()
    child = subprocess.Popen([*command, "--json", str(report)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed")
    found = json.loads(report.read_text(encoding="utf-8"))["divergences"]
    return {
        "seconds": round(seconds, 1),
        "user": round(used.ru_utime, 1),
        "peak_mb": round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)),
        "first": found[0]["tensor"] if found else "no difference",
    }


if __name__ == "__main__":
    main()
