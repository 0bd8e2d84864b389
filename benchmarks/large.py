"""A model above 2 GB: three passes, and a cut into two parts, beside `cp` of its weights; time and peak memory.

    python benchmarks/large.py [--gb 8] [--check] [--turns 1] [--folder DIR]

The model is made in a temporary folder, which is removed at the end: a chain of layers of 5000 x 5000 (100 MB each),
with an Identity and a Relu behind each. On the disk lie the model, its copy and the parts, three times --gb. `cp` and
the run take turns; as a run waits for the disk before it puts its files in place, so does `sync` behind `cp`. The peak
is the resident memory of the process, pages of mapped files included. With --check the model is also loaded and run
once in a process that does nothing else: the session's own memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, SIDE = 5000, 8
RECIPE = """source: {{onnx: large.onnx}}
passes: [drop-identity, fold-constants, merge-transposes]
capture: {{samples: 1}}
{cut}"""
CUT = "partition: {{at: {{tensors: [r{middle}]}}, parts: {{front: npu, back: npu}}}}\n"
SESSION = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {{"images": np.ones((1, 3, 8, 8), np.float32)}})
"""


def make(folder: Path, layers: int) -> None:
    """Write large.onnx and its weights, made of one block of random numbers that is rolled."""
    random = np.random.default_rng(0)
    block = random.standard_normal(SIZE * SIZE, np.float32) * np.float32((2 / SIZE) ** 0.5)

    def small(name: str, shape: tuple[int, ...]) -> TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) / np.float32(9), name)

    weights = [small("first", (SIZE, 3, 1, 1)), small("last", (4, SIZE, 1, 1))]
    nodes = [helper.make_node("Conv", ["images", "first"], ["r0"])]
    with (folder / "large.onnx.data").open("wb") as file:
        for layer in range(1, layers + 1):
            weight = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[SIZE, SIZE, 1, 1])
            weight.data_location = TensorProto.EXTERNAL
            for key, value in (("location", file.name.rpartition(os.sep)[2]), ("offset", file.tell())):
                weight.external_data.add(key=key, value=str(value))
            weight.external_data.add(key="length", value=str(block.nbytes))
            file.write(np.roll(block, 977 * layer).data)
            weights.append(weight)
            nodes += [
                helper.make_node("Conv", [f"r{layer - 1}", f"w{layer}"], [f"c{layer}"]),
                helper.make_node("Identity", [f"c{layer}"], [f"i{layer}"]),
                helper.make_node("Relu", [f"i{layer}"], [f"r{layer}"]),
            ]
    nodes.append(helper.make_node("Conv", [f"r{layers}", "last"], ["out"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, SIDE, SIDE])
        for name, channels in (("images", 3), ("out", 4))
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "large.onnx"
    )


def measured(command: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Return seconds, seconds of the processor and peak memory in MB of a process. Raises where it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.read() if process.stdout is not None else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(said.decode(errors="replace")[-2000:])
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def line(what: str, found: tuple[float, float, float], beside: float | None = None) -> None:
    """Print a row; the time of `cp` is what it is held against."""
    ratio = "" if beside is None else f", {found[0] / beside:.2f} x cp"
    print(f"{what:<28} {found[0]:7.1f} s, processor {found[1]:6.1f} s, peak {found[2]:7.0f} MB{ratio}", flush=True)


def main() -> None:
    """Make the model, measure, clean up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=8, help="weights of the model in 10^9 bytes")
    parser.add_argument("--check", action="store_true", help="let the gate compare, too")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    given = parser.parse_args()
    layers = max(2, round(given.gb * 1e9 / (4 * SIZE * SIZE)))
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        make(folder, layers)
        os.sync()
        for name, cut in (("passes", ""), ("cut", CUT.format(middle=layers // 2))):
            (folder / f"{name}.yaml").write_text(RECIPE.format(cut=cut), encoding="utf-8")
        for _ in range(given.turns):
            begin = time.perf_counter()
            measured(["cp", "large.onnx.data", "copy"], folder)
            alone = time.perf_counter() - begin
            measured(["sync", "copy"], folder)
            both = time.perf_counter() - begin
            (folder / "copy").unlink()
            print(f"cp {alone:.1f} s, with sync {both:.1f} s", flush=True)
            for name in ("passes", "cut"):
                apply = [sys.executable, "-m", "graphsurgery", "apply", f"{name}.yaml", "--out", "out"]
                apply += ["--model-io", "io", *(() if given.check else ("--no-check",))]
                line(f"apply, {name}", measured(apply, folder), both)
                shutil.rmtree(folder / "out")
        if given.check:
            for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
                session = [sys.executable, "-c", SESSION.format(level=level), "large.onnx"]
                line(f"session, {level}", measured(session, folder))


if __name__ == "__main__":
    main()
