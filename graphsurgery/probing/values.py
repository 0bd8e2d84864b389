"""Values inside, at the ends of and beyond what a limit allows."""

from __future__ import annotations

from collections.abc import Iterator

from graphsurgery.targets.schema import Allowed, Scalar, ends_of, step_of

# What ONNX knows of attributes that are words
_WORDS: dict[str, tuple[str, ...]] = {
    "auto_pad": ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"),
    "coordinate_transformation_mode": (
        *("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
        *("tf_half_pixel_for_nn", "half_pixel_symmetric"),
    ),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "padding_mode": ("zeros", "border", "reflection"),
    "reduction": ("none", "add", "mul", "max", "min"),
    "broadcast": ("none", "scalar", "channels", "other"),
    "kernel_shape_text": ("3x3", "1x1", "1x3", "5x5", "2x2"),
    "permutation": ("0,2,3,1", "0,3,1,2", "0,1,3,2", "1,0,2,3", "0,2,1,3", "3,2,1,0"),
}
_MODES = {
    "Resize": ("nearest", "linear", "cubic"),
    "GridSample": ("linear", "nearest", "cubic"),
    "Pad": ("constant", "edge", "reflect", "wrap"),
    "RoiAlign": ("avg", "max"),
}
TYPES = (
    "float32",
    "float16",
    "float64",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)
_STEPS = (1, -1, 2)
# Attributes that say yes or no with 1 and 0
_FLAGS = frozenset(
    [
        "largest",
        "sorted",
        "allowzero",
        "antialias",
        "center_point_box",
        "ceil_mode",
        "transA",
        "transB",
        "fmod",
        "keepdims",
        "count_include_pad",
        "storage_order",
        "select_last_index",
        "align_corners",
        "exclusive",
        "reverse",
        "exclude_outside",
    ]
)


def words_of(op: str, name: str) -> tuple[str, ...]:
    """Return the words that an attribute of an operator, or a fact, may be; none where it is a number."""
    if name == "mode":
        return _MODES.get(op, ())
    return TYPES if name in ("type", "types") else _WORDS.get(name, ())


def inside(allowed: Allowed) -> list[Scalar]:
    """Return a value of each choice of a limit: of a range the end that is nearest to what is usual."""
    found: list[Scalar] = []
    for choice in allowed.choices:
        step, ends = step_of(choice), [_whole(end) for end in ends_of(choice)]
        if step is not None:
            found.append(step)
        elif ends:
            found.append(min(ends, key=lambda end: abs(end - 2) if isinstance(end, int | float) else 0))
    return found


def at_ends(allowed: Allowed) -> list[Scalar]:
    """Return the ends of the ranges of a limit, and all its other choices."""
    found: list[Scalar] = []
    for choice in allowed.choices:
        step = step_of(choice)
        found += [step, 2 * step] if step is not None else [_whole(end) for end in ends_of(choice)]
    return list(dict.fromkeys(found))


def beyond(allowed: Allowed, op: str, name: str) -> list[Scalar]:
    """Return values that a limit leaves out: those next to the ends of ranges, and the other words."""
    return [value for value in dict.fromkeys(_next_to(allowed, op, name)) if not allowed.holds(value)]


def _next_to(allowed: Allowed, op: str, name: str) -> Iterator[Scalar]:
    yield from words_of(op, name)
    if name in _FLAGS:
        yield from (0, 1)
        return
    for choice in allowed.choices:
        step = step_of(choice)
        if step is not None:
            yield step + 1
            continue
        for end in ends_of(choice):
            if isinstance(end, bool):
                yield not end
            elif isinstance(end, int | float):
                whole = int(end) if end == int(end) else end
                yield from (whole + step for step in _STEPS)
                if name == "scale":
                    yield end / 2


def _whole(value: Scalar) -> Scalar:
    return int(value) if isinstance(value, float) and value == int(value) else value
