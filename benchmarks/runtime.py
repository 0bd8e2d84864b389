"""The chain of parts against the whole exported model and against torch, side by side.

    python benchmarks/runtime.py                                   # Mask R-CNN, 544 x 960, random weights; minutes
    python benchmarks/runtime.py --parts model/maskrcnn --whole whole.onnx --int8 model/maskrcnn/int8

What is not given is made first: the parts and the whole model from the recipe, 8-bit parts with the pass `quantize`.
Every contender starts from the same image on the canvas, [3, H, W] in 0..1, and ends with boxes, labels, scores and
pasted masks. All take two threads, which sleep when they have nothing to do. They take turns, round by round, and a
ratio is the median over the rounds of what two took next to each other: another job on the machine then slows both.
Beside the wall clock stands the processor's time, which other jobs change less. Goals for Mask R-CNN: the float parts
at most 0.65 of the whole model and 0.6 of torch, the 8-bit ones at most 0.28 of the whole float model on a processor
with VNNI.

Besides, the parts and the whole model each run three times in a process of their own: the most memory that the parts
take is to be at most what the whole takes. And 200 images go through the pipeline: memory must grow by less than 20 MB
after the first 50.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil

from graphsurgery.capture import take
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.manifest import Manifest
from graphsurgery.passes.quantize import Quantize
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline.run import Run
from graphsurgery.processes.peak_memory import Room
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite import PassContext, apply_passes
from graphsurgery.rewrite.registry import discover
from graphsurgery.runtime.detector import Detector
from graphsurgery.runtime.latency import synthetic_image
from graphsurgery.runtime.overlap import Pipelined
from graphsurgery.sources import open_source

GOALS = {"chain / whole": 0.65, "chain / torch": 0.6, "int8 chain / whole": 0.28}
MEMORY_GOAL = 1.0
LEAK_LIMIT_MB = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="maskrcnn")
    parser.add_argument("--weights", default="random:0", help="of a torchvision recipe")
    parser.add_argument("--parts", type=Path, help="a folder of parts of that recipe")
    parser.add_argument("--whole", type=Path, help="what the recipe's source exports")
    parser.add_argument("--int8", type=Path, help="a folder of 8-bit parts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=200, help="through the pipeline, for its memory; 0 for none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    shapes = options.recipe == "shapes"
    weights, overrides = (None, ["evaluate="]) if shapes else (options.weights, [])
    recipe = load_recipe(options.recipe, overrides, registry=discover(), weights=weights)

    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        parts, whole, int8 = prepare(recipe, options.parts, options.whole, options.int8, Path(name))
        memory = {
            kind: peak_memory(kind, parts, path, options.threads)
            for kind, path in (("chain", parts), ("int8 chain", int8), ("whole", whole))
        }
        detector = Detector.load(parts, threads=options.threads, spin=False)
        placed = detector.canvas.fit(synthetic_image(detector.canvas))
        contenders = {
            "chain": chain(detector, placed),
            "int8 chain": chain(Detector.load(int8, threads=options.threads, spin=False), placed),
            "whole": exported(whole, placed, options.threads),
            "torch": eager(recipe, placed, options.threads),
        }
        found = {name: contender() for name, contender in contenders.items()}
        times = take_turns(contenders, options.rounds)
        result: dict[str, Any] = {
            "recipe": options.recipe,
            "detections": found,
            "seconds": {
                name: {kind: round(statistics.median(row[kind] for row in rows), 3) for kind in ("wall", "cpu")}
                for name, rows in times.items()
            },
            "ratios": {name: ratio(times, *name.split(" / ")) for name in GOALS},
            "parts_ms": {
                player.entry.name: round(player.timer.summary()["p50_ms"], 1) for player in detector.chain.players
            },
        }
        result["peak_mb"] = memory | {"chain / whole": round(memory["chain"] / memory["whole"], 2)}
        contenders.clear()
        if options.images:
            result["growth_mb"] = growth(detector, options.images)
    result |= {
        "goals": GOALS | {"peak_mb, chain / whole": MEMORY_GOAL},
        "vnni": vnni(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def prepare(
    recipe: Recipe, parts: Path | None, whole: Path | None, int8: Path | None, folder: Path
) -> tuple[Path, Path, Path]:
    """Return the parts, the whole model and the 8-bit parts, each made in `folder` where it is not there."""
    if parts is None or whole is None or int8 is None:
        source = open_source(recipe.source)
        capture = take.capture(source, take.embedded_samples(1), folder / "model_io")
        if parts is None:
            parts = folder / "parts"
            with OutputFolder(parts) as output:
                pipeline.apply(Run(recipe, source, capture.samples, None, Record(recipe.to_json())), output)
                output.publish()
        if whole is None:
            whole = folder / "whole.onnx"
            onnx.save(source.export(), whole)
        if int8 is None:
            int8 = quantized(parts, PassContext(capture.samples), folder / "int8")
    return parts, whole, int8


def quantized(parts: Path, context: PassContext, target: Path) -> Path:
    """Copy a folder of parts with those for the accelerator in 8 bits."""
    manifest = Manifest.read(parts)
    with OutputFolder(target) as output:
        for part in manifest.parts:
            model = Model.load(parts / part.file)
            if part.accelerator:
                model = apply_passes([Quantize()], model, context).model
            model.save(output.work / part.file)
        output.write_manifest(manifest)
        output.publish()
    return target


def chain(detector: Detector, placed: CanvasImage) -> Callable[[], int]:
    return lambda: len(placed.restore(detector.on_canvas(placed))["boxes"])


def exported(model: Path, placed: CanvasImage, threads: int) -> Callable[[], int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options)
    feeds = {session.get_inputs()[0].name: placed.input}
    return lambda: len(session.run(None, feeds)[0])


def eager(recipe: Recipe, placed: CanvasImage, threads: int) -> Callable[[], int]:
    import torch

    from graphsurgery.sources.networks import build
    from graphsurgery.sources.quiet import quiet

    torch.set_num_threads(threads)
    model, _ = build(recipe.source)
    image = torch.from_numpy(placed.input)

    def detect() -> int:
        with torch.no_grad(), quiet():
            return len(model([image])[0]["boxes"])

    return detect


def take_turns(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return wall clock and processor time of each contender in each round; each has run once before."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            contender()
            times[name].append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
            time.sleep(0.05)  # the threads of the last one stop spinning
    return times


def ratio(times: dict[str, list[dict[str, float]]], one: str, other: str) -> dict[str, float]:
    """Return the median over the rounds of what `one` took of `other`, and the range of the wall clock's."""
    rounds = {
        kind: [a[kind] / b[kind] for a, b in zip(times[one], times[other], strict=True)] for kind in ("wall", "cpu")
    }
    return {
        **{kind: round(statistics.median(values), 3) for kind, values in rounds.items()},
        "wall_from": round(min(rounds["wall"]), 3),
        "wall_to": round(max(rounds["wall"]), 3),
    }


def peak_memory(kind: str, parts: Path, path: Path, threads: int) -> float:
    """Return the most MB that the parts, or the whole model, at `path` take in a process of their own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_memory, kind, parts, path, threads).result()


def _peak_memory(kind: str, parts: Path, path: Path, threads: int) -> float:
    canvas = Canvas.from_json(Manifest.read(parts).canvas)
    room, placed = Room(), canvas.fit(synthetic_image(canvas))
    with room.measured(1):
        if kind == "whole":
            detect = exported(path, placed, threads)
        else:
            detect = chain(Detector.load(path, threads=threads, spin=False), placed)
        for _ in range(3):
            detect()
    return round(room.needed(1) / 2**20, 1)


def growth(detector: Detector, count: int) -> float:
    """Return by how many MB memory grows from a quarter of the images to the last, in the pipeline."""
    process, image = psutil.Process(), synthetic_image(detector.canvas)
    gc.collect()

    def images() -> Iterator[np.ndarray]:
        for index in range(count):
            yield np.roll(image, index * 7, axis=1)  # boxes in other places, and other numbers of them

    before = 0
    for done, _ in enumerate(Pipelined(detector, 1).run(images()), start=1):
        if done == max(count // 4, 1):
            before = process.memory_info().rss
    return round((process.memory_info().rss - before) / 2**20, 1)


def vnni() -> bool | None:
    """Tell whether the processor has VNNI; None where it does not say."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return "avx512_vnni" in flags or "avx_vnni" in flags


if __name__ == "__main__":
    main()
