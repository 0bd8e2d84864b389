import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.passes.inline_if import InlineIf
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
YES, NO = "bool c = {1}", "bool c = {0}"


def model(
    then: str, other: str, weights: str = "", *, x: str = "float[2] x", y: str = "float[2] y", rest: str = ""
) -> str:
    """Return an If of c with these nodes in its branches, whose outputs are p and q."""
    return f"""
        {HEAD}
        g ({x}) => ({y}) {f"<{weights}>" if weights else ""} {{
            y = If (c) <
                then_branch = t () => (float[2] p) {then},
                else_branch = e () => (float[2] q) {other}
            >
            {rest}
        }}"""


def plain(nodes: str, weights: str = "", x: str = "float[2] x", y: str = "float[2] y") -> str:
    return f"{HEAD} g ({x}) => ({y}) {f'<{weights}>' if weights else ''} {{ {nodes} }}"


@pytest.mark.parametrize(("condition", "op"), [(YES, "Relu"), (NO, "Neg"), ("bool[1] c = {1}", "Relu")])
def test_the_branch_that_is_taken_remains(condition: str, op: str) -> None:
    before = model("{ a = Abs (x) p = Relu (a) }", "{ a = Abs (x) q = Neg (a) }", condition)
    assert_rewrites(InlineIf(), before, plain(f"a = Abs (x) y = {op} (a)"))


def test_a_constant_node_settles_it_too() -> None:
    before = f"""
        {HEAD}
        g (float[2] x) => (float[2] y) {{
            c = Constant <value = bool {{0}}> ()
            y = If (c) <
                then_branch = t () => (float[2] p) {{ p = Relu (x) }},
                else_branch = e () => (float[2] q) {{ q = Neg (x) }}
            >
        }}"""
    assert_rewrites(InlineIf(), before, plain("y = Neg (x)"))


def test_the_weights_of_the_branch_move_along() -> None:
    w, v = "float[2] w = {1, 2}", "float[2] v = {3, 4}"
    before = model(f"<{w}> {{ a = Add (x, w) p = Mul (a, v) }}", "{ q = Neg (x) }", f"{YES}, {v}")
    assert_rewrites(InlineIf(), before, plain("a = Add (x, w) y = Mul (a, v)", f"{w}, {v}"))


def test_leaves_a_branch_with_quantization_annotations_alone() -> None:
    proto = parse(model("{ a = Abs (x) p = Relu (a) }", "{ q = Neg (x) }", YES))
    proto.graph.node[0].attribute[0].g.quantization_annotation.add(tensor_name="a")
    assert_untouched(InlineIf(), proto, "its branch has quantization annotations")


def test_branches_that_are_the_same_but_for_names_become_one() -> None:
    def branch(a: str, w: str, p: str) -> str:
        return f"<float[2] {w} = {{1, 2}}> {{ {a} = Add (x, {w}) {a}s = Cast <to = 1> ({a}) {p} = Sub ({a}s, {a}) }}"

    before = model(branch("a", "w", "p"), branch("b", "v", "q"), x="bool c, float[2] x")
    after = plain(
        "a = Add (x, w) as = Cast <to = 1> (a) y = Sub (as, a)", "float[2] w = {1, 2}", x="bool c, float[2] x"
    )
    assert_rewrites(InlineIf(), before, after)


@pytest.mark.parametrize(
    ("then", "other"),
    [
        ("{ p = Relu (x) }", "{ q = Neg (x) }"),
        ("{ p = LeakyRelu <alpha = 0.5> (x) }", "{ q = LeakyRelu <alpha = 0.25> (x) }"),
        ("{ p = LeakyRelu <alpha = 0.5> (x) }", "{ q = LeakyRelu (x) }"),
        ("<float w = {1}> { p = Add (x, w) }", "<float v = {2}> { q = Add (x, v) }"),
        ("<float w = {1}> { p = Add (x, w) }", "<float[1] v = {1}> { q = Add (x, v) }"),
        ("{ p = Sub (x, z) }", "{ q = Sub (z, x) }"),
        ("{ a = Neg (x) p = Sub (a, x) }", "{ b = Neg (x) q = Sub (b, b) }"),
        ("{ p, a = Split (x, s) }", "{ a2, q = Split (x, s) }"),
        ("{ p = Clip (x, m) }", "{ q = Clip (x, , m) }"),
        ("{ p = Mul (x, z) }", "{ p2 = Mul (x, z) q = Mul (p2, z) }"),
        ("{ p = RandomUniformLike (x) }", "{ q = RandomUniformLike (x) }"),
        ("{ p = mine.Thing (x) }", "{ q = mine.Thing (x) }"),
    ],
)
def test_branches_that_differ_stay(then: str, other: str) -> None:
    text = model(then, other, "float m = {0}, int64[2] s = {1, 1}", x="bool c, float[2] x, float[2] z")
    text = text.replace('"": 17', '"": 17, "mine": 1')
    assert_untouched(InlineIf(), text, "its branches differ")


def test_a_condition_that_a_caller_may_override_is_not_settled() -> None:
    text = model("{ p = Relu (x) }", "{ q = Neg (x) }", YES, x="float[2] x, bool c")
    assert_untouched(InlineIf(), text, "is not constant")


def test_a_name_that_stands_for_something_else_is_changed() -> None:
    def with_another(first: str, weights: str = "") -> str:
        return f"""
        {HEAD}
        g (bool d, float[2] x) => (float[2] z) <{weights}> {{
            {first}
            z = If (d) <
                then_branch = t () => (float[2] r) <float[2] w = {{5, 6}}> {{ a = Neg (y) r = Mul (a, w) }},
                else_branch = e () => (float[2] s) {{ a = Abs (y) s = Neg (a) }}
            >
        }}"""

    before = with_another(
        """
            y = If (c) <
                then_branch = t2 () => (float[2] p) <float[2] w = {1, 2}> { a = Add (x, w) p = Relu (a) },
                else_branch = e2 () => (float[2] q) { q = Neg (x) }
            >""",
        YES,
    )
    after = with_another("a_2 = Add (x, w_2) y = Relu (a_2)", "float[2] w_2 = {1, 2}")
    assert_rewrites(InlineIf(), before, after)


def test_names_of_nodes_stay_unique() -> None:
    proto = parse(model("{ a = Abs (x) p = Relu (a) }", "{ q = Neg (x) }", YES, rest="z = Neg (y)", y="float[2] z"))
    branch = proto.graph.node[0].attribute[0].g
    proto.graph.node[1].name, branch.node[0].name, branch.node[1].name = "n", "n", "m"
    got = apply_pass(InlineIf(), Model(proto)).model.proto
    names = [node.name for node in got.graph.node]
    assert sorted(names) == ["m", "n", "n_2"]


def test_a_tensor_from_outside_is_returned_as_it_is() -> None:
    """ONNX Runtime takes no such branch, so it judges a branch with an Identity in the place."""
    proto = parse(model("{ p = Identity (x) }", "{ q = Neg (x) }", YES, rest="z = Neg (y)", y="float[2] z"))
    direct = onnx.ModelProto()
    direct.CopyFrom(proto)
    branch = direct.graph.node[0].attribute[0].g
    branch.output[0].name = "x"
    del branch.node[:]
    assert_rewrites(InlineIf(), direct, plain("z = Neg (x)", y="float[2] z"), outputs_agree=False)
    assert_same_outputs(proto, apply_pass(InlineIf(), Model(direct)).model.proto)


def test_one_from_outside_that_becomes_an_output_is_copied() -> None:
    proto = parse(model("{ p = Identity (x) }", "{ q = Neg (x) }", YES))
    branch = proto.graph.node[0].attribute[0].g
    branch.output[0].name = "x"
    del branch.node[:]
    assert_rewrites(InlineIf(), proto, plain("y = Identity (x)"), outputs_agree=False)


def test_a_weight_that_is_the_output_of_a_branch() -> None:
    then = "<float[2] p = {1, 2}> {}"
    inner = model(then, "{ q = Neg (x) }", YES, rest="z = Add (x, y)", y="float[2] z")
    assert_rewrites(InlineIf(), inner, plain("z = Add (x, p)", "float[2] p = {1, 2}", y="float[2] z"))
    assert_rewrites(InlineIf(), model(then, "{ q = Neg (x) }", YES), plain("y = Identity (p)", "float[2] p = {1, 2}"))


def test_several_outputs_some_of_one_tensor() -> None:
    before = f"""
        {HEAD}
        g (float[2] x) => (float[2] u, float[2] v, float[2] y) <{YES}> {{
            u, v, w = If (c) <
                then_branch = t () => (float[2] p, float[2] p, float[2] r) {{ p = Relu (x) r = Neg (p) }},
                else_branch = e () => (float[2] q, float[2] s, float[2] o) {{ q = Neg (x) s = Abs (x) o = Abs (q) }}
            >
            y = Add (v, w)
        }}"""
    after = plain("u = Relu (x) v = Identity (u) w = Neg (u) y = Add (v, w)", y="float[2] u, float[2] v, float[2] y")
    assert_rewrites(InlineIf(), before, after, outputs_agree=False)  # ONNX Runtime gives random numbers for u before


def test_an_output_that_is_omitted() -> None:
    before = f"""
        {HEAD}
        g (float[2] x) => (float[2] y) <{YES}> {{
            , y = If (c) <
                then_branch = t () => (float[2] p, float[2] r) {{ p = Relu (x) r = Neg (p) }},
                else_branch = e () => (float[2] q, float[2] s) {{ q = Neg (x) s = Abs (x) }}
            >
        }}""".replace(", y = If", "u, y = If")
    proto = parse(before)
    proto.graph.node[0].output[0] = ""
    # ONNX Runtime takes no If with an output that is omitted
    assert_rewrites(InlineIf(), proto, plain("p = Relu (x) y = Neg (p)"), outputs_agree=False)


def nested(inner_condition: str) -> str:
    """Return an If of e with another one, of d, in its then branch."""
    inner = """{
        p = If (d) <
            then_branch = t2 () => (float[2] r) { r = Relu (x) },
            else_branch = e2 () => (float[2] s) { s = Abs (x) }
        >
    }"""
    text = model(inner, "{ q = Relu (x) }", inner_condition, x="bool e, float[2] x")
    return text.replace("If (c)", "If (e)")


def test_one_inside_the_branch_of_another() -> None:
    after = model("{ p = Abs (x) }", "{ q = Relu (x) }", x="bool e, float[2] x").replace("If (c)", "If (e)")
    assert_rewrites(InlineIf(), nested("bool d = {0}"), after)


def test_branches_that_become_the_same() -> None:
    assert_rewrites(InlineIf(), nested("bool d = {1}"), plain("y = Relu (x)", x="bool e, float[2] x"))


def test_one_with_bodies_in_its_branches() -> None:
    def loop(number: int, weight: str = "w") -> str:
        return f"""<float[2] {weight} = {{1, 2}}, int64 n{number} = {{3}}> {{
            r{number} = Loop (n{number}, , x) <body = b{number} (int64 i{number}, bool k{number}, float[2] s{number})
                => (bool g{number}, float[2] t{number}) {{
                    g{number} = Identity (k{number})
                    t{number} = Add (s{number}, {weight})
                }}
            >
            {"p" if number == 1 else "q"} = Neg (r{number})
        }}"""

    settled = model(loop(1), "{ q = Neg (x) }", YES)
    got = apply_pass(InlineIf(), Model(parse(settled))).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [node.op_type for node in got.graph.node] == ["Loop", "Neg"]
    assert_same_outputs(parse(settled), got)
    equal = parse(model(loop(1), loop(2, "v"), x="bool c, float[2] x"))
    got = apply_pass(InlineIf(), Model(equal)).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [node.op_type for node in got.graph.node] == ["Loop", "Neg"]
    assert_same_outputs(equal, got)
    assert_untouched(
        InlineIf(), model(loop(1), loop(2).replace("Add", "Sub"), x="bool c, float[2] x"), "its branches differ"
    )


def test_one_inside_the_body_of_a_loop() -> None:
    def loop(nodes: str) -> str:
        return f"""
        {HEAD}
        g (float[2] x) => (float[2] y) <int64 n = {{3}}, {YES}> {{
            y = Loop (n, , x) <body = b (int64 i, bool k, float[2] s) => (bool g, float[2] t) {{
                g = Identity (k)
                {nodes}
            }}>
        }}"""

    before = loop(
        "t = If (c) < then_branch = t1 () => (float[2] p) <float w = {2}> { p = Add (s, w) }, "
        "else_branch = e1 () => (float[2] q) { q = Neg (s) } >"
    )
    got = apply_pass(InlineIf(), Model(parse(before))).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [node.op_type for node in walk_protos(got.graph)] == ["Loop", "Identity", "Add"]
    assert_same_outputs(parse(before), got)


def test_many_in_a_row() -> None:
    nodes, read = [], "x"
    for number in range(30):
        branches = {}
        for side, op in (("then", "Neg"), ("else", "Abs")):
            body = helper.make_graph(
                [helper.make_node(op, [read], ["a"]), helper.make_node("Neg", ["a"], [f"p_{side}"])],
                side,
                [],
                [helper.make_tensor_value_info(f"p_{side}", TensorProto.FLOAT, [2])],
            )
            branches[f"{side}_branch"] = body
        nodes.append(helper.make_node("If", ["c"], [f"y{number}"], **branches))
        read = f"y{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", read)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.array(True), "c")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    got = apply_pass(InlineIf(), Model(proto)).model.proto
    onnx.checker.check_model(got, full_check=True)
    assert [node.op_type for node in got.graph.node] == ["Neg"] * 60
    assert_same_outputs(proto, got)


def test_a_branch_that_reads_a_sparse_initializer_of_its_own_stays() -> None:
    proto = parse(model("{ p = Add (x, x) }", "{ q = Neg (x) }", YES))
    values = numpy_helper.from_array(np.float32([5]), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64([1]), "indices"), [2])
    branch = proto.graph.node[0].attribute[0].g
    branch.sparse_initializer.append(sparse)
    branch.node[0].input[1] = "w"
    assert_untouched(InlineIf(), proto, "its branch reads 'w', which no node writes")


def test_a_shape_that_the_other_branch_has_is_corrected() -> None:
    before = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 2] x) => (float[n] z) <bool c = {1}, int64[1] axis = {0}> {
            y = If (c) <
                then_branch = t () => (float[2] p) { p = Squeeze (x, axis) },
                else_branch = e () => (float[1, 2] q) { q = Identity (x) }
            >
            z = Neg (y)
        }"""
    for size in ("[1, 2]", "[5]"):
        proto = parse(before.replace("<bool c", f"<float{size} y, bool c"))
        got = apply_pass(InlineIf(), Model(proto)).model.proto
        assert {info.name: info.type for info in got.graph.value_info} == {
            "y": helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
        }
        onnx.checker.check_model(got, full_check=True)


@pytest.mark.parametrize("y", ["float[1, 2] y", "float[3] y"])
def test_a_shape_that_is_promised_and_not_kept_stops_it(y: str) -> None:
    assert_untouched(InlineIf(), model("{ p = Relu (x) }", "{ q = Neg (x) }", YES, y=y), "is promised")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = model("{ p = Relu (x) }", "{ q = Neg (x) }", YES).replace("= If", "= mine.If")
    assert_untouched(InlineIf(), text.replace('"": 17', '"": 17, "mine": 1'), None)


# --- a branch that is spared an empty list ---

NMS = """{
    l = Unsqueeze (scores, front)  m = Unsqueeze (l, zero)  b = Unsqueeze (boxes, zero)
    s = NonMaxSuppression (b, m, most, iou)
    t = Gather <axis = 1> (s, last)
    q = Squeeze (t, one)
}"""
CHOSEN = """{
    h = Greater (x, limit)  n = NonZero (h)  r = Transpose (n)
    scores = GatherND (x, r)  boxes = GatherND (all, r)
    %s
}"""
WEIGHTS = """
    float limit = {0}, int64[1] most = {9}, float[1] iou = {0.5}, int64[1] last = {2}, int64[1] zero = {0},
    int64[1] front = {0}, int64[1] one = {1}, int64 none = {0}, int64 first = {0}, int64 some = {1}"""
INPUTS = "float[6] x, float[6, 4] all"
EMPTY = "int64[0] p = {}"


def guarded(condition: str, empty: str = EMPTY, other: str = NMS, *, turned: bool = False) -> str:
    """Return a guard of `other`, which writes q, with the constant `empty`, p, in its place; `turned` in the else."""
    full, spare = f"(int64[M] q) {other}", f"({empty.split('=')[0]}) <{empty}> {{ }}"
    first, second = (full, spare) if turned else (spare, full)
    branches = f"{condition}  y = If (c) < then_branch = t () => {first}, else_branch = e () => {second} >"
    outputs = "int64[k] y, float[i] scores, float[j, 4] boxes"
    return f"{HEAD} g ({INPUTS}) => ({outputs}) <{WEIGHTS}> {CHOSEN % branches}"


def assert_spares_nothing(text: str) -> None:
    before = Model(parse(text))
    after = apply_pass(InlineIf(), before)
    assert "If" not in {node.op_type for node in after.model.proto.graph.node}, after.skips
    onnx.checker.check_model(after.model.proto, full_check=True)
    assert apply_pass(InlineIf(), after.model).model.fingerprint == after.model.fingerprint
    draw = np.random.default_rng(0)
    corners = draw.random((6, 4), dtype=np.float32)
    for scores in (draw.standard_normal(6), np.full(6, -1.0)):  # some are chosen, none is
        given = {"x": scores.astype(np.float32), "all": corners}
        assert_same_outputs(before.proto, after.model.proto, given)


@pytest.mark.parametrize(
    "condition",
    [
        "a = Size (boxes)  c = Equal (a, none)",
        "a = Size (scores)  c = Equal (none, a)",
        "v = Shape (boxes)  a = ReduceProd <keepdims = 0> (v)  d = Equal (a, none)  c = Cast <to = 9> (d)",
        "v = Shape (boxes)  a = Gather (v, first)  c = Less (a, some)",
        "v = Shape (boxes)  a = Gather (v, first)  c = GreaterOrEqual (none, a)",
        "v = Shape (scores)  a = Squeeze (v)  d = Greater (a, none)  c = Not (d)",
        "v = Shape (scores)  d = Cast <to = 9> (v)  c = Not (d)",
    ],
)
def test_a_branch_that_does_the_same_with_an_empty_list_is_spared_nothing(condition: str) -> None:
    assert_spares_nothing(guarded(condition))


def test_the_branches_may_stand_the_other_way_round() -> None:
    condition = "a = Size (boxes)  c = Less (none, a)"
    assert_spares_nothing(guarded(condition, turned=True))


@pytest.mark.parametrize(
    ("condition", "empty", "other", "reason"),
    [
        ("a = Size (boxes)  c = Equal (a, some)", EMPTY, NMS, "its branches differ"),
        ("a = Size (boxes)  c = Greater (a, some)", EMPTY, NMS, "its branches differ"),
        ("v = Shape (boxes)  a = Gather (v, some)  c = Equal (a, none)", EMPTY, NMS, "its branches differ"),
        ("a = Size (boxes)  b = Cast <to = 2> (a)  u = Cast <to = 2> (none)  c = Equal (b, u)", EMPTY, NMS, "differ"),
        ("a = Size (boxes)  c = Equal (a, none)", "int64[1] p = {7}", NMS, "on an empty list its branches differ"),
        (
            "a = Size (boxes)  c = Equal (a, none)",
            EMPTY,
            NMS.replace("(t, one)", "(t, last)"),
            "does not run on an empty",
        ),
        (
            "a = Size (boxes)  c = Equal (a, none)",
            EMPTY,
            "{ w = Less (x, limit)  z = NonZero (w)  v = Transpose (z)  q = Squeeze (v, one) }",
            "nothing tells that 'x'",
        ),
    ],
)
def test_a_guard_that_may_make_a_difference_stays(condition: str, empty: str, other: str, reason: str) -> None:
    assert_untouched(InlineIf(), guarded(condition, empty, other), reason)


def test_lists_of_two_lengths_stay() -> None:
    """Where one is empty the other need not be, whatever the model's author knew."""
    condition = "g2 = Less (x, limit)  n2 = NonZero (g2)  r2 = Transpose (n2)  others = GatherND (x, r2)"
    text = guarded(f"{condition}  a = Size (boxes)  c = Equal (a, none)", other=NMS.replace("scores", "others"))
    assert_untouched(InlineIf(), text, "nothing tells that 'others'")


@fuzz(InlineIf())
def test_any_if_that_is_settled_can_go(build: Builder) -> list[str]:
    shape = build.shape(rank=(0, 2))
    known = [build.input(shape), build.weight(shape)]
    for _ in range(build.integer(1, 3)):
        if build.chance(3):
            known.append(build.node("Neg", [build.choice(known)]))
        condition = build.constant(np.array(build.chance(2)), overridable=True)
        if build.chance(3):
            condition = build.input([], bool)
        outputs = build.integer(1, 2)
        first = branch(build, known, shape, outputs, "then")
        other = renamed(first, "else") if build.chance(3) else branch(build, known, shape, outputs, "else")
        written = build.node("If", [condition], outputs=outputs, then_branch=first, else_branch=other)
        known += written if isinstance(written, list) else [written]
    return [known[-1], build.choice(known[2:])]


def branch(
    build: Builder, known: list[str], shape: list[int], outputs: int, side: str, depth: int = 0
) -> onnx.GraphProto:
    """Draw a branch that reads `known`; its names may be those of another branch somewhere else."""
    nodes, weights, own = [], [], list(known)
    prefix = f"{side}{depth}"
    for number in range(build.integer(1, 3)):
        name, kind = f"{prefix}_{number}", build.choice(["op", "op", "weight", "If", "Constant"])
        if kind == "weight":
            weights.append(numpy_helper.from_array(build.values(shape), name))
        elif kind == "Constant":
            value = numpy_helper.from_array(build.values(shape), "")
            nodes.append(helper.make_node("Constant", [], [name], name=f"{name}_node", value=value))
        elif kind == "If" and depth < 2:
            weights.append(numpy_helper.from_array(np.array(build.chance(2)), f"{name}_c"))
            bodies = {f"{s}_branch": branch(build, own, shape, 1, f"{prefix}{s}", depth + 1) for s in ("then", "else")}
            nodes.append(helper.make_node("If", [f"{name}_c"], [name], name=f"{name}_node", **bodies))
        else:
            read = [build.choice(own[::-1]) for _ in range(2)]
            nodes.append(helper.make_node(build.choice(["Add", "Sub"]), read, [name], name=f"{name}_node"))
        own.append(name)
    ends = []
    for number in range(outputs):
        end = f"{prefix}_end{number}"
        nodes.append(helper.make_node(build.choice(["Identity", "Neg"]), [build.choice(own[::-1])], [end], name=end))
        ends.append(onnx.ValueInfoProto(name=end))
    return helper.make_graph(nodes, side, [], ends, weights)


def renamed(graph: onnx.GraphProto, suffix: str) -> onnx.GraphProto:
    """Return a copy of a branch with other names for what it writes and for its weights, but not in its bodies."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    if any(node.op_type == "If" for node in graph.node):
        return copy
    own = {name for node in copy.node for name in node.output} | {tensor.name for tensor in copy.initializer}
    for node in copy.node:
        node.input[:] = [f"{name}_{suffix}" if name in own else name for name in node.input]
        node.output[:] = [f"{name}_{suffix}" for name in node.output]
    for item in (*copy.initializer, *copy.output):
        item.name = f"{item.name}_{suffix}"
    return copy
