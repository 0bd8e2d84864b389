"""Several processes at one folder: each writes a whole run or says who is in its way, and each reads one run."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from files.kill_everywhere import die_at
from graphsurgery.errors import InputError
from graphsurgery.files import commit
from graphsurgery.files.commit import read_whole, recover, write_together, writing
from graphsurgery.files.temporary import JOURNAL
from graphsurgery.parts.folder import OutputFolder, read_parts
from graphsurgery.parts.manifest import Manifest, PartEntry, Tensor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the writers are forks of this process")

# So many rounds are enough to see a fault of the kind; before a release: GRAPHSURGERY_ROUNDS=200
ROUNDS = int(os.environ.get("GRAPHSURGERY_ROUNDS", "15"))
PARTS = ("a", "b", "c", "d")
REFUSED = 3


def start(act: Callable[[], object]) -> int:
    """Do something in another process, which ends with 0, or REFUSED where another is writing; return its id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            act()
            code = 0
        except InputError as error:
            code = REFUSED if "is writing into it" in str(error) else 1
        finally:
            os._exit(code)
    return process


@contextmanager
def child(act: Callable[[], object]) -> Iterator[int]:
    """Do something in another process, which ends with this at the latest."""
    process = start(act)
    try:
        yield process
    finally:
        with suppress(ChildProcessError):  # it was waited for, and another may have its number
            if os.waitpid(process, os.WNOHANG) == (0, 0):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def publish(out: Path, tag: str) -> None:
    """Publish parts that are all of one run, and say so; which there are depends on the run."""
    names = PARTS[: 2 + len(tag) % 3]
    image = {"x": Tensor(shape=None, dtype="float32")}
    entries = [
        PartEntry(name=name, device="cpu", accelerator=False, file=f"{name}.onnx", batch=None, inputs=image, outputs={})
        for name in names
    ]
    with OutputFolder(out) as output:
        for name in names:
            (output.work / f"{name}.onnx").write_text(f"{tag} {name}" * 100, encoding="utf-8")
        canvas = {"height": 8, "width": 8, "mean": None, "std": None}
        output.write_manifest(
            Manifest(recipe=tag, source={}, canvas=canvas, normalise=False, input="x", outputs=[], parts=entries)
        )
        output.publish()


def tags(out: Path) -> set[str]:
    """Return of which runs the manifest and the parts are."""

    def read(manifest: Manifest) -> set[str]:
        texts = ((out / part.file).read_text(encoding="utf-8") for part in manifest.parts)
        return {manifest.recipe, *(text.partition(" ")[0] for text in texts)}

    return read_parts(out, read)


@pytest.mark.parametrize("writers", [2, 4])
def test_writers_at_once_leave_a_whole_run(tmp_path: Path, writers: int) -> None:
    out = tmp_path / "out"
    publish(out, "first")
    (out / "mine.onnx").write_text("mine", encoding="utf-8")
    for number in range(ROUNDS):
        processes = [start(partial(publish, out, "x" * index + f"{number}")) for index in range(writers)]
        codes = [ended(process) for process in processes]
        assert set(codes) <= {0, REFUSED}
        assert 0 in codes
        (tag,) = tags(out)
        assert tag.strip("x") == str(number)
        assert (out / "mine.onnx").read_text(encoding="utf-8") == "mine"
        expected = {"manifest.json", "mine.onnx", *(f"{name}.onnx" for name in PARTS[: 2 + len(tag) % 3])}
        assert {path.name for path in out.iterdir()} == expected
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("hashed", [True, False])
def test_readers_of_a_folder_that_is_published_again_and_again_read_one_run_each(
    tmp_path: Path, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hashes it is as with the manifests of earlier versions."""
    out = tmp_path / "out"
    if not hashed:
        monkeypatch.setattr("graphsurgery.parts.folder.sha256_of", lambda path: None)
    publish(out, "first")

    def read() -> None:
        seen: set[str] = set()
        while "last" not in seen:
            (tag,) = tags(out)
            seen.add(tag)
        assert len(seen) > 1

    with child(read) as one, child(read) as other:
        for number in range(ROUNDS):
            publish(out, f"{number}")
        publish(out, "last")
        assert (ended(one), ended(other)) == (0, 0)


def test_one_that_is_paused_as_it_writes_is_named_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(out, "first")
    (out / "mine.onnx").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(commit, "PATIENCE", 0.2)
    monkeypatch.setattr(commit, "_COMMIT_PATIENCE", 0.2)
    put = commit._put

    def paused(source: Path, target: Path) -> None:
        put(source, target)
        if target.name == "b.onnx":
            os.kill(os.getpid(), signal.SIGSTOP)

    def paused_writer() -> None:
        monkeypatch.setattr(commit, "_put", paused)
        publish(out, "second")

    with child(paused_writer) as process:
        os.waitpid(process, os.WUNTRACED)
        with pytest.raises(InputError, match=f"process {process} on .* is writing into it"):
            publish(out, "third")
        with pytest.raises(InputError, match=f"process {process} on .* has been replacing its files for too long"):
            tags(out)
        os.kill(process, signal.SIGCONT)
        assert ended(process) == 0
    assert tags(out) == {"second"}
    assert (out / "mine.onnx").read_text(encoding="utf-8") == "mine"


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    def hold() -> None:
        with writing(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)

    with child(hold) as process:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(InputError, match=f"process {process} on"), writing(tmp_path, 0.1):
            pass
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        with writing(tmp_path, 0.1):
            pass
        with writing(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["held"]


def test_one_who_waits_long_enough_is_told_for_whom(tmp_path: Path) -> None:
    said: list[str] = []

    def hold() -> None:
        with writing(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(0.3)

    with child(hold) as process:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with writing(tmp_path, 60, said.append):
            pass
        assert ended(process) == 0
    assert f"process {process}" in said[0]


def test_what_only_one_who_may_write_can_finish_is_told_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(out, "first")
    monkeypatch.setattr(commit, "_finish", lambda folder: os._exit(9) if commit._is_under_way(folder) else None)
    with child(lambda: publish(out, "second")) as process:
        assert ended(process) == 9  # at its commit point
    monkeypatch.undo()

    def read_only(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("graphsurgery.files.locks.os.open", read_only)
    with pytest.raises(InputError, match=r"left it half new, and it can't be written \(Read-only file system\)"):
        tags(out)
    monkeypatch.undo()
    assert tags(out) == {"second"}


@pytest.mark.skipif(sys.platform == "win32", reason="files have no owners there")
def test_a_journal_of_another_users_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write, /tmp for example, anybody could have put it there."""
    publish(tmp_path, "first")
    (tmp_path / commit.JOURNAL).write_text("{}", encoding="utf-8")
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(InputError, match="can't be used"):
        recover(tmp_path)  # it is of the folder's owner
    stat = Path.stat
    foreign = os.stat_result((*stat(tmp_path / commit.JOURNAL)[:4], 12345, *stat(tmp_path / commit.JOURNAL)[5:]))
    monkeypatch.setattr(Path, "stat", lambda path, **o: foreign if path.name == commit.JOURNAL else stat(path, **o))
    assert tags(tmp_path) == {"first"}


def test_a_folder_that_never_stands_still_is_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "first")
    monkeypatch.setattr(commit, "_COMMIT_PATIENCE", 0.1)
    with pytest.raises(InputError, match="are replaced again and again"):
        read_whole(tmp_path, "manifest.json", lambda: publish(tmp_path, "again"))


def test_a_part_that_is_not_of_the_run_is_named(tmp_path: Path) -> None:
    publish(tmp_path, "first")
    for content in ("short", "x" * (tmp_path / "a.onnx").stat().st_size):
        (tmp_path / "a.onnx").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=r"a\.onnx: is not the file that manifest\.json describes; apply again"):
            tags(tmp_path)


def test_where_the_file_system_knows_no_locks_it_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphsurgery.files.locks._lock", lambda descriptor: None)
    dead = tmp_path / "out" / ".graphsurgery-elsewhere-1-00.lock"
    publish(tmp_path / "out", "first")
    dead.touch()
    publish(tmp_path / "out", "second")
    assert tags(tmp_path / "out") == {"second"}
    assert dead.exists()  # whether its owner lives can't be told


def test_the_harness_kills_at_every_change(tmp_path: Path) -> None:
    def act() -> None:
        changes = die_at(tmp_path, None)
        (tmp_path / "a").mkdir()
        (tmp_path / "b").write_text("x", encoding="utf-8")
        (tmp_path / "b").rename(tmp_path / "c")
        (tmp_path / "c").unlink()
        (tmp_path / "a").rmdir()
        assert changes() == 5

    with child(act) as process:
        assert ended(process) == 0


def test_each_step_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut may leave new names of empty files."""
    out = tmp_path / "out"
    publish(out, "first")
    on_disk: set[int] = set()
    renamed, waited = [], []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)

    def rename(path: Path, target: Path) -> Path:
        renamed.append(target.name)
        if target.parent == out:
            assert path.stat().st_ino in on_disk, path
            assert path.parent.stat().st_ino in on_disk, path
            assert target.name == JOURNAL or out.stat().st_ino in on_disk, "the journal's name was not"
            if target.name == "manifest.json":
                on_disk.discard(out.stat().st_ino)
        return replace(path, target)

    def remove(path: Path, missing_ok: bool = False) -> None:
        if path.name == JOURNAL:
            waited.append(out.stat().st_ino in on_disk)
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(Path, "unlink", remove)
    publish(out, "second")
    assert renamed[0] == JOURNAL
    assert renamed[-1] == "manifest.json"
    assert waited == [True]


def test_files_that_are_written_together_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any point, with what was there before; those of another folder come with them, or don't."""
    names = ("q.onnx", "q.svg", "q.json")

    def write(tag: str) -> None:
        write_together({tmp_path / name: lambda path: path.write_text(tag, encoding="utf-8") for name in names})

    def found() -> list[str]:
        recover(tmp_path)
        return [(tmp_path / name).read_text(encoding="utf-8") for name in names]

    def killed(point: int) -> None:
        die_at(tmp_path, point)
        write("new")

    write("old")
    seen = []
    for point in range(100):
        code = ended(start(partial(killed, point)))
        seen.append(tuple(found()))
        if code == 0:
            break
        write("old")
    assert set(seen) == {("old",) * 3, ("new",) * 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert len(seen) > 10


def test_no_file_is_changed_where_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "x").write_text("old", encoding="utf-8")

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_together({tmp_path / "a" / "x": lambda path: path.write_text("new"), tmp_path / "b" / "y": fail})
    assert (tmp_path / "a" / "x").read_text(encoding="utf-8") == "old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    assert not list((tmp_path / "b").iterdir())
