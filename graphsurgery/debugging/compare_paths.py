"""Compares any two of: an ONNX file, a folder of parts, a model_io folder. The first is the reference.

    model_io and model     the model is fed the captured inputs, its outputs are compared with the captured ones
    model and model        both are fed a model_io folder's inputs, or seeded random ones
    model_io and model_io  tensor by tensor

Graph optimisation is off and everything runs on the CPU, so that ONNX Runtime repairs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from graphsurgery.capture.samples import Capture, Sample
from graphsurgery.capture.samples import exists as is_capture
from graphsurgery.errors import InputError
from graphsurgery.files.commit import read_whole
from graphsurgery.gate.equivalence import compare
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.gate.verdicts import Comparison, TensorReport, Verdict, merge
from graphsurgery.graph.joined_outputs import JoinedOutput, joined, joined_shapes
from graphsurgery.graph.model import Model
from graphsurgery.parts import manifest as manifests
from graphsurgery.parts.describe import describe_part
from graphsurgery.parts.manifest import Manifest, Tensor
from graphsurgery.parts.part import Part
from graphsurgery.runtime.player import Chain, PartPlayer
from graphsurgery.runtime.random_inputs import random_values
from graphsurgery.sources.row_groups import ROW_GROUPS

if TYPE_CHECKING:
    from graphsurgery.progress import Watcher

Arrays = dict[str, npt.NDArray[Any]]
_Value = TypeVar("_Value")

RANDOM_SAMPLES = 3


@dataclass(frozen=True)
class Playable:
    """A model that can be played: an ONNX file, or the parts in a folder from the image to the detections.

    `inputs` and `outputs` are what it declares, with any number of rows where it takes them in slices of `rows`. Those
    that the manifest says are pieces come joined.
    """

    path: Path
    chain: Chain
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    rows: int | None
    joins: Sequence[JoinedOutput] = ()

    def play(self, given: Mapping[str, np.ndarray]) -> Arrays:
        """Return the outputs for inputs."""
        return joined(self.chain.play(given), self.joins)


def compare_paths(a: Path, b: Path, inputs: Path | None, tolerances: Tolerances, watcher: Watcher) -> Verdict:
    """Compare `b` with the reference `a`; `inputs` is a model_io folder to feed two models from.

    One sample at a time is in memory. Raises InputError for a path that is none of the three kinds, for models with
    different inputs, and where an input or a captured output is missing.
    """
    one, other = _open(a), _open(b)
    watcher.begin(f"compare {a.name} and {b.name}")
    if isinstance(one, Playable) and isinstance(other, Playable):
        return _models(one, other, inputs, tolerances, watcher)
    if inputs is not None:
        raise InputError(f"--inputs {inputs}: one side holds captured tensors already; leave --inputs out")
    if isinstance(one, Playable):
        assert isinstance(other, Capture)
        compared, total = _replay(other, one, tolerances, model_first=True), len(other.samples)
    elif isinstance(other, Playable):
        compared, total = _replay(one, other, tolerances, model_first=False), len(one.samples)
    else:
        compared, total = _captures(one, other, tolerances), len({s.id for s in (*one.samples, *other.samples)})
    return merge(_watched(compared, total, watcher))


def parse_tolerances(choices: Sequence[str]) -> Tolerances:
    """Read `--tolerance NAME=NUMBER` and `NAME=rel:NUMBER` options; a NAME may be a pattern, or `unmatched`.

    Raises InputError that quotes the option.
    """
    rules: dict[str, Any] = {}
    for choice in choices:
        name, separator, text = choice.rpartition("=")  # a tensor's name may hold a =
        kind, _, relative = text.partition(":")
        number = _number(relative if kind == "rel" else text)
        if not separator or not name or number is None:
            raise InputError(f"--tolerance {choice}: write NAME=NUMBER or NAME=rel:NUMBER, for example boxes=0.001")
        if name in rules:
            raise InputError(f"--tolerance {choice}: '{name}' is given twice; give it once")
        whole = name == "unmatched" and number.is_integer() and kind != "rel"
        rules[name] = {"relative": number} if kind == "rel" else int(number) if whole else number
    try:
        return Tolerances.parse(rules)
    except InputError as error:
        raise InputError(f"--tolerance: {error}") from error


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _open(path: Path) -> Capture | Playable:
    if path.is_file():
        return _file(path)
    if is_capture(path):
        return Capture.open(path)
    if (path / manifests.FILE_NAME).is_file():
        return _parts(path)
    seen = "holds neither manifest.json nor capture.json" if path.is_dir() else "there is no such file or folder"
    raise InputError(f"{path}: {seen}; give an ONNX file, a folder of parts, or a model_io folder")


def _file(path: Path) -> Playable:
    entry = describe_part(Part(path.name, "cpu", False, Model.load(path)))
    player = PartPlayer.open(path, entry, optimise=False)
    return _playable(path, Chain((player,), tuple(entry.outputs)), tuple(entry.inputs))


def _parts(folder: Path) -> Playable:
    def read() -> Playable:
        manifest = Manifest.read(folder)
        chain = Chain.open(folder, manifest, {}, optimise=False)
        return _playable(folder, chain, (manifest.input, *manifest.inputs), manifest.joins)

    # a part that somebody changed is what is to be judged here, so it need not be the one that the manifest describes
    return read_whole(folder, manifests.FILE_NAME, read)


def _playable(path: Path, chain: Chain, inputs: Sequence[str], joins: Sequence[JoinedOutput] = ()) -> Playable:
    declared: dict[str, Tensor] = {}
    rows = None
    for entry in (player.entry for player in chain.players):
        for name, tensor in (*entry.inputs.items(), *entry.outputs.items()):
            # rows that only fill up a batch are cut off again
            if entry.batch is not None and name in (*entry.batch.inputs, *entry.batch.outputs) and tensor.shape:
                tensor = Tensor(shape=[None, *tensor.shape[1:]], dtype=tensor.dtype)
            declared[name] = tensor
        if entry.batch is not None and any(name in inputs for name in entry.batch.inputs):
            rows = entry.batch.size
    outputs = _only(declared, chain.outputs)
    shapes = joined_shapes({name: tensor.shape for name, tensor in outputs.items()}, joins)
    for join in joins:
        outputs[join.name] = outputs[join.tensors[0]]
    outputs = {name: outputs[name].model_copy(update={"shape": shape}) for name, shape in shapes.items()}
    return Playable(path, chain, _only(declared, inputs), outputs, rows, joins)


def _only(tensors: Mapping[str, _Value], names: Iterable[str]) -> dict[str, _Value]:
    return {name: tensors[name] for name in names}


def _captures(one: Capture, other: Capture, tolerances: Tolerances) -> Iterator[tuple[str, Comparison]]:
    """Compare two model_io folders; a sample that only one of them holds has failed."""
    twins = {sample.id: sample for sample in other.samples}
    for sample in one.samples:
        if sample.id in twins:
            yield sample.id, compare(_all(sample), _all(twins[sample.id]), tolerances, ROW_GROUPS)
        else:
            yield sample.id, _alone(sample, other.folder)
    known = {sample.id for sample in one.samples}
    for sample in other.samples:
        if sample.id not in known:
            yield sample.id, _alone(sample, one.folder)


def _alone(sample: Sample, folder: Path) -> Comparison:
    reason = f"the sample is missing in {folder}"
    return Comparison(tuple(TensorReport(name, "failed", reason) for name in sample.names))


def _replay(
    capture: Capture, model: Playable, tolerances: Tolerances, *, model_first: bool
) -> Iterator[tuple[str, Comparison]]:
    """Feed a model the captured inputs and compare its outputs with the captured ones."""
    for sample in capture.samples:
        captured = _take(sample, model.outputs, f"{model.path} writes", capture.folder)
        computed = model.play(_take(sample, model.inputs, f"{model.path} reads", capture.folder))
        pair = (computed, captured) if model_first else (captured, computed)
        yield sample.id, compare(*pair, tolerances, ROW_GROUPS)


def _models(one: Playable, other: Playable, inputs: Path | None, tolerances: Tolerances, watcher: Watcher) -> Verdict:
    """Compare what two models declare, then what both compute from the same inputs."""
    total, feeds = _feeds(one, other, inputs)
    failed = _declared(one.outputs, other.outputs)
    names = [name for name in one.outputs if all(report.name != name for report in failed)]

    def played(side: Playable, given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return _only(side.play(given), names)

    compared = (
        (sample, compare(played(one, given), played(other, given), tolerances, ROW_GROUPS)) for sample, given in feeds
    )
    verdict = merge(_watched(compared, total, watcher)) if names else Verdict(())
    return replace(verdict, tensors=(*failed, *verdict.tensors))


def _declared(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[TensorReport]:
    """Report the outputs that only one model has, or that can't be equal by their declared shape and dtype."""
    failed = []
    for name, tensor in one.items():
        if name not in other:
            failed.append(TensorReport(name, "failed", "missing: only the reference writes it"))
        elif _common(tensor, other[name]) is None:
            reason = f"declared as {_text(other[name])} where the reference declares {_text(tensor)}"
            failed.append(TensorReport(name, "failed", reason))
    extra = [name for name in other if name not in one]
    return failed + [TensorReport(name, "failed", "extra: the reference does not write it") for name in extra]


def _feeds(one: Playable, other: Playable, inputs: Path | None) -> tuple[int, Iterator[tuple[str, Arrays]]]:
    """Return how many samples there are, and their inputs for both models. Raises InputError where they differ."""
    common: dict[str, Tensor] = {}
    for name in one.inputs:
        both = _common(one.inputs[name], other.inputs[name]) if name in other.inputs else None
        if both is not None:
            common[name] = both
    if not len(one.inputs) == len(other.inputs) == len(common):
        reads = (
            f"{each.path} reads {', '.join(f'{name} {_text(t)}' for name, t in each.inputs.items()) or 'nothing'}"
            for each in (one, other)
        )
        raise InputError(f"{' but '.join(reads)}; give two models with the same inputs")
    if inputs is not None:
        capture = Capture.open(inputs)
        feeds = ((s.id, _take(s, common, f"{one.path} reads", inputs)) for s in capture.samples)
        return len(capture.samples), feeds
    shapes = {name: _static(name, tensor, one.rows or other.rows) for name, tensor in common.items()}
    return RANDOM_SAMPLES, ((f"random {seed}", _random(common, shapes, seed)) for seed in range(RANDOM_SAMPLES))


def _static(name: str, tensor: Tensor, rows: int | None) -> list[int]:
    """Return the shape to fill with random values; `rows` stands in for an open first dimension."""
    shape = tensor.shape
    if shape and not isinstance(shape[0], int) and rows is not None:
        shape = [rows, *shape[1:]]
    known = [size for size in shape or () if isinstance(size, int) and size >= 0]
    if shape is None or len(known) != len(shape):
        raise InputError(
            f"input '{name}' is {_text(tensor)}, which is not static; give --inputs with a model_io folder"
        )
    if np.dtype(tensor.dtype).kind not in "fiub":
        raise InputError(
            f"input '{name}' is {tensor.dtype}, which has no random values; give --inputs with a model_io folder"
        )
    return known


def _random(tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]], seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: random_values(generator, name, shapes[name], np.dtype(t.dtype)) for name, t in tensors.items()}


def _common(one: Tensor, other: Tensor) -> Tensor | None:
    """Return what two declarations say together, None where they contradict each other."""
    if one.dtype != other.dtype:
        return None
    if one.shape is None or other.shape is None:
        return one if other.shape is None else other
    if len(one.shape) != len(other.shape):
        return None
    pairs = list(zip(one.shape, other.shape, strict=True))
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        return None
    return Tensor(shape=[a if isinstance(a, int) else b for a, b in pairs], dtype=one.dtype)


def _text(tensor: Tensor) -> str:
    if tensor.shape is None:
        return f"{tensor.dtype} of unknown rank"
    return f"{tensor.dtype} [{', '.join('?' if size is None else str(size) for size in tensor.shape)}]"


def _take(sample: Sample, names: Collection[str], who: str, folder: Path) -> Arrays:
    """Load tensors of a sample. Raises InputError that says what is there where one is not."""
    absent = [name for name in names if name not in sample]
    if absent:
        there = ", ".join(sample.names) or "nothing"
        raise InputError(f"{folder}: sample '{sample.id}' has no '{absent[0]}', which {who}; it has {there}")
    return {name: sample.load(name) for name in names}


def _all(sample: Sample) -> Arrays:
    return {name: sample.load(name) for name in sample.names}


def _watched(
    comparisons: Iterable[tuple[str, Comparison]], total: int, watcher: Watcher
) -> Iterator[tuple[str, Comparison]]:
    for done, comparison in enumerate(comparisons, start=1):
        yield comparison
        watcher.advance(done, total)
