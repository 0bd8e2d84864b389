"""Toolchains as data, and their environments, with a package that is made here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from graphsurgery.errors import InputError, MissingTool, RecipeError
from graphsurgery.files.locks import Lock
from graphsurgery.processes.worker import Running
from graphsurgery.toolchains import Toolchain, ToolWorker, find_toolchain, names, require
from graphsurgery.toolchains import install as installing
from graphsurgery.toolchains.environment import STAMP, cache_folder, look, place_of, python_in
from graphsurgery.toolchains.install import install
from graphsurgery.toolchains.toolchain import load_toolchain
from toolchains.fake import add_toolchain, write_toolchain


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    (tmp_path / "data").mkdir()
    found = write_toolchain(tmp_path / "data")
    add_toolchain(tmp_path / "data", monkeypatch)
    return found


def pretend_installed(tool: Toolchain) -> Path:
    """Make what looks like an environment of the toolchain: a stamp, and this Python's name."""
    place = place_of(tool)
    python_in(place).parent.mkdir(parents=True)
    stamp = {"toolchain": tool.name, "digest": tool.digest, "version": tool.version, "python": "3.11.7", "size": 5}
    (place / STAMP).write_text(json.dumps({"format": 1, **stamp}))
    return place


def failing(code: str) -> Callable[..., None]:
    """Return what takes the place of pip: an environment that is half made when `code` is run."""

    def fill(making: Any, base: str, watcher: object) -> None:
        making.folder.mkdir()
        making.run([sys.executable, "-c", code], "pip install")

    return fill


def test_each_packaged_toolchain_is_whole() -> None:
    for name in names():
        assert find_toolchain(name).version


@pytest.mark.usefixtures("offline")
def test_the_life_of_an_environment(tool: Toolchain, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        MissingTool, match=r"needs A small tool 1.2, which is not installed: python -m .* install tool$"
    ):
        require("tool", "compiler 'x'")

    made = install(tool)

    assert made.state == "installed"
    assert made.stamp is not None
    assert made.stamp.version == "1.2"
    assert made.stamp.size > 1000
    script = tmp_path / "asks.py"
    script.write_text(
        "import os\nfrom serving import Refused, serve\n"
        "def load():\n    import smalltool\n"
        "def ask(request):\n"
        "    import smalltool\n    print('asked', flush=True)\n    os.system('echo natively')\n"
        "    if request.get('die'):\n        print('assert failed in small.cc'); os.abort()\n"
        "    if request.get('hang'):\n        import time; time.sleep(60)\n"
        "    if request.get('refuse'):\n        raise Refused('the model is too large')\n"
        "    return {'answer': smalltool.answer()}\n"
        "if __name__ == '__main__':\n    serve(load, {'ask': ask})\n"
    )
    running = Running(lambda: ToolWorker(require("tool", "here"), script, "part 'head': the tool"))
    log = tmp_path / "tool.log"
    with running.use() as worker:
        assert worker.ask({"do": "ask", "log": str(log)}, 60) == {"answer": 42}
        assert log.read_text().split() == ["asked", "natively"]
        with pytest.raises(InputError, match=r"^part 'head': the tool: the model is too large$"):
            worker.ask({"do": "ask", "refuse": True}, 60)
        with pytest.raises(InputError, match=r"^part 'head': the tool: KeyError: 'unknown'$"):
            worker.ask({"do": "unknown"}, 60)
        assert worker.ask({"do": "ask"}, 60) == {"answer": 42}, "it goes on behind an error"
    with pytest.raises(InputError, match=r"was stopped after 0.5 s"), running.use() as worker:
        worker.ask({"do": "ask", "hang": True}, 0.5)
    with pytest.raises(InputError, match=r"crashed \(.*: assert failed in small.cc\)"), running.use() as worker:
        worker.ask({"do": "ask", "die": True, "log": str(log)}, 60)
    with running.use() as worker:
        assert worker.ask({"do": "ask"}, 60) == {"answer": 42}, "another takes the place of a dead one"
    running.shutdown()

    newer = write_toolchain(tmp_path / "data", version="1.3")
    with pytest.raises(MissingTool, match=r"is of another version \(it is 1.2\); install it again: python -m"):
        require("tool", "here")
    monkeypatch.setattr(installing, "_fill", failing("raise ImportError('libsmall.so is missing')"))
    with pytest.raises(InputError, match=r"pip install fails: ImportError: libsmall.so is missing; see .*log"):
        install(newer)
    assert look(tool).state == "installed", "what was there stays when its successor can't be imported"
    assert sorted(path.name for path in place_of(tool).parent.iterdir()) == ["tool", "tool.log"]

    outcome = cli("toolchain", "list", "--json", "-")
    (listed,) = [each for each in json.loads(outcome.out) if each["name"] == "tool"]
    assert (listed["state"], listed["version"]) == ("of another version", "1.3")


PIP_SAYS = "print('ERROR: No matching distribution found for smalltool==1.2'); print('[notice] new pip'); exit(1)"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (PIP_SAYS, "pip install fails: ERROR: No matching distribution found for smalltool==1.2; see "),
        ("import time; time.sleep(60)", "pip install takes longer than 0.5 s; see "),
    ],
)
def test_packages_that_are_not_to_be_had_leave_nothing(
    tool: Toolchain, code: str, said: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "_SECONDS", 0.5 if "sleep" in code else 60)
    monkeypatch.setattr(installing, "_fill", failing(code))
    outcome = cli("toolchain", "install", "tool")
    assert outcome.code == 2
    assert said in outcome.err
    assert "licence: nobody's" in outcome.err
    assert look(tool).state == "missing"
    assert [path.name for path in place_of(tool).parent.iterdir()] == ["tool.log"]


def test_what_a_killed_run_left_is_found(tool: Toolchain) -> None:
    place = pretend_installed(tool)
    assert look(tool).state == "broken"
    assert "its Python can't be started" in look(tool).reason
    (place / STAMP).write_text("{")
    with pytest.raises(MissingTool, match=r"is broken \(it has no graphsurgery.json that can be read\); install it"):
        require("tool", "here")


@pytest.mark.skipif(sys.platform == "win32", reason="a link to this Python")
def test_a_version_that_was_changed_in_it_is_told(tool: Toolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    place = pretend_installed(tool)
    python_in(place).symlink_to(sys.executable)
    assert look(tool).state == "broken", "this Python has no smalltool"
    monkeypatch.setattr("graphsurgery.toolchains.environment._ASK", "print('1.1')")
    assert (look(tool).state, look(tool).reason) == ("of another version", "smalltool is 1.1")


def test_another_platform_and_another_python_are_missing_tools(
    tool: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingTool, match="is for solaris-sparc, and this is"):
        install(write_toolchain(tmp_path / "data", platform="solaris-sparc"))
    other = write_toolchain(tmp_path / "data", python="3.2")
    monkeypatch.setattr(installing.shutil, "which", lambda name: None)
    with pytest.raises(MissingTool, match=r"has packages for Python 3.2, and none is found; name one with --python"):
        install(other)
    with pytest.raises(MissingTool, match=r"--python .*: is 3.*; A small tool 1.2 has packages for 3.2$"):
        install(other, python=sys.executable)
    with pytest.raises(InputError, match="--python /nowhere: is no Python that can be started"):
        install(other, python="/nowhere")


def test_two_installations_at_a_time_are_refused(tool: Toolchain) -> None:
    place = place_of(tool)
    place.parent.mkdir(parents=True)
    lock = Lock.take(place.with_name("tool.lock"))
    assert lock is not None
    with pytest.raises(InputError, match="another process is installing it"):
        install(tool)
    lock.release()


def test_a_cache_that_can_not_be_written_is_told(
    tool: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHSURGERY_CACHE", str(tmp_path / "file"))
    assert cache_folder() == tmp_path / "file"
    with pytest.raises(InputError, match="can't be written"):
        install(tool)


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        ("smalltool>=1\n", "tool.lock:1: should be PACKAGE==VERSION, got 'smalltool>=1'"),
        ("smalltool==1\n\nsmalltool==2\n", "tool.lock:3: 'smalltool' is pinned above already"),
        ("other==1\n", "tool.yaml:1: package 'smalltool' stands in none of its lock files"),
        ("-e .\n", "tool.lock:1: should be PACKAGE==VERSION, got '-e .'"),
    ],
)
def test_a_lock_holds_exact_pins(tool: Toolchain, tmp_path: Path, lock: str, said: str) -> None:
    (tmp_path / "data" / "tool.lock").write_text(lock)
    with pytest.raises(RecipeError) as raised:
        load_toolchain(tmp_path / "data" / "tool.yaml")
    assert str(raised.value) == said


def test_an_unknown_toolchain_lists_those_that_there_are(cli: Cli) -> None:
    outcome = cli("toolchain", "install", "rkn")
    assert outcome.code == 2
    assert "unknown toolchain 'rkn'; there are " in outcome.err
    assert "Nearest: rknn" in outcome.err
