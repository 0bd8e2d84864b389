"""Results of compiled parts, as a device would write them: the same AP as the parts, and what is wrong with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bars import write_images, write_parts
from conftest import Cli

from graphsurgery.compiling.test_data_sets import read_tensor
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.evaluation.compiled_column import CompiledColumn
from graphsurgery.parts.folder import sha256_of

CHIP = ("--with", "ascend", "--option", "soc_version=Ascend310P3", "--no-run")
SHAPE = (1, 3, 8, 12)


@pytest.fixture
def compiled(cli: Cli, tmp_path: Path) -> Path:
    """The parts that find bars, and what ascend is given of them and of four images."""
    parts = write_parts(tmp_path / "parts")
    images, _ = write_images(tmp_path, 4)
    assert cli("compile", parts, *CHIP, "--images", images).code == 0
    return parts


def play(parts: Path, results: Path, change: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> Path:
    """Do what the device does: read what was written for it, and write the outputs in their order."""
    place = parts / "compiled" / "ascend" / "all"
    session = Session(place / "all.onnx")
    results.mkdir()
    for file in sorted((place / "input").glob("*.bin")):
        found = session.run({"input": np.fromfile(file, np.float32).reshape(SHAPE)})
        for index, values in enumerate(found.values()):
            change(values).tofile(results / f"{file.stem}_{index}.bin")
    return results


def evaluate(cli: Cli, parts: Path, *options: object) -> dict[str, dict[str, float]]:
    place = parts.parent
    given = ("--images", place / "images", "--annotations", place / "instances.json", "--no-original")
    outcome = cli("evaluate", parts, *given, "--json", place / "ap.json", *options)
    assert outcome.code == 0, outcome.err
    lines: dict[str, dict[str, float]] = json.loads((place / "ap.json").read_text())["lines"]["bbox"]
    return lines


@pytest.mark.parametrize("workers", [1, 2])
def test_results_have_the_ap_of_the_parts(cli: Cli, compiled: Path, tmp_path: Path, workers: int) -> None:
    pytest.importorskip("pycocotools")
    results = play(compiled, tmp_path / "results")
    lines = evaluate(cli, compiled, "--results", f"ascend={results}", "--workers", workers)
    assert lines["ascend"] == lines["parts"]
    assert lines["parts"]["AP"] == 1


def test_worse_results_have_a_lower_ap_and_new_ones_are_read_again(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    results = play(compiled, tmp_path / "results")
    assert evaluate(cli, compiled, "--results", f"ascend={results}")["ascend"]["AP"] == 1
    worse = play(compiled, tmp_path / "worse", lambda values: values * 2 if values.shape[-1] == 4 else values)
    for path in worse.iterdir():
        path.replace(results / path.name)
    assert evaluate(cli, compiled, "--results", f"ascend={results}")["ascend"]["AP"] < 0.9


def test_what_is_missing_is_told(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    results = play(compiled, tmp_path / "results")
    given = ("--images", tmp_path / "images", "--annotations", tmp_path / "instances.json", "--no-original")
    (results / "3_1.bin").unlink()
    outcome = cli("evaluate", compiled, *given, "--results", f"ascend={results}", "--workers", "1")
    assert (outcome.code, "3_1.bin: can't be read" in outcome.last_line) == (2, True)
    for text, said in (
        ("ascend", "write it as --results NAME=DIR"),
        (f"asend={results}", "by 'asend' nothing was compiled of these parts (ascend was). Did you mean 'ascend'?"),
        (f"parts={results}", "'parts' names a column of its own"),
        ("ascend=nowhere", "nowhere: no such folder of results"),
    ):
        outcome = cli("evaluate", compiled, *given, "--results", text)
        assert (outcome.code, said in outcome.last_line) == (2, True), outcome.last_line


def test_an_image_that_was_not_written_is_told(cli: Cli, compiled: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    results = play(compiled, tmp_path / "results")
    images, annotations = write_images(tmp_path / "more", 5)
    given = ("--images", images, "--annotations", annotations, "--no-original", "--workers", "1")
    outcome = cli("evaluate", compiled, *given, "--results", f"ascend={results}")
    assert outcome.code == 2
    assert "5.png: isn't among the images that `compile --images` wrote" in outcome.last_line


def test_what_was_compiled_of_other_parts_is_refused(compiled: Path, tmp_path: Path) -> None:
    results = play(compiled, tmp_path / "results")
    file = compiled / "compiled" / "ascend" / "compiled.json"
    content = json.loads(file.read_text())

    def change(**keys: object) -> None:
        file.write_text(json.dumps(content | keys))
        manifest = json.loads((compiled / "manifest.json").read_text())
        made = {"ascend": sha256_of(file)}
        (compiled / "manifest.json").write_text(json.dumps(manifest | {"compiled": made}))

    change(parts={"all": "0" * 64})
    with pytest.raises(InputError, match="was compiled of another part 'all'; compile again"):
        CompiledColumn.of("ascend", compiled, results)
    change(compiler="nobody")
    with pytest.raises(InputError, match="unknown compiler 'nobody'"):
        CompiledColumn.of("ascend", compiled, results).open(1)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"compiled\.json: is not the file that manifest\.json describes"):
        CompiledColumn.of("ascend", compiled, results)


def test_results_of_all_parts_as_one_model_are_evaluated_and_drawn(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    parts = write_parts(tmp_path / "parts")
    images, _ = write_images(tmp_path, 4)
    assert cli("compile", parts, "--with", "riscv-ort", "--images", images).code == 0
    results = tmp_path / "results"
    place = parts / "compiled" / "riscv-ort" / "whole"
    session = Session(place / "whole.onnx")
    for number in range(4):
        _, image = read_tensor(place / f"test_data_set_{number}" / "input_0.pb")
        (results / f"test_data_set_{number}").mkdir(parents=True)
        for name, values in session.run({"input": image}).items():
            values.tofile(results / f"test_data_set_{number}" / f"{name}.data")
    lines = evaluate(cli, parts, "--results", f"riscv-ort={results}")
    assert lines["riscv-ort"] == lines["parts"]
    assert lines["parts"]["AP"] == 1
    drawn = []
    for name, options in (("parts", ()), ("device", ("--results", f"riscv-ort={results}"))):
        target = tmp_path / f"{name}.png"
        assert cli("run", parts, "--image", images / "3.png", "--out", target, *options).code == 0
        drawn.append((target.read_bytes(), json.loads(target.with_suffix(".json").read_text())["detections"]))
    assert drawn[0] == drawn[1]
    assert drawn[0][1]
    (results / "test_data_set_2" / "scores.data").write_bytes(b"")
    outcome = cli("run", parts, "--image", images / "3.png", "--out", target, "--results", f"riscv-ort={results}")
    assert outcome.code == 2
    assert "detections: scores have shape (0,), expected (1,)" in outcome.last_line
