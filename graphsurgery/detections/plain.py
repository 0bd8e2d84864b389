"""Frozen dataclasses as plain data and back, and the checks that their values share.

A class validates itself in __post_init__ and names its own key; who reads it knows the place and puts that before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args

from graphsurgery.errors import InputError
from graphsurgery.text import shortened

_T = TypeVar("_T")
Nested = Mapping[str, type | tuple[type]]


def to_plain(value: Any) -> Any:
    """Return a dataclass as a mapping of what differs from its defaults, tuples as lists."""
    if is_dataclass(value):
        own = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
        return {name: to_plain(each) for name, (each, default) in own.items() if default is MISSING or each != default}
    return [to_plain(each) for each in value] if isinstance(value, tuple) else value


def from_plain(cls: type[_T], value: object, place: str, nested: Nested | None = None) -> _T:
    """Read what `to_plain` gave of a `cls`; `nested` are the classes behind its keys, in a tuple where it is a list.

    A key whose value is None is as good as absent. Raises InputError that begins with the key at fault.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise InputError(f"{place}: expected some of {', '.join(known)}, got {shortened(str(value), 60)}")
    own: dict[str, Any] = {}
    for name, each in value.items():
        if each is None:
            continue
        inner = (nested or {}).get(name)
        if inner is None:
            own[name] = _frozen(each)
        elif isinstance(inner, type):
            own[name] = from_plain(inner, each, f"{place}.{name}", getattr(inner, "NESTED", None))
        elif isinstance(each, list | tuple):
            own[name] = tuple(from_plain(inner[0], item, f"{place}.{name}[{i}]") for i, item in enumerate(each))
        else:
            raise InputError(f"{place}.{name}: is {shortened(repr(each), 40)}; give a list")
    lacking = [field.name for field in fields(cls) if field.default is MISSING and field.name not in own]  # type: ignore[arg-type]
    if lacking:
        raise InputError(f"{place}: lacks {', '.join(lacking)}")
    try:
        return cls(**own)
    except InputError as error:
        raise InputError(f"{place}.{error}") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def require_choice(name: str, value: object, kind: Any) -> None:
    """Raise InputError unless the value is one of those of the Literal `kind`."""
    if not isinstance(value, str) or value not in get_args(kind):
        listed = ", ".join(map(str, get_args(kind)))
        raise InputError(f"{name} is {shortened(repr(value), 40)}; it is one of {listed}")


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless the value is a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {shortened(repr(value), 40)}; give a whole number from {low} to {high}")


def require_number(name: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless the value is a number from `low` to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]  # NaN is neither
        raise InputError(f"{name} is {shortened(repr(value), 40)}; give a number from {low:g} to {high:g}")


def require_switch(name: str, value: object) -> None:
    """Raise InputError unless the value is true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shortened(repr(value), 40)}; write true or false")


def require_list(name: str, value: object, low: int, high: int) -> Sequence[Any]:
    """Return the value. Raises InputError unless it is a list of `low` to `high` items."""
    if not isinstance(value, tuple) or not low <= len(value) <= high:
        raise InputError(f"{name} is {shortened(repr(value), 40)}; give a list of {low} to {high} items")
    return value
