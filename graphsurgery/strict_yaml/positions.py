"""YAML in which every key and value knows its file and line, and in which nothing means something else than it says.

Built from PyYAML's events, not from its values, so that these traps of YAML 1.1 are closed, each with file and line:

- `1e-4`, `010`, `0x10`, `1_000` are numbers to some readers and text to others: refused, with the form to write
- `yes`, `no`, `on`, `off`, `True`, `1:30` and `2020-01-01` stay the text they are; only `true` and `false` are booleans
- a duplicate key, an explicit tag, an anchor or alias, a merge key, a second document, `.inf` and `.nan`: refused

Keys are always text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from graphsurgery import files
from graphsurgery.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_NUMBER_LIKE = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<radix>0x[0-9a-f][0-9a-f_]*|0o[0-7][0-7_]*|0b[01][01_]*)"
    r"|(?=\.?[0-9])(?P<whole>[0-9_]*)(?P<point>\.[0-9_]*)?(?:e(?P<exponent>[-+]?[0-9]+))?)",
    re.IGNORECASE,
)
_NOT_FINITE = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Place:
    """Where a key or value stands: a file and line, or (`line` is None) an option of the command line.

    Relative paths that stand there are relative to `folder`.
    """

    file: str
    line: int | None
    folder: Path

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def error(self, message: str) -> RecipeError:
        """Build the error that names this place."""
        return RecipeError(f"{self}: {message}")


@dataclass(frozen=True)
class Scalar:
    """A single value; None is YAML's null, or nothing at all."""

    value: str | int | float | bool | None
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """What stands behind a key of a mapping; `place` is the key's."""

    place: Place
    value: Node


@dataclass(frozen=True)
class Fields:
    """A mapping, in the order in which it was written."""

    entries: Mapping[str, Entry]
    place: Place


Node = Scalar | Items | Fields


def plain(node: Node) -> Any:
    """The node as dicts, lists, text, numbers, booleans and None."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(item) for item in node.items]
        case Fields():
            return {key: plain(entry.value) for key, entry in node.entries.items()}


def is_null(node: Node) -> bool:
    """Whether the node is YAML's null, or nothing at all."""
    return isinstance(node, Scalar) and node.value is None


def quoted(value: object) -> str:
    """The value as an error message shows it: in one line, and not longer than 60 characters."""
    if value is None:
        return "nothing"
    return shortened(str(value).lower() if isinstance(value, bool) else repr(value))


def shortened(text: str) -> str:
    """The text, cut where it is longer than 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def read_yaml(path: Path, shown: str) -> Node:
    """Read a file of one YAML document; `shown` is how errors name the file.

    Raises RecipeError if it can't be read, is over 1 MB, isn't UTF-8, or falls into one of the traps above.
    """
    try:
        data = files.read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"{shown}: can't be read: {files.reason(error)}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = Place(shown, data.count(b"\n", 0, error.start) + 1, path.parent)
        raise place.error(f"byte 0x{data[error.start]:02x} is not UTF-8 text; save the file as UTF-8") from error
    return parse_yaml(text, Place(shown, 1, path.parent.absolute()))


def parse_yaml(text: str, start: Place) -> Node:
    """Read the one YAML document in `text`, whose first line stands at `start`; no document reads as null.

    With `start.line` None (a value of the command line) every node is at `start`. Raises RecipeError.
    """
    return _Parser(text, start).document()


class _Parser:
    """Builds nodes from the events of one text."""

    def __init__(self, text: str, start: Place) -> None:
        self.text = text
        self.start = start
        self.loader: Any = None

    def document(self) -> Node:
        try:
            self.loader = yaml.SafeLoader(self.text)
        except yaml.reader.ReaderError as error:
            raise self.place(self.text.count("\n", 0, error.position)).error(
                f"the character {error.character:#x} is not allowed in YAML; is this a text file?"
            ) from error
        try:
            return self.content()
        finally:
            self.loader.dispose()

    def content(self) -> Node:
        self.next()  # the start of the stream
        if isinstance(self.next(), yaml.StreamEndEvent):
            return Scalar(None, self.start)
        root = self.node(self.next(), 1)
        self.next()  # the end of the document
        after = self.next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.at(after).error("a second YAML document starts here; a recipe is a single one")
        return root

    def next(self) -> Any:
        try:
            return self.loader.get_event()
        except yaml.MarkedYAMLError as error:
            self.syntax_error(error)
        except (ValueError, OverflowError) as error:  # PyYAML lets the ones of chr() and int() through
            raise self.place(self.loader.line).error(f"a number or escape is out of range: {error}") from error

    def syntax_error(self, error: Any) -> NoReturn:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        if "'\\t'" in message:
            message += "; indent with spaces"
        elif "alias" in message:
            message += "; quote a name that starts with *"
        raise self.place(mark.line).error(f"not valid YAML: {' '.join(message.split())}") from error

    def place(self, line_index: int) -> Place:
        if self.start.line is None:
            return self.start
        return Place(self.start.file, self.start.line + line_index, self.start.folder)

    def at(self, event: Any) -> Place:
        return self.place(event.start_mark.line)

    def node(self, event: Any, depth: int) -> Node:
        place = self.at(event)
        self.refuse_references(event, place)
        if depth > MAX_DEPTH:
            raise place.error(f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(place, depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(place, depth)
        _refuse_control_characters(event.value, place)
        return Scalar(_resolve(event.value, place) if event.style is None else event.value, place)

    def sequence(self, place: Place, depth: int) -> Items:
        items = []
        while not isinstance(event := self.next(), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return Items(tuple(items), place)

    def mapping(self, place: Place, depth: int) -> Fields:
        entries: dict[str, Entry] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key, key_place = self.key(event), self.at(event)
            if key in entries:
                raise key_place.error(f"duplicate key {quoted(key)}; it stands at {entries[key].place} already")
            entries[key] = Entry(key_place, self.node(self.next(), depth + 1))
        return Fields(entries, place)

    def key(self, event: Any) -> str:
        place = self.at(event)
        self.refuse_references(event, place)
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise place.error("a key must be a name")
        if event.value == "<<":
            raise place.error("the merge key << is not allowed; use extends, or write the values out")
        _refuse_control_characters(event.value, place)
        return str(event.value)

    def refuse_references(self, event: Any, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise place.error(
                f"the alias *{event.anchor} is not allowed; write the value out, or quote a name that starts with *"
            )
        if event.anchor is not None:
            raise place.error(f"the anchor &{event.anchor} is not allowed; write the value out where it is needed")
        if event.tag is not None:
            raise place.error(f"the tag {quoted(event.tag)} is not allowed; a recipe holds plain values only")


def _refuse_control_characters(text: str, place: Place) -> None:
    """Escapes can spell what no path or name may hold, such as NUL and halves of surrogate pairs."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n":
            raise place.error(f"the character {ord(character):#x} is not allowed in text")


def _resolve(text: str, place: Place) -> str | int | float | bool | None:
    """What an unquoted scalar means."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _NOT_FINITE.fullmatch(text):
        raise place.error(f"{text} is not a finite number")
    number = _NUMBER_LIKE.fullmatch(text)
    if number is None:
        return text
    if len(text) > _LONGEST_NUMBER:
        raise place.error(f"{quoted(text)} is too long for a number; quote it if it is text")
    if _INTEGER.fullmatch(text):
        return int(text)
    if not _FLOAT.fullmatch(text):
        raise place.error(
            f"{text} is a number to some YAML readers and text to others; "
            f"write {_unambiguous(number)}, or quote it if it is text"
        )
    if abs(value := float(text)) == float("inf"):
        raise place.error(f"{text} is not a finite number")
    return value


def _unambiguous(number: re.Match[str]) -> str:
    """The number in the form that every YAML reader takes for a number."""
    if number["radix"]:
        return number["sign"] + str(int(number["radix"].replace("_", ""), 0))
    written = number["sign"] + str(int(number["whole"].replace("_", "") or "0"))
    if number["point"] or number["exponent"]:
        written += "." + ((number["point"] or ".").replace("_", "")[1:] or "0")
    if exponent := number["exponent"]:
        written += "e" + (exponent if exponent[0] in "-+" else "+" + exponent)
    return written
