import os
from pathlib import Path

import pytest

from graphsurgery.files import read_bytes, read_json, read_text, reason, written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with written_whole(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").touch()
    with written_whole(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert names(path) == ["old"]
    assert names(tmp_path) == ["a", "new"]


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:  # noqa: PT012
        if kind == "file":
            temporary.write_text("half", encoding="utf-8")
        elif kind == "folder":
            temporary.mkdir()
            (temporary / "half").touch()
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a"]


def test_what_can_not_be_written_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError), written_whole(tmp_path / "none" / "a") as temporary:  # noqa: PT011
        temporary.write_text("x", encoding="utf-8")


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


def test_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        read_text(path, 1)
