from __future__ import annotations

import pytest

from graphsurgery.operators.scattered_rows import require_row_numbers
from graphsurgery.rewrite import Refuse
from operators.small_graphs import view

HEAD = "g (float[a, 2] u, int64[a, 1] i, int64[a] flat) => (y) <int64[1] two = {2}, int64[1] n = {7}>"


def rows(node: str, opset: int = 17) -> str:
    body = f"size = Concat <axis = 0> (n, two)  s = ConstantOfShape (size)  {node}"
    graph, edit = view(f"{HEAD} {{ {body} }}", opset)
    return str(require_row_numbers(graph.nodes[-1], edit).name)


def test_the_numbers_are_what_an_expand_spreads_or_what_a_scatternd_reads() -> None:
    assert rows("w = Shape (u)  e = Expand (i, w)  y = ScatterElements <axis = 0> (s, e, u)") == "i"
    assert rows("y = ScatterND (s, i, u)") == "i"


def test_a_scatter_is_what_a_scatterelements_was_called() -> None:
    assert rows("w = Shape (u)  e = Expand (i, w)  y = Scatter <axis = 0> (s, e, u)", 10) == "i"


def test_indices_of_single_elements_are_refused() -> None:
    with pytest.raises(Refuse, match="its indices are no row numbers"):
        rows("y = ScatterND (s, flat, u)")
