"""What a pass is, for `python -m graphsurgery passes`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from graphsurgery.registry import picture, source_file
from graphsurgery.rewrite import Pass


def describe_pass(pass_: type[Pass]) -> dict[str, Any]:
    """Return name, effect, one-line summary, options with types and defaults, and where the pass is defined."""
    first_paragraph = picture(pass_).split("\n\n")[0]
    about = inspect.cleandoc(pass_.__doc__ or "")
    return {
        "name": pass_.name,
        "effect": pass_.effect,
        "summary": " ".join(first_paragraph.split()),
        "about": "" if about.startswith(f"{pass_.__name__}(") else about,  # dataclass's own docstring says nothing
        "options": [_option(field, typing.get_type_hints(pass_)[field.name]) for field in dataclasses.fields(pass_)],
        "file": source_file(pass_),
    }


def _option(field: dataclasses.Field[Any], kind: Any) -> dict[str, str]:
    if field.default is not dataclasses.MISSING:
        default = repr(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        default = repr(field.default_factory())
    else:
        default = "required"
    name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")
    return {"name": field.name, "type": name, "default": default}
