from __future__ import annotations

from fractions import Fraction

import pytest

from graphsurgery.operators.resize import coordinates, factors, given, mode, rounding, shown
from graphsurgery.rewrite import Refuse
from operators.small_graphs import view


def test_factors_are_the_same_from_scales_as_an_attribute_as_an_input_and_from_sizes() -> None:
    by_attribute = view("g (float[1, 2, 4, 4] x) => (y) { y = Upsample <scales = [1.0, 1.0, 2.0, 1.5]> (x) }", 7)
    by_input = view("g (float[1, 2, 4, 4] x) => (y) <float[4] s = {1, 1, 2, 1.5}> { y = Resize (x, s) }", 10)
    by_sizes = view('g (float[1, 2, 4, 4] x) => (y) <int64[4] s = {1, 2, 8, 6}> { y = Resize (x, "", "", s) }', 13)
    for graph, edit in (by_attribute, by_input, by_sizes):
        assert factors(graph.nodes[0], edit) == (1, 1, 2, Fraction(3, 2))


def test_axes_that_are_not_named_keep_their_size() -> None:
    text = 'g (float[1, 2, 4, 4] x) => (y) <float[1] s = {2}> { y = Resize <axes = [-1]> (x, "", s) }'
    graph, edit = view(text, 18)
    assert factors(graph.nodes[0], edit) == (1, 1, 1, 2)


def test_why_factors_can_not_be_told() -> None:
    computed, edit = view('g (float[1, 2, 4, 4] x, float[4] s) => (y) { y = Resize (x, "", s) }')
    with pytest.raises(Refuse, match="its scales or sizes are not constant"):
        factors(computed.nodes[0], edit)
    cropping = """g (float[1, 2, 4, 4] x, float[8] r) => (y) <float[4] s = {1, 1, 2, 2}>
        { y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, r, s) }"""
    graph, edit = view(cropping)
    with pytest.raises(Refuse, match=r"it crops as well \(tf_crop_and_resize\)"):
        factors(graph.nodes[0], edit)
    opened, edit = view('g (float[1, 2, h, 4] x) => (y) <int64[4] s = {1, 2, 8, 8}> { y = Resize (x, "", "", s) }')
    with pytest.raises(Refuse, match="it is given by sizes, and the size of axis 2 before is not known"):
        factors(opened.nodes[0], edit)


def test_before_operator_set_11_it_is_asymmetric_and_rounds_down() -> None:
    graph, edit = view("g (float[1, 1, 2, 2] x) => (y) <float[4] s = {1, 1, 2, 2}> { y = Resize (x, s) }", 10)
    node = graph.nodes[0]
    assert (mode(node), coordinates(node, edit), rounding(node, edit)) == ("nearest", "asymmetric", "floor")


def test_since_then_it_has_defaults_of_its_own_and_inputs_by_name() -> None:
    graph, edit = view('g (float[1, 1, 2, 2] x) => (y) <float[4] s = {1, 1, 2, 2}> { y = Resize (x, "", s) }')
    node = graph.nodes[0]
    assert (coordinates(node, edit), rounding(node, edit)) == ("half_pixel", "round_prefer_floor")
    assert given(node, "scales", edit) is node.inputs[2]
    assert given(node, "roi", edit) is None
    assert given(node, "sizes", edit) is None


def test_factors_are_shown_as_a_person_writes_them() -> None:
    assert shown([Fraction(1), Fraction(2), Fraction(3, 5)]) == "1 x 2 x 0.6"
