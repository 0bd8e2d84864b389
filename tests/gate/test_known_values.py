from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from graphsurgery.capture.samples import Sample
from graphsurgery.devices import session
from graphsurgery.errors import InputError, ModelError
from graphsurgery.gate import known_values
from graphsurgery.gate.known_values import KnownValues
from graphsurgery.graph.model import Model
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'


def samples(count: int, **shapes: Sequence[int]) -> list[Sample]:
    """Return samples whose tensors are drawn; they are in no file."""
    draw = np.random.default_rng(0)
    return [
        Sample(
            str(number),
            Path("nowhere"),
            None,
            1,
            1,
            computed={name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
        )
        for number in range(count)
    ]


class Counted:
    """Which operators ONNX Runtime ran, in models that were run and not only loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        counted = self

        class Counting(session.Session):
            def __init__(self, model: ModelProto, **options: object) -> None:
                super().__init__(model, **options)  # type: ignore[arg-type]
                self.operators = [node.op_type for node in model.graph.node]

            def run(self, inputs: Mapping[str, object], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
                counted.ran += self.operators
                return super().run(inputs, outputs)

        monkeypatch.setattr(known_values, "Session", Counting)

    def since(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def model(body: str) -> Model:
    return Model(parse(f"{HEAD}\n{body}"))


def whole(of: Model, sample: Sample) -> dict[str, np.ndarray]:
    return session.run(of.proto, {name: sample.load(name) for name in of.inputs})


def same(known: KnownValues, of: Model, images: Sequence[Sample]) -> None:
    for got, sample in zip(known.outputs(of), images, strict=True):
        expected = whole(of, sample)
        assert list(got) == list(expected)
        for name, value in expected.items():
            assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape)
            assert got[name].tobytes() == value.tobytes(), name


CHAIN = """g (float[4, 4] x) => (float[4, 4] y, float[4, 4] z)
    <float[4, 4] w = {0.5,1,2,3, 4,5,6,7, 8,9,1,2, 3,4,5,6}, int64[2] s = {4, 4}> {
    a = MatMul (x, w)  b = Relu (a)  c = Reshape (b, s)  d = Exp (c)  y = Neg (d)  z = Sqrt (b)
}"""


def test_the_first_graph_is_run_on_each_sample(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    same(KnownValues(images), model(CHAIN), images)
    assert sorted(counted.since()) == sorted(["MatMul", "Relu", "Reshape", "Exp", "Neg", "Sqrt"] * 2)


def test_a_graph_with_other_names_is_not_run_again(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN), images)
    counted.since()
    renamed = CHAIN.replace("b =", "other =").replace("(b", "(other").replace("w =", "v =").replace("w)", "v)")
    same(known, model(renamed), images)
    assert counted.since() == []


def test_a_shape_that_is_computed_otherwise_costs_only_itself(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images)
    computed = CHAIN.replace("c = Reshape (b, s)", "t = Shape (x)  c = Reshape (b, t)")
    same(known, model(computed), images)
    counted.since()
    same(known, model(CHAIN), images)
    assert set(counted.since()) <= {"Shape"}
    same(known, model(CHAIN), images)  # and now all of it is known
    assert counted.since() == []


def test_what_lies_before_a_change_is_not_computed_again(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN), images)
    counted.since()
    same(known, model(CHAIN.replace("y = Neg", "y = Abs")), images)
    assert "MatMul" not in counted.since()


def test_another_rounding_runs_all_that_is_behind_it(counted: Counted) -> None:
    images = samples(3, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN), images)
    counted.since()
    same(known, model(CHAIN.replace("0.5,1,2", "0.5000001,1,2")), images)
    ran = counted.since()
    assert ran.count("Exp") >= 3
    assert ran.count("MatMul") <= 3 + 2  # two more on the first sample, to see whether it is the same


def test_weights_that_become_constant_are_not_taken_for_granted(counted: Counted) -> None:
    images = samples(1, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN.replace("a = MatMul (x, w)", "v = Identity (w)  a = MatMul (x, v)")), images)
    counted.since()
    same(known, model(CHAIN), images)
    assert "MatMul" in counted.since()


def test_the_same_change_in_a_body_is_seen() -> None:
    images = samples(2, x=[4, 4])
    body = """g (float[4, 4] x) => (float[4, 4] y) <bool c = {{1}}> {{
        a = Relu (x)
        y = If (c) <then_branch = t () => (float[4, 4] p) {{ p = {op} (a) }},
                    else_branch = e () => (float[4, 4] q) {{ q = Neg (a) }}> }}"""
    known = KnownValues(images)
    for op in ("Exp", "Abs", "Exp"):
        same(known, model(body.format(op=op)), images)
    same(known, model(body.format(op="Exp").replace("a = Relu", "a = Neg")), images)


def test_random_numbers_are_never_known(counted: Counted) -> None:
    images = samples(1, x=[2])
    text = "g (float[2] x) => (float[2] y) { r = RandomNormalLike (x)  y = Add (x, r) }"
    known = KnownValues(images)
    for _ in range(3):
        list(known.outputs(model(text)))
        assert "RandomNormalLike" in counted.since()


def test_a_zero_has_a_sign(counted: Counted) -> None:
    images = samples(1, x=[2])
    text = "g (float[2] x) => (float[2] y) <float n = {0}> { z = Mul (x, n)  a = Abs (z)  y = Reciprocal (a) }"
    known = KnownValues(images)
    same(known, model(text), images)
    same(known, model(text.replace("Abs (z)", "Neg (z)")), images)


def test_a_graph_that_can_not_be_loaded_or_run_is_refused_though_its_change_makes_no_difference() -> None:
    images = samples(1, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN), images)
    with pytest.raises(ModelError):
        list(known.outputs(model(CHAIN.replace("z = Sqrt (b)", "z = my.Unheard (b)"))))
    with pytest.raises(InputError):
        list(known.outputs(model(CHAIN.replace("{4, 4}>", "{4, 5}>"))))
    same(known, model(CHAIN), images)


def test_without_room_nothing_is_kept(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images, budget=100)
    for _ in range(2):
        same(known, model(CHAIN), images)
        assert counted.since().count("MatMul") == 2


def test_inner_values_are_computed_from_what_is_known(counted: Counted) -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images)
    first = model(CHAIN)
    list(known.outputs(first))
    counted.since()
    found = known.values(first, ["c", "x", "y", "s"])
    assert "MatMul" not in counted.since()
    for each, sample in zip(found, images, strict=True):
        expected = session.run(known_outputs(first, "c", "y"), {"x": sample.load("x")})
        assert all(np.array_equal(each[name], expected[name]) for name in ("c", "y"))
        assert np.array_equal(each["x"], sample.load("x"))
        assert each["s"].tolist() == [4, 4]


def known_outputs(of: Model, *names: str) -> ModelProto:
    proto = ModelProto()
    proto.CopyFrom(of.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return proto


# --- any graph, changed in any way ------------------------------------------------------------------------------

UNARY = ("Relu", "Neg", "Abs", "Exp", "Tanh", "Identity", "Sigmoid")
BINARY = ("Add", "Sub", "Mul", "Max", "MatMul")


def drawn(seed: random.Random) -> ModelProto:
    """Return a graph of 3 to 15 nodes on matrices [3, 3]."""
    tensors, nodes, weights = ["x"], [], []
    for number in range(seed.randint(3, 15)):
        if seed.random() < 0.4:
            weights.append(numpy_helper.from_array(constant(seed), f"w{number}"))
            tensors.append(f"w{number}")
        binary = seed.random() < 0.6
        reads = [seed.choice(tensors[-6:]) for _ in range(2 if binary else 1)]
        nodes.append(helper.make_node(seed.choice(BINARY if binary else UNARY), reads, [f"t{number}"]))
        tensors.append(f"t{number}")
    written = [name for name in tensors if name.startswith("t")]
    ends = list(dict.fromkeys([written[-1], *seed.sample(written, k=min(2, len(written)))]))
    value = helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [value("x", kind, [3, 3])], [value(name, kind, [3, 3]) for name in ends], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant(seed: random.Random) -> np.ndarray:
    return np.array([[seed.choice([0, 1, -1, 0.5, 0.25, 3]) for _ in range(3)] for _ in range(3)], np.float32)


def changed(proto: ModelProto, seed: random.Random) -> ModelProto:
    """Return a copy with one change, which may or may not change what is computed."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    node = seed.choice(graph.node)
    what = seed.randrange(7)
    fresh = f"{node.output[0]}_{len(graph.node)}"
    if what == 0 and graph.initializer:
        weight = seed.choice(graph.initializer)
        weight.CopyFrom(numpy_helper.from_array(constant(seed), weight.name))
    elif what == 1:
        node.op_type = seed.choice(BINARY if len(node.input) == 2 else UNARY)
    elif what == 2:
        node.input[:] = list(node.input)[::-1]
    elif what == 3:  # a step that changes nothing, before one that reads it
        index = list(graph.node).index(node)
        graph.node.insert(index, helper.make_node("Identity", [node.input[0]], [fresh]))
        graph.node[index + 1].input[0] = fresh
    elif what == 4:  # and one that changes something twice, back to what it was
        index = list(graph.node).index(node)
        names = [f"{fresh}_{step}" for step in ("minus", "plus")]
        graph.node.insert(index, helper.make_node("Neg", [node.input[0]], names[:1]))
        graph.node.insert(index + 1, helper.make_node("Neg", names[:1], names[1:]))
        graph.node[index + 2].input[0] = names[1]
    elif what == 5:  # other names
        for other in graph.node:
            other.input[:] = [f"{name}_r" if name.startswith("t") else name for name in other.input]
            other.output[:] = [f"{name}_r" for name in other.output]
        for info in graph.output:
            info.name = f"{info.name}_r"
    else:
        graph.output.sort(key=lambda info: info.name)
    return copy


@pytest.mark.parametrize("number", range(60))
def test_any_graph_changed_in_any_way_gives_the_very_bits_of_a_whole_run(number: int) -> None:
    seed = random.Random(number)
    images = samples(2, x=[3, 3])
    known = KnownValues(images, budget=seed.choice([1 << 20, 400, 150]))
    graph = drawn(seed)
    for _ in range(8):
        same(known, Model(graph), images)
        for _ in range(seed.randint(0, 2)):
            graph = changed(graph, seed)


def test_a_run_that_is_given_up_leaves_nothing_behind() -> None:
    images = samples(2, x=[4, 4])
    known = KnownValues(images)
    same(known, model(CHAIN), images)
    played: Iterator[object] = known.outputs(model(CHAIN.replace("Exp", "Abs")))
    next(played)
    del played
    same(known, model(CHAIN.replace("Exp", "Tanh")), images)
