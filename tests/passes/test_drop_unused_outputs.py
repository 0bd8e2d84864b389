import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_unused_outputs import DropUnusedOutputs
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHTS = (
    f"float[1, 4, 3] w = {{{', '.join(['0.5'] * 12)}}}",
    f"float[1, 4, 1] r = {{{', '.join(['0.25'] * 4)}}}",
)
STATISTICS = "float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 1}, float[2] v = {1, 1}"


def pool(written: str, rest: str = "") -> str:
    return f"""
        {HEAD}
        g (float[1, 2, 8, 8] x) => (float[1, 2, 4, 4] y{rest}) {{
            {written} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
        }}"""


def lstm(written: str, output: str) -> str:
    return f"""
        {HEAD}
        g (float[5, 2, 3] x) => ({output}) <{", ".join(WEIGHTS)}> {{
            {written} = LSTM <hidden_size = 1> (x, w, r)
        }}"""


def batchnorm(written: str, opset: int, attributes: str = "") -> str:
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[1, 2, 4] x) => (float[1, 2, 4] y) <{STATISTICS}> {{
            {written} = BatchNormalization {attributes} (x, s, b, m, v)
        }}"""


def test_indices_that_nothing_reads_go() -> None:
    assert_rewrites(DropUnusedOutputs(), pool("y, indices"), pool("y"))


def test_indices_that_an_unused_node_reads_go() -> None:
    before = pool("y, indices").replace("(x)\n", "(x)\n unused = Cast <to = 1> (indices)\n")
    assert "unused" in before
    assert_rewrites(DropUnusedOutputs(), before, pool("y"))


def test_those_behind_the_last_one_that_is_read_are_cut_off() -> None:
    output = "float[5, 1, 2, 1] y"
    assert_rewrites(DropUnusedOutputs(), lstm("y, h, c", output), lstm("y", output))


def test_those_before_one_that_is_read_lose_their_name() -> None:
    output = "float[1, 2, 1] h"
    got = apply_pass(DropUnusedOutputs(), Model(parse(lstm("y, h, c", output)))).model.proto
    assert list(got.graph.node[0].output) == ["", "h"]
    assert_rewrites(DropUnusedOutputs(), lstm("y, h, c", output), got)


def test_one_that_only_a_body_reads_stays() -> None:
    text = f"""
        {HEAD}
        g (bool c, float[1, 1, 2, 2] x) => (float[1, 1, 1, 1] y, int64[1, 1, 1, 1] z) {{
            y, indices = MaxPool <kernel_shape = [2, 2]> (x)
            z = If (c) <
                then_branch = t () => (int64[1, 1, 1, 1] p) {{ p = Neg (indices) }},
                else_branch = e () => (int64[1, 1, 1, 1] q) {{ q = Abs (indices) }}
            >
        }}"""
    assert_untouched(DropUnusedOutputs(), text, None)


def test_one_inside_a_body_goes_too() -> None:
    def body(written: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[1, 1, 2, 2] x) => (float[1, 1, 1, 1] y) {{
            y = If (c) <
                then_branch = t () => (float[1, 1, 1, 1] p) {{ {written} = MaxPool <kernel_shape = [2, 2]> (x) }},
                else_branch = e () => (float[1, 1, 1, 1] q) {{ q = GlobalAveragePool (x) }}
            >
        }}"""

    assert_rewrites(DropUnusedOutputs(), body("p, indices"), body("p"))


def test_an_output_of_the_model_stays() -> None:
    assert_untouched(DropUnusedOutputs(), pool("y, indices", ", int64[1, 2, 4, 4] indices"), None)


@pytest.mark.parametrize(
    "nodes",
    [
        "y, other = Split <axis = 1> (x)",  # their number says into how many pieces
        "values, y = TopK <axis = 1> (x, k)",  # required
        "y, other = mine.MaxPool (x)",
    ],
)
def test_required_and_foreign_outputs_stay(nodes: str) -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, "mine": 1]>
        g (float[1, 4] x) => (y) <int64[1] k = {{2}}> {{ {nodes} }}"""
    model = Model(parse(text))
    assert apply_pass(DropUnusedOutputs(), model).model.proto.graph.node == model.proto.graph.node


def test_a_norm_that_does_not_train_loses_its_statistics() -> None:
    got = apply_pass(DropUnusedOutputs(), Model(parse(batchnorm("y, mean, var", 15)))).model.proto
    onnx.checker.check_model(got, full_check=True)  # before, it was not valid
    assert list(got.graph.node[0].output) == ["y"]


@pytest.mark.parametrize(
    ("written", "opset", "attributes"),
    [("y, m2, v2, m3, v3", 9, ""), ("y, m2, v2, m3, v3", 13, ""), ("y, m2, v2", 14, "<training_mode = 1>")],
)
def test_a_norm_that_trains_keeps_them(written: str, opset: int, attributes: str) -> None:
    assert_untouched(DropUnusedOutputs(), batchnorm(written, opset, attributes), "it trains")


def attention(written: str, past: str = "", more: str = "") -> str:
    return f"""
        <ir_version: 11, opset_import: ["": 23]>
        g (float[1, 2, 3, 4] q, float[1, 2, 3, 4] k, float[1, 2, 3, 4] v{more}) => (float[1, 2, 3, 4] y) {{
            {written} = Attention (q, k, v{past})
        }}"""


def test_attention_without_a_past_loses_its_present() -> None:
    assert_rewrites(DropUnusedOutputs(), attention("y, key, value"), attention("y"))


def test_attention_with_a_past_keeps_its_present() -> None:
    more = ", float[1, 2, 3, 4] pk, float[1, 2, 3, 4] pv"
    assert_untouched(DropUnusedOutputs(), attention("y, key, value", ", , pk, pv", more), "it reads the past")


@fuzz(DropUnusedOutputs(), opsets=(9, 11, 13, 17, 18, 21, 23))
def test_any_output_that_nothing_reads_can_go(build: Builder) -> list[str]:
    kind = build.choice(["MaxPool", "LSTM", "GRU", "Dropout", "LayerNormalization", "Unique", "BatchNormalization"])
    x = build.input([build.integer(1, 3), build.integer(1, 3), build.integer(2, 4)], scale=0.5)
    size = build.integer(1, 3)
    if kind == "MaxPool":
        outputs = build.node("MaxPool", [x], outputs=2, kernel_shape=[2])
    elif kind in ("LSTM", "GRU"):
        features = build.integer(1, 3)
        x = build.input([build.integer(1, 3), 2, features], scale=0.5)
        gates = 4 if kind == "LSTM" else 3
        weights = [build.weight([1, gates * size, n], scale=0.25) for n in (features, size)]
        outputs = build.node(kind, [x, *weights], outputs=gates - 1, hidden_size=size)
    elif kind == "Dropout":
        outputs = build.node("Dropout", [x], outputs=2)
    elif kind == "LayerNormalization" and build.opset >= 17:
        outputs = build.node(kind, [x, build.constant(np.float32(2))], outputs=build.choice([2, 3]))
    elif kind == "Unique" and build.opset >= 11:
        outputs = build.node("Unique", [x], outputs=build.choice([2, 3, 4]))
    elif kind == "BatchNormalization":
        y = build.node("Transpose", [x], perm=[0, 2, 1]) if build.chance(2) else x
        trains = 1 if build.opset >= 14 else None
        ones = [build.constant(np.ones(3, np.float32)) for _ in range(4)]
        outputs = build.node(kind, [y, *ones], outputs=3 if trains else 5, training_mode=trains)
    else:
        outputs = build.node("Split", [x], outputs=2, axis=2)
    read = [name for name in outputs if build.chance(2)]
    return [*(build.node("Shape", [name]) if build.chance(3) else name for name in read), outputs[0]][: len(read) or 1]
