"""One part with passes of some options: what is left of its outputs, and what it costs.

It is tried in a process of its own, since a quantizer may crash, hang or take what memory there is: that is a result
as well.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from graphsurgery.capture.samples import file_stem
from graphsurgery.errors import CaptureError, GraphSurgeryError, MissingTool
from graphsurgery.graph.model import Model
from graphsurgery.plugins import source_file
from graphsurgery.processes.worker import Running, Worker, serve
from graphsurgery.quantize.bit_operations import work
from graphsurgery.quantize.calibration import Feeds
from graphsurgery.quantize.sqnr import output_sqnr
from graphsurgery.recipe.pass_use import PassUse
from graphsurgery.recipe.plugin_options import make_plugin, plugin_options
from graphsurgery.rewrite import Pass, PassContext, apply_passes
from graphsurgery.rewrite.registry import Registry, discover
from graphsurgery.strict_yaml.positions import Entry, Fields, Items, Node, Place, Scalar
from graphsurgery.version import __version__

MOST_DB = 200.0  # stands for outputs that are equal
_CURE = "give search.seconds or search.memory_mb more, or leave the setting out"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Stored:
    """The tensors of an image in files: `folders` are looked through in order."""

    id: str
    folders: tuple[Path, ...]

    def __contains__(self, name: str) -> bool:
        return any(self._file(folder, name).is_file() for folder in self.folders)

    def load(self, name: str) -> np.ndarray:
        """Read one tensor. Raises CaptureError where it is missing or no plain array."""
        for folder in self.folders:
            with contextlib.suppress(FileNotFoundError):
                try:
                    array: np.ndarray = np.load(self._file(folder, name), allow_pickle=False)
                except ValueError as error:
                    raise CaptureError(f"{self._file(folder, name)}: not a plain array; capture again") from error
                return array
        raise CaptureError(f"sample {self.id}: '{name}' is not there any more; capture again")

    @staticmethod
    def _file(folder: Path, name: str) -> Path:
        return folder / f"{file_stem(name)}.npy"


@dataclass(frozen=True)
class Material:
    """A part as it was before the passes, in a file, and its samples; `fingerprint` is of what both hold."""

    part: str
    model: Path
    samples: tuple[Stored, ...]
    fingerprint: str


@dataclass(frozen=True)
class Use:
    """A pass by its name, the file that it is found in, and its options as JSON."""

    name: str
    file: str
    options: str

    @staticmethod
    def of(use: PassUse) -> Use:
        """Describe a pass of a recipe; options that are as they would be without a word are left out."""
        return Use(use.name, source_file(type(use.pass_)), json.dumps(written_options(use.pass_), sort_keys=True))


@dataclass(frozen=True)
class Attempt:
    """What is tried: `uses` on a part; `seconds` and `memory_mb`, 10^6 bytes, limit it."""

    material: Material
    uses: tuple[Use, ...]
    seconds: float
    memory_mb: int

    @cached_property
    def key(self) -> str:
        """Equal means the same result, but for the limits."""
        told = [__version__, self.material.fingerprint, [(use.name, use.options) for use in self.uses]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def key_with_limits(self) -> str:
        """Equal means the same result, also where a limit was the end of it."""
        return f"{self.key} {self.seconds:g} s {self.memory_mb} MB"


@dataclass(frozen=True)
class Found:
    """What came of an attempt: SQNR of each output in dB, what it costs, and the layers ranked, if that was asked for.

    `failed` says why there is nothing of it; `died` where that is the end of its process, by a crash or at a limit.
    """

    sqnr_db: Mapping[str, float] = field(default_factory=dict)
    multiply_adds: int = 0
    in_integers: int = 0
    bit_operations: int = 0
    bytes: int = 0
    layers: tuple[str, ...] = ()
    failed: str | None = None
    died: bool = False

    @property
    def worst(self) -> float:
        """The dB of the worst output."""
        return min(self.sqnr_db.values(), default=MOST_DB)


def written_options(pass_: Pass) -> dict[str, Any]:
    """Return the options of a pass as a recipe writes them, but for those that are what they are without a word."""
    from pydantic_core import to_jsonable_python

    known = plugin_options(type(pass_))
    given = {name: getattr(pass_, name) for name in known}
    return {
        name: to_jsonable_python(value)
        for name, value in given.items()
        if known[name].required or value != known[name].default
    }


class Processes:
    """The processes that do attempts for the threads of this one, each for its own; the end of all is `stop`."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._all: list[Running[Worker]] = []

    def do(self, attempt: Attempt) -> Found:
        """Try in a process of its own, and return what came of it, whatever that is."""
        running = getattr(self._of_thread, "running", None)
        if running is None:
            running = self._of_thread.running = Running(lambda: Worker(__name__, "it", _CURE))
            self._all.append(running)
        request = {
            "model": str(attempt.material.model),
            "samples": [[each.id, [str(folder) for folder in each.folders]] for each in attempt.material.samples],
            "passes": [[use.name, use.file, json.loads(use.options)] for use in attempt.uses],
        }
        try:
            with running.use() as process:
                reply = process.ask(request, attempt.seconds, attempt.memory_mb)
        except MissingTool:
            raise
        except GraphSurgeryError as error:
            return Found(failed=str(error), died=True)
        if "missing" in reply:
            raise MissingTool(reply["missing"])
        return Found(**{**reply, "layers": tuple(reply.get("layers", ()))})

    def stop(self) -> None:
        """End the processes, at once where they are at work."""
        for running in self._all:
            if running.worker is not None:
                running.worker.stop()


_here = Processes()


def do(attempt: Attempt) -> Found:
    """Try, in a process of this process and thread that lives on for the next attempt: on a worker of a cluster."""
    return _here.do(attempt)


# --- in the other process ---------------------------------------------------------------------------------------


def _load() -> None:
    _registry()  # the first attempt is not to pay for it


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return _tried(request)
    except MissingTool as error:
        return {"missing": str(error)}
    except GraphSurgeryError as error:
        return {"failed": str(error)}


def _tried(request: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(request["model"])
    model = Model.load(path)
    samples = [Stored(identity, tuple(map(Path, folders))) for identity, folders in request["samples"]]
    passes = [_pass(*each) for each in request["passes"]]
    applied = apply_passes(passes, model, PassContext(samples))
    made, details = applied.model, applied.details
    made.check("what came out")
    before = Model.load(path).with_values_inside().proto
    if len(passes) == 1 and "sqnr_db" in details:  # which took it against the same part, on the same samples
        decibels = {name: math.inf if db is None else db for name, db in details["sqnr_db"].items()}
    else:
        decibels = output_sqnr(made.with_values_inside().proto, before, Feeds(before, samples))
    floats = {info.name for info in before.graph.output if info.type.tensor_type.elem_type in _FLOATS}
    cost = work(made)
    return {
        "sqnr_db": {name: _bounded(db) for name, db in decibels.items() if name in floats or not floats},
        "multiply_adds": cost.multiply_adds,
        "in_integers": cost.in_integers,
        "bit_operations": cost.bit_operations,
        "bytes": made.proto.ByteSize(),
        "layers": [layer["name"] for layer in details.get("layers", ())],
    }


def _bounded(decibels: float) -> float:
    return round(min(max(decibels, -MOST_DB), MOST_DB), 3) if not math.isnan(decibels) else -MOST_DB


def _pass(name: str, file: str, options: Mapping[str, Any]) -> Pass:
    registry = _registry()
    if name not in registry.names():
        registry.add_plugin(Path(file))
    place = Place(f"pass '{name}'", None, Path.cwd())
    given = _node(options, place)
    assert isinstance(given, Fields)
    return make_plugin(registry.get(name), f"pass '{name}'", given, place)


@functools.cache
def _registry() -> Registry:
    return discover()


def _node(value: Any, place: Place) -> Node:
    if isinstance(value, Mapping):
        return Fields({key: Entry(place, _node(each, place)) for key, each in value.items()}, place)
    if isinstance(value, list):
        return Items(tuple(_node(each, place) for each in value), place)
    return Scalar(value, place)


if __name__ == "__main__":
    serve(_load, _answer)
