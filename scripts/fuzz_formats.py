"""The formats that graphsurgery takes from others: right files of each, how they are changed, and what reads them."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from pycocotools import cocoeval

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from bars import write_images, write_parts  # noqa: E402
from fuzz_changes import Draw, change_bytes, change_json, change_text  # noqa: E402
from fuzz_harness import Trial  # noqa: E402

from graphsurgery.capture.samples import Capture, Request  # noqa: E402
from graphsurgery.capture.take import capture  # noqa: E402
from graphsurgery.compilers._rknn_simulator import wanted  # noqa: E402
from graphsurgery.compilers.rknn import Rknn  # noqa: E402
from graphsurgery.compiling.compile import compile_parts  # noqa: E402
from graphsurgery.compiling.compiled import Compiled  # noqa: E402
from graphsurgery.compiling.registry import discover as discover_compilers  # noqa: E402
from graphsurgery.errors import GraphSurgeryError  # noqa: E402
from graphsurgery.evaluation.coco import coco_results, evaluate  # noqa: E402
from graphsurgery.evaluation.columns import PartsColumn, variants  # noqa: E402
from graphsurgery.evaluation.dataset import Dataset, category_of_label, open_dataset  # noqa: E402
from graphsurgery.evaluation.store import FileStore  # noqa: E402
from graphsurgery.evaluation.tasks import Task, TaskRunner  # noqa: E402
from graphsurgery.graph.model import Model  # noqa: E402
from graphsurgery.images.files import load_image  # noqa: E402
from graphsurgery.parts.folder import files_of_compiler  # noqa: E402
from graphsurgery.parts.manifest import Manifest  # noqa: E402
from graphsurgery.quantize.bit_operations import Work  # noqa: E402
from graphsurgery.recipe.load import load_recipe  # noqa: E402
from graphsurgery.report import html  # noqa: E402
from graphsurgery.report.run_file import read_run  # noqa: E402
from graphsurgery.rewrite.registry import discover  # noqa: E402
from graphsurgery.runtime.detector import Detector  # noqa: E402
from graphsurgery.search import study  # noqa: E402
from graphsurgery.search.attempt import Attempt, Found, Material, Use  # noqa: E402
from graphsurgery.search.store import FOUND, Store  # noqa: E402
from graphsurgery.sources import SourceSpec, open_source  # noqa: E402
from graphsurgery.sweep import page  # noqa: E402
from graphsurgery.sweep.plan import read_jobs  # noqa: E402
from graphsurgery.sweep.rows import ROWS, read_rows, worse  # noqa: E402
from graphsurgery.sweep.tables import as_csv, as_json  # noqa: E402
from graphsurgery.targets.load import load_target  # noqa: E402
from graphsurgery.targets.support import support  # noqa: E402
from graphsurgery.testing import parse  # noqa: E402
from graphsurgery.toolchains.toolchain import load_toolchain  # noqa: E402
from graphsurgery.video.file import VideoFile  # noqa: E402

discovered = functools.cache(discover)


@dataclass(frozen=True)
class Format:
    """A kind of file: right ones, in a folder with what belongs to them, how they are changed, and what reads them."""

    file: str
    make: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    change: Callable[[bytes, Draw], bytes]
    megabytes: float = 500.0


def make_manifest(folder: Path) -> list[bytes]:
    write_parts(folder)
    (folder / "image.png").write_bytes(png())
    content = json.loads((folder / "manifest.json").read_bytes())
    rows = {"size": 64, "inputs": ["input"], "outputs": ["boxes", "labels", "scores", "masks"]}
    placed = {"devices": {"npu": "cpu"}, "variants": ["int8"], "compiled": {"ascend": "0" * 64}}
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


def read_target(folder: Path) -> None:
    target = load_target(str(folder / "self.yaml"), discovered())
    for precision in target.target.precisions:
        support(judged(), target, precision)


@functools.cache
def judged() -> Model:
    """A model with an operator of many kinds, to be held against targets."""
    return Model(
        parse(
            """
            <ir_version: 8, opset_import: ["": 17]>
            g (float[1, 8, 16, 16] x, float[8, 4, 3, 3] w, float[N, 4] open) => (float y, float z) <
                int64[4] shape = {1, -1, 4, 4}, float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[1] one = {1}
            > {
                c = Conv <group = 2, pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)
                p = MaxPool <kernel_shape = [3, 3], ceil_mode = 1> (c)
                r = Resize <mode = "nearest", nearest_mode = "floor"> (p, , scales)
                s = Slice (r, one, shape, one, one)
                t = Transpose <perm = [0, 2, 3, 1]> (s)
                m = ReduceMean <axes = [1, 2]> (t)
                y = Softmax <axis = 1> (m)
                v, i = TopK <largest = 0> (open, one)
                g = Gather (v, one)
                z = LayerNormalization (g, w)
            }"""
        )
    )


def make_toolchain(folder: Path) -> list[bytes]:
    """Those that the package has, with their lock files."""
    place = ROOT / "graphsurgery" / "toolchains"
    for lock in place.glob("*.lock"):
        shutil.copy(lock, folder)
    return [path.read_bytes() for path in sorted(place.glob("*.yaml"))]


def make_lock(folder: Path) -> list[bytes]:
    """The lock file of a toolchain."""
    make_toolchain(folder)
    shutil.copy(ROOT / "graphsurgery" / "toolchains" / "rknn.yaml", folder / "self.yaml")
    return [(folder / "rknn.lock").read_bytes()]


def read_toolchain(folder: Path) -> None:
    assert load_toolchain(folder / "self.yaml").digest


def make_rknn(folder: Path) -> list[bytes]:
    """What the compiler rknn writes for its toolkit."""
    config = Rknn(op_target={"y": "npu"}).config()
    written = {"model": "all.onnx", "rknn": "all.rknn", "config": config, "quantize": True}
    return [json.dumps(written).encode()]


def read_rknn(folder: Path) -> None:
    wanted(folder, "all", "part 'all'")


def make_target(folder: Path) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    return [path.read_bytes() for path in sorted((ROOT / "graphsurgery" / "targets").glob("*.yaml"))]


def make_sweep(folder: Path) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(judged().proto.SerializeToString())
    return [
        b"recipes: [shapes, {recipe: shapes_yolo, set: [capture.samples=2]}]\ntargets: [qnn-htp]\nvariants: [int8]\n",
        b"models: ['*.onnx', {model: 'demo:shapes', weights: 'random:0'}]\ntargets: [rk3588, tidl]\nseconds: 60\n",
    ]


def read_sweep(folder: Path) -> None:
    read_jobs(folder / "self.yaml", discovered())


def make_rows(folder: Path) -> list[bytes]:
    from sweep.test_rows import BAD, GOOD

    folder.mkdir(exist_ok=True)
    return [json.dumps(as_json([GOOD, BAD])).encode()]


def read_table(folder: Path) -> None:
    rows = read_rows(folder)
    as_csv(rows)
    page.render("a sweep", rows, 0, worse(rows, rows, 0.0))


def make_measured(folder: Path) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "self.yaml").write_text(_MEASURED_TARGET, encoding="utf-8")
    (folder / "measured").mkdir(exist_ok=True)
    place = {"op": "Conv", "line": 0, "precision": "any"}
    cases = [
        {**place, "side": "inside", "said": "taken", "outcome": "wrong", "decibels": 3.5, "remark": "4 rows"},
        {**place, "side": "at", "limit": "groups", "value": 2, "said": "taken", "outcome": "cpu", "reason": "no"},
        {
            **place,
            "side": "form",
            "limit": "static",
            "value": False,
            "said": "cpu",
            "outcome": "taken",
            "decibels": "equal",
        },
    ]
    tool = {"name": "a-tool", "version": "1.0", "beside": "", "system": "Linux"}
    left = [{**place, "limit": "kernel", "reason": "none"}]
    head = {"format": 1, "target": "self", "date": "2026-11-29", "tool": tool}
    return [json.dumps(head | {"cases": cases, "not_measured": left}).encode()]


_MEASURED_TARGET = """
title: One that was measured
sources: {list: {title: a list, date: "2026", basis: document}}
source: list
others: taken
operators: {Conv: {kernel: ..3}}
"""


def read_measured(folder: Path) -> None:
    target = load_target(str(folder / "self.yaml"), discovered())
    json.dumps(support(judged(), target).to_json())


def make_video(folder: Path) -> list[bytes]:
    from video.videos import write

    folder.mkdir(exist_ok=True)
    return [write(folder / f"v{suffix}", 6, (16, 16)).read_bytes() for suffix in (".mp4", ".mkv", ".webm")]


def read_video(folder: Path) -> None:
    video = VideoFile(folder / "video.mp4")
    seen = [frame.ticks for frame in video.frames()]
    assert seen == sorted(set(seen))
    assert video.lost >= 0


def make_recipe(folder: Path) -> list[bytes]:
    write_parts(folder)
    return [path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml"))]


def make_results(folder: Path) -> list[bytes]:
    column, picture = _column(write_parts(folder / "parts")), _dataset(folder).pictures[0]
    task = Task(column, picture, 1)
    FileStore(folder / "out").add(task, TaskRunner().do(task))
    return [(folder / "out" / "progress_parts.jsonl").read_bytes()]


def read_results(folder: Path) -> None:
    store, column, dataset = FileStore(folder / "out"), _column(folder / "parts"), _dataset(folder)
    store.done(column, 1, dataset.pictures)
    for found in store.read(column, 1, dataset.pictures).values():
        evaluate(dataset.annotations, found.results, ("bbox", "segm"), [dataset.pictures[0].id])


def make_compiled(folder: Path) -> list[bytes]:
    write_parts(folder)
    compile_parts(folder, discover_compilers().get("riscv-ort")(), run=False)
    return [(folder / "compiled" / "riscv-ort" / "compiled.json").read_bytes()]


def read_compiled(folder: Path) -> None:
    files_of_compiler(folder, "riscv-ort")
    Compiled.read(folder / "compiled" / "riscv-ort")


@functools.cache
def make_search(folder: Path) -> list[bytes]:
    Store(folder).add(_attempt(), Found({"y": 30.0}, 100, 100, 6400, 10, ("first", "second")))
    return [(folder / FOUND).read_bytes()]


def read_search(folder: Path) -> None:
    found = Store(folder).get(_attempt())
    if found is not None:
        work = Work(found.multiply_adds, found.in_integers, found.bit_operations)
        study.front([study.Trial(1, (0,), found.worst, work, found.bytes, found.failed)])


def _attempt() -> Attempt:
    return Attempt(Material("net", Path("net.onnx"), (), "of these"), (Use("quantize", "", "{}"),), 1.0, 1)


def _column(folder: Path) -> PartsColumn:
    return PartsColumn.of("parts", folder)


@functools.cache
def _dataset(folder: Path) -> Dataset:
    if not (folder / "images").exists():
        write_images(folder, 1)
    return open_dataset(folder / "images", folder / "instances.json")


def png(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(buffer, format=kind)
    return buffer.getvalue()


def make_image(folder: Path) -> list[bytes]:
    return [png(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "EPS")]


FORMATS = {
    "manifest": Format("manifest.json", make_manifest, read_manifest, change_json),
    "annotations": Format("instances.json", make_annotations, read_annotations, change_json),
    "capture": Format("io/capture.json", make_capture, read_capture, change_json),
    "tensor": Format("io/1/input.npy", make_tensor, read_capture, change_bytes),
    "run": Format("run.json", make_run, read_report, change_json),
    "results": Format("out/progress_parts.jsonl", make_results, read_results, change_json),
    "compiled": Format("compiled/riscv-ort/compiled.json", make_compiled, read_compiled, change_json),
    "recipe": Format("self.yaml", make_recipe, read_recipe, change_text),
    "measured": Format("measured/self.json", make_measured, read_measured, change_json),
    "target": Format("self.yaml", make_target, read_target, change_text),
    "sweep": Format("self.yaml", make_sweep, read_sweep, change_text),
    "search": Format(FOUND, make_search, read_search, change_json),
    "rows": Format(ROWS, make_rows, read_table, change_json),
    "toolchain": Format("self.yaml", make_toolchain, read_toolchain, change_text),
    "lock": Format("rknn.lock", make_lock, read_toolchain, change_text),
    "rknn build": Format("build.json", make_rknn, read_rknn, change_json),
    # 89 million pixels are let in, which Pillow holds in 4 bytes each, and NumPy in 3, twice for a moment
    "video": Format("video.mp4", make_video, read_video, change_bytes, 1000.0),
    "image": Format("image.png", make_image, lambda folder: load_image(folder / "image.png"), change_bytes, 1000.0),
}


def content_of(chosen: Format, rights: list[bytes], name: str, seed: int) -> bytes:
    """Return the file of a case."""
    draw = Draw(f"{name} {seed}")
    return chosen.change(draw.choice(rights), draw)


def keep_what_stays() -> None:
    """Let this process compute once what is the same in all cases, which halves what a case takes.

    That is the versions of packages, ONNX's operators, a session for a model on the CPU; and AP is taken at 3 recalls.
    """
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    onnx.defs.get_all_schemas_with_history = functools.cache(onnx.defs.get_all_schemas_with_history)
    make, kept = onnxruntime.InferenceSession, {}

    def session(source: str | bytes, options: Any, **others: Any) -> Any:
        if others.get("providers") != ["CPUExecutionProvider"]:
            return make(source, options, **others)
        if source not in kept:
            kept[source] = make(source, options, **others)
        return kept[source]

    onnxruntime.InferenceSession = session

    class FewRecalls(cocoeval.Params):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.recThrs = self.recThrs[::50]

    cocoeval.Params = FewRecalls


def opened(name: str, folder: Path) -> Trial:
    """Make the right files of a format in `folder`, and read each once, so that what is loaded then is no case's."""
    keep_what_stays()
    chosen = FORMATS[name]
    rights = chosen.make(folder)
    target = folder / chosen.file
    for right in rights:
        target.write_bytes(right)
        with contextlib.suppress(GraphSurgeryError):
            chosen.read(folder)
    steps = [("read", lambda: chosen.read(folder))]
    return Trial(target, lambda seed: content_of(chosen, rights, name, seed), lambda seed: steps)
