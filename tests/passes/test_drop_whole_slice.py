import numpy as np
import pytest

from graphsurgery.passes.drop_whole_slice import DropWholeSlice
from graphsurgery.testing import assert_rewrites, assert_untouched
from graphsurgery.testing.fuzzing import Builder, fuzz

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(rows: str, start: int, end: int, axis: int = 0, step: int = 1) -> str:
    weights = ", ".join(
        f"int64[1] {name} = {{{value}}}"
        for name, value in {"start": start, "end": end, "axis": axis, "step": step}.items()
    )
    return f"""{HEAD} g (float[{rows}, 4] x) => (float[n, m] y) <{weights}> {{
        a = Relu (x)
        b = Slice (a, start, end, axis, step)
        y = Neg (b)
    }}"""


def without(rows: str) -> str:
    return f"{HEAD} g (float[{rows}, 4] x) => (float[n, m] y) {{ a = Relu (x)  y = Neg (a) }}"


@pytest.mark.parametrize(
    ("rows", "start", "end", "axis"),
    [("3", 0, 3, 0), ("3", 0, 5, 0), ("3", -3, 3, -2), ("N", 0, 2**31 - 1, 0), ("N", 0, 2**63 - 1, 0), ("N", 0, 4, 1)],
)
def test_what_takes_all_goes(rows: str, start: int, end: int, axis: int) -> None:
    assert_rewrites(DropWholeSlice(), model(rows, start, end, axis), without(rows))


def test_an_output_keeps_its_name() -> None:
    text = f"""{HEAD} g (float[3, 4] x) => (float[3, 4] y) <int64[1] start = {{0}}, int64[1] end = {{3}}> {{
        a = Relu (x)
        y = Slice (a, start, end)
    }}"""
    assert_rewrites(DropWholeSlice(), text, f"{HEAD} g (float[3, 4] x) => (float[3, 4] y) {{ y = Relu (x) }}")


@pytest.mark.parametrize(
    ("rows", "start", "end", "step", "reason"),
    [
        ("N", 0, 3, 1, "nothing tells the size of axis 0 of 'a'"),
        ("3", 0, 2, 1, "it takes 2 of 3 along axis 0"),
        ("3", 1, 3, 1, "it takes 2 of 3 along axis 0"),
        ("3", 0, 3, 2, "it takes 2 of 3 along axis 0"),
        ("3", -1, -4, -1, "it goes backwards"),
    ],
)
def test_leaves_what_takes_less_alone(rows: str, start: int, end: int, step: int, reason: str) -> None:
    assert_untouched(DropWholeSlice(), model(rows, start, end, step=step), reason)


def test_leaves_computed_bounds_alone() -> None:
    text = f"""{HEAD} g (float[3, 4] x, int64[1] end) => (float[n, 4] y) <int64[1] start = {{0}}> {{
        y = Slice (x, start, end)
    }}"""
    assert_untouched(DropWholeSlice(), text, "its bounds are not constant")


@fuzz(DropWholeSlice())
def test_any_drawn_graph_computes_the_same(build: Builder) -> list[str]:
    x = build.input(build.shape(rank=(1, 3)), build.dtype())
    start, end = (build.constant(np.array([build.choice(ends)])) for ends in ([0, 0, 1, -9], [2**31, 9, 3, -1]))
    return [build.node("Slice", [x, start, end])]
