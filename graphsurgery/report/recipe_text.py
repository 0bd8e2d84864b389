"""A recipe's plain data as YAML to read, and to load again: the report shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./](?:[\w./ -]*[\w./-])?", re.ASCII)
# What YAML 1.1 takes for something other than a string
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
_NUMBER = re.compile(r"[.\d][\d_.]*(e[-+]?\d+)?|\.(inf|nan)", re.IGNORECASE)


def as_yaml(value: Mapping[str, Any]) -> str:
    """Return mappings, lists and scalars, as JSON has them, in YAML's block style; short lists stay on one line."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, inner in value.items() for line in _entry(f"{_scalar(key)}:", inner)]
    if isinstance(value, list | tuple) and value:
        return [line for inner in value for line in _item(inner)]
    return [_scalar(value)]


def _entry(key: str, value: Any) -> list[str]:
    if not isinstance(value, Mapping | list | tuple) or not value:
        return [f"{key} {_scalar(value)}"]
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        return [f"{key} [{', '.join(map(_scalar, value))}]"]
    return [key, *(f"  {line}" for line in _lines(value))]


def _item(value: Any) -> list[str]:
    first, *rest = _lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        safe = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and not _NUMBER.fullmatch(value)
        return value if safe else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        # 1e-05 is a string to YAML 1.1, 1.0e-05 a number
        return f"{mantissa}.0{e}{exponent}" if e and "." not in mantissa else f"{mantissa}{e}{exponent}"
    return json.dumps(value)
