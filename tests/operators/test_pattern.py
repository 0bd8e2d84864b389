from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.operators import pattern_search
from graphsurgery.operators.pattern import Match, Pattern
from graphsurgery.rewrite import Editor, Refuse
from operators.small_graphs import view

NUMBERS = "<float one = {1}, float two = {2}, float three = {3}, float half = {0.5}, float near = {2.001}>"


def graph_of(body: str, outputs: str = "", opset: int = 17) -> tuple[gs.Graph, Editor]:
    return view(f"g (float[2, 3] x, float[2, 3] z) => (float[2, 3] y{outputs}) {NUMBERS} {{ {body} }}", opset)


def found(pattern: Pattern, body: str, outputs: str = "", opset: int = 17, *, nearest: bool = False) -> Match | None:
    """Return the match around the first node that the pattern begins at and finds something around."""
    graph, edit = graph_of(body, outputs, opset)
    for node in graph.nodes:
        if node.op in pattern.matches:
            match = pattern.nearest(node, edit) if nearest else pattern.match(node, edit)
            if match is not None:
                return match
    return None


def names(match: Match | None) -> list[str]:
    assert match is not None
    return [node.outputs[0].name for node in match.nodes]


# --- formulas ----------------------------------------------------------------------------------------------------

TWICE = Pattern("2 * x * Exp(x) + x")


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp (x)  p = Mul (x, e)  q = Mul (p, two)  y = Add (q, x)",
        "e = Exp (x)  p = Mul (two, e)  q = Mul (x, p)  y = Add (x, q)",
        "e = Exp (x)  p = Div (e, half)  q = Add (p, one)  y = Mul (q, x)",
        "e = Exp (x)  n = Neg (e)  r = Mul (n, two)  s = Sub (one, r)  y = Mul (s, x)",
        "e = Exp (x)  p = Mul (x, e)  q = Add (p, p)  y = Add (q, x)",
        "e = Exp (x)  r = Reciprocal (half)  p = Mul (e, r)  q = Mul (p, x)  y = Add (x, q)",
    ],
)
def test_a_formula_is_found_in_any_order_and_form(body: str) -> None:
    match = found(TWICE, body)
    assert match is not None
    assert match["x"].name == "x"
    assert match.last.outputs[0].name == "y"
    assert match.close
    # each operator stands behind those that it reads
    written = names(match)
    places = {name: place for place, name in enumerate(written)}
    assert all(places.get(t.name, -1) < places[node.outputs[0].name] for node in match.nodes for t in node.inputs)
    assert len(places) == len(written) == body.count("=")


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp (x)  p = Mul (x, e)  y = Mul (p, two)",
        "e = Exp (z)  p = Mul (x, e)  q = Mul (p, two)  y = Add (q, x)",
        "e = Exp (x)  p = Mul (x, e)  q = Mul (p, two)  y = Sub (x, q)",
        "e = Exp (x)  p = Mul (x, e)  q = Mul (p, near)  y = Add (q, x)",
        "e = Exp (x)  p = Mul (x, e)  q = Pow (p, half)  y = Add (q, x)",
    ],
)
def test_another_formula_is_no_match(body: str) -> None:
    assert found(TWICE, body) is None


def test_the_nearest_tells_how_far_its_constants_are() -> None:
    match = found(TWICE, "e = Exp (x)  p = Mul (x, e)  q = Mul (p, three)  y = Add (q, x)", nearest=True)
    assert match is not None
    assert match.error == 0.5
    assert not match.close
    with pytest.raises(Refuse, match=r"a constant differs from its own by 5\.0e-01 of its value"):
        match.require_constants("its own")


def test_a_constant_may_be_off_by_a_rounding_of_its_own_type_only() -> None:
    body = "e = Exp (x)  p = Mul (x, e)  q = Mul (p, {})  y = Add (q, x)"
    for factor, close in (("2.0000002", True), ("2.000002", False)):
        graph, edit = graph_of(body.format("k"))
        factor_tensor = gs.Constant("k", np.array(float(factor), np.float32))
        graph.nodes[2].inputs[1] = factor_tensor
        match = TWICE.nearest(graph.nodes[0], edit)
        assert match is not None
        assert match.close is close


def test_a_quotient_is_a_product_with_the_reciprocal() -> None:
    pattern = Pattern("x / Sqrt(x)")
    assert names(found(pattern, "q = Sqrt (x)  y = Div (x, q)")) == ["q", "y"]
    assert names(found(pattern, "q = Sqrt (x)  r = Reciprocal (q)  y = Mul (r, x)")) == ["q", "r", "y"]
    assert found(pattern, "q = Sqrt (x)  y = Div (q, x)") is None


def test_a_name_gives_a_tensor_inside_that_is_not_multiplied_out() -> None:
    pattern = Pattern("d = x - ReduceMean(x, ...)\nv = ReduceMean(d ** 2, ...)")
    body = "m = ReduceMean <axes = [1]> (x)  d = Sub (x, m)  s = {}  y = ReduceMean <axes = [1]> (s)"
    for square in ("Mul (d, d)", "Pow (d, two)"):
        match = found(pattern, body.format(square))
        assert names(match) == ["m", "d", "s", "y"]
        assert match is not None
        assert (match["d"].name, match["v"].name) == ("d", "y")
    assert found(pattern, body.format("Mul (d, x)")) is None


def test_a_number_with_a_name_is_a_constant_of_any_value() -> None:
    pattern = Pattern("Sqrt(Exp(x) + epsilon)", numbers=["epsilon"])
    match = found(pattern, "e = Exp (x)  s = Add (three, e)  y = Sqrt (s)")
    assert match is not None
    assert match.number("epsilon") == 3
    assert found(pattern, "e = Exp (x)  s = Add (z, e)  y = Sqrt (s)") is None
    with pytest.raises(ValueError, match="'x' is not among the numbers"):
        match.number("x")


def test_integers_make_no_formula_but_as_exponents() -> None:
    text = "g (int32[2] x) => (int32[2] y) <int32 two = {2}> { a = Abs (x)  y = Div (a, two) }"
    graph, edit = view(text)
    assert Pattern("Abs(x) / 2").nearest(graph.nodes[0], edit) is None
    text = "g (float[2] x) => (float[2] y) <int64 two = {2}> { a = Abs (x)  y = Pow (a, two) }"
    graph, edit = view(text)
    assert Pattern("Abs(x) ** 2").match(graph.nodes[0], edit) is not None


# --- operators ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sum_", ["Add (p, z)", "Add (z, p)"])
def test_an_operator_that_is_written_out_takes_its_inputs_in_any_order(sum_: str) -> None:
    match = found(Pattern("Add(Exp(a), b)"), f"p = Exp (x)  y = {sum_}")
    assert match is not None
    assert (match["a"].name, match["b"].name) == ("x", "z")
    assert found(Pattern("Sub(Exp(a), b)"), "p = Exp (x)  y = Sub (z, p)") is None


def test_inputs_are_exactly_those_of_the_pattern_unless_it_allows_more() -> None:
    body = "y = Clip (x, one)"
    assert found(Pattern("Clip(x, 1)"), body) is not None
    assert found(Pattern("Clip(x)"), body) is None
    assert found(Pattern("Clip(x, 1, 2)"), body) is None
    assert found(Pattern("Clip(x, ...)"), body) is not None


def test_an_operand_that_older_sets_have_as_an_attribute_is_looked_for_there() -> None:
    body = "y = Clip <min = 1.0, max = 2.0> (x)"
    assert found(Pattern("Clip(x, 1, 2)"), body, opset=9) is not None
    assert found(Pattern("Clip(x, 1, 3)"), body, opset=9) is None
    assert found(Pattern("Clip(x)"), body, opset=9) is None
    assert found(Pattern("Clip(x, 1, 2)"), "y = Clip <min = 1.0> (x)", opset=9) is None


@pytest.mark.parametrize(
    ("text", "attributes", "fits"),
    [
        ("HardSigmoid(x)", "", True),
        ("HardSigmoid(x)", "<alpha = 0.2>", True),
        ("HardSigmoid(x)", "<alpha = 0.3>", False),
        ("HardSigmoid(x, ...)", "<alpha = 0.3>", True),
        ("HardSigmoid(x, alpha=1/6)", "<alpha = 0.16666667>", True),
        ("HardSigmoid(x, alpha=1/6)", "", False),
        ("HardSigmoid(x, alpha=0.2, beta=1/2)", "", True),
    ],
)
def test_an_attribute_that_is_not_written_out_has_its_default(text: str, attributes: str, fits: bool) -> None:
    assert (found(Pattern(text), f"y = HardSigmoid {attributes} (x)") is not None) is fits


def test_a_default_is_that_of_the_operator_set() -> None:
    for opset, fits in ((11, False), (13, True)):  # the axis was 1 before
        assert (found(Pattern("Softmax(x, axis=-1)"), "y = Softmax (x)", opset=opset) is not None) is fits


def test_lists_and_texts_are_compared_as_they_are() -> None:
    body = 'y = Pad <mode = "reflect"> (x, k)'
    assert found(Pattern("Pad(x, p, mode='reflect')"), body.replace("k", "two")) is not None
    assert found(Pattern("Pad(x, p, mode='edge')"), body.replace("k", "two")) is None
    assert found(Pattern("Transpose(x, perm=[1, 0])"), "y = Transpose <perm = [1, 0]> (x)") is not None
    assert found(Pattern("Transpose(x, perm=[0, 1])"), "y = Transpose <perm = [1, 0]> (x)") is None
    assert found(Pattern("Transpose(x, perm=[1, 0])"), "y = Transpose (x)") is None


def test_an_operator_of_another_domain_is_named_with_it() -> None:
    text = "g (float[2] x) => (y) { a = mine.Exp (x)  y = Neg (a) }"
    graph, edit = view(text)
    assert Pattern("mine.Exp(x)").match(graph.nodes[0], edit) is not None
    assert Pattern("Exp(x)").match(graph.nodes[0], edit) is None
    assert Pattern("other.Exp(x)").match(graph.nodes[0], edit) is None


def test_alternatives_are_tried_one_after_another() -> None:
    pattern = Pattern("Exp(x)", "Neg(x)")
    assert pattern.matches == ("Exp", "Neg")
    assert names(found(pattern, "y = Neg (x)")) == ["y"]


def test_a_formula_without_an_operator_of_its_own_begins_at_its_last_node() -> None:
    pattern = Pattern("x * x + x")
    match = found(pattern, "s = Mul (x, x)  y = Add (x, s)")
    assert names(match) == ["s", "y"]


# --- refusals ----------------------------------------------------------------------------------------------------

PRODUCT = "e = Exp (x)  p = Mul (e, two)  y = Mul (p, x)"
OF_PRODUCT = Pattern("2 * x * Exp(x) -> HardSwish(x)")


@pytest.mark.parametrize(
    ("more", "outputs"), [("  w = Neg (p)", ", w"), ("", ", p"), ("  w = Neg (e)", ", w"), ("", ", e")]
)
def test_a_tensor_inside_that_is_needed_elsewhere_is_refused(more: str, outputs: str) -> None:
    match = found(OF_PRODUCT, PRODUCT + more, outputs)
    assert match is not None
    with pytest.raises(Refuse, match="read by another node too, or is a graph output"):
        match.require_private()


def test_what_nothing_else_needs_may_go() -> None:
    match = found(OF_PRODUCT, PRODUCT + "  w = Neg (x)", ", w")
    assert match is not None
    match.require_private()


def test_a_tensor_inside_that_the_result_reads_is_no_private_one() -> None:
    match = found(Pattern("Add(Exp(a), b)"), "p = Exp (x)  y = Add (p, p)")
    assert match is not None
    with pytest.raises(Refuse, match="for a reason of its own"):
        match.require_private("for a reason of its own")


def test_other_types_older_sets_and_constants_that_add_dimensions_are_refused() -> None:
    body = "g (float[2] x) => (y) <float[1, 1] two = {2}> { e = Exp (x)  p = Mul (e, two)  y = Mul (p, x) }"
    graph, edit = view(body, opset=13)
    match = OF_PRODUCT.match(graph.nodes[0], edit)
    assert match is not None
    match.require_type("x")
    with pytest.raises(Refuse, match="its elements are float32, not float16 or float64"):
        match.require_type("x", types=["float16", "float64"])
    with pytest.raises(Refuse, match="HardSwish needs operator set 14"):
        match.require_opset()
    with pytest.raises(Refuse, match="a constant of rank 2 may add dimensions"):
        match.require_rank("x")


def test_a_check_that_refuses_one_way_to_read_a_node_leads_to_the_next() -> None:
    graph, edit = graph_of("p = Exp (x)  q = Exp (z)  y = Add (p, q)")
    pattern = Pattern("Add(Exp(a), b)")
    seen: list[str] = []

    def only_z(match: Match) -> None:
        seen.append(match["a"].name)
        if match["a"].name != "z":
            raise Refuse(f"not {match['a'].name}")

    def none(match: Match) -> None:
        raise Refuse(f"not {match['a'].name}")

    match = pattern.match(graph.nodes[2], edit, only_z)
    assert match is not None
    assert seen == ["x", "z"]
    with pytest.raises(Refuse, match="not x"):
        pattern.match(graph.nodes[2], edit, none)


def test_what_stands_behind_the_arrow_takes_the_place() -> None:
    graph, edit = graph_of("e = Exp (x)  y = Mul (e, z)")
    match = Pattern("Mul(Exp(a), b) -> Clip(b, a)").match(graph.nodes[1], edit)
    assert match is not None
    match.replace()
    assert (graph.nodes[1].op, [t.name for t in graph.nodes[1].inputs]) == ("Clip", ["z", "x"])
    assert [t.name for t in graph.nodes[1].outputs] == ["y"]
    assert graph.nodes[1].attrs == {}


def test_attributes_behind_the_arrow_are_of_their_type() -> None:
    graph, edit = graph_of("y = Exp (x)")
    match = Pattern("Exp(x) -> HardSigmoid(x, alpha=1, beta=1/2)").match(graph.nodes[0], edit)
    assert match is not None
    match.replace()
    assert {name: type(value) for name, value in graph.nodes[0].attrs.items()} == {"alpha": float, "beta": float}


def test_a_pattern_without_an_arrow_replaces_nothing() -> None:
    match = found(Pattern("Exp(x)"), "y = Exp (x)")
    assert match is not None
    with pytest.raises(ValueError, match="there is no -> in the pattern"):
        match.replace()


# --- graphs that are made to be slow -----------------------------------------------------------------------------


def looked_at(monkeypatch: pytest.MonkeyPatch, pattern: Pattern, graph: gs.Graph, edit: Editor) -> int:
    """Return how many tensors a search of the whole graph looks at, each time it does."""
    count = 0
    arithmetic = pattern_search._arithmetic

    def counted(tensor: gs.Tensor) -> gs.Node | None:
        nonlocal count
        count += 1
        return arithmetic(tensor)

    monkeypatch.setattr(pattern_search, "_arithmetic", counted)
    for node in graph.nodes:
        if node.op in pattern.matches:
            pattern.nearest(node, edit)
    monkeypatch.undo()
    return count


GELU = Pattern("0.5 * x * (1 + Tanh(0.8 * (x + 0.04 * x ** 3)))")
INNER = "q = Mul (x, x)  k = Mul (q, near)  e = Add (k, one)  s = Mul (x, e)  v = Mul (s, half)  f = Tanh (v)  "


def fan_out(size: int) -> str:
    """Return a Tanh that is read by `size` products, of which none is a GELU."""
    return INNER + "  ".join(f"p{i} = Mul (f, z)  r{i} = Mul (p{i}, x)" for i in range(size)) + "  y = Neg (f)"


def tower(size: int) -> str:
    """Return squares of squares, whose product has 2 ** `size` factors, under a Tanh at every step."""
    steps = "  ".join(f"t{i + 1} = Mul (t{i}, t{i})  h{i} = Tanh (t{i + 1})" for i in range(size))
    return f"t0 = Mul (x, x)  {steps}  y = Add (h0, t{size})"


def ladder(size: int) -> str:
    """Return sums of the two sums before, so that as many ways lead down as Fibonacci has rabbits."""
    steps = "  ".join(f"t{i + 2} = Add (t{i}, t{i + 1})  h{i} = Tanh (t{i + 2})" for i in range(size))
    return f"t0 = Neg (x)  t1 = Neg (z)  {steps}  y = Neg (t{size})"


@pytest.mark.parametrize("made", [fan_out, tower, ladder])
@pytest.mark.parametrize("pattern", [GELU, Pattern("a = x * Tanh(x); a / Sqrt(a * Tanh(a) + c) * Tanh(c)")])
def test_twice_the_graph_takes_twice_the_work(monkeypatch: pytest.MonkeyPatch, made: object, pattern: Pattern) -> None:
    sizes = 60, 120
    small, large = (looked_at(monkeypatch, pattern, *graph_of(made(size))) for size in sizes)  # type: ignore[operator]
    assert large < 2.5 * small + 1000


def test_a_formula_of_operators_that_are_alike_is_not_tried_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = "  ".join(f"t{16 + i} = Exp ({'xz'[i % 2]})" for i in range(16))
    products = "  ".join(f"t{i} = Mul (t{2 * i}, t{2 * i + 1})" for i in range(15, 0, -1))
    graph, edit = graph_of(f"{leaves}  {products}  y = Neg (t1)")
    pattern = Pattern("Exp(a) * Exp(b) * Exp(c) / Exp(d)")  # 16 * 15 * 14 ways for each of 16
    assert looked_at(monkeypatch, pattern, graph, edit) < 100_000


def test_a_long_way_through_few_tensors_is_not_walked() -> None:
    steps = "  ".join(f"t{i + 1} = Add (t{i}, z)" for i in range(3000))
    assert found(TWICE, f"e = Exp (x)  t0 = Mul (x, e)  {steps}  y = Neg (t3000)", nearest=True) is None


# --- text that is wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x * Erv(x)", "line 1, column 5: ONNX has no operator 'Erv'. Did you mean 'Erf'?"),
        ("a = Exp(x)\na * erf(x)", "line 2, column 5: ONNX has no operator 'erf'"),
        ("x * (Exp(x)", "line 1, column 5: '(' was never closed"),
        ("HardSigmoid(x, alfa=1)", "line 1, column 21: HardSigmoid has no attribute 'alfa'. Did you mean 'alpha'?"),
        ("Exp(x, y)", "line 1, column 1: Exp has no 2 inputs"),
        ("Exp(x) if x else y", "line 1, column 1: this is no operator"),
        ("Exp(x) @ y", "this is no operator"),
        ("Exp('x')", "line 1, column 5: this is no operator"),
        ("Exp(x).real(x) + getattr(x)(y)", "ONNX has no operator 'Exp(x).real'"),
        ("Exp(x) / (x + 1)", "it divides by zero or by a sum; give the sum a name"),
        ("Exp(x) / 0", "it divides by zero"),
        ("Exp(x) ** y", "line 1, column 11: this takes a number"),
        ("Exp(x) ** 0.5", "the exponent must be a whole number"),
        ("Exp(x) ** 1e999", "the exponent must be a whole number"),
        ("sqrt(x) * Exp(x)", "line 1, column 1: this takes a number"),
        ("Exp(x) - Exp(x)", "a part of it cancels out"),
        ("Exp(x) * x / x", "a part of it cancels out"),
        ("a + b", "nothing tells a and b apart"),
        ("Exp(" + " * ".join("x" * 12) + ")", "it has 11 operators, of 8"),
        ("x", "there is no operator in it"),
        ("", "there is no operator in it"),
        ("1 + 2", "there is no operator in it"),
        ("import os", "write NAME = FORMULA"),
        ("Exp(x)\nNeg(x)", "line 1, column 1: write NAME = FORMULA"),
        ("x = Exp(x)", "x means something already"),
        ("a = b = Exp(x)", "two names are given at once"),
        ("pi = Exp(x)", "pi means something already"),
        ("a = Exp(x)\nNeg(x)", "nothing reads a"),
        ("Exp(x) -> Gelu(z)", "line 1, column 11: behind the arrow stands one operator of ONNX, of names"),
        ("Exp(x) -> x", "behind the arrow stands one operator"),
        ("Exp(x) ->", "behind the arrow stands one operator"),
        ("Exp(x)\n-> Gellu(x)", "line 2, column 4: ONNX has no operator 'Gellu'. Did you mean 'Gelu'?"),
        ("Exp(x) -> mine.Exp(x)", "behind the arrow stands one operator of ONNX"),
        ("Exp(x) -> Gelu(x, approximate={})", "an attribute is a number, a text or a list of these"),
    ],
)
def test_text_that_means_nothing_says_where(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="pattern") as caught:
        Pattern(text)
    assert said in str(caught.value)


def test_a_number_that_nothing_reads_is_said() -> None:
    with pytest.raises(ValueError, match="nothing reads epsilon"):
        Pattern("Exp(x)", numbers=["epsilon"])


def test_a_pattern_needs_a_text() -> None:
    with pytest.raises(ValueError, match="needs a text"):
        Pattern()
