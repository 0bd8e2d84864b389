import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, ValueInfoProto

from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.joined_outputs import JOINS_NOTE, JoinedOutput, write_note
from graphsurgery.graph.model import Model
from graphsurgery.passes.select_outputs import SelectOutputs
from graphsurgery.rewrite import MASKS_NOTE, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
GRAPH = f"""
    {HEAD}
    g (float[N, 4] x, float[4] z, float[3] idle) => (float[N, 4] c, float[K] d)
      <float[4] w = {{1, 2, 3, 4}}, int64[1] shape = {{-1}}> {{
        a = Add (x, w)
        b = Relu (a)
        c = Mul (b, z)
        r = Reshape (c, shape)
        d = Neg (r)
    }}"""


def test_inner_tensors_become_the_outputs_in_the_order_given() -> None:
    after = f"""
        {HEAD}
        g (float[N, 4] x, float[3] idle) => (float[N, 4] b, float[N, 4] a) <float[4] w = {{1, 2, 3, 4}}> {{
            a = Add (x, w)
            b = Relu (a)
        }}"""
    assert_rewrites(SelectOutputs(("b", "a")), GRAPH, after, outputs_agree=False)


def test_an_output_that_stays_is_the_same_and_what_only_fed_the_others_goes() -> None:
    after = f"""
        {HEAD}
        g (float[N, 4] x, float[4] z, float[3] idle) => (float[N, 4] c) <float[4] w = {{1, 2, 3, 4}}> {{
            a = Add (x, w)
            b = Relu (a)
            c = Mul (b, z)
        }}"""
    assert_rewrites(SelectOutputs(("c",)), GRAPH, after, outputs_agree=False)


def test_outputs_can_change_places() -> None:
    after = GRAPH.replace("(float[N, 4] c, float[K] d)", "(float[K] d, float[N, 4] c)")
    assert_rewrites(SelectOutputs(("d", "c")), GRAPH, after, outputs_agree=False)


def test_a_new_output_gets_the_type_that_is_inferred() -> None:
    (output,) = apply_pass(SelectOutputs(("r",)), Model(parse(GRAPH))).model.proto.graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert len(output.type.tensor_type.shape.dim) == 1


def test_a_default_that_nothing_reads_any_more_goes_with_its_input() -> None:
    before = f"""
        {HEAD}
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {{1, 2}}> {{ a = Neg (x)  y = Add (a, w) }}"""
    after = f"{HEAD} g (float[2] x) => (float[2] a) {{ a = Neg (x) }}"
    assert_rewrites(SelectOutputs(("a",)), before, after, outputs_agree=False)


def test_an_input_that_is_an_output_stays_both() -> None:
    before = f"{HEAD} g (float[2] x, float[2] z) => (float[2] x, float[2] y) {{ y = Neg (z) }}"
    after = f"{HEAD} g (float[2] x) => (float[2] x) {{ }}"
    got = apply_pass(SelectOutputs(("x",)), Model(parse(before))).model
    assert [info.name for info in got.proto.graph.input] == ["x"]
    assert [info.name for info in got.proto.graph.output] == ["x"]
    assert parse(after).graph.output[0].type == got.proto.graph.output[0].type


def test_an_if_whose_outputs_are_not_all_read_keeps_them() -> None:
    def model(outputs: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => ({outputs}) {{
            y, z = If (c) <
                then_branch = t () => (float[2] a, float[2] b) {{ a = Neg (x)  b = Abs (x) }},
                else_branch = e () => (float[2] d, float[2] e) {{ d = Abs (x)  e = Neg (x) }}
            >
        }}"""

    pass_ = SelectOutputs(("z",))
    assert_rewrites(pass_, model("float[2] y, float[2] z"), model("float[2] z"), outputs_agree=False)


def test_the_note_on_masks_goes_with_them() -> None:
    for kept, noted in ((("c",), False), (("d",), True)):
        proto = parse(GRAPH)
        proto.metadata_props.add(key=MASKS_NOTE, value='"d"')
        got = apply_pass(SelectOutputs(kept), Model(proto)).model.proto
        assert (MASKS_NOTE in {entry.key for entry in got.metadata_props}) == noted


def test_the_note_on_a_joined_output_goes_with_any_of_its_pieces() -> None:
    for kept, noted in ((("d",), False), (("d", "c"), True)):
        proto = parse(GRAPH)
        proto.metadata_props.add(key=JOINS_NOTE, value=write_note([JoinedOutput("y", ("c", "d"), 0)]))
        got = apply_pass(SelectOutputs(kept), Model(proto)).model.proto
        assert (JOINS_NOTE in {entry.key for entry in got.metadata_props}) == noted


def test_leaves_a_graph_that_has_these_outputs_alone() -> None:
    assert_untouched(SelectOutputs(("c", "d")), GRAPH, None)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cc",), "there is no tensor 'cc'. Nearest: c"),
        (("missing",), r"there is no tensor 'missing'\.$"),
        (("x",), "'x' is an input: nothing computes it"),
        (("w",), "'w' is a constant: nothing computes it"),
    ],
)
def test_ends_the_run_at_what_is_no_computed_tensor(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(PassError, match=message):
        apply_pass(SelectOutputs(names), Model(parse(GRAPH)))


def test_ends_the_run_at_a_tensor_of_a_body() -> None:
    text = f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] a) {{ a = Neg (x) }},
                else_branch = e () => (float[2] b) {{ b = Abs (x) }}
            >
        }}"""
    with pytest.raises(PassError, match="'a' is inside an If or Loop body"):
        apply_pass(SelectOutputs(("a",)), Model(parse(text)))


@pytest.mark.parametrize(
    ("node", "what"), [("a = my.Custom (x)", "the type of 'a'"), ("a = Reshape (x, s)", "number of dimensions of 'a'")]
)
def test_ends_the_run_at_a_type_that_nothing_tells(node: str, what: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[2] x, int64[K] s) => (float[A] y) {{ {node} y = Neg (a) }}"""
    with pytest.raises(PassError, match=f"{what} is not known"):
        apply_pass(SelectOutputs(("a",)), Model(parse(text)))


@pytest.mark.parametrize(("names", "message"), [((), "without outputs"), (("a", "a"), "'a' is there twice")])
def test_refuses_names_that_make_no_graph(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectOutputs(names)


def anything(build: Builder) -> list[str]:
    x, z = build.input(build.shape(rank=(1, 3))), build.input([1])
    found = [x]
    for _ in range(build.integer(2, 6)):
        kind = build.choice(["Relu", "Neg", "Add", "Mul"])
        reads = [build.choice(found)] if kind in ("Relu", "Neg") else [build.choice(found), build.choice([z, x])]
        found.append(build.node(kind, reads))
    return [found[-1], build.node("Add", [found[-2], build.weight([1])])]


def test_any_tensors_of_any_graph_can_be_the_outputs() -> None:
    selected = 0

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def explore(data: st.DataObject) -> None:
        nonlocal selected

        def draw(low: int, high: int) -> int:
            return data.draw(st.integers(low, high))

        _, case = Fuzzed(SelectOutputs(("none",)), anything).draw(draw)
        if case is None:
            return
        computed = sorted({name for node in case.model.graph.node for name in node.output if name})
        names = tuple(data.draw(st.lists(st.sampled_from(computed), min_size=1, max_size=3, unique=True)))
        selected += 1
        got = apply_pass(SelectOutputs(names), Model(case.model)).model
        onnx.checker.check_model(got.proto, full_check=True)
        assert apply_pass(SelectOutputs(names), got).model.fingerprint == got.fingerprint
        expected = session.run(with_outputs(case.model, names), case.inputs)
        inputs = {info.name for info in got.proto.graph.input}
        computed_now = session.run(got.proto, {k: v for k, v in case.inputs.items() if k in inputs})
        assert list(computed_now) == list(names)
        assert_same_values({name: expected[name] for name in names}, computed_now)

    explore()
    assert selected > 30


def with_outputs(model: ModelProto, names: tuple[str, ...]) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    known = {info.name for info in model.graph.output}
    copy.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    return copy
