import json
import math
import os
import sys
from pathlib import Path

import pytest

from graphsurgery.errors import InputError
from graphsurgery.files.commit import recover, writing
from graphsurgery.files.temporary import JOURNAL
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.manifest import FILE_NAME


def manifest(*parts: str) -> str:
    """As much of a manifest as tells what a run wrote; that of another version has other things too."""
    return json.dumps({"format": 99, "graphsurgery": "9.9", "parts": [{"file": f"{name}.onnx"} for name in parts]})


def write(output: OutputFolder, *parts: str) -> None:
    output.write_text(FILE_NAME, manifest(*parts))
    output.write_text("run.json", "{}")
    for name in parts:
        (output.work / f"{name}.onnx").write_bytes(b"new")


def run(path: Path, *parts: str) -> None:
    with OutputFolder(path) as output:
        write(output, *parts)
        output.publish()


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


def test_writes_a_folder_that_was_not_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    run(out, "head")
    assert sorted(content(out)) == ["head.onnx", "manifest.json", "run.json"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_takes_the_place_of_an_empty_folder_and_of_older_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run(out, "head", "body")
    (out / "head.onnx").write_bytes(b"old")
    run(out, "head", "tail")
    assert sorted(content(out)) == ["head.onnx", "manifest.json", "run.json", "tail.onnx"]
    assert content(out)["head.onnx"] == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_keeps_what_the_user_put_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "head")
    mine = {"notes.txt": "mine", "mine.onnx": "mine", "sub/deep/x.onnx": "mine"}
    for name, text in mine.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    run(out, "body")
    assert {name.replace(os.sep, "/"): text for name, text in content(out).items() if text == "mine"} == mine
    assert not (out / "head.onnx").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_does_not_overwrite_a_file_that_no_run_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "head")
    (out / "body.onnx").write_text("mine", encoding="utf-8")
    before = content(out)
    with pytest.raises(InputError, match=r"body\.onnx: is in the way"):
        run(out, "body")
    assert content(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_run_that_fails_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    run(out, "head")
    before = content(out)

    def failing() -> None:
        with OutputFolder(out) as output:
            write(output, "body")
            raise error

    with pytest.raises(error):
        failing()
    with OutputFolder(out) as output:  # not published
        write(output, "body")
    assert content(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_run_that_fails_leaves_no_folder_where_there_was_none(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "a" / "b" / "out") as output:
        write(output, "body")
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    for path in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(InputError, match=r"is a file|can't be written"), OutputFolder(path):
            pass
    assert content(tmp_path) == {"out": "mine"}


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "mine"},
        {"mine.onnx": "mine"},
        {"manifest.json": '{"name": "a web app"}', "mine.onnx": "mine"},
        {"manifest.json": "[]"},
        {"manifest.json": "not json"},
        {"manifest.json": '{"graphsurgery": "1"}'},
        {"run.json": "{}"},
    ],
)
def test_refuses_a_folder_that_no_run_wrote(tmp_path: Path, files: dict[str, str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="holds files that are not parts"), OutputFolder(out):
        pass
    assert content(out) == files
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_refuses_a_folder_without_permission_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run(out, "head")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="can't be written"), OutputFolder(out):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_refuses_a_parent_where_no_folder_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", closed)
    with pytest.raises(InputError, match=r"can't be written \(Permission denied\)"), OutputFolder(tmp_path / "out"):
        pass


def test_refuses_the_root_of_a_drive() -> None:
    with pytest.raises(InputError, match="no folder that can be replaced"):
        OutputFolder(Path(Path.cwd().anchor))


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as output:
        (output.work / "run.json").mkdir()
        with pytest.raises(InputError, match=r"run\.json: can't be written"):
            output.write_text("run.json", "{}")


def failing_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the renaming of file `number` of a publish fail; the first is the commit point."""
    replace, count = Path.replace, [0]

    def sometimes(self: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == number:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", sometimes)


DENIED = PermissionError(13, "Access is denied", "head.onnx")


@pytest.mark.parametrize("error", [DENIED, KeyboardInterrupt()])
def test_a_publish_that_fails_before_its_commit_point_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    out = tmp_path / "out"
    run(out, "head")
    before = content(out)
    with OutputFolder(out) as output:
        write(output, "body")
        failing_at(monkeypatch, 1, error)
        with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
            output.publish()
    assert content(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failing", [2, 3, 4])
def test_an_interrupt_behind_the_commit_point_does_not_stop_a_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    out = tmp_path / "out"
    run(out, "head")
    with OutputFolder(out) as output:
        write(output, "body")
        failing_at(monkeypatch, failing, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            output.publish()
    assert sorted(content(out)) == ["body.onnx", "manifest.json", "run.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="there it is tried again for ten seconds")
def test_what_is_in_the_way_behind_the_commit_point_is_told_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(out, "head")
    with OutputFolder(out) as output:
        write(output, "body")
        failing_at(monkeypatch, 2, DENIED)
        with pytest.raises(InputError, match=r"can't take their places \(head\.onnx: Access is denied\)"):
            output.publish()
    recover(out)
    assert sorted(content(out)) == ["body.onnx", "manifest.json", "run.json"]
    with OutputFolder(out):  # and what it left is gone
        pass
    assert sorted(p.name for p in out.iterdir()) == ["body.onnx", "manifest.json", "run.json"]


def test_files_of_the_users_and_the_folder_stay_where_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "head")
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    there = [(path.stat().st_ino, path.stat().st_ctime_ns) for path in (out / "notes.txt",)]
    folder = out.stat().st_ino
    run(out, "body")
    assert [(path.stat().st_ino, path.stat().st_ctime_ns) for path in (out / "notes.txt",)] == there
    assert out.stat().st_ino == folder


def test_a_variant_goes_but_not_what_the_user_put_into_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OutputFolder(out) as output:
        write(output, "head")
        output.write_text(FILE_NAME, json.dumps({**json.loads(manifest("head")), "variants": ["int8", "htp"]}))
        for variant in ("int8", "htp"):
            output.make_folder(variant)
            output.write_text(f"{variant}/{FILE_NAME}", manifest("head"))
            output.write_text(f"{variant}/head.onnx", "new")
        output.publish()
    (out / "int8" / "mine.txt").write_text("mine", encoding="utf-8")
    run(out, "head")
    assert sorted(content(out)) == ["head.onnx", os.path.join("int8", "mine.txt"), "manifest.json", "run.json"]  # noqa: PTH118
    assert not (out / "htp").exists()


def test_a_manifest_that_names_files_elsewhere_has_none_of_them_removed(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "mine.onnx"
    run(out, "head")
    other.write_text("mine", encoding="utf-8")
    names = ["../mine.onnx", str(other), "..", "."]
    (out / FILE_NAME).write_text(
        json.dumps({"graphsurgery": "1", "parts": [{"file": name} for name in names], "variants": names}),
        encoding="utf-8",
    )
    run(out, "body")
    assert other.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "change",
    [{"from": "../x"}, {"from": "x"}, {"put": ["../x"]}, {"remove": ["../mine"]}, {"remove": ["/mine"]}, {"format": 9}],
)
def test_a_journal_that_leads_elsewhere_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    out = tmp_path / "out"
    run(out, "head")
    (tmp_path / "mine").touch()
    journal = {"format": 1, "from": ".graphsurgery-x", "remove": [], "put": [], **change}
    (out / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
    for act in (lambda: recover(out), lambda: OutputFolder(out).__enter__()):
        with pytest.raises(InputError, match=r"journal: can't be used .*; remove it"):
            act()
    assert (tmp_path / "mine").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_a_link_that_leads_out_of_the_folder_is_refused_before_anything_changes(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run(out, "head")
    elsewhere.mkdir()
    (out / "int8").symlink_to(elsewhere, target_is_directory=True)
    before = content(out)
    with OutputFolder(out) as output:
        write(output, "body")
        output.make_folder("int8")
        output.write_text("int8/head.onnx", "new")
        with pytest.raises(InputError, match="a link leads out of the folder"):
            output.publish()
    assert content(out) == before
    assert list(elsewhere.iterdir()) == []


def test_two_folders_of_one_run_can_not_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.files.commit.PATIENCE", 0.1)
    refused = pytest.raises(InputError, match="this run writes other files there")
    with OutputFolder(tmp_path / "out"), refused, writing(tmp_path / "out", math.inf):
        pass


def test_works_in_the_folder_itself_and_by_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    run(tmp_path / "a" / ".." / "out", "head")
    assert (tmp_path / "out" / "head.onnx").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_a_symbolic_link_goes_on_pointing_at_the_folder(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    run(real, "head")
    link.symlink_to(real, target_is_directory=True)
    run(link, "body")
    assert link.is_symlink()
    assert sorted(content(real)) == ["body.onnx", "manifest.json", "run.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]
    assert [p.name for p in real.parent.iterdir()] == ["real"]
