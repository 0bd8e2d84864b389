import numpy as np
import pytest
from onnx import ModelProto

from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def test_readers_read_what_the_identity_read() -> None:
    assert_rewrites(
        DropIdentity(),
        f"""
        {HEAD}
        g (float[2] x) => (float[2] y, float[2] z) {{
            a = Identity (x)
            b = Identity (a)
            y = Relu (b)
            z = Add (b, a)
        }}""",
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ y = Relu (x) z = Add (x, x) }}",
    )


def test_an_output_is_written_by_what_wrote_the_input_of_the_identity() -> None:
    assert_rewrites(
        DropIdentity(),
        f"""
        {HEAD}
        g (float[2] x) => (float[2] y, float[2] z) {{
            a = Relu (x)
            y = Identity (a)
            z = Neg (a)
        }}""",
        f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ y = Relu (x) z = Neg (y) }}",
    )


def annotated(nodes: str, notes: dict[str, str], outputs: str = "float[2] y") -> ModelProto:
    """Return a model with quantization annotations: a tensor and the initializer that is its scale."""
    scales = "float[1] s = {1}, float[1] t = {2}"
    proto = parse(f"{HEAD} g (float[2] x) => ({outputs}) <{scales}> {{ {nodes} }}")
    for name, scale in notes.items():
        note = proto.graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=scale)
    return proto


def notes(proto: ModelProto) -> dict[str, str]:
    return {n.tensor_name: n.quant_parameter_tensor_names[0].value for n in proto.graph.quantization_annotation}


@pytest.mark.parametrize(
    ("nodes", "before", "after"),
    [
        ("a = Relu (x)  b = Identity (a)  y = Neg (b)", {"b": "s"}, {"a": "s"}),
        ("a = Relu (x)  b = Identity (a)  y = Neg (b)", {"a": "s"}, {"a": "s"}),
        ("a = Relu (x)  b = Identity (a)  y = Neg (b)", {"a": "s", "b": "s", "y": "t"}, {"a": "s", "y": "t"}),
        ("a = Relu (x)  y = Identity (a)", {"a": "s"}, {"y": "s"}),
        ("a = Relu (x)  y = Identity (a)", {"y": "s", "x": "t"}, {"y": "s", "x": "t"}),
        ("b = Identity (x)  y = Neg (b)", {"b": "s", "nowhere": "t"}, {"x": "s", "nowhere": "t"}),
    ],
)
def test_a_quantization_annotation_goes_to_what_is_left(
    nodes: str, before: dict[str, str], after: dict[str, str]
) -> None:
    got = apply_pass(DropIdentity(), Model(annotated(nodes, before))).model.proto
    assert "Identity" not in [node.op_type for node in got.graph.node]
    assert notes(got) == after
    assert [tensor.name for tensor in got.graph.initializer] == ["s", "t"], "nothing but an annotation names them"


def test_leaves_one_alone_whose_ends_have_annotations_that_differ() -> None:
    proto = annotated("a = Relu (x)  b = Identity (a)  y = Neg (b)", {"a": "s", "b": "t"})
    assert_untouched(DropIdentity(), proto, "quantization annotations that differ")


def test_an_initializer_is_read_directly() -> None:
    assert_rewrites(
        DropIdentity(),
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ v = Identity (w) y = Add (x, v) }}",
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add (x, w) }}",
    )


def test_one_that_is_read_in_a_body_goes_too() -> None:
    def model(nodes: str, read: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            {nodes}
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Neg ({read}) }},
                else_branch = e () => (float[2] q) {{ q = Abs ({read}) }}
            >
        }}"""

    assert_rewrites(DropIdentity(), model("a = Identity (x)", "a"), model("", "x"))


def test_one_inside_a_body_goes_too() -> None:
    def model(then: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            y = If (c) <
                then_branch = t () => (float[2] p) {{ {then} }},
                else_branch = e () => (float[2] q) {{ q = Abs (x) }}
            >
        }}"""

    before = model("a = Identity (x) b = Neg (a) p = Identity (b)")
    assert_rewrites(DropIdentity(), before, model("p = Neg (x)"))


def test_a_tensor_from_outside_is_returned_by_a_body_through_an_identity() -> None:
    text = f"""
        {HEAD}
        g (bool c, float[2] x) => (float[2] y) {{
            a = Relu (x)
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Identity (a) }},
                else_branch = e () => (float[2] q) {{ q = Abs (a) }}
            >
        }}"""
    assert_untouched(DropIdentity(), text, "its input is not written in the same graph")


def test_an_output_that_is_an_input_needs_its_identity() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Identity (x) }}"
    assert_untouched(DropIdentity(), text, "its input is not written in the same graph")


def test_an_output_that_is_an_initializer_needs_its_identity() -> None:
    text = f"{HEAD} g () => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Identity (w) }}"
    assert_untouched(DropIdentity(), text, "its input is not written in the same graph")


def test_one_between_two_outputs_stays() -> None:
    text = f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ y = Relu (x) z = Identity (y) }}"
    assert_untouched(DropIdentity(), text, "both graph outputs")


def test_one_of_two_that_make_outputs_of_one_tensor_stays() -> None:
    before = f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ a = Relu (x) y = Identity (a) z = Identity (a) }}"
    after = f"{HEAD} g (float[2] x) => (float[2] y, float[2] z) {{ y = Relu (x) z = Identity (y) }}"
    assert_rewrites(DropIdentity(), before, after)


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = """
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[2] x) => (float[2] y) { a = mine.Identity (x) y = Relu (a) }"""
    assert_untouched(DropIdentity(), text, None)


@fuzz(DropIdentity())
def test_any_identity_can_go(build: Builder) -> list[str]:
    shape, dtype = build.shape(rank=(0, 3)), build.dtype((np.float32, np.int64, np.float16))
    known = [build.input(shape, dtype), build.weight(shape, dtype)]
    for _ in range(build.integer(1, 6)):
        op = build.choice(["Identity", "Identity", "Neg", "Add"]) if build.opset >= 13 else "Identity"
        known.append(build.node(op, [build.choice(known[::-1]) for _ in range(2 if op == "Add" else 1)]))
    return [known[-1], build.choice(known[2:])]
