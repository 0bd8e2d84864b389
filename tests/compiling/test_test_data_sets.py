"""`run --dump-test-data`: what a detector and its parts read and give, for the runners of ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bars import write_images, write_parts
from conftest import Cli

from graphsurgery.compiling.test_data_sets import files_in, read_tensor
from graphsurgery.devices.session import Session


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_images(tmp_path, 3)
    return write_parts(tmp_path / "parts")


def test_what_is_written_is_what_the_parts_compute(cli: Cli, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    given = ("run", parts, "--image", tmp_path / "images", "--out", tmp_path / "drawn", "--dump-test-data")
    outcome = cli(*given, tmp_path / "data")
    assert outcome.code == 0, outcome.err
    session = Session(parts / "all.onnx")
    for place in (tmp_path / "data", tmp_path / "data" / "all"):
        for number in range(3):
            name, image = read_tensor(place / f"test_data_set_{number}" / "input_0.pb")
            assert name == "input"
            computed = session.run({name: image})
            for index, (wanted, values) in enumerate(computed.items()):
                name, found = read_tensor(place / f"test_data_set_{number}" / f"output_{index}.pb")
                assert name == wanted
                np.testing.assert_array_equal(found, values)
    assert len(files_in(tmp_path / "data")) == len(files_in(tmp_path / "data" / "all")) == 3 * 5


def test_another_run_replaces_all_of_it_and_leaves_what_is_the_users(cli: Cli, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    given = ("run", parts, "--out", tmp_path / "drawn" / "1.png", "--dump-test-data", tmp_path / "data", "--image")
    assert cli(*given[:3], tmp_path / "drawn", *given[4:], tmp_path / "images").code == 0
    (tmp_path / "data" / "notes.txt").write_text("mine", encoding="utf-8")
    assert cli(*given, tmp_path / "images" / "1.png").code == 0
    left = {path.name for path in (tmp_path / "data").iterdir()}
    assert {"notes.txt", "all", "test_data_set_0"} <= left
    assert [each for each in files_in(tmp_path / "data") if "set_0" not in each] == []


def test_results_play_no_parts(cli: Cli, parts: Path, tmp_path: Path) -> None:
    image = tmp_path / "images" / "1.png"
    outcome = cli("run", parts, "--image", image, "--results", "riscv-ort=x", "--dump-test-data", tmp_path / "data")
    assert outcome.code == 2
    assert "--results plays no parts; leave out" in outcome.last_line
    assert not (tmp_path / "data").exists()
