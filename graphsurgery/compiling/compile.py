"""Takes parts to what a vendor's toolchain makes of them, in a folder that holds all that it needs.

model/x/manifest.json                       says what was compiled
model/x/compiled/NAME/compiled.json         which files, of which parts, with their hashes
model/x/compiled/NAME/PART/PART.onnx, ...   what the tool wants and makes
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from onnx import ModelProto

from graphsurgery.compiling.compiled import Compiled
from graphsurgery.compiling.compiler import Compiler, Job
from graphsurgery.compiling.feeds import Feeding, completed, played
from graphsurgery.compiling.open_shapes import NoRoom, elements, fitting, require_fit
from graphsurgery.compiling.report import Report
from graphsurgery.compiling.samples import samples_of, samples_of_whole
from graphsurgery.devices import session
from graphsurgery.devices.providers import CPU
from graphsurgery.errors import Difference, InputError, did_you_mean
from graphsurgery.files import reason
from graphsurgery.files.commit import writing
from graphsurgery.graph.model import Model
from graphsurgery.graph.names import clean_name, fresh
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.files import ImageFile
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.folder import files_of_compiler, read_parts, sha256_of
from graphsurgery.parts.manifest import COMPILED, COMPILED_FILE, FILE_NAME, Manifest, PartEntry, Tensor
from graphsurgery.parts.part import Part
from graphsurgery.parts.whole import whole_of
from graphsurgery.processes.peak_memory import Room
from graphsurgery.progress import Silent, Watcher
from graphsurgery.rewrite.context import Captured
from graphsurgery.runtime.detector import Detector

FLOOR = 10.0  # dB; below it something is broken, and not just rounded
WHOLE = "whole"  # what all parts as one model are called
Shapes = list[dict[str, tuple[int, ...]]]  # of what was computed of each image, by name


def compile_parts(
    folder: Path,
    compiler: Compiler,
    *,
    parts: Sequence[str] = (),
    images: Sequence[ImageFile] = (),
    run: bool = True,
    tried: bool = False,
    out: Path | None = None,
    captured: Sequence[Captured] = (),
    floor: float = FLOOR,
    watcher: Watcher | None = None,
) -> tuple[Path, Compiled]:
    """Compile `parts` in `folder`, those for an accelerator if none is named, or all where none is; return where to.

    A compiler that takes the whole detector gets all of them as one model. `images` are written as the parts read them.
    Without `run` only the files are written. `tried` says that they were compared with the original at the shapes of
    the image that are open; else they are run there. A tool that calibrates does so with the `captured` samples, else
    with the images; what it computes of them must keep `floor` dB at each output. What lies in `out`, or in `folder`
    itself where that isn't given, is replaced at one point. Raises InputError for a part that isn't there or that the
    compiler can't take, for parts that change meanwhile or can't be one model, and for a folder that can't be written;
    Difference for an output below the floor; MissingTool.
    """
    watcher = watcher or Silent()
    place = out or folder / COMPILED / compiler.name
    try:
        with writing(folder if out is None else out) as draft:
            manifest, models = read_parts(folder, lambda read: (read, _models(folder, read, compiler, parts)))
            work = draft.work / COMPILED / compiler.name if out is None else draft.work
            jobs = _jobs(manifest, models, compiler, work)
            ran = False
            for name, job in jobs.items():
                watcher.begin(f"{compiler.name}: {name}")
                _require_open_shapes(compiler, job, {manifest.input} if tried else set())
                compiler.write(job)
                if run:  # said before images are played, which takes long
                    compiler.require_tool(job)
            feeding = _feed(folder, compiler, jobs, images, captured, watcher)
            others = () if compiler.runs().most else images
            stems, shapes = _write_samples(folder, manifest, compiler, jobs, others, watcher)
            reports = {}
            for name, job in jobs.items() if run else ():
                watcher.begin(f"{compiler.name}: compile {name}")
                ran = compiler.run(job) or ran
                if compiler.reports:
                    reports[name] = _reported(compiler, job, feeding.get(name), floor, watcher)
            compiled = Compiled(
                compiler=compiler.name,
                options=_plain(compiler),
                parts={part.name: part.sha256 for part in manifest.parts if part.name in models},
                ran=ran,
                samples=stems,
                whole=_described(jobs[WHOLE].entry.outputs, shapes) if compiler.takes_whole else None,
                reports=reports,
            ).write(work)
            if out is not None:
                draft.publish(_earlier(out), COMPILED_FILE)
            else:
                made = {**manifest.compiled, compiler.name: sha256_of(work / COMPILED_FILE)}
                described = manifest.model_copy(update={"compiled": made}).to_json()
                (draft.work / FILE_NAME).write_text(described, encoding="utf-8")
                draft.publish([FILE_NAME, *files_of_compiler(folder, compiler.name)], FILE_NAME)
    except OSError as error:
        raise InputError(f"{place}: can't be written ({reason(error)})") from error
    return place, compiled


def _models(folder: Path, manifest: Manifest, compiler: Compiler, parts: Sequence[str]) -> dict[str, Model]:
    there = {part.name: part for part in manifest.parts}
    if compiler.takes_whole and parts:
        raise InputError(f"compiler '{compiler.name}' takes all parts as one model; leave --part out")
    for name in parts:
        if name not in there:
            raise InputError(f"{folder}: has no part '{name}'.{did_you_mean(name, there)}")
    chosen: Collection[PartEntry] = [there[name] for name in parts]
    if not chosen:
        accelerated = [part for part in manifest.parts if part.accelerator]
        chosen = manifest.parts if compiler.takes_whole or not accelerated else accelerated
    return {part.name: Model.load(folder / part.file).with_values_inside(f"part '{part.name}'") for part in chosen}


def _jobs(manifest: Manifest, models: Mapping[str, Model], compiler: Compiler, work: Path) -> dict[str, Job]:
    if compiler.takes_whole:
        model = whole_of(manifest, models)
        return {WHOLE: _job(manifest, describe_part(Part(WHOLE, "cpu", False, model)), model, work)}
    return {part.name: _job(manifest, part, models[part.name], work) for part in manifest.parts if part.name in models}


def _job(manifest: Manifest, entry: PartEntry, model: Model, work: Path) -> Job:
    place = work / entry.name
    place.mkdir(parents=True)
    image = manifest.input if manifest.input in entry.inputs else None
    job = Job(entry, _with_node_names(model), Canvas.from_json(manifest.canvas), image, place)
    job.model.write(place / job.file)
    return job


def _require_open_shapes(compiler: Compiler, job: Job, tried: Collection[str]) -> None:
    """Raise InputError where inputs don't take the shapes that the compiler wants open, or the part doesn't run there.

    It runs on zeros, all inputs at their smallest shape, then at their next, and so on, unless all were `tried`; where
    memory is short with fewer images, or not at all.
    """
    place, wanted = f"compiler '{compiler.name}': part '{job.name}'", compiler.open_shapes()
    require_fit(place, wanted, {name: each.shape for name, each in job.entry.inputs.items()})
    if set(wanted) <= set(tried):
        return
    room, shapes = Room(), {name: each.tried() for name, each in wanted.items()}
    for number in range(max(map(len, shapes.values()))):
        each = {name: some[min(number, len(some) - 1)] for name, some in shapes.items()}
        with contextlib.suppress(NoRoom):
            at = fitting(wanted, each, room)
            with room.measured(elements(at)):
                _run_on_zeros(job, place, at)


def _run_on_zeros(job: Job, place: str, shapes: Mapping[str, Sequence[int]]) -> None:
    inputs = {
        name: np.zeros(shapes[name] if name in shapes else job.static_shape(name), tensor.dtype)
        for name, tensor in job.entry.inputs.items()
    }
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    session.run(job.model.proto, inputs, name=f"{place} on {listed}")


def _feed(
    folder: Path,
    compiler: Compiler,
    jobs: Mapping[str, Job],
    images: Sequence[ImageFile],
    captured: Sequence[Captured],
    watcher: Watcher,
) -> dict[str, Feeding]:
    """Write the runs that the compiler wants of each part, and return them."""
    wanted = compiler.runs()
    if not wanted.most:
        return {}
    if not captured and not images:
        if wanted.why:
            raise InputError(f"compiler '{compiler.name}': {wanted.why}; give --inputs, a model_io folder, or --images")
        return {}
    watcher.begin(f"{compiler.name}: samples")
    names = {name for job in jobs.values() for name in job.entry.inputs}
    if not captured:
        captured = played(_on_cpu(folder), images, names)
    elif any(name not in sample for sample in captured for name in names):
        captured = completed(_on_cpu(folder), captured, names)
    fed = {name: job for name, job in jobs.items() if wanted.why or job.is_static}
    feeding = {name: Feeding.of(job, captured, wanted.most) for name, job in fed.items()}
    for number, each in enumerate(feeding.values(), start=1):
        each.write()
        watcher.advance(number, len(feeding))
    return feeding


def _reported(compiler: Compiler, job: Job, feeding: Feeding | None, floor: float, watcher: Watcher) -> Report:
    """Return what the tool says of a part, with how far its numbers are off. Raises Difference below `floor` dB."""
    place = f"compiler '{compiler.name}': part '{job.name}'"
    report = compiler.report(job)
    if feeding is None:
        return report
    watcher.begin(f"{compiler.name}: compare {job.name}")
    report = report.with_sqnr(feeding.compare(watcher.advance) or {})
    lost = [f"'{name}' {db:.1f}" for name, db in report.sqnr_db.items() if db is not None and db < floor]
    if lost:
        raise Difference(
            f"{place}: what it computes keeps less than {floor:g} dB of ONNX Runtime's: {', '.join(lost[:4])} dB"
            f"{f' and {len(lost) - 4} more' if len(lost) > 4 else ''}; nothing is written"
        )
    return report


def _on_cpu(folder: Path) -> Detector:
    manifest = Manifest.read(folder)
    return Detector.load(folder, dict.fromkeys((part.device for part in manifest.parts), CPU))


def _with_node_names(model: Model) -> Model:
    """Return the model with a name for each node of its graph: tools say by them where a graph ends."""
    if all(node.name for node in model.proto.graph.node):
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    taken = {node.name for node in proto.graph.node}
    for node in proto.graph.node:
        if not node.name:
            hint = clean_name(f"{node.op_type}_{node.output[0] if node.output else ''}")
            node.name = fresh(hint, taken)
            taken.add(node.name)
    return Model(proto)


def _write_samples(
    folder: Path,
    manifest: Manifest,
    compiler: Compiler,
    jobs: Mapping[str, Job],
    images: Sequence[ImageFile],
    watcher: Watcher,
) -> tuple[list[str], Shapes]:
    """Write the images, and return their stems and the shapes of what was computed of each."""
    stems, shapes = [], []
    if images:
        watcher.begin(f"{compiler.name}: images")
        detector = Detector.load(folder, dict.fromkeys((part.device for part in manifest.parts), CPU))
        whole = jobs[WHOLE] if compiler.takes_whole else None
        samples = samples_of_whole(detector, images, whole) if whole else samples_of(detector, images, jobs)
        for number, (image, found) in enumerate(zip(images, samples, strict=True), start=1):
            for name, sample in found.items():
                compiler.write_sample(jobs[name], sample)
            stems.append(image.path.stem)
            shapes.append({name: value.shape for each in found.values() for name, value in each.outputs.items()})
            watcher.advance(number, len(images))
    return stems, shapes


def _described(outputs: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return outputs with the sizes behind the first filled in that nothing tells but all images have."""
    if not shapes:
        return dict(outputs)
    found = {}
    for name, tensor in outputs.items():
        sizes: list[int | str | None] = []
        for axis, seen in enumerate(zip(*(each[name] for each in shapes), strict=True)):
            known = tensor.shape[axis] if tensor.shape is not None else None
            sizes.append(seen[0] if axis and not isinstance(known, int) and len(set(seen)) == 1 else known)
        found[name] = Tensor(shape=sizes, dtype=tensor.dtype)
    return found


def _earlier(out: Path) -> list[str]:
    """Return the files of an earlier run in a folder; others there are the user's."""
    with contextlib.suppress(InputError):
        return [COMPILED_FILE, *Compiled.read(out).files]
    return []


def _plain(compiler: Compiler) -> dict[str, Any]:
    """Return the options as JSON has them."""
    assert dataclasses.is_dataclass(compiler)
    values = dataclasses.asdict(compiler)
    return {name: str(value) if isinstance(value, PurePath) else value for name, value in values.items()}
