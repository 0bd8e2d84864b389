"""scripts/fuzz_files.py: some cases of each format, and that the harness sees what is at fault."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "fuzz_files.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_files", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_files"] = module
    spec.loader.exec_module(module)
    return module


fuzz = script()
harness = sys.modules["fuzz_harness"]


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_broken_files_end_in_an_error_of_our_own(tmp_path: Path, name: str) -> None:
    if name == "video":
        pytest.importorskip("av")
    chosen = fuzz.FORMATS[name]
    rights = chosen.make(tmp_path)
    first: list[Any] = []
    for right in rights[:2]:
        (tmp_path / chosen.file).write_bytes(right)
        first.append(harness.attempt([("read", lambda: chosen.read(tmp_path))]))
    assert (["read"],) in first
    for seed in range(40):
        (tmp_path / chosen.file).write_bytes(fuzz.content_of(chosen, rights, name, seed))
        ended = harness.attempt([("read", lambda: chosen.read(tmp_path))])
        assert ended in ((["read"],), ([],))


def test_any_other_error_is_a_fault() -> None:
    def broken() -> None:
        raise KeyError("id")

    well, kind, story = harness.attempt([("open", lambda: None), ("read", broken)])
    assert well == ["open"]
    assert kind.endswith("KeyError")
    assert "KeyError: 'id'" in story


def test_a_file_that_changes_is_seen(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "folder").mkdir()
    before = harness.snapshot(tmp_path, tmp_path / "target")
    (tmp_path / "target").write_text("x", encoding="utf-8")
    assert harness.snapshot(tmp_path, tmp_path / "target") == before
    (tmp_path / "folder" / "other").touch()
    after = harness.snapshot(tmp_path, tmp_path / "target")
    assert after != before
    (tmp_path / "folder" / "other").write_text("x", encoding="utf-8")
    assert harness.snapshot(tmp_path, tmp_path / "target") != after


def test_each_kind_of_fault_is_found_and_the_cases_behind_it_are_tried() -> None:
    faults = importlib.import_module("planted_faults")
    cases = len(faults.CASES)
    tally = harness.explore(
        faults.opened, ["open", "read"], 0, cases, 100.0, harness.Limits(seconds=1.0, megabytes=50.0)
    )
    found = {kind: [faults.CASES[seed] for seed in seeds] for kind, seeds in tally.faults.items()}
    line = next(kind for kind in found if kind.endswith("KeyError"))
    assert found == {
        line: [faults.raises],
        "read ends the process (3)": [faults.dies],
        "changes files": [faults.writes],
        "takes too much memory": [faults.grows],
        "read takes over 1 s": [faults.hangs],
    }
    assert "other" in tally.stories["changes files"]
    assert tally.cases == cases
    assert tally.well == {"open": cases - 2, "read": 4}  # two took their process along
