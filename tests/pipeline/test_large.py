"""A model whose weights lie in a file of their own, all the way to its parts; every size counts as a large one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli, Outcome, Snapshot
from onnx import numpy_helper
from weights_outside import written

from graphsurgery.devices import session
from graphsurgery.errors import InputError
from graphsurgery.graph import model, outside
from graphsurgery.parts.folder import read_parts
from graphsurgery.pipeline import run
from graphsurgery.runtime.player import Chain

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,8,16] image) => (float[1,2,8,16] y) <float[1] v = {0}, float[1] w = {0}> {
    h = Conv(image, v)
    i = Identity(h)
    j = Relu(i)
    k = Conv <pads = [1, 1, 1, 1]> (j, w)
    y = Relu(k)
}"""
RECIPE = """source: {onnx: model.onnx}
passes: [drop-identity]
capture: {samples: 1}
partition: {at: {tensors: [j]}, parts: {front: npu, back: npu}}
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    written(tmp_path / "model.onnx", TEXT, {"v": (400, 3, 1, 1), "w": (2, 400, 3, 3)})
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def apply(cli: Cli, work: Path, *more: object) -> Outcome:
    return cli("apply", work / "recipe.yaml", "--out", work / "parts", "--model-io", work / "io", *more)


def sizes_inside(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, for each session made of a proto from now on, how many bytes of weights lie inside."""
    sizes: list[int] = []
    make = session.Session.__init__

    def seen(self: session.Session, given: onnx.ModelProto | Path, **options: Any) -> None:
        if isinstance(given, onnx.ModelProto):
            sizes.append(outside.inside_size(given))
        make(self, given, **options)

    monkeypatch.setattr(session.Session, "__init__", seen)
    return sizes


def played(work: Path) -> np.ndarray:
    given = {"image": np.random.default_rng(1).random((1, 3, 8, 16), np.float32)}
    chain = read_parts(work / "parts", lambda manifest: Chain.open(work / "parts", manifest, {}, optimise=False))
    np.testing.assert_allclose(
        chain.play(given)["y"], session.run(onnx.load(work / "model.onnx"), given)["y"], rtol=1e-5, atol=1e-5
    )
    return chain.play(given)["y"]


def test_parts_have_their_weights_beside_them_and_nothing_is_run_unless_it_is_compared(
    cli: Cli, snapshot: Snapshot, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(work)
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "__init__", lambda *given, **options: pytest.fail("a session was made"))
        outcome = apply(cli, work, "--no-check", "--external-data", 0)
    assert outcome.code == 0, outcome.err
    written = {path.name for path in (work / "parts").iterdir()}
    assert written >= {"front.onnx", "back.onnx", "back.onnx.data"}
    assert not (work / "io").exists()
    assert {name: held for name, held in snapshot(work).items() if name in before} == before
    unchecked = played(work)

    outcome = apply(cli, work, "--external-data", "30kB")  # both together have that, neither does alone
    assert outcome.code == 0, outcome.err
    assert (work / "parts" / "back.onnx.data").is_file()
    np.testing.assert_array_equal(played(work), unchecked)

    outcome = apply(cli, work)
    assert outcome.code == 0, outcome.err
    assert not list((work / "parts").glob("*.data"))
    np.testing.assert_array_equal(played(work), unchecked)


@pytest.mark.parametrize(("size", "most_inside"), [("0", model.MOST_INSIDE), ("100GB", 0)])
def test_weights_that_a_pass_made_wait_in_a_file_until_the_parts_are_written(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, size: str, most_inside: int
) -> None:
    """Above 2 GB no session could be made of them in memory, whatever is asked for; here every size counts as that."""
    monkeypatch.setattr(model, "MOST_INSIDE", most_inside)
    changed = onnx.load(work / "model.onnx")
    changed.graph.node[1].CopyFrom(onnx.helper.make_node("Mul", ["h", "c"], ["i"]))
    changed.graph.initializer.append(numpy_helper.from_array(np.full((1, 400, 1, 1), 0.5, np.float32), "c"))
    before = numpy_helper.to_array(changed.graph.initializer[0])
    onnx.save(changed, work / "model.onnx")
    (work / "recipe.yaml").write_text(RECIPE.replace("drop-identity", "fold-affine"), encoding="utf-8")
    inside = sizes_inside(monkeypatch)
    outcome = apply(cli, work, "--external-data", size)
    assert outcome.code == 0, outcome.err
    assert len(inside) > 3
    assert max(inside[1:]) < 4800  # the first is the file as it came, when it is captured
    assert not [path for path in (work / "parts").iterdir() if path.name.startswith(".")]
    folded = [tensor for tensor in onnx.load(work / "parts" / "front.onnx").graph.initializer if len(tensor.dims) == 4]
    np.testing.assert_array_equal(numpy_helper.to_array(folded[0]), before / 2)


@pytest.mark.parametrize("most", [0, math.inf])
def test_weights_wait_in_a_file_from_a_size_on_and_the_parts_are_the_same_bytes(
    cli: Cli, snapshot: Snapshot, work: Path, monkeypatch: pytest.MonkeyPatch, most: float
) -> None:
    inside = onnx.load(work / "model.onnx")
    for tensor in inside.graph.initializer:
        tensor.ClearField("data_location")  # which says that they are inside, as it does where it isn't there
    onnx.save(inside, work / "model.onnx")
    assert apply(cli, work).code == 0
    usual = {name: held for name, held in snapshot(work / "parts").items() if name.endswith(".onnx")}
    monkeypatch.setattr(run, "_MOST_IN_MEMORY", most)
    judged = sizes_inside(monkeypatch)
    assert apply(cli, work).code == 0
    assert len(judged) > 2
    assert (max(judged) < 4800) == (most == 0)
    assert {name: held for name, held in snapshot(work / "parts").items() if name.endswith(".onnx")} == usual


def test_a_disk_that_fills_up_among_the_weights_is_one_line_and_the_old_parts_stay(
    cli: Cli, snapshot: Snapshot, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert apply(cli, work, "--no-check", "--external-data", 0).code == 0
    before = snapshot(work)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outside, "append_range", full)
    outcome = apply(cli, work, "--no-check", "--external-data", 0)
    assert outcome.code == 2
    assert "No space left on device" in outcome.last_line
    assert "Traceback" not in outcome.err
    assert snapshot(work) == before


def test_weights_of_another_size_than_the_manifest_says_are_refused(cli: Cli, work: Path) -> None:
    assert apply(cli, work, "--no-check", "--external-data", 0).code == 0
    with (work / "parts" / "back.onnx.data").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"back\.onnx\.data: has 28801 bytes, and manifest\.json says 28800"):
        read_parts(work / "parts", lambda manifest: manifest)


@pytest.mark.parametrize("size", ["lots", "-1", "1.2.3GB", ""])
def test_a_size_that_is_none_is_refused(cli: Cli, work: Path, size: str) -> None:
    outcome = apply(cli, work, f"--external-data={size}")
    assert outcome.code == 2
    assert "write it as 1GB, 500MB, or 0 for always" in outcome.last_line
