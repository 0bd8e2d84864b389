import os
import signal
import tempfile
from pathlib import Path

import pytest

from graphsurgery.files import temporary, written_whole
from graphsurgery.files.locks import Lock
from graphsurgery.files.temporary import clear, temporary_folder


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


@pytest.mark.parametrize("kind", ["file", "nothing"])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:  # noqa: PT012
        if kind == "file":
            temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Ctrl-C can't be held back here")
@pytest.mark.parametrize("moment", ["begins", "ends"])
def test_nothing_is_left_when_ctrl_c_comes_as_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    holder, name = (Lock, "take") if moment == "begins" else (temporary, "_remove")
    do = getattr(holder, name)

    def interrupted(*given: object, **named: object) -> object:
        monkeypatch.undo()
        result = do(*given, **named)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(holder, name, interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a") as path:
            path.write_text("new", encoding="utf-8")
    finally:
        signal.signal(signal.SIGINT, before)
    assert names(tmp_path) == ([] if moment == "begins" else ["a"])


def test_what_can_not_be_written_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError), written_whole(tmp_path / "none" / "a") as temporary:  # noqa: PT011
        temporary.write_text("x", encoding="utf-8")


def test_a_temporary_name_keeps_the_suffix_by_which_a_format_is_known(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.onnx") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".onnx")
        temporary.touch()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the one that is killed is a fork")
def test_what_a_killed_run_left_goes_and_what_a_living_one_has_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "graphsurgery-mine.txt").touch()
    (tmp_path / "graphsurgery-mine").mkdir()
    process = os.fork()
    if process == 0:
        with temporary_folder() as folder, written_whole(tmp_path / "a.onnx") as file:
            (folder / "deep").mkdir()
            (folder / "deep" / "x").touch()
            file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert len(names(tmp_path)) == 8
    with temporary_folder() as folder:
        clear(tmp_path, "graphsurgery-")
        clear(tmp_path)
        assert folder.is_dir()
        lock = f"{folder.name}.lock"
        assert names(tmp_path) == sorted(["graphsurgery-mine", "graphsurgery-mine.txt", folder.name, lock])
    assert names(tmp_path) == ["graphsurgery-mine", "graphsurgery-mine.txt"]


def test_a_name_holds_what_two_containers_do_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with written_whole(tmp_path / "a") as one, written_whole(tmp_path / "a") as other:
        assert one != other
        one.write_text("one", encoding="utf-8")
        other.write_text("other", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "one"
    assert names(tmp_path) == ["a"]
