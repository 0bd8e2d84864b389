"""How long the surgery takes beside one onnxsim run of the same whole graph, side by side in one run.

    python benchmarks/surgery.py                          # the real Mask R-CNN, 544 x 960, random weights
    python benchmarks/surgery.py --recipe shapes --runs 3

Surgery is all passes and cuts of the recipe, without export, capture, checks and writing. Both run from cold: onnxsim
in a fresh Python that loads the file, simplifies and saves; the surgery with a fresh simplifier process each time. The
goal is a median ratio of at most 1.0. Prints a table and, with --json FILE, the figures with the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from onnx import ModelProto

from graphsurgery.capture import take
from graphsurgery.capture.samples import Capture
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.run import Run
from graphsurgery.processes import onnxsim_process
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite.registry import discover
from graphsurgery.sources import Source, open_source

ONNXSIM = "import sys, onnx, onnxsim; onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"


class Exported:
    """A source whose whole graph was exported before the clock runs."""

    def __init__(self, source: Source, proto: ModelProto) -> None:
        self._source, self._proto = source, proto

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def export(self) -> ModelProto:
        return self._proto


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="maskrcnn")
    parser.add_argument("--weights", default="random:0", help="of a torchvision recipe")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    weights = None if options.recipe == "shapes" else options.weights
    recipe = load_recipe(options.recipe, registry=discover(), weights=weights)
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        folder = Path(name)
        source = open_source(recipe.source)
        proto = source.export()
        (folder / "whole.onnx").write_bytes(proto.SerializeToString())
        capture = take.capture(source, take.embedded_samples(1), folder / "model_io")
        onnxsim, surgery = [], []
        for _ in range(options.runs):
            onnxsim.append(run_onnxsim(folder))
            surgery.append(run_surgery(recipe, Exported(source, proto), capture, folder))
    ratios = [mine / theirs for mine, theirs in zip(surgery, onnxsim, strict=True)]
    result = {
        "recipe": options.recipe,
        "onnxsim_seconds": [round(value, 2) for value in onnxsim],
        "surgery_seconds": [round(value, 2) for value in surgery],
        "ratio_median": round(statistics.median(ratios), 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run_onnxsim(folder: Path) -> float:
    begin = time.perf_counter()
    command = [sys.executable, "-c", ONNXSIM, str(folder / "whole.onnx"), str(folder / "simplified.onnx")]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def run_surgery(recipe: Recipe, source: Source, capture: Capture, folder: Path) -> float:
    onnxsim_process.running.shutdown()
    record = Record(recipe.to_json())
    with OutputFolder(folder / "parts") as output:
        run = Run(recipe, source, capture.samples, None, record, scratch=folder / "scratch")  # as `apply` has it
        pipeline.apply(run, output)
    return record.seconds["surgery"]


if __name__ == "__main__":
    main()
