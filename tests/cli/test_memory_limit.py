"""Memory that a model asks for is an error of one line, where the user has set a limit."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from conftest import Cli

from cli.children import process

# 2 ** 34 floats, of which no shape in the file tells
HUNGRY = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,8,8] x) => (float y) <int64[1] n = {17179869184}, int64[1] one = {1}, int64[1] zero = {0}> {
    s = Mul (n, one)  flat = ReduceMax <keepdims = 0> (x)  many = Expand (flat, s)  y = ReduceMax <keepdims = 0> (many)
}"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has such a limit")
@pytest.mark.parametrize("as_option", [True, False])
def test_a_model_that_asks_for_more_ends_in_one_line(tmp_path: Path, as_option: bool) -> None:
    onnx.save(onnx.parser.parse_model(HUNGRY), tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text("source: {onnx: m.onnx}\n", encoding="utf-8")
    command = ("capture", tmp_path / "r.yaml", "--model-io", tmp_path / "io")
    before = ("--memory-limit", 4) if as_option else ()
    outcome = process(*before, *command, **({} if as_option else {"GRAPHSURGERY_MEMORY_LIMIT": "4"}))
    assert outcome.code == 2, outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert "Failed to allocate memory for requested buffer of size 68719476736" in outcome.err
    assert not (tmp_path / "io").exists()


def test_a_system_without_such_a_limit_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    outcome = cli("--memory-limit", 4, "passes")
    assert (outcome.code, outcome.last_line.startswith("error: --memory-limit: only Linux")) == (2, True)
