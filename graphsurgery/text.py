"""What others have named or written, as it may be shown: of a length that fits, and nothing that a terminal obeys."""

from __future__ import annotations

import re

_FOLDERS = re.compile(r"(?<![\w./\\])(?:[A-Za-z]:)?(?:[/\\][\w.@+-]+)+[/\\](?=[\w.@+-])")


def visible(text: str) -> str:
    """Return `text` with every character that can't be printed written out, an escape as \\x1b; line ends stay."""
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
    return "".join(shown)


def shortened(text: str, most: int) -> str:
    """Return `text`, its middle left out where it has more than `most` characters: an error ends in its reason."""
    if len(text) <= most:
        return text
    head = most // 3
    return f"{text[:head]} ... {text[len(text) - (most - head - 5) :]}"


def without_folders(text: str) -> str:
    """Return `text` with files by their names alone: where they lie on one machine says nothing on another."""
    return _FOLDERS.sub("", text)
