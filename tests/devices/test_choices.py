"""Whose paths are relative to what, and what a manifest may not have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphsurgery.devices.choices import for_manifest, parse_devices, with_paths_in
from graphsurgery.errors import InputError


def test_paths_of_a_recipe_are_those_beside_it(tmp_path: Path) -> None:
    given = "vitisai,cache_dir=cache,cache_key=k,config_file=a/c.json,log_level=info"
    beside = f"vitisai,cache_dir={tmp_path / 'cache'},cache_key=k,config_file={tmp_path / 'a/c.json'},log_level=info"
    assert with_paths_in(tmp_path, given) == beside
    assert with_paths_in(tmp_path / "other", beside) == beside  # they are absolute


@pytest.mark.parametrize("given", ["cpu", "qnn,soc_model=60", "tpu,cache_dir=x", "vitisai,cache_dir", "qnn,context="])
def test_what_names_no_path_stays_to_be_complained_of_where_it_is_used(given: str, tmp_path: Path) -> None:
    assert with_paths_in(tmp_path, given) == given
    assert for_manifest(given) == given


def test_a_manifest_has_what_is_written_beside_it_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = for_manifest("vitisai,cache_dir=/far/away/cache,ai_analyzer_profiling=true,log_level=info")
    assert said == "vitisai,cache_dir=cache,log_level=info"
    (choice,) = parse_devices([f"npu={said}"], inside=tmp_path / "parts").values()
    assert choice.options["cache_dir"] == str(tmp_path / "parts" / "cache")


@pytest.mark.parametrize("name", ["ai_analyzer_visualization", "ai_analyzer_profiling"])
def test_only_who_gives_the_command_has_files_written_where_it_runs(name: str, tmp_path: Path) -> None:
    assert parse_devices([f"npu=vitisai,{name}=true"])["npu"].options == {name: "true"}
    with pytest.raises(InputError, match=rf"{name} writes into the folder you are in; .*give this --device yourself"):
        parse_devices([f"npu=vitisai,{name}=true"], inside=tmp_path)
