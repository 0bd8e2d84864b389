"""What can go wrong, and the exit code each kind ends the command line with.

    GraphSurgeryError
    ├── Difference          1  two models, or a model and its captured tensors, are not equal
    ├── InputError          2  what the user gave is at fault: a recipe, a model, an image, an option
    │   ├── RecipeError        the recipe; the message starts with file:line
    │   ├── ModelError         an ONNX file or graph
    │   ├── CaptureError       a model_io folder
    │   └── PassError          a pass met something that it must not ignore
    └── MissingTool         3  an extra, a tool or an execution provider that was asked for is not here

Every message names the place, what was seen there, and what to do about it, in one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from graphsurgery.text import shortened

# What ONNX Runtime puts before what it says: its name and a code, and where in its source that is, function included.
_OF_ORT = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "
    r"|(?:\b[A-Za-z]:)?[/\\][\w/\\.+-]+\.(?:cc|cpp|h):\d+ "
    r"[^()]*\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^]]*\])? ?"
)


class GraphSurgeryError(Exception):
    """Base of everything this package raises on purpose; the CLI prints it as one line."""

    exit_code = 2


class Difference(GraphSurgeryError):
    """Two models, or a model and its captured tensors, differ by more than is allowed.

    `hint` is a second line for the user: where the difference begins, and the command that shows it.
    """

    exit_code = 1
    hint = ""


class InputError(GraphSurgeryError):
    """Something the user gave is at fault; nothing was written."""


class RecipeError(InputError):
    """A recipe is wrong; the message starts with ``file:line``."""


class ModelError(InputError):
    """An ONNX file or graph can't be used."""


class CaptureError(InputError):
    """A model_io folder is missing, broken, or of another model."""


class PassError(InputError):
    """A pass met something that it must not ignore."""


class MissingTool(GraphSurgeryError):
    """An extra, a tool or an execution provider that was asked for is not installed."""

    exit_code = 3


def missing_extra(package: str, extra: str, purpose: str) -> MissingTool:
    """Build the error for an optional package that is not installed.

    `package` is the import name, `extra` the extra of pyproject.toml that brings it.
    """
    return MissingTool(f"{purpose} needs {package}, which is not installed: pip install 'graphsurgery[{extra}]'")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none; at most 300 characters.

    Of ONNX Runtime it is all lines, without what they say of its source.
    """
    text = str(error).strip()
    if not text:
        return type(error).__name__
    is_ort = text.startswith("[ONNXRuntimeError]")
    line = shortened(" ".join(text.split()) if is_ort else text.split("\n", 1)[0], 4000)
    return shortened(_OF_ORT.sub("", line) if is_ort else line, 300)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name that is most like `name`, or nothing."""
    close = nearest(name, known, 1)
    return f" Did you mean '{close[0]}'?" if close else ""


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known names that are most like `name`, the nearest first; capitals make no difference."""
    lower = {each.lower(): each for each in sorted(known)}
    return [lower[each] for each in difflib.get_close_matches(name.lower(), lower, n=most, cutoff=0.5)]


def name_nearest(name: str, known: Iterable[str]) -> str:
    """Return " Nearest: x, y" for up to three known names, or nothing."""
    close = nearest(name, known)
    return f" Nearest: {', '.join(close)}" if close else ""
