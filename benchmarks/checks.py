"""How long the checks of a run take in two checkouts of this project, taking turns in one run.

    python benchmarks/checks.py ../before                       # shapes; ../before is a checkout of an earlier commit
    python benchmarks/checks.py ../before --recipe maskrcnn --weights random:0 --runs 1

Each checkout is run by `.venv` in it, where there is one, else by this Python. What is measured is `seconds.checks` of
run.json, on captures of their own; capturing does not count. --set changes the recipe of both, to have an approximate
pass in it for example. Prints the figures and, with --json FILE, writes them.
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
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--recipe", default="shapes")
    parser.add_argument("--weights", help="of a torchvision recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as --set of apply")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    command = ["-m", "graphsurgery", "apply", options.recipe, "--no-variants"]
    command += ["--weights", options.weights] if options.weights else []
    for override in ("evaluate=", "capture.samples=3", *options.overrides):
        command += ["--set", override]
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
        for _ in range(options.runs + 1):
            for side, checkout in (("before", options.before.resolve()), ("after", HERE)):
                seconds[side].append(checks(checkout, command, Path(name) / side))
    # the first run captures as well, and warms the disk
    ratios = [after / before for before, after in zip(seconds["before"][1:], seconds["after"][1:], strict=True)]
    result = {
        "recipe": options.recipe,
        **{f"{side}_seconds": [round(value, 2) for value in values[1:]] for side, values in seconds.items()},
        "ratio_median": round(statistics.median(ratios), 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def checks(checkout: Path, command: list[str], folder: Path) -> float:
    """Run `command` in `checkout` and return the seconds that its checks took."""
    places = [checkout / ".venv" / "bin" / "python", checkout / ".venv" / "Scripts" / "python.exe"]
    python = next((str(place) for place in places if place.exists()), sys.executable)
    out = ["--out", str(folder / "parts"), "--model-io", str(folder / "model_io")]
    subprocess.run([python, *command, *out], cwd=checkout, check=True, capture_output=True)
    return float(json.loads((folder / "parts" / "run.json").read_text(encoding="utf-8"))["seconds"]["checks"])


if __name__ == "__main__":
    main()
