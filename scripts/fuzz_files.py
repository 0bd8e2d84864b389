#!/usr/bin/env python3
"""Give broken and hostile files to what reads them, and print what doesn't end in an error of graphsurgery's own.

    scripts/fuzz_files.py --minutes 10                    every format, sharing the time
    scripts/fuzz_files.py manifest --cases 100000         one format, so many cases
    scripts/fuzz_files.py manifest --seed 17              one case again, with the file that it makes

A case takes one of the right files of a format and changes it: a value for one of another kind or size, a key, a branch
of the tree, or a few bytes. It is at fault when it raises anything but a GraphSurgeryError, takes more than 10 s or 500
MB, ends the process, or changes a file. Exit 1 when one is.
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from bars import write_images, write_parts  # noqa: E402

from graphsurgery.capture.samples import Capture, Request  # noqa: E402
from graphsurgery.capture.take import capture  # noqa: E402
from graphsurgery.errors import GraphSurgeryError  # noqa: E402
from graphsurgery.evaluation.coco import coco_results, evaluate  # noqa: E402
from graphsurgery.evaluation.columns import PartsColumn, variants  # noqa: E402
from graphsurgery.evaluation.dataset import category_of_label, open_dataset  # noqa: E402
from graphsurgery.evaluation.store import FileStore  # noqa: E402
from graphsurgery.evaluation.tasks import Task, TaskRunner  # noqa: E402
from graphsurgery.images.files import load_image  # noqa: E402
from graphsurgery.parts.manifest import Manifest  # noqa: E402
from graphsurgery.recipe.load import load_recipe  # noqa: E402
from graphsurgery.report import html  # noqa: E402
from graphsurgery.report.run_file import read_run  # noqa: E402
from graphsurgery.rewrite.registry import discover  # noqa: E402
from graphsurgery.runtime.detector import Detector  # noqa: E402
from graphsurgery.sources import SourceSpec, open_source  # noqa: E402

SECONDS, MEGABYTES = 10.0, 500
SHOWN = 3  # faults of one format that are printed in full

Draw = random.Random
discovered = functools.cache(discover)


@dataclass(frozen=True)
class Format:
    """A kind of file: right ones, in a folder with what belongs to them, how they are changed, and what reads them."""

    file: str
    make: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    change: Callable[[bytes, Draw], bytes]


def make_manifest(folder: Path) -> list[bytes]:
    write_parts(folder)
    (folder / "image.png").write_bytes(png())
    content = json.loads((folder / "manifest.json").read_bytes())
    rows = {"size": 64, "inputs": ["input"], "outputs": ["boxes", "labels", "scores", "masks"]}
    placed = {"devices": {"npu": "cpu"}, "variants": ["int8"]}
    batched = copy.deepcopy(content) | placed
    batched["parts"][0]["batch"] = rows
    kept = {"devices": {"npu": "vitisai,cache_dir=kept,cache_key=key,config_file=image.png"}}
    return [json.dumps(each).encode() for each in (content, batched, content | kept)]


def read_manifest(folder: Path) -> None:
    manifest = Manifest.read(folder)
    variants(folder, manifest)
    manifest.choose_devices(folder, {})
    PartsColumn.of("parts", folder)
    Detector.load(folder)(load_image(folder / "image.png"))


def make_annotations(folder: Path) -> list[bytes]:
    _, annotations = write_images(folder, 2)
    content = json.loads(annotations.read_bytes())
    size = [entry[side] for entry in content["images"][:1] for side in ("height", "width")]
    whole = {"size": size, "counts": [0, size[0] * size[1]]}
    keypoints = {"keypoints": [1, 1, 2] * 17, "num_keypoints": 17}
    others = [copy.deepcopy(content) for _ in range(3)]
    for entries, more in zip(others, ({"segmentation": whole}, keypoints, {}), strict=True):
        for entry in entries["annotations"]:
            entry.update(more)
    for entry in others[2]["annotations"]:
        entry.pop("area")
        entry["segmentation"] = {"size": size, "counts": "0P3"}
    return [json.dumps(each).encode() for each in (content, *others)]


def read_annotations(folder: Path) -> None:
    dataset = open_dataset(folder / "images", folder / "instances.json", skip_bad=True)
    category_of_label(dataset.annotations, ("background", "bar"), "place")
    height, width = np.array(Image.open(folder / "images" / "1.png")).shape[:2]
    found = {
        "boxes": np.array([[0, 0, 3, 4]], np.float32),
        "labels": np.array([1]),
        "scores": np.array([0.9], np.float32),
        "masks": np.ones((1, 1, height, width), np.float32),
        "keypoints": np.ones((1, 17, 3), np.float32),
    }
    ids = [picture.id for picture in dataset.pictures]
    results = [result for identity in ids for result in coco_results(identity, found)]
    for kind in ("bbox", "segm", "keypoints"):
        try:
            evaluate(dataset.annotations, results, (kind,), ids)
        except GraphSurgeryError:
            continue


def make_capture(folder: Path) -> list[bytes]:
    write_parts(folder / "parts")
    source = open_source(SourceSpec("onnx", "all.onnx", folder=folder / "parts"))
    capture(source, [("1", np.zeros((4, 5, 3), np.uint8))], folder / "io", request=Request("a", None, 1, ("b",)))
    return [(folder / "io" / "capture.json").read_bytes()]


def read_capture(folder: Path) -> None:
    found = Capture.open(folder / "io")
    for sample in found.samples:
        for name in sample.names:
            sample.load(name)
    found.lacks({"kind": "onnx"}, ["b"], [("1", np.zeros((4, 5, 3), np.uint8))])
    found.require_source(dict(found.source))


def make_tensor(folder: Path) -> list[bytes]:
    make_capture(folder)
    made = []
    for array in (np.zeros((2, 3), np.float32), np.array("text"), np.zeros((0, 4)), np.array([(1, 2.0)], "i4,f8")):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        made.append(buffer.getvalue())
    return made


def make_run(folder: Path) -> list[bytes]:
    from report.test_html import failed_run, good_run

    write_parts(folder)
    return [json.dumps(each).encode() for each in (good_run(), failed_run())]


def read_report(folder: Path) -> None:
    html.render(read_run(folder), Manifest.read(folder).model_dump(mode="json"))


def read_recipe(folder: Path) -> None:
    load_recipe(str(folder / "self.yaml"), registry=discovered())


def make_recipe(folder: Path) -> list[bytes]:
    write_parts(folder)
    return [path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml"))]


def make_results(folder: Path) -> list[bytes]:
    column, picture = PartsColumn.of("parts", write_parts(folder / "parts")), _dataset(folder).pictures[0]
    task = Task(column, picture, 1)
    FileStore(folder / "out").add(task, TaskRunner().do(task))
    return [(folder / "out" / "progress_parts.jsonl").read_bytes()]


def read_results(folder: Path) -> None:
    store, column, dataset = FileStore(folder / "out"), PartsColumn.of("parts", folder / "parts"), _dataset(folder)
    store.done(column, 1, dataset.pictures)
    for found in store.read(column, 1, dataset.pictures).values():
        evaluate(dataset.annotations, found.results, ("bbox", "segm"), [dataset.pictures[0].id])


def _dataset(folder: Path) -> Any:
    if not (folder / "images").exists():
        write_images(folder, 1)
    return open_dataset(folder / "images", folder / "instances.json")


def png(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(buffer, format=kind)
    return buffer.getvalue()


def make_image(folder: Path) -> list[bytes]:
    return [png(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "EPS")]


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "..", "../../x", "/tmp/x", "C:\\x", "nul", "a\0b", "\x1b[31m", "x" * 5000, "\u2028"),
    *(0, -1, 1, 2, 2**31, 2**32, 2**60, 2**63, 2**64, 10**400, -(2**63) - 1, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), [], {}, [[]], [None], {"": ""}, [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], ["x"] * 2000),
    *({"size": [4, 8], "counts": "~~~~"}, {"size": [4, 8], "counts": [32]}, {"size": [1, 1], "counts": "0"}, "P" * 40),
    *("cpu", "qnn,context=../x", "vitisai,config_file=/etc/passwd", "float32", "bfloat16", "object", "V10", "image"),
)


def change_json(right: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.15:
        return change_bytes(right, draw)
    lines = right.count(b"\n") == 1 and right.endswith(b"\n")
    tree = json.loads(right)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        tree = _grown(tree, draw)
    return json.dumps(tree).encode() + b"\n" * lines


def _grown(tree: Any, draw: Draw) -> Any:
    holders = list(_holders(tree))
    if not holders:
        return copy.deepcopy(draw.choice(HOSTILE))
    holder, key = draw.choice(holders)
    kind = draw.random()
    if kind < 0.55:
        holder[key] = copy.deepcopy(draw.choice(HOSTILE))
    elif kind < 0.65:
        del holder[key]
    elif kind < 0.8:
        other, at = draw.choice(holders)
        holder[key] = copy.deepcopy(other[at])
    elif kind < 0.87 and isinstance(holder, dict):
        holder[str(draw.choice(HOSTILE))[:300]] = holder.pop(key)
    elif kind < 0.93 and isinstance(holder, list):
        holder.extend(copy.deepcopy([holder[key]]) * draw.choice((1, 3, 500)))
    else:
        inner = holder[key]
        for _ in range(draw.choice((1, 5, 190, 250))):
            inner = [inner] if draw.random() < 0.5 else {"a": inner}
        holder[key] = inner
    return tree


def _holders(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _holders(tree[key])


def change_bytes(right: bytes, draw: Draw) -> bytes:
    content = bytearray(right)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        at, kind = draw.randrange(len(content) + 1), draw.random()
        if kind < 0.5 and at < len(content):
            content[at] = draw.choice((draw.randrange(256), content[at] ^ 1 << draw.randrange(8), 0, 255))
        elif kind < 0.7:
            content[at:at] = draw.randbytes(draw.choice((1, 4, 60)))
        elif kind < 0.85:
            del content[at : at + draw.choice((1, 4, 60))]
        elif kind < 0.95:
            other = draw.randrange(len(content) + 1)
            content[at:at] = content[other : other + draw.choice((1, 8, 80))]
        else:
            del content[at:]
    return bytes(content)


TOKENS = (
    *("null", "true", "[]", "{}", "-1", "0", "1e400", "2" * 39, ".nan", "0x10", "1_000", "&a x", "*a", "!!python/x y"),
    *("<<: {}", "? ", "- " * 40, "[" * 60, "{a: " * 60, "'", '"\\ud800"', "\t", "\x00", "\N{SNOWMAN}", "...", "---"),
    *("extends: x", "extends: ../x.yaml", "extends: self.yaml", "[9223372036854775808, 1]", "random:99999999999999999"),
    *("../x", "/etc/passwd", "boxes", "npu", "simplify", "quantize", "a" * 3000, "|", ">", "%YAML 9.9", "\r", "\x85"),
)


def change_text(right: bytes, draw: Draw) -> bytes:
    if draw.random() < 0.2:
        return change_bytes(right, draw)
    lines = right.decode("utf-8").split("\n")
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, kind = draw.randrange(len(lines)), draw.random()
        if kind < 0.5:
            begin, colon, _ = lines[at].partition(":")
            lines[at] = f"{begin}{colon} {draw.choice(TOKENS)}"
        elif kind < 0.65:
            lines.insert(at, " " * draw.choice((0, 2, 4)) + draw.choice(TOKENS))
        elif kind < 0.8:
            lines[at] = draw.choice(lines)
        elif kind < 0.9:
            lines[at] = " " * draw.choice((0, 2, 4, 60)) + lines[at].strip()
        else:
            del lines[at : at + draw.choice((1, 3))]
            lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


FORMATS = {
    "manifest": Format("manifest.json", make_manifest, read_manifest, change_json),
    "annotations": Format("instances.json", make_annotations, read_annotations, change_json),
    "capture": Format("io/capture.json", make_capture, read_capture, change_json),
    "tensor": Format("io/1/input.npy", make_tensor, read_capture, change_bytes),
    "run": Format("run.json", make_run, read_report, change_json),
    "results": Format("out/progress_parts.jsonl", make_results, read_results, change_json),
    "recipe": Format("self.yaml", make_recipe, read_recipe, change_text),
    "image": Format("image.png", make_image, lambda folder: load_image(folder / "image.png"), change_bytes),
}


@dataclass
class Tally:
    """What came of the cases of one format; faults by seed."""

    cases: int = 0
    read: int = 0
    seconds: float = 0.0
    faults: dict[int, str] = field(default_factory=dict)


def content_of(chosen: Format, rights: list[bytes], name: str, seed: int) -> bytes:
    draw = Draw(f"{name} {seed}")
    return chosen.change(draw.choice(rights), draw)


def work(name: str, first: int, last: int, until: float, told: SimpleQueue[tuple[int, float, str | None]]) -> None:
    """Try cases in this process; tell of each when it begins, and of its fault, or that it could be read ("")."""
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = io.StringIO()
    chosen = FORMATS[name]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path(place, "folder")
        folder.mkdir()
        rights = chosen.make(folder)
        target, process = folder / chosen.file, psutil.Process()
        before = _snapshot(Path(place), target)
        for seed in range(first, last):
            if time.time() > until:
                break
            target.write_bytes(content_of(chosen, rights, name, seed))
            rss = process.memory_info().rss
            told.put((seed, time.time(), None))
            fault = _fault(chosen, folder)
            grown = (process.memory_info().rss - rss) / 2**20
            if grown > MEGABYTES:
                fault = f"takes {grown:.0f} MB"
            if (after := _snapshot(Path(place), target)) != before:
                fault, before = f"changes {sorted(dict(after.items() ^ before.items()))}", after
            told.put((seed, time.time(), fault))
        os.chdir(ROOT)
    told.put((-1, time.time(), None))


def _fault(chosen: Format, folder: Path) -> str:
    """Read the file and return what is wrong with how that ended: "" where it didn't, "-" for an error of our own."""
    try:
        chosen.read(folder)
    except GraphSurgeryError:
        return "-"
    except BaseException:
        return traceback.format_exc()
    return ""


def _snapshot(place: Path, target: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(place)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in place.rglob("*")
        if path != target and path.is_file()
    }


def explore(name: str, first: int, cases: int, seconds: float) -> Tally:
    """Try cases in processes of their own, which end where one hangs or crashes; the next goes on behind it."""
    context, tally, begin = multiprocessing.get_context("spawn"), Tally(), time.time()
    seed, until = first, begin + seconds
    while seed < first + cases and time.time() < until:
        told: SimpleQueue[tuple[int, float, str | None]] = context.SimpleQueue()
        worker = context.Process(target=work, args=(name, seed, first + cases, until, told))
        worker.start()
        current, started, done = None, time.time(), False
        while not done:
            if told.empty():
                alive = worker.is_alive()
                if alive and (current is None or time.time() - started < SECONDS):
                    time.sleep(0.01)
                    continue
                if told.empty():
                    break
            at, moment, fault = told.get()
            if at < 0:
                done = True
            elif fault is None:
                current, started = at, moment
            else:
                tally.cases, seed, current = tally.cases + 1, at + 1, None
                tally.read += fault == ""
                if fault not in ("", "-"):
                    tally.faults[at] = fault
                if moment - started > SECONDS:
                    tally.faults[at] = f"takes {moment - started:.0f} s"
        if not done:
            stuck = worker.is_alive()
            worker.kill()
            worker.join()
            where = seed if current is None else current
            tally.faults[where] = "hangs" if stuck else f"ends the process ({worker.exitcode})"
            tally.cases, seed = tally.cases + 1, where + 1
        else:
            worker.join()
            break
    tally.seconds = time.time() - begin
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"all if not given: {', '.join(FORMATS)}")
    parser.add_argument("--minutes", type=float, help="of all formats together; 1 if neither this nor --cases is given")
    parser.add_argument("--cases", type=int, help="of each format")
    parser.add_argument("--seed", type=int, help="try this case alone and show its file")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    names = options.formats or list(FORMATS)
    if unknown := [name for name in names if name not in FORMATS]:
        parser.error(f"there is no format {unknown[0]}; there are {', '.join(FORMATS)}")
    minutes = options.minutes or (1.0 if options.cases is None and options.seed is None else 1e6)
    print(f"{'format':12}{'cases':>10}{'read':>10}{'at fault':>10}{'cases/s':>10}")
    failed = 0
    for name in names:
        if options.seed is None:
            tally = explore(
                name, options.first, options.cases or sys.maxsize - options.first, 60 * minutes / len(names)
            )
        else:
            with tempfile.TemporaryDirectory() as folder:
                print(content_of(FORMATS[name], FORMATS[name].make(Path(folder)), name, options.seed)[:5000])
            tally = explore(name, options.seed, 1, 1e6)
        rate = tally.cases / tally.seconds
        print(f"{name:12}{tally.cases:10}{tally.read:10}{len(tally.faults):10}{rate:10.0f}", flush=True)
        failed += len(tally.faults)
        for seed, story in list(tally.faults.items())[:SHOWN]:
            print(f"--- again: scripts/fuzz_files.py {name} --seed {seed}\n{story}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
