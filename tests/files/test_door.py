"""What is let in: regular files of their kind's size, JSON that can be walked, names that are no paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphsurgery.files import door, is_plain_name, read_bytes, read_json, reason


def test_a_file_of_its_kinds_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "\N{GREEK SMALL LETTER ALPHA}"}', encoding="utf-8")
    size = path.stat().st_size
    assert len(read_bytes(path, size)) == size
    assert read_json(path, size) == {"a": "\N{GREEK SMALL LETTER ALPHA}"}
    with pytest.raises(OSError, match=f"{size} bytes, more than the {size - 1}"):
        read_bytes(path, size - 1)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no named pipes here")
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    with pytest.raises(OSError, match="not a file") as raised:
        read_bytes(path, 10)
    assert str(path) not in reason(raised.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "recursion limit"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "recursion limit"),
        (b"\x00" * 100, "expected value"),
        (b'{"a": "\xff"}', "unicode"),
        (b'"\\ud800"', "escape"),
        (b"9" * 10_000, "out of range"),
        (b"{} {}", "trailing"),
        (b"", "EOF"),
    ],
)
def test_what_is_no_json_or_too_deep_to_walk_is_a_valueerror(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=why) as raised:
        read_json(path, len(content))
    assert len(reason(raised.value)) < 100


def test_a_small_file_that_takes_all_memory_is_a_valueerror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_MOST_BRACKETS", 1_000)
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b"[]," * 998 + b"{}]")
    assert len(read_json(path, 5_000)) == 999
    path.write_bytes(b"[" + b"{}," * 1_000 + b"[]]")
    with pytest.raises(ValueError, match="more than 1000 lists and objects"):
        read_json(path, 5_000)


@pytest.mark.parametrize("name", ["a.onnx", "int8", "\N{GREEK SMALL LETTER ALPHA} b", "x" * 200])
def test_a_plain_name_is_one_everywhere(name: str) -> None:
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "C:a", "/a", "nul", "COM1.onnx", ".a", "a.", "a ", "a\0", "x" * 201]
)
def test_what_leads_elsewhere_or_is_none_on_some_system_is_no_plain_name(name: str) -> None:
    assert not is_plain_name(name)
