"""What compiled parts computed on a vendor's machine, as a column: their results are read, the other parts played."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.compiling import Compiler
from graphsurgery.compiling.compiled import Compiled
from graphsurgery.compiling.registry import discover
from graphsurgery.errors import InputError, did_you_mean
from graphsurgery.evaluation.columns import ORIGINAL, PARTS, Detections, Opened
from graphsurgery.images.canvas import CanvasImage
from graphsurgery.parts.folder import read_parts, sha256_of
from graphsurgery.parts.manifest import COMPILED, COMPILED_FILE, FILE_NAME, Batch, Manifest
from graphsurgery.runtime.detector import Detector


@dataclass(frozen=True)
class CompiledColumn:
    """Results of the compiler `name` in the folder `results`, for the parts in `folder`."""

    name: str
    folder: Path
    results: Path
    fingerprint: str

    @staticmethod
    def of(name: str, folder: Path, results: Path) -> CompiledColumn:
        """Describe results in a folder, or where several parts were compiled each, in folders of their names.

        Raises InputError where nothing was compiled by that name, or of other parts, or no results are there.
        """
        if not results.is_dir():
            raise InputError(f"{results}: no such folder of results")
        compiled = read_parts(folder, lambda manifest: _compiled(name, folder, manifest))
        digest = hashlib.sha256(json.dumps(compiled.model_dump(mode="json"), sort_keys=True).encode())
        for path in sorted(path for path in results.rglob("*") if path.is_file()):
            status = path.stat()
            digest.update(f"{path.relative_to(results).as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode())
        return CompiledColumn(name, folder, results, digest.hexdigest())

    def check(self) -> None:
        """As Column."""
        if CompiledColumn.of(self.name, self.folder, self.results).fingerprint != self.fingerprint:
            raise InputError(f"{self.results}: holds other results than when this began, or is of other parts")

    def open(self, threads: int) -> Opened:
        """As Column. Raises what check() and Detector.load do, and InputError for a compiler that isn't here."""
        self.check()
        compiled = read_parts(self.folder, lambda manifest: _compiled(self.name, self.folder, manifest))
        detector = Detector.load(self.folder, threads=threads)
        player = _Player(detector, _compiler(compiled), compiled, self.results)
        return Opened(detector.canvas, player.detect)


@dataclass(frozen=True)
class _Player:
    detector: Detector
    compiler: Compiler
    compiled: Compiled
    results: Path

    def detect(self, placed: CanvasImage, image: Path) -> Detections:
        """Return what is found on the canvas; what compiled parts computed is read by the name of the image's file."""
        if image.stem not in self.compiled.samples:
            raise InputError(
                f"{image}: isn't among the images that `compile --images` wrote for {self.compiled.compiler}; evaluate "
                "those, or write it too"
            )
        number = self.compiled.samples.index(image.stem)
        if self.compiled.whole is not None:
            found = self.compiler.read_outputs(self.results, number, image.stem, self.compiled.whole)
            return self.detector.detections(self.detector.outputs(found), placed)
        tensors = self.detector.inputs(placed)
        for player in self.detector.chain.players:
            entry = player.entry
            if entry.name not in self.compiled.parts:
                tensors |= player.play(tensors)
                continue
            place = self.results / entry.name if len(self.compiled.parts) > 1 else self.results
            found = self.compiler.read_outputs(place, number, image.stem, entry.outputs)
            tensors |= found if entry.batch is None else _with_rows(found, entry.batch, tensors)
        return self.detector.detections(self.detector.outputs(tensors), placed)


def _with_rows(
    outputs: dict[str, np.ndarray[Any, Any]], batch: Batch, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Cut off the rows that a frozen batch was filled up with."""
    count = len(inputs[batch.inputs[0]])
    return {name: value[:count] if name in batch.outputs else value for name, value in outputs.items()}


def _compiled(name: str, folder: Path, manifest: Manifest) -> Compiled:
    """Return what was compiled of the parts in `folder`. Raises InputError where it is of other parts."""
    if name in (ORIGINAL, PARTS):
        raise InputError(f"'{name}' names a column of its own, no compiler")
    if name not in manifest.compiled:
        there = ", ".join(manifest.compiled) or "nothing"
        hint = did_you_mean(name, manifest.compiled)
        raise InputError(f"{folder}: by '{name}' nothing was compiled of these parts ({there} was).{hint}")
    place = folder / COMPILED / name
    compiled = Compiled.read(place)
    if sha256_of(place / COMPILED_FILE) != manifest.compiled[name]:
        raise InputError(f"{place / COMPILED_FILE}: is not the file that {FILE_NAME} describes; compile again")
    hashes = {part.name: part.sha256 for part in manifest.parts}
    for part, sha256 in compiled.parts.items():
        if hashes.get(part) != sha256:
            raise InputError(f"{place}: was compiled of another part '{part}'; compile again")
    return compiled


def _compiler(compiled: Compiled) -> Compiler:
    kind: Any = discover().get(compiled.compiler)
    try:
        made: Compiler = kind(**compiled.options)
    except (TypeError, ValueError) as error:
        raise InputError(f"compiler '{compiled.compiler}': {error}; compile again") from error
    return made
