from onnx import NodeProto, helper

from graphsurgery.graph.model import Model
from graphsurgery.passes.inline_functions import InlineFunctions
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 9, opset_import: ["": 17, "own": 1]>'
DOMAIN = 'domain: "own", opset_import: ["": 17, "own": 1]'


def test_the_nodes_of_a_function_stand_in_the_place_of_each_call() -> None:
    applied = assert_rewrites(
        InlineFunctions(),
        f"""
        {HEAD} g (float[1, 1, 3, 3] x) => (float[1, 1, 3, 3] y) <float[1, 1, 1, 1] w = {{2}}> {{
            a = own.Block (x, w)
            y = own.Block (a, w)
        }}
        <{DOMAIN}> Block (p, weight) => (q) {{ t = Conv (p, weight)  q = own.Act (t) }}
        <{DOMAIN}> Act (p) => (q) {{ s = Sigmoid (p)  q = Mul (p, s) }}""",
        f"""
        {HEAD} g (float[1, 1, 3, 3] x) => (float[1, 1, 3, 3] y) <float[1, 1, 1, 1] w = {{2}}> {{
            t__1 = Conv (x, w)
            s__2 = Sigmoid (t__1)
            a = Mul (t__1, s__2)
            t__3 = Conv (a, w)
            s__4 = Sigmoid (t__3)
            y = Mul (t__3, s__4)
        }}""",
    )
    assert not applied.model.proto.functions


def test_an_attribute_that_the_call_leaves_out_has_the_default_of_the_function() -> None:
    assert_rewrites(
        InlineFunctions(),
        f"""
        {HEAD} g (float[3] x, bool c) => (float[3] y) {{
            y = If (c) <then_branch = a () => (float[3] u) {{ u = own.Outer (x) }},
                        else_branch = b () => (float[3] v) {{ v = own.Outer <slope = 0.25> (x) }}>
        }}
        <{DOMAIN}> Outer <slope: float = 1.0> (p) => (q) {{ q = own.Inner <slope: float = @slope> (p) }}
        <{DOMAIN}> Inner <slope: float = 3.0> (p) => (q) {{
            a = LeakyRelu <alpha: float = @slope> (p)
            q = Add (a, p)
        }}""",
        f"""
        {HEAD} g (float[3] x, bool c) => (float[3] y) {{
            y = If (c) <then_branch = a () => (float[3] u) {{ a__2 = LeakyRelu <alpha = 1.0> (x)  u = Add (a__2, x) }},
                        else_branch = b () => (float[3] v) {{ a__4 = LeakyRelu <alpha = 0.25> (x)  v = Add (a__4, x) }}>
        }}""",
    )


def test_a_function_that_hands_its_input_on_gets_an_identity() -> None:
    assert_rewrites(
        InlineFunctions(),
        f"""
        {HEAD} g (float[3] x) => (float[3] y, float[3] z) {{ y, z = own.Same (x) }}
        <{DOMAIN}> Same (p) => (p, q) {{ q = Neg (p) }}""",
        f"""
        {HEAD} g (float[3] x) => (float[3] y, float[3] z) {{
            z = Neg (x)
            y = Identity (x)
        }}""",
        outputs_agree=False,  # ONNX Runtime loads no such function
    )


def test_the_model_imports_what_its_functions_use() -> None:
    applied = apply_pass(
        InlineFunctions(),
        Model(
            parse(f"""
            {HEAD} g (float[3] x) => (float[3] y) {{ y = own.Act (x) }}
            <domain: "own", opset_import: ["": 17, "com.microsoft": 1]> Act (p) => (q) {{
                q = com.microsoft.QuickGelu (p)
            }}""")
        ),
    )
    applied.model.check("what was inlined")
    assert [node.domain for node in applied.model.proto.graph.node] == ["com.microsoft"]


def test_an_operator_that_is_the_same_in_another_operator_set_is_inlined() -> None:
    assert_rewrites(
        InlineFunctions(),
        f"""
        {HEAD} g (float[3] x) => (float[3] y) {{ y = own.Act (x) }}
        <domain: "own", opset_import: ["": 14]> Act (p) => (q) {{ q = Relu (p) }}""",
        f"{HEAD} g (float[3] x) => (float[3] y) {{ y = Relu (x) }}",
    )


def test_a_model_without_functions_stays() -> None:
    assert_untouched(InlineFunctions(), f"{HEAD} g (float[3] x) => (float[3] y) {{ y = Relu (x) }}", None)


def test_leaves_functions_alone_that_call_each_other_in_a_circle() -> None:
    text = f"""
        {HEAD} g (float[3] x) => (float[3] y) {{ y = own.A (x) }}
        <{DOMAIN}> A (p) => (q) {{ q = own.B (p) }}
        <{DOMAIN}> B (p) => (q) {{ q = own.A (p) }}"""
    assert_untouched(InlineFunctions(), text, "in a circle")


def test_leaves_functions_alone_that_would_become_a_million_nodes() -> None:
    functions = "\n".join(
        f"<{DOMAIN}> F{n} (p) => (q) {{ a = own.F{n + 1} (p)  q = own.F{n + 1} (a) }}" for n in range(40)
    )
    text = f"""
        {HEAD} g (float[3] x) => (float[3] y) {{ y = own.F0 (x) }}
        {functions}
        <{DOMAIN}> F40 (p) => (q) {{ q = Neg (p) }}"""
    assert_untouched(InlineFunctions(), text, f"would become {2**40} nodes, more than {2**20}")


def test_leaves_a_function_alone_whose_operator_is_another_one_in_the_operator_set_of_the_model() -> None:
    text = f"""
        {HEAD} g (float[1, 3] x) => (float[3] y) {{ y = own.Act (x) }}
        <domain: "own", opset_import: ["": 11]> Act (p) => (q) {{ q = Squeeze <axes = [0]> (p) }}"""
    reason = "function 'Act' uses operator set 11 and the model 17, in which Squeeze is another one"
    assert_untouched(InlineFunctions(), text, reason)


@fuzz(InlineFunctions())
def test_any_calls_can_be_inlined(build: Builder) -> list[str]:
    ops = ["Relu", "Neg", "Abs", "Inner"]
    inner = [helper.make_node("Neg", ["p"], ["t"]), helper.make_node("Add", ["t", "p"], ["q"])]
    domain = build.function("Inner", ["p"], ["q"], inner)
    names, body = ["p", "r"], list[NodeProto]()
    for number in range(build.integer(1, 4)):
        op, read, name = build.choice(ops), build.choice(names), f"t{number}"
        body.append(helper.make_node(op, [read], [name], domain=domain if op == "Inner" else ""))
        names.append(name)
    body.append(helper.make_node("Add", [names[-1], "r"], ["q"]))
    build.function("Outer", ["p", "r"], ["q", names[-1]], body)
    x = build.input(build.shape(rank=(1, 3)))
    a, b = build.node("Outer", [x, build.constant(build.values([1]))], outputs=2, domain=domain)
    return [a, build.node("Outer", [b, a], outputs=2, domain=domain)[0]]
