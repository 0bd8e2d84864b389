"""Custom operators in a model: what stands in their place, in every graph of it, and what of it is seen outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from graphsurgery import plugins
from graphsurgery.devices.session import Session, run
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.expansion import CustomOperator, Tensor, Writer, expanded, registry
from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer
from graphsurgery.rewrite import Editor
from graphsurgery.rewrite.registry import discover
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 13, "acme": 1]>'


@dataclass(frozen=True)
class Scale(CustomOperator):
    """y is x times `factor`, plus the bias where there is one."""

    name = "Scale"
    domains = ("acme",)
    inputs = ("x", "bias?")

    factor: float
    shift: Literal[0, 1] = 0

    def expand(self, op: Writer, x: Tensor, bias: Tensor | None) -> Tensor:
        if not self.factor:
            raise ValueError("factor is 0, and nothing is left")
        scaled = x * self.factor
        return scaled if bias is None else scaled + bias


class Twice(CustomOperator):
    """Both outputs are the sum of all inputs, the third is the first input."""

    name = "Twice"
    domains = ("acme", "")
    inputs = ("*xs", "last")

    def expand(self, op: Writer, xs: list[Tensor], last: Tensor) -> tuple[Tensor, ...]:
        total = op.Sum(*xs, last)
        return total, total, xs[0]


class Sized(CustomOperator):
    """y is the sizes of x along axis 1, by what is known of it."""

    name = "Sized"
    domains = ("acme",)
    inputs = ("x",)

    def expand(self, op: Writer, x: Tensor) -> Tensor:
        (size,) = op.sizes(x, 1)
        return op.Reshape(x, [-1, size])


class Fails(CustomOperator):
    """A faulty one."""

    name = "Fails"
    domains = ("acme",)
    inputs = ("x",)

    def expand(self, op: Writer, x: Tensor) -> Tensor:
        return op.relu(x)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The operators of this file are known in its tests alone."""
    before = dict(registry.operators())
    module = ModuleType(__name__)
    for kind in (Scale, Twice, Sized, Fails):
        setattr(module, kind.__name__, kind)
    monkeypatch.setenv(registry.FILES, "")
    registry.add_file(Path(__file__), module)
    yield
    registry._found().clear()
    registry._found().update(before)


def scale(attributes: str = "factor = 2.0") -> onnx.ModelProto:
    return parse(f"{HEAD} g (float[2] x) => (float[n] y) {{ y = acme.Scale <{attributes}> (x) }}")


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_model_without_custom_operators_is_returned_itself() -> None:
    model = parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Relu (x) }}")
    assert expanded(model) is model


def test_the_model_keeps_its_nodes_and_onnxruntime_runs_what_they_mean() -> None:
    model = scale()
    before = model.SerializeToString()
    assert ops(expanded(model)) == ["Constant", "Mul"]
    np.testing.assert_array_equal(run(model, {"x": np.array([1, 2], np.float32)})["y"], [2, 4])
    Model(model).check("it")
    assert model.SerializeToString() == before


def test_a_file_with_a_custom_operator_runs_with_its_weights_outside(tmp_path: Path) -> None:
    model = parse(f"{HEAD} g (float[2] x) => (float[n] y) {{ y = acme.Scale <factor = 2.0> (x, b) }}")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3], np.float32), "b"))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    np.testing.assert_array_equal(Session(path).run({"x": np.array([1, 2], np.float32)})["y"], [3, 7])


def test_outputs_that_are_one_tensor_or_an_input_have_names_of_their_own() -> None:
    text = "g (float[1] a, float[1] b) => (float[1] p, float[1] q, float[1] r) { p, q, r = acme.Twice (a, a, b) }"
    values = run(parse(f"{HEAD} {text}"), {"a": np.array([1], np.float32), "b": np.array([5], np.float32)})
    assert {name: float(value[0]) for name, value in values.items()} == {"p": 7, "q": 7, "r": 1}
    some = parse(f"{HEAD} g (float[1] a, float[1] b) => (float[1] q) {{ none, q = Twice (a, b) }}")
    some.graph.node[0].output[0] = ""
    assert float(run(some, {"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)})["q"][0]) == 2


def test_shapes_go_on_behind_it_and_the_node_stays() -> None:
    model = parse(f"{HEAD} g (float[2, 3] x) => (y) {{ a = acme.Scale <factor = 2.0> (x) y = Transpose (a) }}")
    view = Model(model).graph()
    Editor(view).infer_shapes()
    assert [(node.op, node.outputs[0].shape) for node in view.nodes] == [("Scale", [2, 3]), ("Transpose", [3, 2])]


def test_a_claim_of_a_shape_is_not_taken_for_one() -> None:
    model = parse(f"{HEAD} g (float[2, n] x) => (y) <float[2, 7] a> {{ a = Relu (x) y = acme.Sized (a) }}")
    assert run(model, {"x": np.zeros((2, 3), np.float32)})["y"].shape == (2, 3)
    sized = parse(f"{HEAD} g (float[2, 3] x) => (y) {{ a = acme.Sized (x) b = acme.Sized (a) y = acme.Sized (b) }}")
    assert "Shape" not in ops(expanded(sized))
    assert "Shape" in ops(expanded(model))


IN_A_BODY = """g (bool c, float[2] x) => (float[n] y) {
    y = If (c) <
        then_branch = t () => (float[n] p) { p = acme.Scale <factor = 2.0> (x) },
        else_branch = e () => (float[n] q) { i = Identity (x)  q = acme.Scale <factor = 3.0> (i) }
    >
}"""


@pytest.mark.parametrize(("condition", "factor"), [(True, 2), (False, 3)])
def test_it_is_found_in_bodies(condition: bool, factor: int) -> None:
    model = parse(f"{HEAD} {IN_A_BODY}")
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(run(model, {"c": np.array(condition), "x": x})["y"], x * factor)
    inferred = infer(model, None)
    bodies = [attribute.g for attribute in inferred.graph.node[0].attribute]
    assert [body.output[0].type.tensor_type.shape.dim[0].dim_value for body in bodies] == [2, 2]
    assert [[node.op_type for node in body.node] for body in bodies] == [["Scale"], ["Identity", "Scale"]]


FUNCTION = """<ir_version: 8, opset_import: ["": 13, "local": 1, "acme": 1]>
g (float[2] x) => (float[2] y) { y = local.F (x) }
<domain: "local", opset_import: ["": 13, "acme": 1]>
F (a) => (b) { b = acme.Scale <factor = 2.0> (a) }"""


def test_it_is_found_in_functions_and_a_function_of_its_name_is_none() -> None:
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(run(parse(FUNCTION), {"x": x})["y"], x * 2)
    own = (
        FUNCTION.replace("local", "acme").replace("F (", "Scale (").replace("acme.Scale <factor = 2.0> (a)", "Neg (a)")
    )
    own = own.replace('"acme": 1, "acme": 1', '"acme": 1')
    model = parse(own)
    assert expanded(model) is model
    np.testing.assert_array_equal(run(model, {"x": x})["y"], -x)


def test_a_tensor_in_a_function_is_not_that_of_its_name_outside() -> None:
    model = parse("""<ir_version: 8, opset_import: ["": 13, "local": 1]>
        g (float[2, 3, 5] x) => (float[n, m] y) { z = Flatten (x)  y = local.F (z) }
        <domain: "local", opset_import: ["": 13, "acme": 1]>
        F (x) => (b) { b = acme.Sized (x) }""")
    assert run(model, {"x": np.zeros((2, 3, 5), np.float32)})["y"].shape == (2, 15)


def test_an_attribute_of_a_function_is_refused() -> None:
    text = FUNCTION.replace("F (a)", "F <factor> (a)").replace("factor = 2.0", "factor: float = @factor")
    text = text.replace("local.F (x)", "local.F <factor = 2.0> (x)")
    with pytest.raises(ModelError, match="attribute 'factor' is that of a function; run the pass inline-functions"):
        Model(parse(text)).check("it")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("shift = 0", "attribute 'factor' is missing; it needs a number"),
        ('factor = "2"', "attribute 'factor' is of type STRING; it needs a number"),
        ("factor = 2.0, shift = 2", "attribute 'shift' is 2; it needs 0 or 1"),
        (
            "factor = 2.0, faktor = 2.0",
            "attribute 'faktor' is not known. Did you mean 'factor'? There are: factor, shift",
        ),
        ("factor = 0.0", "factor is 0, and nothing is left"),
    ],
)
def test_a_node_that_the_operator_does_not_allow_is_named(attributes: str, said: str) -> None:
    model = Model(scale(attributes))
    with pytest.raises(ModelError, match=re.escape(f"part 'a': node 'y' (acme.Scale): {said}")):
        model.check("part 'a'")
    with pytest.raises(ModelError, match=re.escape(said)):
        Session(model.proto)
    with pytest.raises(ModelError, match=re.escape(said)):
        infer(model.proto, None)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("y = acme.Scale <factor = 2.0> (x, x, x)", "it has 3 inputs; it takes x; bias, if any"),
        ("y = acme.Scale <factor = 2.0> ()", "input 'x' is missing; it takes x; bias, if any"),
        ("y = acme.Twice (x)", "input 'last' is missing; it takes xs, one or more; last"),
        ("y, z = acme.Scale <factor = 2.0> (x)", "it has 2 outputs; the operator has 1"),
    ],
)
def test_inputs_and_outputs_that_it_does_not_have_are_named(call: str, said: str) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        expanded(parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ {call} }}"))


def test_an_operator_that_fails_is_named_with_its_file() -> None:
    model = parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = acme.Fails (x) }}")
    with pytest.raises(ModelError, match=r"node 'y' \(acme.Fails\): .*test_expansion.py fails: AttributeError: relu"):
        expanded(model)


def test_an_operator_set_before_that_it_is_written_for_is_refused() -> None:
    model = parse(f"{HEAD.replace('13', '9')} g (float[2] x) => (float[2] y) {{ y = acme.Scale <factor = 2.0> (x) }}")
    with pytest.raises(
        ModelError, match="for operator set 11 or later, and the model has 9; raise the model's operator set"
    ):
        expanded(model)


@pytest.mark.parametrize(("op", "near"), [("acme.Scalee", "Nearest: acme.Scale"), ("Conf", "Nearest: Conv")])
def test_an_operator_that_nobody_defines_is_named_with_the_nearest(op: str, near: str) -> None:
    model = parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = {op} (x) }}")
    said = rf"it: node 'y' \({op}\): nobody defines this operator; {near}.*; a Python file that does, --plugin FILE"
    with pytest.raises(ModelError, match=said):
        Session(model, name="it")


PLUGIN = """
from dataclasses import dataclass

from graphsurgery.graph.expansion import CustomOperator

@dataclass(frozen=True)
class Double(CustomOperator):
    name = "Double"
    domains = ("plug",)
    inputs = ("x",)

    times: int = 1

    def expand(self, op, x):
        return x * float(2 * self.times)
"""


def test_a_plugin_file_brings_an_operator(tmp_path: Path) -> None:
    path = tmp_path / "double.py"
    path.write_text(PLUGIN, encoding="utf-8")
    for _ in range(2):  # another command of the same process
        discover([path])
    model = parse(
        '<ir_version: 8, opset_import: ["": 13, "plug": 1]> g (float[1] x) => (float[1] y) { y = plug.Double (x) }'
    )
    assert float(run(model, {"x": np.ones(1, np.float32)})["y"][0]) == 2
    script = "from graphsurgery.graph.expansion.registry import operators; print(('plug', 'Double') in operators())"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout == "True\n", "a process that this one starts does not know it"
    other = tmp_path / "other.py"
    other.write_text(PLUGIN, encoding="utf-8")
    with pytest.raises(InputError, match=r"other.py: custom operator 'plug.Double' is also defined in .*double.py"):
        discover([other])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "Double"', "", "must declare its name, as text"),
        ('domains = ("plug",)', 'domains = "plug"', "must declare domains as a tuple of names"),
        ('inputs = ("x",)', "", "must declare inputs as a tuple of names"),
        ('inputs = ("x",)', 'inputs = ("*x", "*y")', "at most one input that stands for several"),
        ("@dataclass(frozen=True)", "", "has attributes, so it must be a @dataclass"),
        ("times: int", "times: dict", "attribute 'times' must be int, float, str, tuple[int, ...], tuple[float, ...]"),
        ('name = "Double"', 'name: str = "Double"', "must declare name, domains, inputs and opset without a type"),
    ],
)
def test_an_operator_that_is_declared_wrong_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in PLUGIN
    path = tmp_path / "wrong.py"
    path.write_text(PLUGIN.replace(old, new), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(said)):
        discover([path])


@pytest.mark.parametrize("brings", ["module", "class", "number"])
def test_an_installed_package_brings_operators(brings: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "installed.py"
    path.write_text(PLUGIN, encoding="utf-8")
    module = plugins.file(path)
    found: Any = {"module": module, "class": module.Double, "number": 3}[brings]
    monkeypatch.setattr(plugins, "entry_points_of", lambda group: [found] if group == "graphsurgery.custom_ops" else [])
    registry._found.cache_clear()
    try:
        if brings == "number":
            with pytest.raises(InputError, match="3 is no CustomOperator"):
                registry.operators()
        else:
            assert ("plug", "Double") in registry.operators()
    finally:
        monkeypatch.undo()
        registry._found.cache_clear()


def test_every_file_of_the_package_holds_an_operator_under_its_own_name() -> None:
    root = Path(registry.__file__).parents[2] / "custom_ops"
    files = {file.stem for file in root.glob("*.py") if not file.stem.startswith("_")}
    homes = {Path(plugins.source_file(kind)).stem for kind in registry.operators().values()}
    assert files <= homes
