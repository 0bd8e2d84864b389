import numpy as np
import pytest

from graphsurgery.passes.merge_transposes import MergeTransposes
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(nodes: str, y: str = "float[a, b, c] y", x: str = "float[2, 3, 4] x") -> str:
    return f"{HEAD} g ({x}) => ({y}) {{ {nodes} }}"


def of_any_rank(nodes: str) -> str:
    """Return a model in which nothing says how many dimensions x has."""
    return model(f"x = Reshape (data, shape) {nodes}", x="float[24] data, int64[rank] shape")


ANY_RANK = {"data": np.arange(24, dtype=np.float32), "shape": np.int64([2, 3, 4])}


def test_two_become_one() -> None:
    assert_rewrites(
        MergeTransposes(),
        model("a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [0, 2, 1]> (a)"),
        model("y = Transpose <perm = [1, 0, 2]> (x)"),
    )


def test_four_become_one() -> None:
    turn = "<perm = [1, 2, 0]>"
    assert_rewrites(
        MergeTransposes(),
        model(f"a = Transpose {turn} (x) b = Transpose {turn} (a) c = Transpose {turn} (b) y = Transpose {turn} (c)"),
        model(f"y = Transpose {turn} (x)"),
    )


def test_two_that_undo_each_other_go() -> None:
    assert_rewrites(
        MergeTransposes(),
        model("r = Relu (x) a = Transpose <perm = [1, 2, 0]> (r) b = Transpose <perm = [2, 0, 1]> (a) y = Neg (b)"),
        model("r = Relu (x) y = Neg (r)"),
    )


def test_one_that_keeps_the_order_goes() -> None:
    assert_rewrites(MergeTransposes(), model("a = Transpose <perm = [0, 1, 2]> (x) y = Neg (a)"), model("y = Neg (x)"))


def test_an_output_keeps_its_name() -> None:
    assert_rewrites(
        MergeTransposes(),
        model("r = Relu (x) a = Transpose <perm = [1, 2, 0]> (r) y = Transpose <perm = [2, 0, 1]> (a)"),
        model("y = Relu (x)"),
    )


def test_between_an_input_and_an_output_an_identity_stays() -> None:
    assert_rewrites(
        MergeTransposes(),
        model("a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [2, 0, 1]> (a)"),
        model("y = Identity (x)"),
    )
    assert_rewrites(MergeTransposes(), model("y = Transpose <perm = [0, 1, 2]> (x)"), model("y = Identity (x)"))


def test_the_first_stays_for_what_else_reads_it() -> None:
    outputs = "float[a, b, c] y, float[3, 4, 2] z"
    assert_rewrites(
        MergeTransposes(),
        model("a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [0, 2, 1]> (a) z = Neg (a)", outputs),
        model("a = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [1, 0, 2]> (x) z = Neg (a)", outputs),
    )


def test_the_first_stays_where_it_is_an_output() -> None:
    outputs = "float[a, b, c] y, float[3, 4, 2] z"
    assert_rewrites(
        MergeTransposes(),
        model("z = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [0, 2, 1]> (z)", outputs),
        model("z = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [1, 0, 2]> (x)", outputs),
    )


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("", "<perm = [0, 2, 1]>", "[2, 0, 1]"),
        ("<perm = [0, 2, 1]>", "", "[1, 2, 0]"),
    ],
)
def test_a_default_perm_reverses_as_many_dimensions_as_the_other_has(first: str, second: str, merged: str) -> None:
    before = f"a = Transpose {first} (x) y = Transpose {second} (a)"
    after = f"y = Transpose <perm = {merged}> (x)"
    assert_rewrites(MergeTransposes(), model(before), model(after))
    assert_rewrites(MergeTransposes(), of_any_rank(before), of_any_rank(after), ANY_RANK)


def test_two_default_perms_undo_each_other_whatever_the_rank_is() -> None:
    before, after = of_any_rank("a = Transpose (x) b = Transpose (a) y = Neg (b)"), of_any_rank("y = Neg (x)")
    assert_rewrites(MergeTransposes(), before, after, ANY_RANK)


def test_a_lone_default_perm_of_unknown_rank_stays() -> None:
    assert_untouched(MergeTransposes(), of_any_rank("y = Transpose (x)"), None)


def test_one_inside_a_body_merges_with_one_outside() -> None:
    def nested(outer: str, then: str) -> str:
        return f"""
        {HEAD}
        g (bool c, float[2, 3, 4] x) => (float[4, 3, 2] y) {{
            {outer}
            y = If (c) <
                then_branch = t () => (float[4, 3, 2] p) {{ {then} }},
                else_branch = e () => (float[4, 3, 2] q) {{ q = Transpose <perm = [2, 1, 0]> (x) }}
            >
        }}"""

    assert_rewrites(
        MergeTransposes(),
        nested("a = Transpose <perm = [1, 2, 0]> (x)", "p = Transpose <perm = [1, 0, 2]> (a)"),
        nested("", "p = Transpose <perm = [2, 1, 0]> (x)"),
    )


def test_a_lone_transpose_stays() -> None:
    assert_untouched(MergeTransposes(), model("y = Transpose <perm = [0, 2, 1]> (x)"), None)
    assert_untouched(MergeTransposes(), model("y = Transpose (x)"), None)


def test_a_lone_one_of_a_vector_goes() -> None:
    before = model("a = Transpose (x) y = Neg (a)", "float[5] y", "float[5] x")
    assert_rewrites(MergeTransposes(), before, model("y = Neg (x)", "float[5] y", "float[5] x"))


@pytest.mark.parametrize(
    ("first", "second"), [("[1, 0]", "[0, 2, 1]"), ("[0, 0, 1]", "[2, 1, 0]"), ("[0, 2, 1]", "[0, 1, 3]")]
)
def test_leaves_a_perm_that_does_not_fit_alone(first: str, second: str) -> None:
    nodes = f"a = Transpose <perm = {first}> (x) y = Transpose <perm = {second}> (a)"
    assert_untouched(MergeTransposes(), of_any_rank(nodes), "is no permutation of")


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    text = model("a = mine.Transpose <perm = [0, 1, 2]> (x) y = mine.Transpose <perm = [0, 1, 2]> (a)")
    assert_untouched(MergeTransposes(), text.replace('"": 17', '"": 17, "mine": 1'), None)


@fuzz(MergeTransposes())
def test_any_chain_of_transposes_gives_the_same(build: Builder) -> list[str]:
    shape = build.shape(rank=(0, 4))
    dtype = build.dtype((np.float32, np.int64, np.float16))
    x = build.weight(shape, dtype) if build.chance(6) else build.input(shape, dtype)
    written = []
    for _ in range(build.integer(1, 5)):
        order = list(range(len(shape)))
        perm = [order.pop(build.integer(0, len(order) - 1)) for _ in shape]
        op = "Neg" if build.opset >= 13 and build.chance(6) else "Transpose"
        perms = build.choice([perm, perm, None, list(range(len(shape)))]) or None
        x = build.node(op, [x]) if op == "Neg" else build.node(op, [x], perm=perms)
        written.append(x)
    return [x, build.choice(written)]
