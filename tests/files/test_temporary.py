from pathlib import Path

import pytest

from graphsurgery.files import written_whole


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
