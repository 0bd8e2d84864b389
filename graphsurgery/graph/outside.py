"""The values of tensors that lie in other files: a reference stands for them, and they are read when asked for.

    location w.bin, offset 4096, length 100          as a file has it: beside the model, whose folder must be known
    location /models/w.bin, ..., size, mtime_ns      bound: it holds anywhere, and two equal ones are of equal values

A bound reference names its file as it was: where that is another one when values are read, that is an error. Values are
mapped into memory, so that what nobody looks at is never read, and an array may be written to without the file's being
changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto

from graphsurgery.errors import ModelError, first_line
from graphsurgery.files import reason
from graphsurgery.files.ranges import append_range
from graphsurgery.graph.protos import stored_outside, without_initializers

# Initializers above this many elements hold weights, which no shape depends on.
SHAPE_LIKE = 1024
_PAGE = 1 << 12  # what each weight in a file begins at a multiple of, to be mapped
_PIECES, _PIECE = 16, 1 << 16  # how many of how many bytes a large weight is told by
_CHUNK = 1 << 24  # bytes of two tensors that are compared at a time
_SIZE, _TIME = "size", "mtime_ns"
_BITS = {
    kind: bits
    for name, bits in (("INT2", 2), ("UINT2", 2), ("INT4", 4), ("UINT4", 4), ("FLOAT4E2M1", 4))
    if (kind := getattr(TensorProto, name, None)) is not None
}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    file: Path
    offset: int
    length: int


def is_outside(tensor: TensorProto) -> bool:
    """Whether the values of `tensor` lie in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def is_bound(tensor: TensorProto) -> bool:
    """Whether `tensor` has a reference that holds anywhere, which none in a file may be (`check_location`)."""
    return is_outside(tensor) and Path(_entries(tensor).get("location", "")).is_absolute()


def size_of(tensor: TensorProto) -> int:
    """Return how many bytes the values of `tensor` take, 0 for text and what has no type."""
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 0
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        bits = 8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    return int(-(-math.prod(tensor.dims) * bits // 8))


def span_of(tensor: TensorProto, folder: Path | None) -> Span:
    """Return where the values of `tensor` lie; `folder` is that of its model, None where the reference is bound.

    Raises ModelError where they aren't there, or the file is another one than it was.
    """
    entries = _entries(tensor)
    if folder is None and not is_bound(tensor):
        raise ModelError(f"tensor '{tensor.name}' can't be read: it has external data, and no folder is known")
    file = (folder or Path()) / entries["location"]
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise ModelError(f"tensor '{tensor.name}' can't be read: {file}: {reason(error)}") from error
    now = {_SIZE: str(status.st_size), _TIME: str(status.st_mtime_ns)}
    if any(entries.get(key, value) != value for key, value in now.items()):
        raise ModelError(f"tensor '{tensor.name}' can't be read: {file} was changed meanwhile; begin anew")
    offset, needed = int(entries.get("offset") or 0), size_of(tensor)
    length = int(entries.get("length") or min(needed, max(0, status.st_size - offset)))
    if length != needed or offset + length > status.st_size:
        shape = list(tensor.dims)[:8]
        raise ModelError(
            f"tensor '{tensor.name}' can't be read: its shape {shape} takes {needed} bytes, and it has {length} at "
            f"{offset} of {file}, which has {status.st_size}"
        )
    return Span(file, offset, length)


def bytes_of(tensor: TensorProto, folder: Path | None = None) -> Bytes:
    """Return the values of `tensor` as a file has them; those outside are mapped, and may be written to all the same.

    Raises ModelError as `span_of`.
    """
    if not is_outside(tensor):
        if tensor.HasField("raw_data"):
            return np.frombuffer(tensor.raw_data, np.uint8)
        packed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor))
        return np.frombuffer(packed.raw_data, np.uint8)
    span = span_of(tensor, folder)
    if not span.length:
        return np.zeros(0, np.uint8)
    try:
        return np.memmap(span.file, np.uint8, "c", span.offset, (span.length,)).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise ModelError(f"tensor '{tensor.name}' can't be read: {span.file}: {first_line(error)}") from error


def array_of(tensor: TensorProto, folder: Path | None = None) -> npt.NDArray[Any]:
    """Return the values of `tensor`; of those outside, which are mapped, an array that may be written to.

    Raises ModelError where they aren't there, or do not fit the shape.
    """
    try:
        if not is_outside(tensor):
            return onnx.numpy_helper.to_array(tensor)
        if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            raise ModelError(f"tensor '{tensor.name}' can't be read: only numbers can be external data")
        found = bytes_of(tensor, folder)
        if tensor.data_type in _BITS or sys.byteorder == "big":
            return onnx.numpy_helper.to_array(_inside(tensor, found))
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return np.ndarray(tuple(tensor.dims), dtype, found.data)
    except (ValueError, TypeError) as error:
        raise ModelError(f"tensor '{tensor.name}' can't be read: {first_line(error)}") from error


def read_outside(proto: ModelProto, folder: Path | None, largest: float = math.inf) -> None:
    """Read tensors of up to `largest` elements that lie in other files into `proto`, which no model may hold.

    Where `folder` is None, those with a bound reference alone. Raises ModelError for what can't be read.
    """
    for tensor in stored_outside(proto):
        if math.prod(tensor.dims) <= largest and (folder is not None or is_bound(tensor)):
            tensor.CopyFrom(_inside(tensor, bytes_of(tensor, folder)))


def bound(proto: ModelProto, folder: Path | None) -> ModelProto:
    """Return `proto` with bound references; values that are no weights of the main graph are read in.

    Raises ModelError for what can't be read.
    """
    if not any(not is_bound(tensor) for tensor in stored_outside(proto)):
        return proto
    made = without_initializers(proto)
    read_outside(made, folder)
    for tensor in proto.graph.initializer:
        if not is_outside(tensor) or is_bound(tensor):
            made.graph.initializer.append(tensor)
        elif math.prod(tensor.dims) <= SHAPE_LIKE:
            made.graph.initializer.append(_inside(tensor, bytes_of(tensor, folder)))
        else:
            made.graph.initializer.append(_bound(tensor, span_of(tensor, folder)))
    return made


def refer(tensor: TensorProto, folder: Path) -> None:
    """Let the bound reference of `tensor` be one of a file in `folder`. Raises ModelError as `span_of`."""
    span = span_of(tensor, None)
    _write_entries(tensor, span.file.relative_to(folder).as_posix(), span.offset, span.length)


def refer_again(proto: ModelProto, before: ModelProto) -> ModelProto:
    """Return `proto` with the bound references that `before` has to weights which are still the same.

    Raises ModelError for what can't be read.
    """
    known = {tensor.name: tensor for tensor in before.graph.initializer if is_bound(tensor)}
    made = without_initializers(proto)
    for tensor in proto.graph.initializer:
        old = known.get(tensor.name)
        alike = old is not None and (old.data_type, list(old.dims)) == (tensor.data_type, list(tensor.dims))
        same = alike and old is not None and same_values(old, tensor)
        made.graph.initializer.append(old if same else tensor)
    return made


def inside_size(proto: ModelProto) -> int:
    """Return how many bytes of initializers lie in `proto` itself."""
    return sum(size_of(tensor) for tensor in proto.graph.initializer if not is_outside(tensor))


def stored_inside(proto: ModelProto) -> int:
    """Return the same with the Constants of the main graph; protobuf's own count writes the whole model for it."""
    constants = (node.attribute for node in proto.graph.node if node.op_type == "Constant")
    values = (each.t for attributes in constants for each in attributes if each.HasField("t"))
    return inside_size(proto) + sum(size_of(value) for value in values if not is_outside(value))


def apart(proto: ModelProto, location: str) -> tuple[ModelProto, dict[int, TensorProto]]:
    """Return `proto` with its weights in the file `location` beside it, and what to `write` there."""
    made, weights, end = without_initializers(proto), dict[int, TensorProto](), 0
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.STRING or math.prod(tensor.dims) <= SHAPE_LIKE:
            made.graph.initializer.append(tensor)
            continue
        weights[end] = tensor
        bare = made.graph.initializer.add()
        bare.CopyFrom(_bare(tensor))
        bare.data_location = TensorProto.EXTERNAL
        _write_entries(bare, location, end, size_of(tensor))
        end += _whole_pages(size_of(tensor))
    return made, weights


def spilled(proto: ModelProto, path: Path) -> ModelProto:
    """Return `proto` with bound references to the file `path`, into which its large weights are written.

    `proto` itself is returned, and no file made, where it has none. Raises OSError.
    """
    weights = {
        place: tensor
        for place, tensor in enumerate(proto.graph.initializer)
        if not is_outside(tensor) and size_of(tensor) and math.prod(tensor.dims) > SHAPE_LIKE
    }
    if not weights:
        return proto
    starts, end = dict[int, int](), 0
    for place, tensor in weights.items():
        starts[place] = end
        end += _whole_pages(size_of(tensor))
    write({starts[place]: tensor for place, tensor in weights.items()}, path)
    made = without_initializers(proto)
    for place, tensor in enumerate(proto.graph.initializer):
        moved = place in weights
        made.graph.initializer.append(_bound(tensor, Span(path, starts[place], size_of(tensor))) if moved else tensor)
    return made


def write(weights: Mapping[int, TensorProto], path: Path) -> None:
    """Write values into a file, each from its offset on; those of another file are copied without being read.

    Raises OSError, ModelError for what can't be read.
    """
    with contextlib.ExitStack() as stack, path.open("wb") as target:
        sources: dict[Path, BinaryIO] = {}
        for offset, tensor in weights.items():
            target.seek(offset)
            if not is_outside(tensor):
                target.write(bytes_of(tensor).data)
                continue
            span = span_of(tensor, None)
            if span.file not in sources:
                sources[span.file] = stack.enter_context(span.file.open("rb"))
            append_range(target, sources[span.file], span.offset, span.length)


def digest_of(tensor: TensorProto, folder: Path | None = None) -> str:
    """Return what tells the values of `tensor` from others: a SHA-256 of its type, its shape and them.

    Of a large one it is of pieces all over it: training changes them all, and to read 8 GB takes longer than a run.
    Raises ModelError as `span_of`.
    """
    values = bytes_of(tensor, folder)
    digest = hashlib.sha256(f"{tensor.data_type} {list(tensor.dims)}".encode())
    if values.size <= _PIECES * _PIECE:
        digest.update(values.data)
    else:
        for at in np.linspace(0, values.size - _PIECE, _PIECES).astype(np.int64):
            digest.update(values[at : at + _PIECE].data)
    return digest.hexdigest()


def same_values(one: TensorProto, other: TensorProto, folders: tuple[Path | None, Path | None] = (None, None)) -> bool:
    """Whether two tensors of one type and shape have the same values, bit for bit; equal references are not followed.

    Raises ModelError for what can't be read.
    """
    if is_bound(one) and is_bound(other) and _entries(one) == _entries(other):
        return True
    return same_bytes(bytes_of(one, folders[0]), bytes_of(other, folders[1]))


def same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether two arrays of bytes are equal, looked at a piece at a time."""
    return one.size == other.size and all(
        np.array_equal(one[at : at + _CHUNK], other[at : at + _CHUNK]) for at in range(0, one.size, _CHUNK)
    )


def without_weights(proto: ModelProto, most: float = math.inf) -> ModelProto:
    """Return `proto` with an input in the place of each initializer that lies outside; `proto` itself without any.

    Where more than `most` bytes lie inside, so it is for all large ones. The checker asks nothing of an initializer
    outside that it doesn't ask of an input.
    """
    too_large = inside_size(proto) > most

    def goes(tensor: TensorProto) -> bool:
        return is_outside(tensor) or (too_large and math.prod(tensor.dims) > SHAPE_LIKE and size_of(tensor) > 0)

    if not any(map(goes, proto.graph.initializer)):
        return proto
    made = without_initializers(proto)
    given = {info.name for info in proto.graph.input}
    for tensor in proto.graph.initializer:
        if not goes(tensor):
            made.graph.initializer.append(tensor)
        elif tensor.name not in given:
            kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            made.graph.input.add(name=tensor.name).type.CopyFrom(kind)
    return made


def files_of(proto: ModelProto) -> Iterator[Path]:
    """Yield the file of each bound reference in `proto`."""
    yield from (Path(_entries(tensor)["location"]) for tensor in stored_outside(proto) if is_bound(tensor))


def _whole_pages(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _bare(tensor: TensorProto) -> TensorProto:
    """Return `tensor` without values and without a reference."""
    made = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.HasField("doc_string"):
        made.doc_string = tensor.doc_string
    made.metadata_props.extend(tensor.metadata_props)
    return made


def _inside(tensor: TensorProto, values: Bytes) -> TensorProto:
    made = _bare(tensor)
    made.raw_data = values.tobytes()
    return made


def _bound(tensor: TensorProto, span: Span) -> TensorProto:
    made, status = _bare(tensor), span.file.stat()
    made.data_location = TensorProto.EXTERNAL
    _write_entries(made, str(span.file), span.offset, span.length)
    for key, value in ((_SIZE, status.st_size), (_TIME, status.st_mtime_ns)):
        made.external_data.add(key=key, value=str(value))
    return made


def _write_entries(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
