"""Small graphs as lines of text, and the file of them that `passes NAME` shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from graphsurgery.graph.outline import Outline
from graphsurgery.picture.text import before_after
from graphsurgery.rewrite.registry import discover
from picture.graphs import X, model

ROOT = Path(__file__).parents[2]
DRAWN = ROOT / "passes" / "before_after.json"


def drawn(before: str, after: str, constants: str = "") -> tuple[list[str], list[str]]:
    return before_after(Outline(model(before, constants)), Outline(model(after, constants)))


def test_a_chain_is_a_line() -> None:
    assert drawn("a = Relu (x)  y = Neg (a)", "y = Abs (x)") == (["x -> Relu -> Neg -> y"], ["x -> Abs -> y"])


def test_a_tensor_that_several_read_or_that_is_read_with_others_has_its_name() -> None:
    nodes = "a = Relu (x)  b = Neg (a)  c = Abs (b)  y = Add (a, c)"
    assert drawn(nodes, nodes)[0] == ["x -> Relu -> a", "a -> Neg -> Abs -> c", "a, c -> Add -> y"]


def test_what_changed_of_a_node_stands_behind_it() -> None:
    pool = "y = MaxPool <kernel_shape = [1, 1]> (x)"
    wide = pool.replace("[1, 1]", "[3, 3], pads = [1, 1, 1, 1]")
    assert drawn(pool, wide) == (
        [f"x -> MaxPool (kernel_shape 1{X}1) -> y"],
        [f"x -> MaxPool (kernel_shape 3{X}3, pads 1) -> y"],
    )


def test_many_lines_are_cut() -> None:
    names = [f"t{n}" for n in range(20)]
    nodes = "  ".join(f"{name} = Relu (x)" for name in names) + f"  y = Max ({', '.join(names)})"
    lines = drawn(nodes, nodes)[0]
    assert len(lines) == 8
    assert lines[-1] == "and 14 lines more"


def test_almost_every_pass_is_drawn() -> None:
    names, file = discover().names(), json.loads(DRAWN.read_text(encoding="utf-8"))
    assert set(file) <= set(names)
    assert len(file) >= 0.9 * len(names)
    for each in file.values():
        assert each["before"] != each["after"]


def test_the_file_is_what_the_tests_of_passes_say() -> None:
    script = ROOT / "scripts" / "draw_passes.py"
    names = ("drop-identity", "fold-batchnorm", "lower-neg", "widen-maxpool")
    ended = subprocess.run([sys.executable, str(script), "--check", *names], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, "python scripts/draw_passes.py makes passes/before_after.json anew\n" + ended.stdout
