#!/usr/bin/env python3
"""Damage small ONNX models, and see whether each is refused in one line or worked on, by whatever takes an ONNX file.

    scripts/fuzz_onnx.py --minutes 10          from seed 0 on
    scripts/fuzz_onnx.py --seed 17             one case again; --keep FILE writes its model

A case is a model of ONNX's backend tests, or one from below, with a few fields of its proto changed to what no exporter
writes, or some of its bytes. It is opened, inspected, checked, rewritten by a few passes, compared with itself and
printed, in a process with a limit on memory and time. Exit 1 where an error other than graphsurgery's came out, or the
process died.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_harness import Limits, Step, Trial, explore
from fuzz_onnx_models import damaged

from graphsurgery.rewrite import registry

# ONNX Runtime asks for many addresses that it does not use
LIMITS = Limits(seconds=30, megabytes=6 << 10, addresses=6 << 30)


def stages(path: Path, seed: int) -> Iterator[Step]:
    """Yield what is done with a model, by name."""
    from graphsurgery.cli.inspect import _inspect
    from graphsurgery.debugging.bisect import bisect_files
    from graphsurgery.debugging.compare_paths import compare_paths, parse_tolerances
    from graphsurgery.graph.model import Model
    from graphsurgery.graph.multiply_adds import multiply_adds
    from graphsurgery.progress import Silent
    from graphsurgery.report import terminal
    from graphsurgery.rewrite.apply import apply_passes

    draw, loaded = random.Random(seed), []
    yield "load", lambda: loaded.append(Model.load(path))
    (model,) = loaded

    def show() -> None:
        screen = terminal.Screen(file=io.TextIOWrapper(io.BytesIO(), "cp1252", errors="backslashreplace"))
        found = _inspect(model)
        screen.print(terminal.plain_table(str(path), ["", ""], [[k, v] for k, v in found["inputs"].items()]))
        screen.print(", ".join(found["ops"]))

    yield "inspect", show
    yield "check", lambda: model.check(str(path))
    yield "multiply_adds", lambda: multiply_adds(model)
    yield "fingerprint", lambda: model.fingerprint
    passes = registry.discover(())
    for name in draw.sample(passes.names(), 4):
        if name in ("simplify", "quantize"):
            continue
        try:
            pass_ = passes.get(name)()
        except TypeError:  # it needs options
            continue
        yield name, lambda pass_=pass_: apply_passes([pass_], model)
    yield "compare", lambda: compare_paths(path, path, None, parse_tolerances([]), Silent())
    yield "bisect", lambda: bisect_files(path, path, None, parse_tolerances([]), Silent())


def opened(folder: Path) -> Trial:
    """Return what is done with a model in `folder`, with a short limit on the time of a run."""
    os.environ["GRAPHSURGERY_TIME_LIMIT"] = "2"
    registry.discover = functools.cache(registry.discover)  # the same for all cases, and a third of what each took
    path = folder / "m.onnx"
    return Trial(path, damaged, lambda seed: stages(path, seed))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--cases", type=int, default=sys.maxsize)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--seed", type=int, help="try this case alone, in this process")
    options.add_argument("--keep", type=Path, help="with --seed: write the model there")
    given = options.parse_args()
    if given.seed is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = given.keep or Path(folder) / "m.onnx"
            path.write_bytes(damaged(given.seed))
            for name, step in stages(path, given.seed):
                print(name, flush=True)
                try:
                    step()
                except Exception:
                    traceback.print_exc()
                    if name == "load":
                        break
        return 0
    tally = explore(opened, ["load", "compare"], given.first, given.cases, given.minutes * 60, LIMITS)
    for kind, seeds in sorted(tally.faults.items(), key=lambda each: -len(each[1])):
        print(f"{len(seeds):6} {kind}: seeds {', '.join(map(str, seeds[:5]))}\n{tally.stories[kind]}")
    reached = f"{tally.well['load']} let in, {tally.well['compare']} of them run"
    rate = tally.cases / tally.seconds
    print(f"{tally.cases} cases, {reached}; {len(tally.faults)} kinds of failure; {rate:.0f} cases/s")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
