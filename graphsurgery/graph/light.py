"""A model in a file without its large weights, which are not read: its nodes cost what they are, not what it holds.

A serialized message is a list of fields, each with its number and, where it is text, bytes or a message, its length; so
what isn't wanted is passed over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZERS = {GraphProto.DESCRIPTOR.fields_by_name[n].number for n in ("initializer", "sparse_initializer")}
_LARGE = 2**16  # bytes
_FIXED = {1: 8, 5: 4}  # wire types of numbers: how many bytes they have
_VARINT, _LENGTH = 0, 2


class _Field(NamedTuple):
    number: int
    begin: int
    content: int
    end: int


def read_light(path: Path) -> ModelProto:
    """Return the model in a file without the initializers of its main graph that have more than 64 KB.

    Raises OSError for a file that can't be read, DecodeError for one that is no model.
    """
    model = ModelProto()
    with path.open("rb") as file:
        if not path.stat().st_size:
            return model
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for field in _fields(data, 0, len(data)):
                if field.number != _GRAPH:
                    model.MergeFromString(data[field.begin : field.end])
                    continue
                for inner in _fields(data, field.content, field.end):
                    if inner.number not in _INITIALIZERS or inner.end - inner.begin <= _LARGE:
                        model.graph.MergeFromString(data[inner.begin : inner.end])
    return model


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    """Yield the fields of a message that lies from `at` to `end`."""
    while at < end:
        begin = at
        tag, at = _varint(data, at, end)
        kind = tag & 7
        content = at
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _LENGTH:
            length, content = _varint(data, at, end)
            at = content + length
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise DecodeError(f"wire type {kind} at byte {begin}")
        if at > end:
            raise DecodeError(f"a field at byte {begin} is cut off")
        yield _Field(tag >> 3, begin, content, at)


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError(f"a number at byte {at} has no end")
