"""Small ONNX models, damaged: a few fields of the proto changed to what no exporter writes, or some bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto, parser

HEAD = '<ir_version: 8, opset_import: ["": 17, "loc": 1, "com.microsoft": 1]>'
TEXTS = (
    """g (float[1, 3, 8, 8] x) => (float[1, 4, 4, 4] y) <float[4, 3, 3, 3] w> {
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)  y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) }""",
    """g (float[2] x, bool c, int64 n) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = t () => (float[2] p) { p = Add (x, w) },
                    else_branch = e () => (float[2] q) { k = Constant <value = float[2] {3, 4}> ()  q = Mul (x, k) }>
        z = Loop (n, c, x) <body = b (int64 i, bool d, float[2] a) => (bool e, float[2] s) {
            e = Identity (d)  s = Add (a, a) }> }""",
    """g (float[2, 6] x) => (float[3, 4] y, float[N] u) <int64[2] s = {3, 4}, int64[1] f = {-1}> {
        t = Transpose <perm = [1, 0]> (x)  v = Transpose <perm = [1, 0]> (t)
        y = Reshape (v, s)  o = Shape (x)  u = Reshape (y, f) }""",
    """g (float[1, 4, 6, 6] x) => (float[1, 4, 12, 12] y) <float[4] a = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0},
        float[4] m = {0, 1, 0, 1}, float[4] v = {1, 2, 1, 2}, float[4] k = {1, 1, 2, 2}, float[0] r> {
        n = BatchNormalization (x, a, b, m, v)
        y = Resize <mode = "linear"> (n, r, k) }""",
    """g (float[2, 4] x) => (float[2, 4] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = loc.twice (d) }
    <opset_import: ["": 17, "loc": 1], domain: "loc"> twice (x) => (y) { h = loc.half (x)  y = Add (h, h) }
    <opset_import: ["": 17], domain: "loc"> half (x) => (y) { y = Identity (x) }""",
    """g (float[2, 3] x, string[2] t) => (seq(float[2, 3]) s, string[2] u, float[2, 3] y) {
        s = SequenceConstruct (x, x)  u = Identity (t)  p = Constant <value_int = 0> ()  y = SequenceAt (s, p) }""",
)
NUMBERS = (-(1 << 63), -(1 << 31), -2, -1, 0, 1, 2, 3, 7, 100, 65537, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1)
NAMES = ("", "x", "y", "\x1b[31m\x00\r\n", "a" * 5000, "../x", "日本", "w", "loc", "ai.onnx", "com.microsoft")
Message = Any


@cache
def operators() -> list[str]:
    """Return the names of all operators, and of the functions above."""
    return [*sorted({schema.name for schema in onnx.defs.get_all_schemas()}), "twice", "half"]


@cache
def models() -> list[bytes]:
    """Return the models that are damaged: those from above twice as often as those of ONNX's suite all together."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    found = [path.read_bytes() for path in sorted(folder.rglob("model.onnx")) if path.stat().st_size < 20_000]
    own = [parser.parse_model(f"{HEAD} {text}").SerializeToString() for text in TEXTS]
    return found + own * (1 + 2 * len(found) // len(own))


def damaged(seed: int) -> bytes:
    """Return the model of a case."""
    draw = random.Random(seed)
    data = draw.choice(models())
    proto = ModelProto.FromString(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        messages = list(walk(proto))
        change(draw, draw.choice(messages), messages)
    data = proto.SerializeToString()
    if draw.random() < 0.2:
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(changed)) if changed else 0
            changed[at : at + draw.choice((0, 1, 1, 1, 8))] = draw.randbytes(draw.choice((0, 1, 1, 4)))
        data = bytes(changed)
    return data


def walk(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from walk(inner)


def change(draw: random.Random, message: Message, others: list[Message]) -> None:
    """Change one field of a message."""
    fields = [field for field, _ in message.ListFields()] if draw.random() < 0.8 else message.DESCRIPTOR.fields
    if not fields:
        return
    field = draw.choice(fields)
    if field.message_type is not None:
        donors = [each for each in others if field.message_type == each.DESCRIPTOR] or [message]
        donor = type(draw.choice(donors))()
        donor.CopyFrom(draw.choice(donors))
        if not field.is_repeated:
            if draw.random() < 0.3 or field.message_type != donor.DESCRIPTOR:
                message.ClearField(field.name)
            else:
                getattr(message, field.name).CopyFrom(donor)
            return
        held = getattr(message, field.name)
        at = draw.randrange(len(held)) if held else 0
        if held and draw.random() < 0.4:
            del held[at]
        elif field.message_type == donor.DESCRIPTOR:
            held.extend([donor] * draw.choice((1, 1, 1, 2, 50)))
        return
    value = scalar(draw, field, others)
    if not field.is_repeated:
        setattr(message, field.name, value)
        return
    held = getattr(message, field.name)
    at = draw.randrange(len(held)) if held else 0
    if held and draw.random() < 0.6:
        held[at] = value
    elif held and draw.random() < 0.5:
        del held[at]
    else:
        held.extend([value] * draw.choice((1, 1, 1, 3, 500)))


def scalar(draw: random.Random, field: FieldDescriptor, others: list[Message]) -> Any:
    """Draw a value of the kind that a field holds."""
    if field.type == FieldDescriptor.TYPE_STRING:
        if field.name == "op_type":
            return draw.choice(operators())
        used = [text for each in others for name in ("input", "output", "name") for text in _texts(each, name)]
        return draw.choice(used or NAMES) if draw.random() < 0.6 else draw.choice(NAMES)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.randbytes(draw.choice((0, 1, 4, 8, 100)))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return draw.choice((0.0, -1.0, 0.5, 3e38, float("inf"), float("nan")))
    if field.enum_type is not None:
        return draw.choice(list(field.enum_type.values_by_number))
    number = draw.choice(NUMBERS) if draw.random() < 0.8 else draw.randint(-20, 40)
    low = 0 if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32) else -(1 << 63)
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32):
        return max(low, min(number, (1 << 31) - 1)) if number > -(1 << 31) else -1 if low else 0
    return max(low, number)


def _texts(message: Message, name: str) -> list[str]:
    value = getattr(message, name, None)
    return [value] if isinstance(value, str) else [v for v in value if isinstance(v, str)] if value else []
