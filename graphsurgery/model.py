"""A model on its way through the passes: read safely, seen as a graph, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from graphsurgery import view
from graphsurgery.errors import ModelError


@dataclass(frozen=True)
class Model:
    """An ONNX model and the folder that its external data lies in (None: it has none, or is not from a file)."""

    proto: ModelProto
    folder: Path | None = None

    @staticmethod
    def load(path: str | Path) -> Model:
        """Read an ONNX file; external data stays on disk.

        Raises ModelError for a missing, truncated or foreign file, and for external data outside its folder.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: can't be read ({error.strerror or error}); give an ONNX file") from error
        proto = ModelProto()
        try:
            proto.ParseFromString(data)
        except DecodeError as error:
            raise ModelError(f"{path}: not an ONNX file, or a truncated one ({len(data)} bytes)") from error
        if not proto.HasField("graph") or not proto.opset_import:
            raise ModelError(f"{path}: not an ONNX model: it has no graph or no opset; give a file from an exporter")
        folder = path.resolve().parent
        for tensor in stored_outside(proto):
            check_location(tensor, folder, str(path))
        return Model(proto, folder)

    def graph(self) -> gs.Graph:
        """Return a graphsurgeon view to work on; `Model.of(graph)` turns it back."""
        return view.to_graph(self.proto, self.folder)

    @staticmethod
    def of(graph: gs.Graph, folder: Path | None = None) -> Model:
        """Return the model that `graph` describes; unchanged pieces are the original ones."""
        return Model(view.to_proto(graph), folder)

    @property
    def nodes(self) -> int:
        """Number of nodes, those in If and Loop bodies included."""
        return sum(1 for _ in walk_protos(self.proto.graph))

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next((entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx")), 1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything in the model; two models with the same one are the same."""
        digest = hashlib.sha256()
        skeleton = ModelProto()
        skeleton.CopyFrom(_without_weights(self.proto))
        digest.update(skeleton.SerializeToString(deterministic=True))
        for tensor in self.proto.graph.initializer:
            digest.update(tensor.name.encode())
            if tensor.HasField("raw_data"):
                digest.update(f"{tensor.data_type}{list(tensor.dims)}".encode())
                digest.update(tensor.raw_data)
            else:
                digest.update(tensor.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def check(self, name: str) -> None:
        """Run the ONNX checker; `name` says in the message what was checked. Raises ModelError."""
        try:
            onnx.checker.check_model(self.proto)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"{name}: not a valid ONNX model: {str(error).strip().splitlines()[0]}") from error
        except (ValueError, EncodeError) as error:  # above protobuf's 2 GB the checker can't take it from memory
            raise ModelError(f"{name}: can't be checked: {str(error).strip().splitlines()[0]}") from error

    def save(self, path: str | Path) -> None:
        """Write to a temporary name beside `path`, then rename, so that `path` is never half a file.

        External data is written by reference: the file must land in the folder that holds it.
        """
        path = Path(path)
        if self.folder is not None and self.folder != path.resolve().parent and any(stored_outside(self.proto)):
            raise ModelError(f"{path}: this model keeps its weights outside the file; save it in {self.folder}")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(self.proto.SerializeToString())
            temporary.replace(path)
        except OSError as error:
            raise ModelError(f"{path}: can't be written ({error.strerror or error})") from error
        finally:
            temporary.unlink(missing_ok=True)


def walk_protos(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of `graph` and of the bodies inside it."""
    nodes: list[onnx.NodeProto] = []
    pending = [graph]
    while pending:
        current = pending.pop()
        for node in current.node:
            nodes.append(node)
            pending.extend(bodies(node))
    return nodes


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that `node` holds as attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def stored_outside(proto: ModelProto) -> list[TensorProto]:
    """Return the tensors of `proto` whose values lie in other files."""
    found = []
    nodes = walk_protos(proto.graph)
    for graph in [proto.graph, *(body for node in nodes for body in bodies(node))]:
        found += [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL]
    for node in nodes:
        found += [a.t for a in node.attribute if a.HasField("t") and a.t.data_location == TensorProto.EXTERNAL]
    return found


def check_location(tensor: TensorProto, folder: Path, place: str) -> None:
    """Raise ModelError unless the external data of `tensor` is a file inside `folder`, symbolic links followed."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    outside = (
        not location
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).is_absolute()
        or bool(PureWindowsPath(location).drive)
        or ".." in PureWindowsPath(location).parts
        or not (folder / location).resolve().is_relative_to(folder)
    )
    if outside:
        raise ModelError(f"{place}: initializer '{tensor.name}' points outside the model's folder ('{location}')")
    if not (folder / location).is_file():
        raise ModelError(f"{place}: the external data '{location}' of initializer '{tensor.name}' is missing")


def _without_weights(proto: ModelProto) -> ModelProto:
    bare = ModelProto()
    for descriptor, value in proto.ListFields():
        if descriptor.name == "graph":
            for inner, content in value.ListFields():
                if inner.name == "initializer":
                    continue
                if inner.is_repeated:
                    getattr(bare.graph, inner.name).extend(content)
                else:
                    setattr(bare.graph, inner.name, content)
        elif descriptor.is_repeated:
            getattr(bare, descriptor.name).extend(value)
        else:
            setattr(bare, descriptor.name, value)
    return bare
