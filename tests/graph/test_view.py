from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model
from graphsurgery.graph.view import table, to_graph, to_proto
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
PLAIN = f"""
    {HEAD}
    g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
        c = Constant <value = float[2] {{3, 4}}> ()
        a = Add (x, w)
        y = Add (a, c)
    }}"""


def assert_comes_back(proto: ModelProto) -> None:
    """Every byte counts: a field that was set to its default is set still."""
    back = to_proto(to_graph(proto))
    assert back == proto, f"\n{proto}\n-----\n{back}"
    assert back.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)


def edited(text: str, change: Callable[[ModelProto], None]) -> ModelProto:
    proto = parse(text)
    change(proto)
    return proto


def node(proto: ModelProto, output: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if output in n.output)


def tensor(graph: gs.Graph, name: str) -> gs.Tensor:
    nodes = list(graphs.walk_nodes(graph))
    return next(t for n in nodes for t in (*n.outputs, *n.inputs) if t.name == name)


def initializers(proto: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


# --- what goes in comes out ---------------------------------------------------------------------------------------


def test_notes_and_doc_strings_come_back() -> None:
    proto = parse(PLAIN)
    proto.doc_string, proto.graph.doc_string, proto.graph.node[1].doc_string = "model", "graph", "node"
    proto.graph.input[0].doc_string, proto.graph.initializer[0].doc_string = "value", "tensor"
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "p", "1", "d", 7
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])
    proto.graph.value_info.append(value)
    for holder in (proto, proto.graph, proto.graph.node[1], proto.graph.value_info[0], proto.graph.output[0]):
        holder.metadata_props.add(key="k", value="v")
    node(proto, "c").attribute[0].doc_string = "attribute"
    assert_comes_back(proto)


@pytest.mark.parametrize("written", [True, False])
def test_a_name_comes_back_empty_or_not_written_at_all(written: bool) -> None:
    proto = parse(PLAIN)
    for holder in (proto.graph, *proto.graph.node):
        for field in ("name", "doc_string"):
            holder.ClearField(field)
            if written:
                setattr(holder, field, "")
    for each in proto.graph.node:
        each.ClearField("domain")
        if written:
            each.domain = ""
    assert_comes_back(proto)


def test_omitted_inputs_and_outputs_come_back() -> None:
    proto = parse(
        f"""{HEAD}
        g (float[1, 3, 4, 4] x, float[4] s) => (float[1, 3, 8, 8] y, float[8] h) {{
            y = Resize (x, "", s)
            "", h = MyLSTM (x, "", "", x)
        }}"""
    )
    assert list(node(proto, "h").output) == ["", "h"]
    assert_comes_back(proto)


def attributes() -> dict[str, AttributeProto]:
    dense = numpy_helper.from_array(np.array([1.0], np.float32), "t")
    where = numpy_helper.from_array(np.array([0], np.int64), "i")
    sparse = helper.make_sparse_tensor(dense, where, [3])
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1, "n"])
    graph = parse(f"{HEAD} b () => (float[1] o) {{ o = Constant <value_floats = [1.0]> () }}").graph
    made = {
        "float": 1.5,
        "nan": float("nan"),
        "int": -(2**63),
        "string": "text",
        "empty_string": "",
        "bytes": b"\xff\xfe\x00",
        "tensor": dense,
        "floats": [0.5, float("nan")],
        "ints": [1, 2],
        "strings": ["a", b"\xff"],
        "tensors": [dense, dense],
        "sparse": sparse,
        "sparses": [sparse],
        "type": kind,
        "types": [kind],
        "graph": graph,
        "graphs": [graph, graph],
    }
    found = {name: helper.make_attribute("a", value) for name, value in made.items()}
    empties = ("FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS", "SPARSE_TENSORS", "TYPE_PROTOS")
    found |= {
        f"empty_{kind}": AttributeProto(name="a", type=AttributeProto.AttributeType.Value(kind)) for kind in empties
    }
    return found


@pytest.mark.parametrize("kind", attributes())
def test_an_attribute_comes_back(kind: str) -> None:
    attribute = attributes()[kind]
    attribute.doc_string = "what it is"
    proto = edited(
        '<ir_version: 10, opset_import: ["": 17, "my": 1]> g (float[1] x) => (float[1] y) { y = my.Op (x) }',
        lambda p: p.graph.node[0].attribute.append(attribute),
    )
    assert_comes_back(proto)


@pytest.mark.parametrize(
    "data_type",
    [t for t in TensorProto.DataType.values() if t not in (TensorProto.UNDEFINED, TensorProto.STRING)],
)
@pytest.mark.parametrize("dims", [[], [0], [2, 0], [2, 2]])
def test_a_tensor_comes_back_also_when_its_values_were_read(data_type: int, dims: list[int]) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = np.ones(dims, np.float32).astype(dtype)
    stored = numpy_helper.from_array(values, "w")
    stored.data_type = data_type
    proto = parse(f"{HEAD} g (float[1] x) => (float[1] y) {{ y = MyOp (x, w) }}")
    proto.graph.initializer.append(stored)
    assert_comes_back(proto)
    graph = to_graph(proto)
    wide = np.complex128 if dtype.kind == "c" else np.float32
    np.testing.assert_array_equal(tensor(graph, "w").values.astype(wide), values.astype(wide))
    assert to_proto(graph) == proto


def test_a_changed_low_precision_tensor_keeps_its_type() -> None:
    kinds = [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT16]
    for kind in kinds:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        proto = parse(f"{HEAD} g (float[1] x) => (float[1] y) {{ y = MyOp (x, w) }}")
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32).astype(dtype), "w"))
        graph = to_graph(proto)
        tensor(graph, "w").values[1] = 2
        back = to_proto(graph).graph.initializer[0]
        assert back.data_type == kind
        np.testing.assert_array_equal(numpy_helper.to_array(back).astype(np.float32), [1, 2, 1])


def test_string_tensors_come_back() -> None:
    proto = parse(f"{HEAD} g (float[1] x) => (float[1] y) {{ y = MyOp (x, w) }}")
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], ["a", "ü"]))
    assert_comes_back(proto)
    graph = to_graph(proto)
    assert len(tensor(graph, "w").values) == 2
    assert to_proto(graph) == proto


def test_values_in_typed_fields_come_back_as_they_were() -> None:
    proto = parse(PLAIN)
    assert proto.graph.initializer[0].float_data
    graph = to_graph(proto)
    assert tensor(graph, "w").values.tolist() == [1, 2]
    assert to_proto(graph) == proto


def test_an_ir_3_model_keeps_its_initializers_among_its_inputs() -> None:
    proto = parse(PLAIN.replace("ir_version: 8", "ir_version: 3"))
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    assert_comes_back(proto)
    onnx.checker.check_model(to_proto(to_graph(proto)))
    assert isinstance(tensor(to_graph(proto), "w"), gs.Variable)


def test_unused_initializers_and_stale_types_come_back() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "spare"))
    for name in ("nothing", "w", "a", "y", "x"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))
    assert_comes_back(proto)


def test_types_without_shape_or_of_sequences_come_back() -> None:
    proto = parse(PLAIN)
    info = proto.graph.value_info.add(name="a")
    info.type.tensor_type.elem_type = TensorProto.FLOAT
    proto.graph.value_info.add(name="c")  # no type at all
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["n", None])
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["a"], ["s"]))
    proto.graph.value_info.append(sequence)
    named = helper.make_tensor_value_info("q", TensorProto.FLOAT, [1, "n", None])
    named.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    named.type.denotation = "IMAGE"
    proto.graph.input.append(named)
    assert_comes_back(proto)


def sparse_model() -> ModelProto:
    proto = parse(f"{HEAD} g (float[3] x) => (float[3] y) {{ y = Add (x, s) }}")
    values = numpy_helper.from_array(np.array([5.0], np.float32), "s")
    where = numpy_helper.from_array(np.array([1], np.int64), "")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [3]))
    return proto


def test_sparse_initializers_come_back() -> None:
    assert_comes_back(sparse_model())


def test_quantization_annotations_and_training_information_come_back() -> None:
    proto = parse(PLAIN)
    note = proto.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    training = proto.training_info.add()
    training.algorithm.CopyFrom(parse(PLAIN).graph)
    training.update_binding.add(key="w", value="y")
    assert_comes_back(proto)


def test_an_annotation_is_written_while_its_tensor_is_there_and_keeps_its_parameters() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "scale"))
    proto.graph.node.append(helper.make_node("Mul", ["a", "scale"], ["b"]))
    for name in ("a", "w", "nothing"):
        note = proto.graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    graph = to_graph(proto)
    graphs.drop_unused(graph)  # the Mul, which alone reads the scale
    back = to_proto(graph)
    assert [note.tensor_name for note in back.graph.quantization_annotation] == ["a", "w", "nothing"]
    assert "scale" in initializers(back)
    graphs.set_inputs(graph.nodes[1], [graph.inputs[0], graph.inputs[0]])
    back = to_proto(graph)
    assert [note.tensor_name for note in back.graph.quantization_annotation] == ["a", "nothing"]
    graphs.set_outputs(graph.nodes[1], [gs.Variable("other")])
    del table(graph).annotations[-1]
    assert set(initializers(to_proto(graph))) == set()


FUNCTION = """
    <ir_version: 8, opset_import: ["": 17, "my": 1, "other": 3]>
    g (float[2] x) => (float[2] y) { y = my.Scale <alpha = 2.0> (x) }
    <domain: "my", opset_import: ["": 17]>
    Scale <alpha> (a) => (b) { k = Constant <value_float: float = @alpha> ()  b = Mul (a, k) }"""


def test_functions_and_several_domains_come_back() -> None:
    proto = parse(FUNCTION)
    assert proto.functions[0].node[0].attribute[0].ref_attr_name == "alpha"
    assert_comes_back(proto)


def test_an_ai_onnx_spelled_out_and_a_model_without_the_standard_domain_come_back() -> None:
    assert_comes_back(
        parse('<ir_version: 8, opset_import: ["ai.onnx": 17]> g (float[1] x) => (float[1] y) { y = Relu (x) }')
    )
    assert_comes_back(
        parse('<ir_version: 8, opset_import: ["my": 2]> g (float[1] x) => (float[1] y) { y = my.Op (x) }')
    )


SHADOW = f"""
    {HEAD}
    g (bool c, float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
        a = Add (x, w)
        y = If (c) <
            then_branch = t () => (float[2] y) <float[2] w = {{10, 20}}> {{ y = Add (x, w) }},
            else_branch = e () => (float[2] a) {{ w = Neg (x)  a = Mul (w, w) }}
        >
    }}"""


def test_names_that_a_body_uses_again_keep_their_own_values() -> None:
    proto = parse(SHADOW)
    assert_comes_back(proto)
    graph = to_graph(proto)
    branch = node_with_bodies(graph).attrs["then_branch"]
    assert branch.nodes[0].inputs[1].values.tolist() == [10, 20]
    assert to_proto(graph) == proto


def node_with_bodies(graph: gs.Graph) -> gs.Node:
    return next(n for n in graph.nodes if graphs.subgraphs(n))


def test_a_body_that_reads_what_an_outer_node_further_down_writes_reads_that_tensor() -> None:
    text = f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Neg (a) }},
                else_branch = e () => (float[2] q) {{ q = Neg (a) }}
            >
            a = Relu (x)
        }}"""
    graph = to_graph(parse(text))
    assert [n.op for n in graph.nodes[1].outputs[0].outputs] == ["Neg", "Neg"]
    assert_comes_back(parse(text))


# --- what a pass changes ------------------------------------------------------------------------------------------


def test_reading_values_changes_nothing_and_writing_them_does() -> None:
    model = Model(parse(PLAIN))
    graph = model.graph()
    for name in ("w", "c"):
        assert graphs.constant(tensor(graph, name)) is not None
    assert Model.of(graph).fingerprint == model.fingerprint
    tensor(graph, "w").values[0] = 9
    after = Model.of(graph)
    assert after.fingerprint != model.fingerprint
    assert initializers(after.proto)["w"].tolist() == [9, 2]
    assert initializers(model.proto)["w"].tolist() == [1, 2]


def test_a_zero_with_another_sign_is_a_change() -> None:
    graph = to_graph(parse(PLAIN.replace("{1, 2}", "{0, 2}")))
    tensor(graph, "w").values[0] = -0.0
    assert np.signbit(initializers(to_proto(graph))["w"][0])


def test_an_attribute_whose_zero_gets_another_sign_is_a_change() -> None:
    graph = to_graph(parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = LeakyRelu <alpha = 0.0> (x) }}"))
    graph.nodes[0].attrs["alpha"] = -0.0
    assert np.signbit(to_proto(graph).graph.node[0].attribute[0].f)


def test_a_tensor_attribute_changed_in_place_is_written() -> None:
    proto = parse(PLAIN)
    node(proto, "c").attribute[0].doc_string = "kept"
    graph = to_graph(proto)
    value = graphs.producer(tensor(graph, "c")).attrs["value"]
    value.values[1] = 7
    attribute = node(to_proto(graph), "c").attribute[0]
    assert numpy_helper.to_array(attribute.t).tolist() == [3, 7]
    assert attribute.doc_string == "kept"
    assert numpy_helper.to_array(node(proto, "c").attribute[0].t).tolist() == [3, 4]


def test_a_changed_initializer_keeps_its_doc_string() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer[0].doc_string = "kept"
    graph = to_graph(proto)
    tensor(graph, "w").values = np.zeros((3, 1), np.float16)
    back = to_proto(graph).graph.initializer[0]
    assert (back.doc_string, back.data_type, list(back.dims)) == ("kept", TensorProto.FLOAT16, [3, 1])


def test_a_list_attribute_changed_in_place_is_written() -> None:
    graph = to_graph(parse(f"{HEAD} g (float[1, 2] x) => (float[2, 1] y) {{ y = Transpose <perm = [0, 1]> (x) }}"))
    graph.nodes[0].attrs["perm"].reverse()
    assert list(to_proto(graph).graph.node[0].attribute[0].ints) == [1, 0]


def test_a_proto_attribute_changed_in_place_leaves_the_model_alone() -> None:
    proto = edited(PLAIN, lambda p: p.graph.node[1].attribute.append(attributes()["type"]))
    expected = proto.SerializeToString()
    graph = to_graph(proto)
    graph.nodes[1].attrs["a"].tp.tensor_type.elem_type = TensorProto.INT8
    assert to_proto(graph).graph.node[1].attribute[0].tp.tensor_type.elem_type == TensorProto.INT8
    assert proto.SerializeToString() == expected


def test_renamed_tensors_keep_their_type_and_values() -> None:
    proto = parse(PLAIN)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [2]))
    graph = to_graph(proto)
    for name in ("x", "w", "a", "y"):
        tensor(graph, name).name = f"new_{name}"
    back = to_proto(graph)
    onnx.checker.check_model(back, full_check=True)
    assert [i.name for i in back.graph.value_info] == ["new_a"]
    assert back.graph.value_info[0].type == proto.graph.value_info[0].type
    assert initializers(back)["new_w"].tolist() == [1, 2]
    assert (back.graph.input[0].name, back.graph.output[0].name) == ("new_x", "new_y")


def test_a_forgotten_type_is_left_out_and_a_changed_one_written() -> None:
    proto = parse(PLAIN)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [2]))
    proto.graph.value_info[0].metadata_props.add(key="k", value="v")
    graph = to_graph(proto)
    a = tensor(graph, "a")
    a.shape = ["n"]
    info = to_proto(graph).graph.value_info[0]
    assert info.type.tensor_type.shape.dim[0].dim_param == "n"
    assert info.metadata_props[0].value == "v"
    a.dtype = a.shape = None
    back = to_proto(graph)
    assert not back.graph.value_info
    onnx.checker.check_model(back, full_check=True)


def test_graphsurgeons_own_to_constant_and_to_variable_are_understood() -> None:
    graph = to_graph(parse(PLAIN))
    a = tensor(graph, "a")
    graphs.detach(graphs.producer(a))
    a.to_constant(np.array([7, 8], np.float32))
    graphs.drop_unused(graph)
    back = to_proto(graph)
    onnx.checker.check_model(back, full_check=True)
    assert initializers(back)["a"].tolist() == [7, 8]

    graph = to_graph(parse(PLAIN))
    w = tensor(graph, "w").to_variable(np.float32, [2])
    graph.nodes.append(gs.Node("Neg", inputs=[graph.inputs[0]], outputs=[w]))
    graphs.sort(graph)
    back = to_proto(graph)
    onnx.checker.check_model(back, full_check=True)
    assert not back.graph.initializer


def test_two_initializers_of_one_name_are_one_when_equal_and_refused_when_not() -> None:
    graph = to_graph(parse(PLAIN))
    for output in ("a", "y"):
        reader = graphs.producer(tensor(graph, output))
        graphs.set_inputs(reader, [reader.inputs[0], gs.Constant("two", np.array([2, 2], np.float32))])
    assert initializers(to_proto(graph))["two"].tolist() == [2, 2]
    tensor(graph, "two").values[0] = 5
    with pytest.raises(ModelError, match="two initializers with different values are called 'two'"):
        to_proto(graph)


def test_an_initializer_that_takes_the_name_of_a_computed_tensor_is_refused() -> None:
    graph = to_graph(parse(PLAIN))
    reader = graphs.producer(tensor(graph, "y"))
    graphs.set_inputs(reader, [reader.inputs[0], gs.Constant("a", np.array([2, 2], np.float32))])
    with pytest.raises(ModelError, match="name of a computed tensor, 'a'"):
        to_proto(graph)


def test_a_new_empty_list_is_written_as_the_operator_declares_it() -> None:
    graph = to_graph(parse(PLAIN))
    graphs.producer(tensor(graph, "y")).op = "ReduceSum"
    graphs.producer(tensor(graph, "y")).attrs["axes"] = []
    with pytest.raises(ModelError, match="'axes' is an empty list"):  # the newest ReduceSum has it as an input
        to_proto(graph)
    graph.nodes[1].op, graph.nodes[1].attrs = "Transpose", {"perm": ()}
    graph.nodes[2].attrs = {}
    assert node(to_proto(graph), "a").attribute[0].type == AttributeProto.INTS


def test_attributes_may_be_numpy_types_and_numbers() -> None:
    graph = to_graph(parse(PLAIN))
    graph.nodes[1].attrs = {"to": np.float16, "n": np.int64(3), "f": np.float32(0.5), "l": np.array([1, 2])}
    got = {a.name: helper.get_attribute_value(a) for a in node(to_proto(graph), "a").attribute}
    assert got == {"to": TensorProto.FLOAT16, "n": 3, "f": 0.5, "l": [1, 2]}


@pytest.mark.parametrize("value", [1, np.int64(1), True, np.bool_(True), np.array(1), np.float32(1), 1.0])
def test_a_float_attribute_may_be_given_as_a_whole_number(value: object) -> None:
    graph = to_graph(parse(PLAIN))
    graph.nodes[1].op, graph.nodes[1].attrs = "Elu", {"alpha": value}
    graphs.set_inputs(graph.nodes[1], [graph.inputs[0]])
    proto = to_proto(graph)
    assert node(proto, "a").attribute[0] == helper.make_attribute("alpha", 1.0)
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("values", [[1, 2.5], (1, 2.5), [np.float32(1), 2.5], np.array([1, 2.5])])
def test_a_list_of_floats_may_hold_whole_numbers(values: object) -> None:
    graph = to_graph(parse(PLAIN))
    graph.nodes[0].attrs = {"value_floats": values}
    assert node(to_proto(graph), "c").attribute[0] == helper.make_attribute("value_floats", [1.0, 2.5])


def test_truth_values_are_whole_numbers_also_in_lists() -> None:
    graph = to_graph(parse(PLAIN))
    graph.nodes[1].op, graph.nodes[1].attrs = "ReduceMax", {"keepdims": False, "axes": [np.int64(0), np.True_]}
    assert {a.name: helper.get_attribute_value(a) for a in node(to_proto(graph), "a").attribute} == {
        "keepdims": 0,
        "axes": [0, 1],
    }


def test_the_kind_of_an_attribute_is_that_of_the_models_operator_set() -> None:
    for opset, kind in ((5, "STRING"), (13, "INT")):
        graph = to_graph(parse(PLAIN.replace('"": 17', f'"": {opset}')))
        graph.nodes[1].op, graph.nodes[1].attrs = "Cast", {"to": 1 if kind == "STRING" else "FLOAT"}
        with pytest.raises(ModelError, match=f"ONNX wants {kind}"):
            to_proto(graph)


def test_the_kind_holds_in_bodies_too() -> None:
    text = f"""{HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Relu (x) }},
                else_branch = e () => (float[2] q) {{ q = Neg (x) }}
            >
        }}"""
    graph = to_graph(parse(text))
    relu = graph.nodes[0].attrs["then_branch"].nodes[0]
    relu.op, relu.attrs = "Elu", {"alpha": 2}
    onnx.checker.check_model(to_proto(graph), full_check=True)


def test_what_a_custom_operator_had_as_a_float_stays_one() -> None:
    text = f"""{HEAD.replace("17", '17, "my": 1')}
        g (float[2] x) => (float[2] y) {{ y = my.Op <a = 2.5, b = 3> (x) }}"""
    graph = to_graph(parse(text))
    graph.nodes[0].attrs.update(a=1, b=4, c=5)
    got = {a.name: a.type for a in to_proto(graph).graph.node[0].attribute}
    assert got == {"a": AttributeProto.FLOAT, "b": AttributeProto.INT, "c": AttributeProto.INT}


@pytest.mark.parametrize(
    ("op", "attrs", "said"),
    [
        ("Squeeze", {"axes": 1}, "ONNX wants INTS"),
        ("Softmax", {"axis": [1]}, "it is a list, and ONNX wants one INT"),
        ("Softmax", {"axis": 1.5}, "ONNX wants INT"),
        ("Elu", {"alpha": "1"}, "ONNX wants FLOAT"),
    ],
)
def test_an_attribute_of_another_kind_is_refused(op: str, attrs: dict[str, object], said: str) -> None:
    graph = to_graph(parse(PLAIN.replace('"": 17', '"": 11')))
    graph.nodes[1].op, graph.nodes[1].attrs = op, attrs
    with pytest.raises(ModelError, match=said):
        to_proto(graph)


def test_an_attribute_that_onnx_has_no_kind_for_is_refused() -> None:
    graph = to_graph(parse(PLAIN))
    graph.nodes[1].name = "n"
    graph.nodes[1].attrs["what"] = object()
    with pytest.raises(ModelError, match=r"node 'n' \(Add\): attribute 'what' can't be"):
        to_proto(graph)


def test_a_type_may_be_given_as_onnx_numbers_it() -> None:
    graph = to_graph(parse(PLAIN))
    tensor(graph, "a").dtype, tensor(graph, "a").shape = TensorProto.BFLOAT16, [2]
    assert to_proto(graph).graph.value_info[0].type.tensor_type.elem_type == TensorProto.BFLOAT16


def test_a_new_domain_gets_the_version_that_the_pass_asks_for() -> None:
    graph = to_graph(parse(PLAIN))
    graph.import_domains.append(helper.make_opsetid("my", 5))
    graph.nodes[1].domain = "my"
    graph.nodes[2].domain = "your"
    versions = {entry.domain: entry.version for entry in to_proto(graph).opset_import}
    assert versions == {"": 17, "my": 5, "your": 1}


def test_an_ir_3_model_with_a_new_initializer_becomes_ir_4() -> None:
    proto = parse('<ir_version: 3, opset_import: ["": 8]> g (float[2] x) => (float[2] y) { y = Neg (x) }')
    graph = to_graph(proto)
    graph.nodes[0].op = "Add"
    graphs.set_inputs(graph.nodes[0], [graph.inputs[0], gs.Constant("one", np.ones(2, np.float32))])
    back = to_proto(graph)
    assert back.ir_version == 4
    onnx.checker.check_model(back)


def test_a_graph_of_graphsurgeons_own_is_written() -> None:
    x, y = gs.Variable("x", np.float32, [2]), gs.Variable("y", np.float32, [2])
    graph = gs.Graph(nodes=[gs.Node("Relu", inputs=[x], outputs=[y])], inputs=[x], outputs=[y], opset=17)
    proto = to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]


@pytest.mark.parametrize("where", ["initializer", "value"])
def test_an_element_type_that_onnx_does_not_know_is_refused(where: str) -> None:
    proto = parse(PLAIN)
    if where == "initializer":
        proto.graph.initializer[0].data_type = 999
    else:
        proto.graph.input[0].type.tensor_type.elem_type = 999
    with pytest.raises(ModelError, match="element type 999"):
        to_graph(proto)


def test_values_that_do_not_fill_the_shape_are_refused_when_asked_for() -> None:
    proto = parse(PLAIN)
    proto.graph.initializer[0].dims[0] = 5
    graph = to_graph(proto)
    assert to_proto(graph) == proto
    with pytest.raises(ModelError, match="tensor 'w' can't be read"):
        graphs.constant(tensor(graph, "w"))


# --- external data ------------------------------------------------------------------------------------------------


@pytest.fixture
def external(tmp_path: Path) -> Path:
    proto = parse(PLAIN)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    return path


def test_external_data_is_not_read_unless_asked_for(external: Path) -> None:
    expected = external.read_bytes()
    model = Model.load(external)
    (external.parent / "m.bin").unlink()
    Model.of(model.graph(), model.folder).save(external)
    assert external.read_bytes() == expected
    with pytest.raises(ModelError, match="tensor 'w' can't be read"):
        graphs.constant(tensor(model.graph(), "w"))


def test_external_values_are_read_and_come_inside_when_changed(external: Path) -> None:
    model = Model.load(external)
    graph = model.graph()
    assert tensor(graph, "w").values.tolist() == [1, 2]
    assert Model.of(graph).fingerprint == model.fingerprint
    tensor(graph, "w").values[0] = 9
    after = to_proto(graph).graph.initializer[0]
    assert after.data_location == TensorProto.DEFAULT
    assert numpy_helper.to_array(after).tolist() == [9, 2]


def test_external_values_of_a_model_without_a_folder_are_refused(external: Path) -> None:
    graph = to_graph(Model.load(external).proto)
    with pytest.raises(ModelError, match="no folder is known"):
        graphs.constant(tensor(graph, "w"))


def test_external_data_that_is_too_short_is_refused(external: Path) -> None:
    (external.parent / "m.bin").write_bytes(b"123")
    with pytest.raises(ModelError, match=r"tensor 'w' is not in 'm\.bin', which has 3 bytes"):
        Model.load(external)
