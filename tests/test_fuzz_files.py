"""scripts/fuzz_files.py: some cases of each format, and that it sees what is at fault."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
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


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_broken_files_end_in_an_error_of_our_own(tmp_path: Path, name: str) -> None:
    chosen = fuzz.FORMATS[name]
    rights = chosen.make(tmp_path)
    ended = []
    for right in rights[:2]:
        (tmp_path / chosen.file).write_bytes(right)
        ended.append(fuzz._fault(chosen, tmp_path))
    for seed in range(40):
        (tmp_path / chosen.file).write_bytes(fuzz.content_of(chosen, rights, name, seed))
        ended.append(fuzz._fault(chosen, tmp_path))
    assert set(ended) <= {"", "-"}
    assert "" in ended[:2]


def test_any_other_error_is_a_fault(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise KeyError("id")

    assert "KeyError: 'id'" in fuzz._fault(replace(fuzz.FORMATS["image"], read=broken), tmp_path)


def test_a_file_that_changes_is_seen(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    before = fuzz._snapshot(tmp_path, tmp_path / "target")
    (tmp_path / "target").write_text("x", encoding="utf-8")
    assert fuzz._snapshot(tmp_path, tmp_path / "target") == before
    (tmp_path / "other").touch()
    assert fuzz._snapshot(tmp_path, tmp_path / "target") != before
