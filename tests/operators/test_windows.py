from __future__ import annotations

import pytest

from graphsurgery.operators.windows import Window, require_unit_pool, window, window_of, windowing
from graphsurgery.rewrite import Refuse
from operators.small_graphs import view


def of(attributes: str, spatial: list[int | str | None] | None = None, op: str = "MaxPool") -> Window | None:
    weights = ", w" if op == "Conv" else ""
    graph, _ = view(f"g (x, w) => (y) {{ y = {op} <kernel_shape = [3, 3]{attributes}> (x{weights}) }}")
    return window(graph.nodes[0], [3, 3], spatial)


def test_defaults_are_written_out() -> None:
    assert of("") == Window((3, 3), (1, 1), (1, 1), (0, 0), (0, 0))


def test_pads_are_split_into_begins_and_ends_and_put_together_again() -> None:
    found = of(", pads = [1, 2, 3, 4]")
    assert found is not None
    assert (found.begins, found.ends, found.pads, found.padded) == ((1, 2), (3, 4), [1, 2, 3, 4], True)


@pytest.mark.parametrize(("mode", "pads"), [("SAME_UPPER", [0, 1, 1, 1]), ("SAME_LOWER", [1, 1, 0, 1])])
def test_auto_pad_is_resolved_where_the_size_is_known(mode: str, pads: list[int]) -> None:
    found = of(f', auto_pad = "{mode}", strides = [2, 1]', [4, 4])
    assert found is not None
    assert found.pads == pads


def test_auto_pad_over_an_unknown_size_is_none_and_valid_is_no_pad() -> None:
    assert of(', auto_pad = "SAME_UPPER"', ["h", 4]) is None
    assert of(', auto_pad = "SAME_UPPER"') is None
    valid = of(', auto_pad = "VALID"')
    assert valid is not None
    assert not valid.padded


def test_a_dilated_pool_that_pads_itself_is_none_but_a_conv_is_not() -> None:
    attributes = ', auto_pad = "SAME_UPPER", dilations = [2, 2]'
    assert of(attributes, [8, 8]) is None
    conv = of(attributes, [8, 8], "Conv")
    assert conv is not None
    assert (conv.spans, conv.pads) == ((5, 5), [2, 2, 2, 2])


def test_attributes_of_another_rank_are_none() -> None:
    assert of(", strides = [2]") is None
    assert of(", pads = [1, 1]") is None


def test_the_window_of_a_conv_without_a_kernel_shape_comes_from_its_weights() -> None:
    text = 'g (float[1, 1, 4, n] x, float[1, 1, 3, 1] w) => (y) { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }'
    graph, edit = view(text)
    found = window_of(graph.nodes[0], edit)
    assert found is not None
    assert (found.kernel, found.pads) == ((3, 1), [1, 0, 1, 0])


def test_all_attributes_of_a_new_window_are_written_out() -> None:
    assert windowing([2, 3]) == {"kernel_shape": [2, 3], "pads": [0, 0, 0, 0], "strides": [1, 1]}
    conv = windowing([1], [2], [0, 1], group=4)
    assert conv == {"dilations": [1], "group": 4, "kernel_shape": [1], "pads": [0, 1], "strides": [2]}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [1, 1]", None),
        ("kernel_shape = [1, 2]", "the kernel is 1x2"),
        ("kernel_shape = [1]", "the window has 1 dimensions"),
        ("kernel_shape = [1, 1], ceil_mode = 1", "rounds up"),
    ],
)
def test_a_unit_pool_is_plain_subsampling_in_two_dimensions(attributes: str, reason: str | None) -> None:
    graph, edit = view(f"g (x) => (y) {{ y = MaxPool <{attributes}> (x) }}")
    if reason is None:
        return require_unit_pool(graph.nodes[0], edit)
    with pytest.raises(Refuse, match=reason):
        require_unit_pool(graph.nodes[0], edit)
