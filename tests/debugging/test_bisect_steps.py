"""How bisect goes through two models: what it computes, keeps and lets go, and what it feeds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from debugging.faulty_models import CHAIN, model
from graphsurgery.debugging.bisect import bisect, bisect_files, read_samples
from graphsurgery.debugging.stepping import Steps
from graphsurgery.errors import InputError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.graph.outline import Outline
from graphsurgery.progress import Silent

# --- one step at a time -----------------------------------------------------------------------------------------


def test_a_tensor_is_let_go_when_its_last_reader_has_run() -> None:
    outline = Outline(model(CHAIN))
    steps = Steps(outline, {"x": np.ones(4, np.float32)}, ["a", "y"])
    steps.get("y")
    assert set(steps._values) == {"a", "y"}
    steps.release(["a"])
    assert set(steps._values) == {"y"}


def test_what_depends_on_a_difference_is_not_computed_unless_outputs_are_asked_for() -> None:
    one, other = model(CHAIN), model(CHAIN.replace("Abs (x)", "Neg (x)"))
    given = {"x": np.ones(4, np.float32)}
    assert bisect(one, other, given.__getitem__, Tolerances()).outputs == ()
    assert bisect(one, other, given.__getitem__, Tolerances()).compared == 1
    assert len(bisect(one, other, given.__getitem__, Tolerances(), outputs=True).outputs) == 1


def test_what_only_an_abandoned_tensor_would_need_is_let_go() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Abs (x)  u = Neg (a)  v = Add (u, a)  b = Exp (v)  y = Sin (a) }"
    steps = Steps(Outline(model(text)), {"x": np.ones(4, np.float32)}, ["a", "b", "y"])
    steps.get("a")
    steps.release(["a"])
    steps.abandon("b")
    assert set(steps._values) == {"a"}
    steps.get("y")
    assert set(steps._values) == {"y"}


def test_equal_nodes_of_two_models_run_once() -> None:
    one, other = Outline(model(CHAIN)), Outline(model(CHAIN.replace("Neg (b)", "Exp (b)")))
    given = {"x": np.ones(4, np.float32)}
    a = Steps(one, given, ["a", "b", "c"])
    b = Steps(other, given, ["a", "b", "c"], a)
    for name in ("a", "b", "c"):
        shared = a.get(name) is b.get(name)
        assert shared == b.is_shared(name, name) == (name != "c")


def test_what_was_taken_over_is_not_told_from_the_values_of_another_input() -> None:
    one = Outline(model(CHAIN))
    a = Steps(one, {"x": np.ones(4, np.float32)}, ["a"])
    b = Steps(one, {"x": np.zeros(4, np.float32)}, ["a"], a)
    assert a.get("a") is not b.get("a")
    assert not b.is_shared("a", "a")


def test_nodes_of_another_operator_set_are_not_taken_over() -> None:
    one = model(CHAIN)
    newer = ModelProto()
    newer.CopyFrom(one.proto)
    newer.opset_import[0].version = 18
    given = {"x": np.ones(4, np.float32)}
    a = Steps(Outline(one), given, ["a"])
    b = Steps(Outline(Model(newer)), given, ["a"], a)
    assert a.get("a") is not b.get("a")


MEMORY = """
import re
from pathlib import Path
import numpy as np
from onnx import helper, TensorProto
from graphsurgery.debugging.bisect import bisect
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model

def chain(op):
    ops = ["Abs"] * 100 + [op] + ["Abs"] * 100
    nodes = [helper.make_node(each, [f"t{i}"], [f"t{i + 1}"]) for i, each in enumerate(ops)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2_000_000]) for name in ("t0", f"t{len(ops)}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

# not ru_maxrss, which begins with that of the process that started this one
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
x = {"t0": np.linspace(-1, 1, 2_000_000, dtype=np.float32)}
small = {"t0": x["t0"]}
bisect(chain("Neg"), chain("Neg"), x.__getitem__, Tolerances())
print(bisect(chain("Neg"), chain("Sin"), x.__getitem__, Tolerances()).divergences[0].tensor, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the standard library does not tell the peak")
def test_memory_does_not_grow_with_the_number_of_tensors() -> None:
    # 201 tensors of 8 MB in each model: 3.2 GB if they were all kept
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    tensor, peak = done.stdout.split()
    assert tensor == "t101"
    assert int(peak) < 600


# --- inputs -----------------------------------------------------------------------------------------------------


def test_inputs_of_unknown_size_are_asked_for() -> None:
    open_size = model(CHAIN.replace("(float[4] x)", "(float[n] x)"))
    with pytest.raises(InputError, match=r"input 'x' is float32 of shape .*; give --inputs"):
        list(read_samples(open_size, None))


def test_an_input_that_only_b_has_and_nothing_gives_is_the_users_fault(tmp_path: Path) -> None:
    other = "g (float[4] x, float[4] more) => (float[4] y) { y = Add (x, more) }"
    for name, text in (("a.onnx", CHAIN), ("b.onnx", other)):
        onnx.save(model(text).proto, tmp_path / name)
    with pytest.raises(InputError, match="no value for input 'more'"):
        bisect_files(tmp_path / "a.onnx", tmp_path / "b.onnx", None, Tolerances(), Silent())


def test_three_random_samples_are_made_up() -> None:
    samples = list(read_samples(model(CHAIN), None))
    assert [name for name, _ in samples] == ["random 0", "random 1", "random 2"]
    assert not np.array_equal(samples[0][1]("x"), samples[1][1]("x"))


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither capture\.json nor \.npy files"):
        list(read_samples(model(CHAIN), tmp_path))
