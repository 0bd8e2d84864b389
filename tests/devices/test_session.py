import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, MissingTool, ModelError, first_line
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
ADD = parse(f"{HEAD} g (float[2] x, float[2] z) => (float[2] y, float[2] d) {{ y = Add (x, z)  d = Sub (x, z) }}")
SOURCE = "/onnxruntime_src/core/op.cc:87 virtual T* a::B::C(int, void (*)(int)) const [with T = float]"
X, Z = np.array([3, 4], np.float32), np.array([1, 1], np.float32)


def test_runs_a_model_from_memory_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ü m.onnx"
    path.write_bytes(ADD.SerializeToString())
    for model in (ADD, path):
        got = session.run(model, {"x": X, "z": Z, "more": Z})
        assert {name: value.tolist() for name, value in got.items()} == {"y": [4, 5], "d": [2, 3]}


def test_gives_the_outputs_that_are_asked_for_in_that_order() -> None:
    made = Session(ADD)
    assert list(made.run({"x": X, "z": Z}, ["d", "y"])) == ["d", "y"]
    assert made.run({"x": X, "z": Z}, []) == {}
    assert (made.inputs, made.outputs) == (["x", "z"], ["y", "d"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ({"x": X}, None, "head: input 'z' is not given"),
        ({"x": X, "z": np.ones(3, np.float32)}, None, "head: ONNX Runtime can't run it"),
        ({"x": X, "z": np.ones(2, np.float64)}, None, "head: ONNX Runtime can't run it"),
        ({"x": X, "z": "text"}, None, "head: ONNX Runtime can't run it"),
        ({"x": X, "z": Z}, ["nothing"], "head: ONNX Runtime can't run it"),
    ],
)
def test_wrong_inputs_and_outputs_are_named(
    inputs: dict[str, np.ndarray], outputs: list[str] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Session(ADD, name="head").run(inputs, outputs)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    broken = parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = NoSuchOperator (x) }}")
    (tmp_path / "m.onnx").write_bytes(b"noise")
    for model, said in (
        (broken, r"node 'y' \(NoSuchOperator\): nobody defines this operator; .*a Python file that does"),
        (tmp_path / "m.onnx", "ONNX Runtime can't load it: "),
        (tmp_path / "none.onnx", "ONNX Runtime can't load it: "),
    ):
        with pytest.raises(ModelError, match=f"part: {said}") as caught:
            Session(model, name="part")
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cpu_alone")
def test_a_provider_that_is_not_here_is_named() -> None:
    with pytest.raises(MissingTool, match="model on dml: this ONNX Runtime has no DmlExecutionProvider; pip install"):
        Session(ADD, device=DeviceChoice("dml"))


@pytest.mark.parametrize(("optimise", "level"), [(False, "ORT_DISABLE_ALL"), (True, "ORT_ENABLE_ALL")])
def test_nothing_is_optimised_unless_asked_for(optimise: bool, level: str) -> None:
    options = Session(ADD, optimise=optimise, threads=1)._session.get_session_options()
    assert options.graph_optimization_level.name == level
    assert options.intra_op_num_threads == 1


def test_sessions_may_share_one_memory_and_what_they_gave_stays_as_it_is() -> None:
    one, other = Session(ADD, one_arena=True), Session(ADD, one_arena=True)
    kept = [each.run({"x": X * n, "z": Z}) for n in range(100) for each in (one, other)]
    assert [found["y"].tolist() for found in kept] == [(X * n + Z).tolist() for n in range(100) for _ in range(2)]


@pytest.mark.parametrize(("shares", "times"), [(True, 1), (False, 4)])
def test_sessions_that_share_their_memory_take_as_much_as_one(shares: bool, times: int) -> None:
    code = f"""
import numpy, psutil
from graphsurgery.devices.session import Session
from graphsurgery.testing import parse
model = parse('''{HEAD} g (float[1, 1] x, int64[2] s) => (float[1, 1] y) {{
    a = Expand (x, s)  b = Exp (a)  y = ReduceMean (b) }}''')
sessions = [Session(model, one_arena={shares}) for _ in range(4)]
before = psutil.Process().memory_info().rss
for session in sessions:
    session.run({{"x": numpy.ones((1, 1), numpy.float32), "s": numpy.array([4000, 4000])}})
    print(psutil.Process().memory_info().rss - before)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, *_, last = map(int, said.split())
    assert first > 4000 * 4000 * 4
    assert last == pytest.approx(times * first, rel=0.2)


def test_a_variable_says_how_many_threads_a_session_takes_that_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, asked, taken in (("3", 0, 3), ("3", 2, 2), ("", 0, 0), ("0", 0, 0)):
        monkeypatch.setenv("GRAPHSURGERY_THREADS", text)
        assert Session(ADD, threads=asked)._session.get_session_options().intra_op_num_threads == taken


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "1025", "\u0663"])
def test_a_variable_that_is_no_number_of_threads_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("GRAPHSURGERY_THREADS", text)
    with pytest.raises(InputError, match=rf"GRAPHSURGERY_THREADS={text}: write a number of threads up to 1024, or 0"):
        Session(ADD)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("  \n one"), "one"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 500 + "y" * 499), "x" * 100 + " ... " + "y" * 195),
        (ValueError(f"[ONNXRuntimeError] : 1 : FAIL : {SOURCE} bad: \n index: 0\n"), "bad: index: 0"),
        (ValueError("[ONNXRuntimeError] : 1 : FAIL : a.cc:57 f says (b)"), "a.cc:57 f says (b)"),
    ],
)
def test_the_first_line_of_an_error_is_its_message(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_an_output_of_any_number_that_has_no_name_gets_one(tmp_path: Path) -> None:
    model = parse(
        f"""{HEAD} g (float[3] x) => (float[1] b) <int64[2] sizes = {{2, 1}}> {{ a, b = Split (x, sizes) }}"""
    )
    model.graph.node[0].output[0] = ""  # ONNX Runtime 1.32 would end the process
    before = model.SerializeToString()
    onnx.save(model, tmp_path / "m.onnx")
    for given in (model, tmp_path / "m.onnx"):
        assert Session(given).run({"x": np.arange(3, dtype=np.float32)})["b"].tolist() == [2]
    assert model.SerializeToString() == before
