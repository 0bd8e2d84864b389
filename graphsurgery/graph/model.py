"""A model on its way through the passes: read safely, seen as a graph, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from graphsurgery.errors import ModelError, first_line
from graphsurgery.files import read_bytes, reason, written_whole
from graphsurgery.files.commit import recover, write_together
from graphsurgery.graph import door, outside, view
from graphsurgery.graph.expansion import expanded, unknown_operator
from graphsurgery.graph.protos import (
    check_location,
    name_outputs,
    opset_of,
    sort_nodes,
    stored_names,
    stored_outside,
    tell_nodes_apart,
    walk_protos,
    without_initializers,
    without_values,
)

EXTERNAL_FROM = 10**9  # bytes of weights from which on they are written into a file of their own
MOST_INSIDE = 2 * 10**9  # the same where more is asked for: a message of protobuf holds 2^31 bytes, nodes among them
DATA_SUFFIX = ".data"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """An ONNX model and the folder that its external data lies in (None: it has none, or is not from a file).

    `as_in_file` is False where it was changed when it was read, so that no tool must be given the file in its place.
    """

    proto: ModelProto
    folder: Path | None = None
    as_in_file: bool = True

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read an ONNX file; external data stays on disk.

        Nodes that share a name get others, and so do outputs that need one; nodes in no valid order are sorted. Each is
        logged.

        Raises ModelError for a missing, truncated or foreign file, for external data outside its folder, and for what
        `door.admit` refuses.
        """
        path = Path(path)
        recover(path.parent)
        try:
            data = read_bytes(path, door.MAX_BYTES)
        except (OSError, ValueError) as error:  # the latter for a NUL in the path
            raise ModelError(f"{path}: can't be read ({reason(error)}); give an ONNX file") from error
        proto = ModelProto()
        try:
            proto.ParseFromString(data)
        except DecodeError as error:
            if "MaxDepth" in str(error):
                said = "its bodies are nested deeper than the 32 levels that protobuf reads"
                raise ModelError(f"{path}: {said}") from error
            raise ModelError(f"{path}: not an ONNX file, or a truncated one ({len(data)} bytes)") from error
        if not proto.HasField("graph") or not proto.opset_import:
            raise ModelError(f"{path}: not an ONNX model: it has no graph or no opset; give a file from an exporter")
        door.admit(proto, str(path))
        folder = path.resolve().parent
        for tensor in stored_outside(proto):
            check_location(tensor, folder, str(path))
        shared = tell_nodes_apart(proto)
        if shared:
            named = ", ".join(f"'{name}'" for name in shared[:3]) + (" and others" if len(shared) > 3 else "")
            _LOG.warning("%s: nodes share names (%s); all but the first of each get one of their own", path, named)
        unnamed = name_outputs(proto)
        if unnamed:
            _LOG.warning("%s: '%s' leaves out the name of an output, which gets one", path, unnamed[0])
        moved = sort_nodes(proto)
        if moved:
            _LOG.warning("%s: its nodes are in no valid order; each now stands behind what it reads", path)
        return Model(proto, folder, not (shared or unnamed or moved))

    def graph(self) -> gs.Graph:
        """Return a graphsurgeon view to work on; `Model.of(graph)` turns it back."""
        return view.to_graph(self.proto, self.folder)

    @staticmethod
    def of(graph: gs.Graph, folder: Path | None = None) -> Model:
        """Return the model that `graph` describes; unchanged pieces are the original ones."""
        return Model(view.to_proto(graph), folder)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs that must be given; one with an initializer of its name need not."""
        defaults = stored_names(self.proto.graph)
        return [info.name for info in self.proto.graph.input if info.name not in defaults]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [info.name for info in self.proto.graph.output]

    @property
    def size(self) -> int:
        """How many bytes its initializers take, wherever they lie, those of bodies not counted."""
        return sum(map(outside.size_of, self.proto.graph.initializer))

    def bound(self) -> Model:
        """Return the model with references to its external data that hold anywhere, so that it can be cut up and run.

        What is small, or no initializer of the main graph, is read in. Raises ModelError when it can't be read.
        """
        proto = outside.bound(self.proto, self.folder)
        return self if proto is self.proto else Model(proto)

    def spilled(self, folder: Path, most: float) -> Model:
        """Return a `bound` model of which less than `most` bytes of weights lie in memory: others go into a file.

        The file is in `folder`, which is made where it isn't there, and must outlive the model. Raises ModelError where
        it can't be written.
        """
        if outside.inside_size(self.proto) < min(most, MOST_INSIDE):
            return self
        try:
            folder.mkdir(parents=True, exist_ok=True)
            proto = outside.spilled(self.proto, folder / f"{secrets.token_hex(8)}{DATA_SUFFIX}")
        except OSError as error:
            raise ModelError(f"{folder}: weights can't be written there ({reason(error)}); make room") from error
        return self if proto is self.proto else Model(proto)

    def with_values_inside(self, name: str = "the model") -> Model:
        """Return the model with its external data read in, for what knows nothing of such; `name` says who that is.

        Raises ModelError when that can't be read, or is more than one message of protobuf can hold.
        """
        if not any(self.folder is not None or outside.is_bound(tensor) for tensor in stored_outside(self.proto)):
            return self
        if self.size > door.MAX_BYTES:
            raise ModelError(
                f"{name}: {self.size / 1e9:.1f} GB of weights can't be handed over as one message, which holds 2 GB; "
                "leave it out, or cut the model into smaller parts and do it to these"
            )
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        outside.read_outside(proto, self.folder)
        return Model(proto)

    @property
    def nodes(self) -> int:
        """Number of nodes, those in If and Loop bodies included."""
        return sum(1 for _ in walk_protos(self.proto.graph))

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return opset_of(self.proto)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything in the model; two models with the same one are the same.

        Of external data it holds the place, not what stands there; of a `bound` one the state of its file too.
        """
        digest = hashlib.sha256()

        def add(piece: bytes) -> None:
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)

        add(without_initializers(self.proto).SerializeToString(deterministic=True))
        for tensor in self.proto.graph.initializer:
            add(without_values(tensor).SerializeToString(deterministic=True))
            add(tensor.raw_data)
        return digest.hexdigest()

    def check(self, name: str) -> None:
        """Run the ONNX checker; `name` says in the message what was checked. Raises ModelError."""
        try:
            onnx.checker.check_model(outside.without_weights(expanded(self.proto), door.MAX_BYTES))
        except onnx.checker.ValidationError as error:
            said = unknown_operator(self.proto) or f"not a valid ONNX model: {first_line(error)}"
            raise ModelError(f"{name}: {said}") from error
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        except (ValueError, EncodeError) as error:  # above protobuf's 2 GB the checker can't take it from memory
            raise ModelError(f"{name}: can't be checked: {first_line(error)}") from error

    def save(self, path: str | Path, external_from: float = EXTERNAL_FROM) -> None:
        """Write to temporary names beside `path`, then rename, so that `path` is never half a file.

        From `external_from` bytes on weights go into a file of their own, `path` with .data behind it; the two take
        their places together. A model whose external data lies in this folder, and has no other, is written by
        reference. Raises ModelError when the files can't be written.
        """
        path = Path(path)
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            writers = self._writers(path, external_from)
            if len(writers) > 1:
                write_together(writers)
                return
            with written_whole(path) as temporary:
                writers[path](temporary)

    def write(self, path: Path, external_from: float = EXTERNAL_FROM) -> None:
        """Write as `save` does, but at once under the names themselves, and without a wait for the disk.

        For a folder that takes its place as a whole (`files.commit.writing`), which waits once for all files in it.
        """
        with _explained(path):
            for place, writer in self._writers(path, external_from).items():
                writer(place)

    def _writers(self, path: Path, external_from: float) -> dict[Path, Callable[[Path], object]]:
        """Return what writes each file of the model, `path` the last of them."""
        if self._stays_beside(path):
            return {path: lambda place: place.write_bytes(self.proto.SerializeToString())}
        if self.size < min(external_from, MOST_INSIDE):
            return {path: lambda place: place.write_bytes(self.with_values_inside().proto.SerializeToString())}
        data = path.with_name(path.name + DATA_SUFFIX)
        proto, weights = outside.apart(self.proto, data.name)
        return {
            data: lambda place: outside.write(weights, place),
            path: lambda place: place.write_bytes(proto.SerializeToString()),
        }

    def _stays_beside(self, path: Path) -> bool:
        """Whether it is from a file in the folder of `path`. Raises ModelError for one that must not leave another."""
        beside = [tensor for tensor in stored_outside(self.proto) if not outside.is_bound(tensor)]
        folder = path.resolve().parent
        if self.folder != folder:
            for tensor in beside:
                if self.folder is not None:
                    raise ModelError(f"{path}: this model keeps its weights outside the file; save it in {self.folder}")
                check_location(tensor, folder, str(path))
        return bool(beside)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise ModelError for what goes wrong while `path` is written."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path}: can't be written ({error.strerror or error})") from error
    except (ValueError, EncodeError) as error:  # above protobuf's 2 GB
        raise ModelError(f"{path}: can't be written as one file: {first_line(error)}") from error
