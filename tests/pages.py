"""Does what a page of the documentation says, in a folder of its own, and looks at what is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """A fenced block, its language, the comment above it (`file: x.py`), and the line that it begins at."""

    language: str
    note: str
    value: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    pattern = re.compile(r"(?:<!-- (\w+): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for found in pattern.finditer(page):
        note, value, language, text = found.groups(default="")
        yield Block(language, note, value, text, page.count("\n", 0, found.start()) + 1)


def run(block: Block, folder: Path) -> str:
    """Run the commands of a block one after another; return what all of them print."""
    printed = ""
    commands = block.text.replace("\\\n", " ").splitlines()
    for number, command in enumerate(commands, 1):
        words = shlex.split(command)
        assert words[0] == "python", f"line {block.line}: {command}"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=900,  # one that hangs, and not one that shares its processor with others
        )
        expected = int(block.value) if block.note == "exit" and number == len(commands) else 0
        assert done.returncode == expected, f"line {block.line}: {command}\n{done.stdout}"
        printed += done.stdout
    return printed


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "FORCE_COLOR"))}
    return {**inherited, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1", "COLUMNS": "120"}


def shows(printed: str, wanted: str) -> bool:
    """Whether the lines of `wanted` are printed in this order; ... stands for anything, one space for several."""
    lines = [re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*") for line in wanted.strip().splitlines()]
    at = 0
    seen = [" ".join(line.split()) for line in printed.splitlines()]
    for line in lines:
        at = next((number + 1 for number in range(at, len(seen)) if re.fullmatch(line, seen[number])), -1)
        if at < 0:
            return False
    return True


def edited(text: str, change: str) -> str:
    lines = change.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
    assert text.count(old) == 1, f"not there, or more than once:\n{old}"
    return text.replace(old, new)


@dataclass(frozen=True)
class Followed:
    """What a page that was followed to its end has: its blocks of commands, and all that they printed."""

    blocks: int
    printed: str


def follow(page: Path, folder: Path) -> Followed:
    """Do what a page says, in a folder. Raises AssertionError where it doesn't do what is shown."""
    printed, ran, everything = "", 0, ""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "sh":
            printed, ran = run(block, folder), ran + 1
            everything += printed
        elif block.language == "text":
            assert shows(printed, block.text), f"line {block.line}: shown\n{block.text}\nprinted\n{printed}"
        elif block.note == "file":
            (folder / block.value).write_text(block.text, encoding="utf-8")
        else:
            assert block.note == "edit", f"line {block.line}: what is this block for?"
            path = folder / block.value
            path.write_text(edited(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    return Followed(ran, everything)


def ap_tables(printed: str) -> list[dict[str, list[float]]]:
    """Return the tables that `evaluate` printed, in order: by the kind, bbox or segm, the APs in each column."""
    found: list[dict[str, list[float]]] = []
    kind = ""
    for line in printed.splitlines():
        words = line.split()
        if words[:1] in (["bbox"], ["segm"]):
            kind = words[0]
            if not found or kind in found[-1]:
                found.append({})
        if words[:1] == ["AP"] and kind:
            found[-1][kind] = [float(word) for word in words[1:] if word != "-"]
    return found
