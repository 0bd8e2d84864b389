"""At which shapes a graph is tried whose inputs stay open, and what is said where it can't take them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import onnx
import pytest
from conftest import Cli

from graphsurgery.compiling import OpenShape
from graphsurgery.compiling.open_shapes import MOST_ELEMENTS, NoRoom, fitting
from graphsurgery.processes.peak_memory import Room
from graphsurgery.testing import parse

VENDORS = OpenShape((1, 3, 224, 224), (16, 3, 1344, 1920))
ANY_SIZE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[batch, 3, height, width] x) => (float[batch, 3, height, width] y) { y = Neg (x) }"""
BAKED = """<ir_version: 8, opset_import: ["": 17]>
    g (float[batch, 3, height, width] x) => (float[batch, 3, n] y) <int64[3] s = {0, 3, 24}> { y = Reshape (x, s) }"""


def test_both_ends_and_the_middle_are_tried_and_most_images_where_they_are_small() -> None:
    tried = VENDORS.tried()
    assert tried == [(1, 3, 224, 224), (16, 3, 224, 224), (7, 3, 672, 1056), (2, 3, 1344, 1920)]
    assert all(math.prod(shape) <= MOST_ELEMENTS for shape in tried)


def test_a_range_of_one_shape_is_tried_once() -> None:
    assert OpenShape((1, 3, 8, 8), (1, 3, 8, 8)).tried() == [(1, 3, 8, 8)]


def test_no_fewer_images_are_tried_than_the_smallest_shape_has() -> None:
    assert OpenShape((4, 3, 2048, 2048), (8, 3, 4096, 4096)).tried()[-1] == (4, 3, 4096, 4096)


def test_where_memory_is_short_fewer_images_are_tried_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsurgery.processes.peak_memory.free_bytes", lambda: 1000)
    monkeypatch.setattr("graphsurgery.compiling.open_shapes.free_bytes", lambda: 1000)
    wanted, shapes = {"x": OpenShape((1, 10), (8, 10))}, {"x": (8, 10)}
    assert fitting(wanted, shapes, Room()) == shapes
    assert fitting(wanted, shapes, Room(bytes_per_element=20)) == {"x": (4, 10)}
    with pytest.raises(NoRoom, match="was not tried: by what smaller shapes took it needs 0 GB of memory"):
        fitting(wanted, shapes, Room(bytes_per_element=100))


def test_what_a_body_takes_at_most_is_measured() -> None:
    room = Room()
    with room.measured(2**20):
        taken = bytearray(b"x") * (64 * 2**20)
        time.sleep(0.2)  # it looks every few milliseconds
        del taken
    assert 32 <= room.bytes_per_element < 256


def applied(cli: Cli, folder: Path, text: str) -> Path:
    onnx.save(parse(text), folder / "net.onnx")
    (folder / "net.yaml").write_text("source: {onnx: net.onnx, size: [4, 6]}\ncapture: {samples: 1}\n", "utf-8")
    outcome = cli("apply", folder / "net.yaml", "--out", folder / "parts", "--model-io", folder / "io")
    assert outcome.code == 0, outcome.err
    return folder / "parts"


@pytest.mark.parametrize(
    ("text", "name", "high", "message"),
    [
        (ANY_SIZE, "z", (2, 3, 8, 12), "compiler 'magicmind': part 'net': there is no input 'z' to leave open."),
        (
            ANY_SIZE,
            "x",
            (2, 4, 8, 12),
            "input 'x' is ['batch', 3, 'height', 'width'], which does not go from [1, 3, 4, 6] to [2, 4, 8, 12]",
        ),
        (BAKED, "x", (1, 3, 8, 12), "compiler 'magicmind': part 'net' on x [1, 3, 8, 12]"),
    ],
)
def test_a_range_that_a_part_can_not_take_is_one_line(
    cli: Cli, tmp_path: Path, text: str, name: str, high: tuple[int, ...], message: str
) -> None:
    parts = applied(cli, tmp_path, text)
    before = sorted(parts.rglob("*"))
    given = f"dim_range={{{name}: {{min: [1, 3, 4, 6], max: {list(high)}}}}}"
    outcome = cli("compile", parts, "--with", "magicmind", "--option", given, "--no-run")
    assert outcome.code == 2
    assert message in outcome.last_line
    assert sorted(parts.rglob("*")) == before


def test_a_part_that_takes_all_of_its_range_is_compiled(cli: Cli, tmp_path: Path) -> None:
    parts = applied(cli, tmp_path, ANY_SIZE)
    given = "dim_range={x: {min: [1, 3, 4, 6], max: [3, 3, 8, 12]}}"
    assert cli("compile", parts, "--with", "magicmind", "--option", given, "--no-run").code == 0
