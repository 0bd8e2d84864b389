import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from pydantic import TypeAdapter, ValidationError

from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.passes.rename_tensors import RenameTensors
from graphsurgery.rewrite import BATCH_NOTE, MASKS_NOTE, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def chain(x: str = "x", a: str = "a", w: str = "w", y: str = "y") -> str:
    return f"""
        {HEAD}
        g (float[2] {x}) => (float[2] {y}) <float[2] {w} = {{1, 2}}> {{
            {a} = Add ({x}, {w})
            {y} = Mul ({a}, {a})
        }}"""


def test_renames_inputs_outputs_initializers_and_inner_tensors() -> None:
    pass_ = RenameTensors({"x": "image", "a": "sum", "w": "bias", "y": "features"})
    after = chain("image", "sum", "bias", "features")
    assert_rewrites(pass_, chain(), after, outputs_agree=False)


def test_what_is_computed_stays_the_same_under_the_new_names() -> None:
    got = apply_pass(RenameTensors({"x": "image", "y": "features"}), Model(parse(chain()))).model.proto
    np.testing.assert_array_equal(session.run(got, {"image": np.float32([1, 2])})["features"], [4, 16])


def test_renames_what_a_body_reads_and_writes() -> None:
    def model(x: str, a: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] {x}) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] {a}) {{ {a} = Neg ({x}) }},
                else_branch = e () => (float[2] b) {{ b = Abs ({x}) }}
            >
        }}"""

    assert_rewrites(RenameTensors({"x": "k", "a": "n"}), model("x", "a"), model("k", "n"), outputs_agree=False)


def test_two_bodies_that_use_one_name_use_the_new_one_both() -> None:
    def model(a: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] {a}) {{ {a} = Neg (x) }},
                else_branch = e () => (float[2] {a}) {{ {a} = Abs (x) }}
            >
        }}"""

    assert_rewrites(RenameTensors({"a": "n"}), model("a"), model("n"))


def test_a_default_that_a_caller_may_override_goes_with_its_input() -> None:
    def model(w: str) -> str:
        return f"{HEAD} g (float[2] x, float[2] {w}) => (float[2] y) <float[2] {w} = {{1, 2}}> {{ y = Add (x, {w}) }}"

    assert_rewrites(RenameTensors({"w": "bias"}), model("w"), model("bias"), {"x": np.float32([1, 1])})


def test_an_initializer_that_nothing_reads_is_renamed_as_well() -> None:
    def model(w: str) -> str:
        return f"{HEAD} g (float[2] x) => (float[2] y) <float[2] {w} = {{1, 2}}> {{ y = Neg (x) }}"

    assert_rewrites(RenameTensors({"w": "bias"}), model("w"), model("bias"))


def test_notes_about_a_tensor_follow_it() -> None:
    proto = parse(chain())
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [2]))
    scale = onnx.StringStringEntryProto(key="SCALE_TENSOR", value="w")
    proto.graph.quantization_annotation.add(tensor_name="a").quant_parameter_tensor_names.append(scale)
    proto.metadata_props.add(key=MASKS_NOTE, value='"y"')
    proto.metadata_props.add(key=BATCH_NOTE, value='{"size": 2, "parameters": ["w"]}')
    got = apply_pass(RenameTensors({"a": "sum", "w": "bias", "y": "masks"}), Model(proto)).model.proto
    assert [info.name for info in got.graph.value_info] == ["sum"]
    (note,) = got.graph.quantization_annotation
    assert (note.tensor_name, note.quant_parameter_tensor_names[0].value) == ("sum", "bias")
    assert {entry.key: entry.value for entry in got.metadata_props} == {
        MASKS_NOTE: '"masks"',
        BATCH_NOTE: '{"size": 2, "parameters": ["bias"]}',
    }


def training() -> ModelProto:
    proto = parse(chain())
    info = proto.training_info.add()
    step = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.preview.training": 1]>
        g () => (float[2] new) {
            d = ai.onnx.preview.training.Gradient <xs = ["w", "x"], y = "y"> (w, x)
            new = Sub (w, d)
        }"""
    info.algorithm.CopyFrom(parse(step).graph)
    info.update_binding.add(key="w", value="new")
    info.initialization.CopyFrom(parse(f"{HEAD} g () => (float[2] w) {{ w = RandomNormal <shape = [2]> () }}").graph)
    info.initialization_binding.add(key="w", value="w")
    return proto


def test_a_training_step_reads_the_tensors_by_their_new_names() -> None:
    after = apply_pass(RenameTensors({"w": "bias", "y": "loss", "new": "next"}), Model(training())).model.proto
    (info,) = after.training_info
    gradient, step = info.algorithm.node
    assert (list(gradient.input), list(step.input), list(step.output)) == (["bias", "x"], ["bias", "d"], ["next"])
    assert {a.name: onnx.helper.get_attribute_value(a) for a in gradient.attribute} == {
        "xs": [b"bias", b"x"],
        "y": b"loss",
    }
    assert [(entry.key, entry.value) for entry in info.update_binding] == [("bias", "next")]
    assert [(entry.key, entry.value) for entry in info.initialization_binding] == [("bias", "w")]
    assert info.initialization.output[0].name == "w", "a graph of its own, whose names are its own"


def test_a_name_in_a_training_step_is_taken() -> None:
    with pytest.raises(PassError, match="can't call 'a' 'new'"):
        apply_pass(RenameTensors({"a": "new"}), Model(training()))


def test_leaves_what_is_called_so_already_alone() -> None:
    assert_untouched(RenameTensors({"old": "a"}), chain(), "'old' is called 'a' already")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"imag": "b"}, r"there is no tensor 'imag'\.$"),
        ({"yy": "b"}, "there is no tensor 'yy'. Nearest: y"),
        ({"a": "x"}, "can't call 'a' 'x': another tensor is called so"),
        ({"a": "w"}, "can't call 'a' 'w'"),
    ],
)
def test_ends_the_run_where_a_name_is_not_there_or_taken(names: dict[str, str], message: str) -> None:
    with pytest.raises(PassError, match=message):
        apply_pass(RenameTensors(names), Model(parse(chain())))


def test_a_name_inside_a_body_is_taken_too() -> None:
    text = f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] inner) {{ inner = Neg (x) }},
                else_branch = e () => (float[2] other) <float[2] weight = {{1, 2}}> {{ other = Add (x, weight) }}
            >
        }}"""
    for name in ("inner", "weight"):
        with pytest.raises(PassError, match="another tensor is called so"):
            apply_pass(RenameTensors({"x": name}), Model(parse(text)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "nothing to do"),
        ({"a": ""}, "without a name"),
        ({"": "a"}, "without a name"),
        ({"a": "c", "b": "c"}, "two tensors would be called 'c'"),
        ({"a": "b", "b": "a"}, "both an old and a new name"),
        ({"a": "b", "b": "c"}, "'b' is both an old and a new name"),
        ({"a": "a"}, "'a' is both an old and a new name"),
    ],
)
def test_refuses_names_that_contradict_each_other(names: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RenameTensors(names)


def test_its_options_are_read_from_a_recipe_as_they_stand() -> None:
    read = TypeAdapter(RenameTensors).validate_json('{"names": {"497": "features"}}', strict=True)
    assert read == RenameTensors({"497": "features"})
    with pytest.raises(ValidationError):
        TypeAdapter(RenameTensors).validate_json('{"names": {"a": 5}}', strict=True)


def anything(build: Builder) -> list[str]:
    x = build.input(build.shape(rank=(1, 3)))
    kinds = ["Relu", "Neg", "Abs"]
    for _ in range(build.integer(1, 4)):
        x = build.node(build.choice(kinds), [x])
    return [build.node("Add", [x, build.weight([1])])]


def test_any_tensors_of_any_graph_can_be_renamed() -> None:
    renamed = 0

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def explore(data: st.DataObject) -> None:
        nonlocal renamed

        def draw(low: int, high: int) -> int:
            return data.draw(st.integers(low, high))

        _, case = Fuzzed(RenameTensors({"none": "other"}), anything).draw(draw)
        if case is None:
            return
        tensors = sorted({name for node in case.model.graph.node for name in (*node.input, *node.output) if name})
        names = {name: f"new_{name}" for name in tensors if draw(0, 1)}
        if not names:
            return
        renamed += 1
        got = apply_pass(RenameTensors(names), Model(case.model)).model
        onnx.checker.check_model(got.proto, full_check=True)
        assert apply_pass(RenameTensors(names), got).model.fingerprint == got.fingerprint
        expected = session.run(case.model, case.inputs)
        computed = session.run(got.proto, {names.get(name, name): value for name, value in case.inputs.items()})
        assert_same_values({names.get(name, name): value for name, value in expected.items()}, computed)

    explore()
    assert renamed > 30
