"""How long `apply` takes in two checkouts of this project, taking turns in one run: the whole of it and each stage.

    python benchmarks/apply.py ../before                        # shapes; ../before is a checkout of an earlier commit
    python benchmarks/apply.py ../before --stage checks --keep-capture --no-variants --set evaluate=
    python benchmarks/apply.py ../before --recipe maskrcnn --weights random:0 --runs 1 --keep-capture

Each checkout is run by `.venv` in it, where there is one, else by this Python. A stage is an entry of `seconds` in
run.json; `processor` is the time that all cores worked, which other jobs beside change less. The first run of each side
warms the disk and does not count; with --keep-capture the others use its samples. --set changes the recipe of both.
Prints the figures and, with --json FILE, writes them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--weights", help="of a torchvision recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as --set of apply")
    parser.add_argument("--no-variants", action="store_true", help="as --no-variants of apply")
    parser.add_argument("--keep-capture", action="store_true", help="capture in the first run only")
    parser.add_argument("--stage", default="total", help="what the ratio is of")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    command = ["-m", "graphsurgery", "apply", options.recipe]
    command += ["--no-variants"] if options.no_variants else []
    command += ["--weights", options.weights] if options.weights else []
    for override in options.overrides:
        command += ["--set", override]
    seconds: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        for _ in range(options.runs + 1):
            for side, checkout in (("before", options.before.resolve()), ("after", HERE)):
                seconds[side].append(stages(checkout, command, Path(name) / side, options.keep_capture))
    counted = {side: runs[1:] for side, runs in seconds.items()}
    ratios = [after[options.stage] / before[options.stage] for before, after in zip(*counted.values(), strict=True)]
    result = {
        "recipe": options.recipe,
        **{
            side: {stage: [round(run.get(stage, 0.0), 2) for run in runs] for stage in runs[-1]}
            for side, runs in counted.items()
        },
        "stage": options.stage,
        "ratio_median": round(statistics.median(ratios), 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def stages(checkout: Path, command: list[str], folder: Path, keep_capture: bool) -> dict[str, float]:
    """Run `command` in `checkout` and return the seconds of each stage, and those that the processor worked."""
    places = [checkout / ".venv" / "bin" / "python", checkout / ".venv" / "Scripts" / "python.exe"]
    python = next((str(place) for place in places if place.exists()), sys.executable)
    if not keep_capture:
        shutil.rmtree(folder / "model_io", ignore_errors=True)
    out = ["--out", str(folder / "parts"), "--model-io", str(folder / "model_io")]
    before = os.times()
    subprocess.run([python, *command, *out], cwd=checkout, check=True, capture_output=True)
    after = os.times()
    found: dict[str, float] = json.loads((folder / "parts" / "run.json").read_text(encoding="utf-8"))["seconds"]
    if os.name == "nt":  # it doesn't say how long a process worked that has ended
        return found
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return {**found, "processor": spent}


if __name__ == "__main__":
    main()
