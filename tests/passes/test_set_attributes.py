import copy
import fnmatch
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from graphsurgery.devices import session
from graphsurgery.errors import GraphSurgeryError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, walk_protos
from graphsurgery.passes.set_attributes import SetAttributes
from graphsurgery.rewrite import Applied, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed
from graphsurgery.testing.fuzzing.builder import Draw

HEAD = '<ir_version: 8, opset_import: ["": 17, "my": 1]>'


def pool(attributes: str) -> str:
    return f"""
    {HEAD}
    g (float[1, 2, 8, 10] x) => (float[1, 2, H, W] y) {{
        [pool] a = MaxPool <{attributes}> (x)
        [out] y = Relu (a)
    }}"""


def apply(pass_: SetAttributes, text: str) -> Applied:
    return apply_pass(pass_, Model(parse(text)))


def test_sets_an_attribute_and_infers_the_shapes_behind_it_again() -> None:
    before = parse(pool("kernel_shape = [2, 2], strides = [2, 2]"))
    before.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [1, 2, 4, 5]))
    after = pool("kernel_shape = [2, 2], strides = [1, 1]")
    applied = assert_rewrites(SetAttributes("pool", set={"strides": [1, 1]}), before, after, outputs_agree=False)
    (info,) = (info for info in applied.model.proto.graph.value_info if info.name == "a")
    assert [dim.dim_value for dim in info.type.tensor_type.shape.dim] == [1, 2, 7, 9]


@pytest.mark.parametrize("value", [0, 0.25])
def test_takes_a_whole_number_for_a_float(value: float) -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ [act] y = LeakyRelu <alpha = 0.5> (x) }}"
    got = session.run(apply(SetAttributes("act", set={"alpha": value}), text).model.proto, {"x": np.float32([-4, 4])})
    np.testing.assert_array_equal(got["y"], np.float32([-4 * value, 4]))


def test_a_float_that_single_precision_rounds_is_no_change_the_second_time() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ [act] y = LeakyRelu <alpha = 0.1> (x) }}"
    assert_untouched(SetAttributes("act", set={"alpha": 0.1}), text, None)


def test_deletes_an_attribute() -> None:
    assert_rewrites(
        SetAttributes("pool", delete=("strides",)),
        pool("kernel_shape = [2, 2], strides = [1, 1]"),
        pool("kernel_shape = [2, 2]"),
    )


def test_leaves_a_node_without_the_attribute_alone() -> None:
    assert_untouched(SetAttributes("pool", delete=("pads",)), pool("kernel_shape = [2, 2]"), "not written out")


def test_leaves_a_node_that_has_the_values_already_alone() -> None:
    assert_untouched(SetAttributes("pool", set={"kernel_shape": [2, 2]}), pool("kernel_shape = [2, 2]"), None)


def test_sets_a_constant_input_of_one_node_and_keeps_it_for_the_others() -> None:
    shared = f"""
    {HEAD}
    g (float[1, 1, 2, 2] x) => (float[1, 1, A, B] y, float[1, 1, C, D] z) <float[4] s = {{1, 1, 2, 2}}> {{
        [up_1] y = Resize <mode = "linear"> (x, , s)
        [up_2] z = Resize <mode = "linear"> (x, , s)
    }}"""
    pass_ = SetAttributes("up_1", "Resize", set={"mode": "nearest"}, constants={"scales": [1, 1, 3, 3]})
    applied = apply(pass_, shared)
    got = session.run(applied.model.proto, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)})
    np.testing.assert_array_equal(got["y"], np.arange(4).reshape(1, 1, 2, 2).repeat(3, 2).repeat(3, 3))
    assert got["z"].shape == (1, 1, 4, 4)
    assert apply_pass(pass_, applied.model).model.fingerprint == applied.model.fingerprint


def test_a_pattern_and_an_operator_choose_the_nodes_inside_bodies_too() -> None:
    def body(axis: int) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2, 2] x) => (float[2, 2] y) {{
            [if] y = If (c) <
                then_branch = t () => (float[2, 2] a) {{ [soft_1] a = Softmax <axis = {axis}> (x) }},
                else_branch = e () => (float[2, 2] b) {{ [soft_log] b = LogSoftmax <axis = 1> (x) }}
            >
        }}"""

    assert_rewrites(SetAttributes("soft*", "Softmax", set={"axis": 0}), body(1), body(0), outputs_agree=False)


def test_the_outputs_of_a_loop_body_keep_their_types() -> None:
    def loop(alpha: float) -> onnx.ModelProto:
        text = f"""
        {HEAD}
        g (float[2] x) => (float[N, 2] y) <int64 n = {{2}}> {{
            [loop] y = Loop (n, n) <body = b (int64 i, bool c) => (bool d, float[2] e) {{
                [same] d = Identity (c)
                [act] e = Elu <alpha = {alpha}> (x)
            }}>
        }}"""
        model = parse(text)
        model.graph.node[0].input[1] = ""  # which the parser takes for no input at all
        body = model.graph.node[0].attribute[0].g
        body.value_info.append(body.output[1])
        return model

    assert_rewrites(SetAttributes("act", set={"alpha": 2.0}), loop(1.0), loop(2.0), outputs_agree=False)


def test_a_name_that_is_also_a_pattern_means_itself() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ [a] b = Elu <alpha = 1.0> (x) y = Elu <alpha = 1.0> (b) }}"
    model = parse(text)
    model.graph.node[0].name, model.graph.node[1].name = "act[0]", "act0"
    got = apply_pass(SetAttributes("act[0]", set={"alpha": 2.0}), Model(model)).model.proto
    assert [node.attribute[0].f for node in got.graph.node] == [2.0, 1.0]


def test_a_node_without_a_name_goes_by_its_first_output() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Elu <alpha = 1.0> (x) }}"
    assert apply(SetAttributes("y", set={"alpha": 3.0}), text).model.proto.graph.node[0].attribute[0].f == 3.0


def test_makes_an_input_that_was_left_out_a_constant_of_the_only_type_allowed() -> None:
    text = f"{HEAD} g (float[2, 3] x) => (float[R, S] y) {{ [sum] y = ReduceSum (x) }}"
    proto = apply(SetAttributes("sum", constants={"axes": [1]}), text).model.proto
    np.testing.assert_array_equal(session.run(proto, {"x": np.ones((2, 3), np.float32)})["y"], [[3], [3]])


def test_a_number_fills_a_constant_and_a_list_takes_its_shape() -> None:
    text = f"{HEAD} g (float[2, 3] x) => (float[2, 3] y) <float[2, 1] w = {{1, 2}}> {{ [add] y = Add (x, w) }}"
    x = np.zeros((2, 3), np.float32)
    for value, expected in ((5, [[5] * 3, [5] * 3]), ([7.5, 8], [[7.5] * 3, [8] * 3])):
        proto = apply(SetAttributes("add", constants={"1": value}), text).model.proto
        np.testing.assert_array_equal(session.run(proto, {"x": x})["y"], expected)


def test_sets_what_it_is_told_on_an_operator_that_onnx_does_not_know() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ [c] y = my.Custom <k = 1> (x) }}"
    (node,) = apply(SetAttributes("c", set={"k": 2, "name": "fast"}), text).model.proto.graph.node
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"k": 2, "name": b"fast"}


@pytest.mark.parametrize(
    ("pass_", "message"),
    [
        (SetAttributes("poll", set={"pads": [0]}), "no node is called 'poll'. Nearest: pool"),
        (SetAttributes("pool", "MaxPol", set={"pads": [0]}), "the graph has no MaxPol node. Nearest: MaxPool"),
        (SetAttributes("out", "MaxPool", set={"pads": [0]}), "no MaxPool node is called 'out'"),
        (SetAttributes("pool", set={"kernel": [2, 2]}), r"no attribute 'kernel' there. Nearest: kernel_shape"),
        (SetAttributes("pool", delete=("stride",)), r"no attribute 'stride' there. Nearest: strides"),
        (SetAttributes("pool", set={"kernel_shape": 2}), "'kernel_shape' is of type INTS, not INT"),
        (SetAttributes("pool", set={"kernel_shape": [2.5, 2.5]}), "'kernel_shape' is of type INTS, not FLOATS"),
        (SetAttributes("pool", set={"ceil_mode": True}), "'ceil_mode' is of type INT, not BOOL"),
        (SetAttributes("pool", set={"auto_pad": 1}), "'auto_pad' is of type STRING, not INT"),
        (SetAttributes("pool", delete=("kernel_shape",)), "'kernel_shape' is required"),
        (SetAttributes("pool", constants={"scales": 1}), "it has no input 'scales'"),
        (SetAttributes("pool", constants={"3": 1}), "it has no input '3'"),
    ],
)
def test_says_what_is_wrong_with_an_option(pass_: SetAttributes, message: str) -> None:
    with pytest.raises(PassError, match=message):
        apply(pass_, pool("kernel_shape = [2, 2], strides = [2, 2]"))


@pytest.mark.parametrize(
    ("value", "message"),
    [([1, 2, 3], "2x1: 2 numbers are needed, not 3"), (1.5, "of type int64, which can't hold 1.5")],
)
def test_refuses_a_constant_that_does_not_fit(value: Any, message: str) -> None:
    text = f"{HEAD} g (int64[2, 3] x) => (int64[2, 3] y) <int64[2, 1] w = {{1, 2}}> {{ [add] y = Add (x, w) }}"
    with pytest.raises(PassError, match=message):
        apply(SetAttributes("add", constants={"B": value}), text)


def test_refuses_a_constant_whose_type_nothing_tells() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ [clip] y = Clip (x) }}"
    with pytest.raises(PassError, match="'max' has no known type"):
        apply(SetAttributes("clip", constants={"max": 1.0}), text)


def test_refuses_a_value_that_a_recipe_can_not_write() -> None:
    text = f"{HEAD} g (int64[1] n) => (float[N] y) {{ [fill] y = ConstantOfShape (n) }}"
    with pytest.raises(PassError, match="'value' is a TENSOR"):
        apply(SetAttributes("fill", set={"value": 1}), text)


def test_needs_something_to_do() -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        SetAttributes("pool")
    with pytest.raises(ValueError, match="delete and set both name 'pads'"):
        SetAttributes("pool", set={"pads": [0]}, delete=("pads",))


def test_its_options_are_read_from_a_recipe_as_they_stand() -> None:
    options = '{"nodes": "a", "set": {"i": 1, "f": 1.5, "s": "x", "is": [1], "fs": [1.5, 2]}, "constants": {"0": [1]}}'
    read = TypeAdapter(SetAttributes).validate_json(options, strict=True)
    assert read == SetAttributes(
        "a", set={"i": 1, "f": 1.5, "s": "x", "is": [1], "fs": [1.5, 2.0]}, constants={"0": [1]}
    )
    assert [type(value) for value in read.set.values()] == [int, float, str, list, list]
    with pytest.raises(ValidationError):
        TypeAdapter(SetAttributes).validate_json('{"nodes": "a", "set": {"i": {"x": 1}}}', strict=True)


CHANGES: list[dict[str, Any]] = [
    {"op": "LeakyRelu", "set": {"alpha": 0.3}},
    {"op": "LeakyRelu", "set": {"alpha": 1}},
    {"op": "LeakyRelu", "delete": ("alpha",)},
    {"op": "Softmax", "set": {"axis": 0}},
    {"op": "Softmax", "delete": ("axis",)},
    {"op": "MaxPool", "set": {"strides": [2, 1], "auto_pad": "SAME_UPPER"}, "delete": ("pads",)},
    {"op": "MaxPool", "set": {"kernel_shape": [1, 2], "pads": [0, 0, 0, 1]}},
    {"op": "MaxPool", "delete": ("strides", "pads")},
    {"op": "Transpose", "set": {"perm": [1, 0, 3, 2]}},
    {"op": "Concat", "set": {"axis": 2}},
    {"op": "Add", "constants": {"1": 2.5}},
    {"op": "Add", "constants": {"B": 0}},
    {"op": "Reshape", "constants": {"shape": [1, -1]}},
]


def any_layers(build: Builder, wanted: str) -> list[str]:
    x = build.input([2, 2, build.integer(2, 4), build.integer(2, 4)])
    made = [x]
    more = [build.choice(["LeakyRelu", "Softmax", "Transpose", "Concat", "Add"]) for _ in range(build.integer(0, 3))]
    for op in [*more[1:], wanted, *more[:1]]:
        read = build.choice(made[-2:])
        if op == "LeakyRelu":
            made.append(build.node(op, [read], alpha=build.choice([None, 0.3, 0.5])))
        elif op == "Softmax":
            made.append(build.node(op, [read], axis=build.choice([None, 0, 1])))
        elif op == "MaxPool":
            strides, pads = build.choice([None, [1, 1], [2, 1]]), build.choice([None, [0, 0, 0, 1], [1, 0, 0, 0]])
            made.append(build.node(op, [read], kernel_shape=[1 + bool(pads), 2], strides=strides, pads=pads))
        elif op == "Transpose":
            made.append(build.node(op, [read], perm=build.choice([None, [0, 1, 2, 3], [1, 0, 3, 2]])))
        elif op == "Concat":
            made.append(build.node(op, [read, read], axis=build.integer(0, 3)))
        elif op == "Add":
            shape = build.choice([[1], [1, 1, 1], []])
            other = build.choice([build.weight(shape), build.constant(build.values(shape)), read])
            made.append(build.node(op, [read, other]))
        else:
            made.append(build.node(op, [read, build.constant(np.array([0, 0, -1, 1]))]))
    return made[1:][-2:]


def edited(model: onnx.ModelProto, pass_: SetAttributes) -> onnx.ModelProto:
    """Return what `pass_` is to make of a model, edited by plain means: a constant input becomes a Constant node."""
    model = copy.deepcopy(model)
    graphs = [model.graph, *(body for node in walk_protos(model.graph) for body in bodies(node))]
    defaults = {info.name for info in model.graph.input}
    held = {t.name: list(t.dims) for graph in graphs for t in graph.initializer if t.name not in defaults}
    held |= {n.output[0]: list(n.attribute[0].t.dims) for n in walk_protos(model.graph) if n.op_type == "Constant"}
    for graph in graphs:
        del graph.value_info[:]
        for place, node in reversed(list(enumerate(graph.node))):
            if pass_.op != node.op_type or not fnmatch.fnmatchcase(node.name, pass_.nodes):
                continue
            schema = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
            kept = [a for a in node.attribute if a.name not in pass_.delete and a.name not in pass_.set]
            written = [
                onnx.helper.make_attribute(
                    name, float(value) if schema.attributes[name].type == onnx.defs.OpSchema.AttrType.FLOAT else value
                )
                for name, value in pass_.set.items()
            ]
            del node.attribute[:]
            node.attribute.extend([*kept, *written])
            for value in pass_.constants.values():
                shape = held.get(node.input[1], [])
                dtype = np.int64 if node.op_type == "Reshape" else np.float32
                array = np.array(value, dtype) if isinstance(value, list) else np.full(shape, value, dtype)
                made = onnx.helper.make_node("Constant", [], [f"{node.output[0]}_set"])
                made.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(
                    onnx.numpy_helper.from_array(array)
                )
                node.input[1] = made.output[0]
                graph.node.insert(place, made)
    return model


def lines(model: onnx.ModelProto, inputs: bool) -> set[str]:
    """Return every node but Constants as a line, `inputs` without the second one and further ones or with them."""
    found = set()
    for node in walk_protos(model.graph):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.HasField("g")}
        if node.op_type != "Constant":
            read = list(node.input if inputs else node.input[:1])
            found.add(f"{node.name} {node.op_type} {read} {list(node.output)} {sorted(attributes.items())}")
    return found


def does_what_it_says(draw: Draw) -> str:
    """Draw a model and a change; assert that the pass makes that change and no other."""

    change = CHANGES[draw(0, len(CHANGES) - 1)]
    pass_ = SetAttributes(["*", "t*", "t?_node*"][draw(0, 2)], **change)
    _, case = Fuzzed(pass_, lambda build: any_layers(build, change["op"])).draw(draw)
    if case is None:
        return "no valid model"
    try:
        after = apply_pass(pass_, Model(case.model)).model
    except PassError as error:
        if error.__cause__ is not None:  # the pass did not say so itself: it crashed
            raise AssertionError(f"{error}\n{case}") from error
        return "stopped"
    plain = edited(case.model, pass_)
    story = f"{pass_}\n{case}\n--- after\n{onnx.printer.to_text(after.proto)}"
    assert lines(after.proto, not pass_.constants) <= lines(plain, not pass_.constants), story
    assert apply_pass(pass_, after).model.fingerprint == after.fingerprint, story
    try:
        onnx.checker.check_model(plain, full_check=True)
        expected = session.run(plain, case.inputs)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, GraphSurgeryError):
        return "not comparable"
    onnx.checker.check_model(after.proto, full_check=True)
    try:
        assert_same_values(expected, session.run(after.proto, case.inputs))
    except (AssertionError, GraphSurgeryError) as error:
        raise AssertionError(f"{error}\n{story}") from error
    return "changed" if lines(after.proto, True) - lines(case.model, True) else "as it was"


def test_any_change_is_made_and_no_other() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def explore(data: st.DataObject) -> None:
        outcomes[does_what_it_says(lambda low, high: data.draw(st.integers(low, high)))] += 1

    explore()
    assert outcomes["changed"] > 5, outcomes
