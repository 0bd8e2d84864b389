"""Charts lie where the numbers say, and the diagram names what flows between the parts."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from graphsurgery.report import charts
from graphsurgery.report.charts import Scale
from graphsurgery.report.diagram import Flow, boxes, stem


def drawn(markup: str) -> ElementTree.Element:
    """The picture; a parse error unless every tag is closed."""
    return ElementTree.fromstring(markup)


def positions(markup: str, tag: str, attribute: str) -> list[str]:
    return [each.attrib[attribute] for each in drawn(markup).iter(tag) if attribute in each.attrib]


@pytest.mark.parametrize(
    ("values", "low", "high", "step"),
    [
        ([31.5, 22.7, 46], 0, 50, 10),
        ([-12.5, 40], -20, 40, 20),
        ([0.4], 0, 0.4, 0.1),
        ([math.inf, math.nan, 8], 0, 8, 2),
        ([], 0, 1, 0.2),
        ([0, 0], 0, 1, 0.2),
    ],
)
def test_a_scale_holds_all_values_between_round_ends(values: list[float], low: float, high: float, step: float) -> None:
    scale = Scale.over(values)
    assert (scale.low, scale.high) == pytest.approx((low, high))
    assert scale.ticks[1] - scale.ticks[0] == pytest.approx(step)
    assert scale.ticks[0] == pytest.approx(low)
    assert scale.ticks[-1] == pytest.approx(high)


@pytest.mark.parametrize("values", [[6000, -6000], [5e-324], [-1e-300], [1e300]])
def test_a_scale_over_the_strangest_numbers_has_a_few_ticks(values: list[float]) -> None:
    assert 2 <= len(Scale.over(values).ticks) <= 12


def test_a_bar_is_as_long_as_its_share_and_no_longer_than_its_ground() -> None:
    assert positions(charts.bar(0.25), "rect", "width") == ["100%", "25.00%"]
    assert positions(charts.bar(7), "rect", "width") == ["100%", "100.00%"]
    assert positions(charts.bar(math.nan), "rect", "width") == ["100%", "0.00%"]
    assert drawn(charts.bar(7)).attrib["class"] == "bar over"
    assert drawn(charts.bar(1)).attrib["class"] == "bar"


def test_a_mark_stands_on_its_bar() -> None:
    assert positions(charts.bar(0.25, 0.5), "line", "x1") == ["50.00%"]
    assert positions(charts.bar(0.25), "line", "x1") == []


def test_dots_lie_at_their_values_and_those_without_a_number_are_left_out() -> None:
    scale = Scale.over([0, 50])
    assert positions(charts.dots(scale, [10, None, 50, math.inf, math.nan]), "svg", "x") == ["20.00%", "100.00%"]


def test_each_column_has_a_marker_of_its_own_shape() -> None:
    shapes = {charts.legend(index) for index in range(6)}
    assert len({re.sub(r'class="\w+"', "", shape) for shape in shapes}) == 6
    marker = ElementTree.tostring(drawn(charts.legend(2))[0])
    assert marker in ElementTree.tostring(drawn(charts.dots(Scale.over([1]), [None, None, 1])))


def test_the_first_and_the_last_tick_stay_inside_the_axis() -> None:
    assert positions(charts.axis(Scale.over([0, 20])), "text", "text-anchor") == [
        "start",
        "middle",
        "middle",
        "middle",
        "end",
    ]


def test_connectors_lead_from_each_box_to_the_next_across_the_rows_that_they_stand_in() -> None:
    lines = [each.attrib for each in drawn(charts.connectors([True, False, False])).iter("line")]
    down, along, enter = lines[:3]
    assert (down["y1"], down["y2"]) == ("0", "50%")
    assert (along["x1"], along["x2"]) == (down["x1"], enter["x1"])
    assert (enter["y2"], "marker-end" in enter) == ("100%", True)
    assert [line["y1"] for line in lines[3:]] == ["100%", "50%", "50%"]  # both below: up, along and down again
    assert len(lines) == 6


def test_charts_are_hidden_from_screen_readers_and_fetch_nothing() -> None:
    every = [
        charts.bar(0.5, 0.7),
        charts.dots(Scale.over([3]), [3]),
        charts.axis(Scale.over([3])),
        charts.legend(0),
        charts.connectors([True, False]),
    ]
    for chart in every:
        assert drawn(chart).attrib["aria-hidden"] == "true"
        assert "http" not in chart
        assert re.findall(r"url\((.*?)\)", chart) in ([], ["#tip"])


def part(name: str, inputs: dict[str, Any], outputs: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    sides = {"inputs": inputs, "outputs": outputs}
    return {"name": name, "device": device, "accelerator": device != "cpu", "nodes": 3, **sides}


PARTS = [
    part(
        "backbone", {"image": [1, 3, 64, 64]}, {"f_1": [1, 8, 8, 8], "f_0": [1, 8, 16, 16], "logits": ["n", 2]}, "npu"
    ),
    part("proposal", {"f_0": [1, 8, 16, 16], "f_1": [1, 8, 8, 8]}, {"rois": ["unk__6", 4]}),
    part("head", {"rois": [100, 4]}, {"scores": [100]}, "npu"),
    part("end", {"logits": ["n", 2], "scores": ["unk__9"], "f_0": [1, 8, 16, 16]}, {"labels": ["m"], "boxes": None}),
]
MANIFEST = {
    "outputs": ["boxes", "labels", "scores"],
    "parts": [
        {"name": "head", "batch": {"size": 100, "inputs": [], "outputs": []}, "inputs": {}, "outputs": {}},
        {"name": "end", "batch": None, "inputs": {}, "outputs": {"labels": {"shape": ["m"], "dtype": "int64"}}},
    ],
}


def test_what_a_part_hands_to_the_next_stands_between_them_and_the_rest_names_its_source() -> None:
    backbone, proposal, head, end = boxes(PARTS, MANIFEST)
    assert backbone.reads == (Flow("image", "1×3×64×64"),)  # noqa: RUF001
    assert backbone.arrives == ()
    assert proposal.arrives == (Flow("f_0…1", "1×8×16×16 … 1×8×8×8", 2),)  # noqa: RUF001
    assert head.arrives == (Flow("rois", "N×4"),)  # noqa: RUF001
    assert end.also == (("backbone", (Flow("logits", "N×2"), Flow("f_0", "1×8×16×16"))),)  # noqa: RUF001


def test_rows_of_a_frozen_batch_are_shown_as_they_are_handed_over() -> None:
    _, _, head, end = boxes(PARTS, MANIFEST)
    assert head.batch == "batches of 100"
    assert end.arrives == (Flow("scores", "N"),)


def test_results_are_those_of_the_manifest_or_else_what_nobody_reads() -> None:
    assert [flow.name for box in boxes(PARTS, MANIFEST) for flow in box.gives] == ["scores", "labels", "boxes"]
    assert [flow.name for box in boxes(PARTS, None) for flow in box.gives] == ["labels", "boxes"]
    assert boxes(PARTS, MANIFEST)[-1].gives == (Flow("labels", "N, int64"), Flow("boxes", "shape unknown"))


def test_numbered_tensors_are_one_only_where_the_numbers_follow_and_rank_and_dtype_agree() -> None:
    shapes = {"f_0": [1, 2], "f_1": [1, 2], "f_3": [1, 2], "g_0": [1], "g_1": [1, 2], "h": [], "7": [1]}
    (box,) = boxes([part("only", {}, shapes)], None)
    assert [flow.name for flow in box.gives] == ["f_0…1", "f_3", "g_0", "g_1", "h", "7"]
    assert [flow.shape for flow in box.gives] == ["1×2", "1×2", "1", "1×2", "scalar", "1"]  # noqa: RUF001


def test_the_tenth_of_numbered_tensors_comes_after_the_ninth() -> None:
    (box,) = boxes([part("only", {}, {f"f_{n}": [n] for n in (10, 9, 8)})], None)
    assert box.gives == (Flow("f_8…10", "8 … 10", 3),)
    assert stem("f_10") == ("f_", 10)


def test_a_run_without_parts_has_no_diagram() -> None:
    assert boxes([], None) == []
