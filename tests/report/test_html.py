"""report.html: what it says of good and bad runs, that it needs nothing else, and that a browser shows it."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import escape, unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Cli
from PIL import Image

from graphsurgery.errors import PassError
from graphsurgery.report import environment, numbers
from graphsurgery.report.headline import headline
from graphsurgery.report.html import Picture, render
from graphsurgery.report.pictures import encode
from graphsurgery.report.recipe_text import as_yaml

LINES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
GROUNDS = ("page", "box", "weights", *(f"{each}-tint" for each in ("good", "host", "bad", "warn", "odd")))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
LONG = "/backbone/body/layer4/layer4.0/conv3/" * 3 + "Conv"


def step(name: str, part: str | None = None, verdict: str = "passed", **more: Any) -> dict[str, Any]:
    worst = {
        "verdict": verdict, "reason": "", "max_abs": 2e-4, "allowed": 1e-3, "sqnr_db": 93.0, "tensor": f"{name}_worst",
    }  # fmt: skip
    made = {
        "name": name, "part": part, "effect": "exact", "nodes_before": 2435, "nodes_after": 593, "seconds": 1.649,
        "skips": [], "verdict": verdict, "worst": worst, "comparison": {"notes": []},
    }  # fmt: skip
    return {**made, **more}


def check(name: str, **more: Any) -> dict[str, Any]:
    made = step(name, **more)
    del made["effect"]
    return made


def quantized(part: str, tensors: dict[str, float | None], layers: list[tuple[str, float]]) -> dict[str, Any]:
    details = {
        "backend": "onnxruntime",
        "feeds": 3,
        "excluded": ["stem/Conv"],
        "sqnr_db": tensors,
        "layers": [{"name": name, "op": "Conv", "sqnr_db": sqnr} for name, sqnr in layers],
    }
    return step("quantize", part, effect="approximate", details=details)


def place(title: str = "MaxPool -> Conv", count: int = 1, change: str = "") -> dict[str, Any]:
    """A place that a pass changed, as run.json has it."""

    def scene(op: str, became: str) -> dict[str, Any]:
        boxes = [
            {"key": "in:x", "title": "x", "kind": "input", "lines": ["1x48x8x10"]},
            {"key": "n1", "title": op, "lines": [f"strides 2, {LONG}"[:34]], "about": [f"<{op}>"], "change": became},
            {"key": "n2", "title": "Conv", "kind": "weights", "outcomes": {"taken": 1}, "change": "kept"},
        ]
        lines = [
            {"source": "in:x", "target": "n1"},
            {"source": "n1", "target": "n2", "label": "1x48x4x5", "about": "p6"},
        ]
        return {"boxes": boxes, "lines": lines}

    before, after = scene("MaxPool", change or "gone"), scene("Conv", change or "new")
    return {"title": title, "count": count, "nodes": [1, 1], "before": before, "after": after}


def scores(ap: float) -> dict[str, float | None]:
    return {line: None if line == "APl" else ap for line in LINES}


def times(scale: float) -> dict[str, Any]:
    parts = {"backbone_rpn": 41.0 * scale, "box_proposal": 9.4}
    told = {name: {"mean_ms": ms, "p50_ms": ms * 0.9, "p90_ms": ms * 1.2} for name, ms in parts.items()}
    return {"parts": told, "total": {"mean_ms": sum(parts.values()), "p50_ms": 45.0, "p90_ms": 60.0}}


def good_run() -> dict[str, Any]:
    """All that run.json can hold, in small."""
    ap = {"original": 0.8351, "parts": 0.8351, "int8": 0.8220}
    places = [place(count=2), place("If -> If")]
    layers = [(LONG, 31.0), *((f"layer_{n}/Conv", 40.0 + n) for n in range(20))]
    return {
        "recipe": {
            "name": "shapes",
            "source": {"demo": "shapes", "size": [256, 320]},
            "check": {"tolerance": {"boxes": 1e-3, "scores": 1e-05}},
            "passes": [{"freeze-shapes": {"batch": 1}}, "simplify"],
            "evaluate": {"samples": 100, "max_ap_drop": 0.02},
            "variants": {"int8": {"max_ap_drop": 0.01}},
        },
        "source": {"kind": "demo", "name": "shapes", "weights": None, "size": [256, 320], "opset": 17},
        "passes": [
            step("freeze-shapes", skips=[{"node": f"pool_{n}", "reason": "the kernel is 3x3"} for n in range(30)]),
            step("replace-unit-maxpool", "backbone_rpn", changes={"kinds": 3, "places": places}),
        ],
        "checks": [check("export"), check("chain", comparison={"notes": ["sample 1: order differs"]})],
        "parts": [
            {
                "name": "backbone_rpn", "device": "npu", "accelerator": True, "nodes": 80,
                "inputs": {"image": [1, 3, 256, 320]}, "outputs": {"features_0": [1, 48, 64, 80]},
                "ops": {"Conv": 46, "Relu": 23, **{f"Op{n}": 1 for n in range(9)}},
            },
            {
                "name": "box_proposal", "device": "cpu", "accelerator": False, "nodes": 246,
                "inputs": {"features_0": [1, 48, 64, 80]}, "outputs": {"boxes": ["unk__6", 4]}, "ops": {"Gather": 36},
            },
        ],
        "evaluation": {
            "samples": 100,
            "ap": {"bbox": ap, "segm": dict(ap)},
            "lines": {kind: {column: scores(value) for column, value in ap.items()} for kind in ("bbox", "segm")},
            "seconds_per_image": {"original": 0.8, "parts": 0.29, "int8": 0.11},
        },
        "variants": {
            "int8": {
                "verdict": "passed", "reason": None, "devices": {"npu": "cpu"}, "parts": [],
                "passes": [quantized("backbone_rpn", {"features_0": 31.53, "features_1": None}, layers)],
            },
            "htp": {"verdict": "skipped", "reason": "onnxruntime-qnn is not installed", "devices": {}, "passes": []},
        },
        "latency": {"parts": times(1), "int8": times(0.4)},
        "seconds": {"export": 4.9, "total": 148.2},
        "peak_rss_mb": 1185.6,
        "environment": environment.describe(),
    }  # fmt: skip


def failed_run() -> dict[str, Any]:
    run = good_run()
    failed = step("widen-maxpool", "backbone_rpn", "failed", effect="approximate")
    failed["worst"] |= {"max_abs": 1.84, "reason": "off by 1.84, allowed 0.001"}
    run |= {"passes": [run["passes"][0], failed], "checks": run["checks"][:1], "parts": [], "evaluation": None}
    del run["variants"], run["latency"], run["environment"]
    failed["changes"] = {"kinds": 1, "places": [place()]}
    run["first_difference"] = place("tensor 'p6'", change="differs")
    run["error"] = {
        "kind": "Difference",
        "message": "shapes.yaml:17: pass 'widen-maxpool' on part 'backbone_rpn' differs from the original model",
        "hint": "first difference: tensor 'p6': off by 1.84; see it again: python -m graphsurgery bisect a.onnx b.onnx",
    }
    return run


def pictures() -> list[Picture]:
    drawn = [Image.fromarray(np.full((60, 80, 3), grey, np.uint8)) for grey in (80, 160)]
    return [Picture("street.jpg", encode(drawn[0]), encode(drawn[1], 1), (3, 1))]


class Page(HTMLParser):
    """The page as its reader meets it: text, tags, attributes; fails where a tag is not closed."""

    VOID = ("meta", "img", "br", "wbr", "rect", "line", "circle", "path", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.words.append("" if tag in ("wbr", "span") else " ")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def having(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attributes["aria-labelledby"] for attributes in self.having("section")]


def test_the_sections_come_in_the_order_in_which_they_are_asked_for() -> None:
    page = Page(render(good_run(), None, pictures()))
    assert page.sections == [
        *("partition", "passes", "checks", "operators", "sqnr", "accuracy", "latency", "samples", "recipe", "about"),
    ]


def test_the_headline_comes_first_with_the_figures_to_decide_by() -> None:
    text = Page(render(good_run(), None)).text
    assert text.index("Passed") < text.index("Box AP, parts 0.8351") < text.index("Partition")
    assert "original 0.8351, int8 0.8220" in text
    assert "Latency, parts 50.4 ms" in text
    assert "Largest error 20 % of what the recipe allows" in text
    assert "Nodes 2,435 → 326 2 parts, 1 on npu, 1 on cpu" in text


def test_a_failed_run_names_the_pass_the_reason_and_the_command() -> None:
    page = Page(render(failed_run(), None))
    assert "Failed at pass widen-maxpool on backbone_rpn" in page.text
    assert "shapes.yaml:17: pass 'widen-maxpool'" in page.text
    assert (
        "First difference: tensor 'p6': off by 1.84 See it again: python -m graphsurgery bisect a.onnx b" in page.text
    )
    assert "off by 1.84, allowed 0.001" in page.text
    assert page.sections == ["first", "passes", "checks", "recipe", "about"]


def test_what_a_pass_changed_is_drawn_before_and_after() -> None:
    pytest.importorskip("pygraphviz")
    page = Page(render(good_run(), None))
    assert "what it changed: 2 places alike: MaxPool -> Conv, and 2 more" in page.text
    assert "before, 1 node" in page.text
    assert "1 more kinds of places, of fewer nodes, are not drawn." in page.text
    assert [each.get("class") for each in page.having("g")].count("box node gone") == 2
    assert "pip install 'graphsurgery[picture]'" not in page.text


def test_a_pass_that_changed_no_node_says_so() -> None:
    run = good_run()
    run["passes"][0]["changes"] = {"kinds": 0, "places": []}
    assert "It changed no node: shapes, types or names alone." in Page(render(run, None)).text
    assert "It changed no node" not in Page(render(good_run(), None)).text


def test_the_first_difference_of_a_failed_run_is_drawn() -> None:
    pytest.importorskip("pygraphviz")
    page = Page(render(failed_run(), None))
    assert "around tensor 'p6', the first tensor that differs" in page.text
    assert [each.get("class") for each in page.having("g")].count("box node differs") == 2


def test_without_the_extra_the_page_is_whole_and_says_how_to_get_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page = Page(render(good_run(), None))
    assert "pip install 'graphsurgery[picture]', then python -m graphsurgery report FOLDER" in page.text
    assert "what it changed: 2 places alike: MaxPool -> Conv" in page.text
    assert not [each for each in page.having("svg") if each.get("class") == "graph"]


def test_what_graphviz_can_not_lay_out_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygraphviz")
    asked = []

    def fail(*given: object) -> None:
        asked.append(given)
        raise PassError("Graphviz crashed")

    monkeypatch.setattr("graphsurgery.picture.layout.lay_out", fail)
    run = good_run()
    run["passes"][1]["changes"]["places"] *= 5
    page = Page(render(run, None))
    assert "what it changed: 2 places alike: MaxPool -> Conv" in page.text
    assert len(asked) == 2  # and then no more: each could take seconds


def test_the_diagram_has_the_colours_of_the_target() -> None:
    left = [{"op": "Slice", "outcome": "cpu", "why": "", "source": "a guide"}] * 3
    found = {
        "target": "rk3588", "precision": "int8", "nodes": 80, "nodes_taken": 77, "multiply_adds": 200,
        "multiply_adds_taken": 190, "left": left,
    }  # fmt: skip
    page = Page(render(good_run() | {"support": {"backbone_rpn": found}}, None))
    assert "77 taken, 3 left to the CPU" in page.text
    bars = [(each["class"], each["style"]) for each in page.having("span") if "flex" in (each.get("style") or "")]
    assert bars == [("share taken", "flex: 77"), ("share cpu", "flex: 3")]


def test_a_run_that_failed_before_its_first_step_has_a_report() -> None:
    error = {"kind": "InputError", "message": "x.yaml:3: no such file", "hint": ""}
    page = Page(render({"recipe": {"name": "x"}, "error": error}, None))
    assert "Stopped by an error x.yaml:3: no such file" in page.text
    assert page.sections == ["recipe"]


@pytest.mark.parametrize(
    ("change", "verdict", "title"),
    [
        ({}, "passed", "Passed"),
        ({"variants": {"x": {"verdict": "failed", "reason": "AP"}}}, "failed", "Passed, but a variant failed"),
        ({"checks": [check("export", verdict="inconclusive")]}, "inconclusive", "Passed, with an open question"),
        (
            {"checks": [check("export", verdict="unchecked")], "passes": [step("simplify", verdict="unchecked")]},
            "unchecked",
            "Not checked",
        ),
        ({"checks": [check("chain", verdict="failed")]}, "failed", "Failed at check chain"),
        (
            {"variants": {"x": {"verdict": "failed", "reason": "", "passes": [step("quantize", "p", "failed")]}}},
            "failed",
            "Failed at pass quantize on p, variant x",
        ),
        ({"error": {"kind": "Difference", "message": "AP fell", "hint": ""}}, "failed", "Failed"),
        ({"error": {"kind": "KeyboardInterrupt", "message": "", "hint": ""}}, "failed", "Interrupted"),
    ],
)
def test_the_headline_says_how_the_run_ended(change: dict[str, Any], verdict: str, title: str) -> None:
    found = headline({**good_run(), **change})
    assert (found.verdict, found.title) == (verdict, title)


def test_a_skipped_variant_is_said_with_its_reason() -> None:
    assert "Variant htp was skipped: onnxruntime-qnn is not installed." in headline(good_run()).text


def test_a_hint_without_a_command_is_kept_whole() -> None:
    run = {**failed_run(), "error": {"kind": "Difference", "message": "m", "hint": "the graphs can't be searched"}}
    assert headline(run).text == ("m", "The graphs can't be searched")
    assert headline(run).command == ""


def test_refusals_are_folded_by_reason_and_long_lists_of_nodes_are_cut() -> None:
    text = Page(render(good_run(), None)).text
    assert "30 nodes left alone the kernel is 3x3 (30 times): pool_0, pool_1," in text
    assert "pool_11, and 18 more" in text
    assert "pool_12" not in text
    assert "1 layer left in float stem/Conv" in text


def test_what_joins_ranges_too_far_apart_is_said_beside_the_variants_pass() -> None:
    run = good_run()
    run["variants"]["int8"]["passes"][0]["details"]["joined"] = [{"explanation": "'out' joins <boxes> and scores"}]
    page = render(run, None)
    assert "&#39;out&#39; joins &lt;boxes&gt; and scores" in page
    assert page.index("left in float") > page.index("&lt;boxes&gt;") > page.index("int8")


def test_an_error_is_never_shown_as_smaller_nor_a_limit_as_larger() -> None:
    run = good_run()
    run["passes"][0]["worst"] |= {"max_abs": 0.00100001, "allowed": 0.00099999, "verdict": "failed"}
    text = Page(render(run, None)).text
    assert "freeze-shapes_worst0.00110.00099" in text.replace(" ", "")


def test_a_pass_judged_by_its_ratio_shows_decibels() -> None:
    run = good_run()
    run["passes"][0]["worst"] |= {"sqnr_db": 38.47, "asked_db": 30.0}
    page = render(run, None)
    assert "38 dB" in page
    assert "30 dB" in page
    assert f'width="{100 * 10 ** ((30 - 38.47) / 20):.2f}%"' in page


def test_a_step_without_a_comparison_says_why() -> None:
    run = good_run()
    run["passes"] = [step("a", worst=None), step("b", worst=None, verdict="unchecked")]
    text = Page(render(run, None)).text
    assert "it changed nothing" in text
    assert "not compared" in text


def test_what_a_step_was_compared_with_behind_a_grant_is_shown() -> None:
    run = good_run()
    exact = {"tensor": "scores", "verdict": "passed", "reason": "", "max_abs": 2e-7, "allowed": 1e-4}
    noisy = {"tensor": "masks", "verdict": "passed", "reason": "", "max_abs": 1.0, "sqnr_db": 31.0, "asked_db": 15.0}
    missing = {"tensor": "labels", "verdict": "failed", "reason": "missing: it was captured but not computed"}
    run["passes"] = [step(f"pass_{n}", worst_before=each) for n, each in enumerate((exact, noisy, missing))]
    text = render(run, None)
    assert '<span class="mono">scores</span>, 2e-7 off, 0.0001 allowed' in text
    assert '<span class="mono">masks</span>, 31 dB where 15 dB is asked' in text
    assert '<span class="mono">labels</span>, missing: it was captured but not computed' in text


def test_the_worst_layers_are_shown_and_the_others_folded() -> None:
    page = Page(render(good_run(), None))
    assert "9 more layers" in page.text
    assert page.text.index(LONG) < page.text.index("layer_0/Conv") < page.text.index("layer_19/Conv")


def test_a_tensor_that_is_equal_has_a_dash_for_its_ratio() -> None:
    assert re.search(r"features_0 31\.5 features_1 –", Page(render(good_run(), None)).text)  # noqa: RUF001


def test_each_column_is_compared_with_the_original_and_held_against_its_own_limit() -> None:
    text = Page(render(good_run(), None)).text
    assert "Box AP 0.8351 0.8351 0.8220 against the original 0 too much: ✗ −0.0131" in text  # noqa: RUF001
    assert "allowed drop 0.02 0.01" in text
    run = good_run()
    del run["recipe"]["variants"]
    assert "too much" not in Page(render(run, None)).text


def test_all_lines_of_the_evaluation_are_there_and_what_no_image_holds_is_a_dash() -> None:
    text = Page(render(good_run(), None)).text
    for line in LINES:
        assert re.search(rf"\b{line}\b", text)
    assert "APl large objects – – –" in text  # noqa: RUF001


def test_published_figures_stand_beside_what_was_measured() -> None:
    run = good_run()
    run["evaluation"]["published"] = {"bbox": {"AP": 0.381, "AR300": 0.523}}
    text = Page(render(run, None)).text
    assert "published 0.3810" in text
    assert re.search(r"AP IoU 0\.50 to 0\.95 [0-9.]+ [0-9.]+ [0-9.]+ 0\.3810", text)
    assert "AR300 recall, 300 per image – – – 0.5230" in text  # noqa: RUF001
    assert "published" not in Page(render(good_run(), None)).text


def test_what_a_target_leaves_is_shown_by_reason_with_what_helps_and_the_source() -> None:
    node = {"op": "Slice", "outcome": "cpu", "why": "step 2, where 1 is taken", "fixes": ["lower-strided-slice"]}
    source = {"source": "A guide 2, 2026-01-01 (document)"}
    unlisted = {"op": "Gelu", "outcome": "unknown", "why": "the source doesn't list it", **source}
    found = {
        "target": "rk3588", "precision": "int8", "nodes": 80, "nodes_taken": 77, "multiply_adds": 200,
        "multiply_adds_taken": 190, "left": [unlisted, node | source, node | source],
    }  # fmt: skip
    run = good_run() | {"support": {"backbone_rpn": found}}
    run["passes"][1]["brings"] = ["2 Slice more: rk3588 (int8) leaves it to the CPU"]
    text = Page(render(run, None)).text
    assert "backbone_rpn 77 of 80 nodes, 95.0% of the multiply-adds" in text
    rows = "2 Slice cpu step 2, where 1 is taken lower-strided-slice A guide 2, 2026-01-01 (document) 1 Gelu unknown"
    assert rows in text
    assert "The target: 2 Slice more" in text
    assert "What the target takes" not in Page(render(good_run(), None)).text


def test_latencies_far_apart_have_a_scale_each_and_the_page_says_so() -> None:
    run = good_run()
    assert "All bars are on one scale." in Page(render(run, None)).text
    run["latency"]["htp"] = times(100)
    assert "each has its own" in Page(render(run, None)).text


def test_pictures_stand_side_by_side_with_what_they_show() -> None:
    page = Page(render(good_run(), None, pictures()))
    first, second = page.having("img")
    assert first["alt"] == "street.jpg, Original model: 3 detections"
    assert second["alt"] == "street.jpg, Parts: 1 detection"
    assert str(first["src"]).startswith("data:image/png;base64,")


def test_nothing_that_a_run_quotes_becomes_part_of_the_page() -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    run = json.loads(json.dumps(good_run()).replace("features_0", json.dumps(evil)[1:-1]))
    run["recipe"]["name"] = run["recipe"]["source"]["demo"] = run["source"]["name"] = evil
    run["recipe"][evil] = [evil]
    run["passes"][0]["skips"] = [{"node": evil, "reason": evil}]
    run["passes"][0] |= {"name": evil, "part": evil}
    run["passes"][0]["worst"] |= {"tensor": evil, "reason": evil}
    run["checks"][1]["comparison"]["notes"] = [evil]
    run["parts"][0] |= {"name": evil, "device": evil, "ops": {evil: 3}}
    run["variants"]["int8"]["passes"][0]["details"]["layers"][0]["name"] = evil
    run["variants"][evil] = {"verdict": "failed", "reason": evil, "devices": {evil: evil}, "passes": []}
    run["latency"][evil] = times(1)
    run["evaluation"]["ap"]["bbox"][evil] = 0.5
    run["environment"]["system"] = run["command"] = evil
    run["error"] = {"kind": evil, "message": evil, "hint": f"{evil} python -m graphsurgery {evil}"}
    page = render(run, {"graphsurgery": evil}, [Picture(evil, b"", b"")])
    assert evil in Page(page).text
    assert {tag for tag, _ in Page(page).tags} == {tag for tag, _ in Page(render(good_run(), None, pictures())).tags}
    assert "<script" not in page
    assert not any(name.startswith("on") for _, attributes in Page(page).tags for name in attributes)


def test_the_page_needs_nothing_from_anywhere() -> None:
    page = render(good_run(), None, pictures())
    policy = next(meta["content"] for meta in Page(page).having("meta") if "http-equiv" in meta)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert set(re.findall(r"url\((.*?)\)", page)) == {"#tip"}
    assert not {tag for tag, _ in Page(page).tags} & {"script", "link", "iframe", "object", "base", "form"}


def test_the_page_can_be_read_without_seeing_it() -> None:
    page = Page(render(good_run(), None, pictures()))
    ranks = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(ranks))
    assert all("scope" in attributes for attributes in page.having("th"))
    assert all(attributes["alt"] for attributes in page.having("img"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(page.sections) <= set(ids)
    assert page.having("html")[0]["lang"] == "en"


def luminance(colour: str) -> float:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("mode", [0, 1])
def test_text_has_the_contrast_that_wcag_asks_for(mode: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", render(good_run(), None), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode]))
    pairs = [(text, "page") for text in ("ink", "soft", "accent", "bad", "unsure")]
    pairs += [("soft", "tint"), ("ink", "tint"), ("ink", "ground"), ("soft", "lane"), ("page", "accent")]
    pairs += [(f"g-{text}", f"g-{ground}") for text in ("ink", "soft") for ground in GROUNDS]
    colours |= dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode + 2]))
    for text, ground in pairs:
        dark, light = sorted((luminance(colours[text]), luminance(colours[ground])))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_the_recipe_can_be_loaded_again_from_the_page() -> None:
    recipe = {
        **good_run()["recipe"],
        "odd": [
            "yes",
            "1e3",
            ".5",
            "",
            " a",
            "a: b",
            "#",
            "null",
            "ü\n",
            1e-05,
            1e16,
            None,
            True,
            {},
            [],
            [[1, [2.5]]],
        ],
        "on": {"a b": "x-y", "2": {"deep": [{"a": 1, "b": [{"c": "d"}]}]}},
    }
    assert yaml.safe_load(as_yaml(recipe)) == recipe
    assert "size: [256, 320]" in as_yaml(recipe)
    assert as_yaml(recipe).splitlines()[0] == "name: shapes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (12.4, "12 s"), (148.2, "2 min 28 s"), (3599.6, "1 h 0 min"), (None, "–")],  # noqa: RUF001
)
def test_durations_are_said_as_people_say_them(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


def test_the_end_tells_machine_versions_and_time() -> None:
    text = Page(render(good_run(), {"graphsurgery": "9.9"})).text
    about = text[text.index("About this run") :]
    assert "Time 2 min 28 s (export 4.90 s)" in about
    assert "Peak memory 1,186 MB" in about
    assert f"numpy {np.__version__}" in about
    assert "Python 3." in about


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text(json.dumps(good_run()), encoding="utf-8")
    return tmp_path


def test_the_command_writes_the_page_beside_run_json(cli: Cli, folder: Path) -> None:
    outcome = cli("report", folder)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(folder / "report.html")
    recorded = json.loads((folder / "run.json").read_text(encoding="utf-8"))  # which says when it was
    assert (folder / "report.html").read_text(encoding="utf-8") == render(recorded, None)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "run.json"]


def test_the_command_writes_where_it_is_told(cli: Cli, folder: Path) -> None:
    assert cli("report", folder, "--out", folder / "other.html").code == 0
    assert (folder / "other.html").is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        ("[]", "the file: Input should be a valid dictionary"),
        ("{", "can't be read"),
        ("{}", "not of this version: recipe: Field required"),
        ('{"recipe": []}', "not of this version"),
        ('{"recipe": {}, "passes": [3]}', "not of this version"),
    ],
)
def test_a_folder_without_a_run_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    outcome = cli("report", tmp_path)
    assert outcome.code == 2
    assert said in outcome.last_line
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed; any of {', '.join(BROWSERS)} would do")
    return found


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Any]:
    """Run a headless browser on a file in `tmp_path`; it has no network and no profile."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
        ]
        command = [browser(), *flags, *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=120)

    browser()
    yield run
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


# The page itself may run no script, so the page around it measures: in frames as wide as a phone and a desktop.
MEASURE = """<!doctype html><body>%s<script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument.documentElement;
    const clipped = at => at && (getComputedStyle(at).overflowX != "visible" || clipped(at.parentElement));
    const outside = [...page.querySelectorAll("body *")].filter(
      at => !clipped(at.parentElement) && at.getBoundingClientRect().right > frame.clientWidth + 0.5);
    return [frame.clientWidth, page.scrollWidth, page.scrollHeight, outside.map(at => at.outerHTML.slice(0, 80))];
  });
  document.body.innerHTML = "<pre id=seen></pre>";
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


@pytest.mark.parametrize("which", ["good", "failed"])
def test_no_page_is_wider_than_its_screen_and_the_browser_has_no_complaint(
    chromium: Any, tmp_path: Path, which: str
) -> None:
    run = good_run() if which == "good" else failed_run()
    run["passes"][0]["name"] = run["passes"][0]["worst"]["tensor"] = LONG
    page = render(run, None, pictures()).replace("<details>", "<details open>")
    frames = "".join(
        f'<iframe srcdoc="{escape(page)}" style="width: {w}px; border: 0"></iframe>' for w in (320, 360, 1280)
    )
    (tmp_path / "measure.html").write_text(MEASURE % frames, encoding="utf-8")
    outcome = chromium("--dump-dom", (tmp_path / "measure.html").as_uri())
    measured = re.search(r'<pre id="seen">(.*?)</pre>', outcome.stdout)
    assert measured, outcome.stderr
    seen = json.loads(unescape(measured[1]))
    assert [(width, scrolled, outside) for width, scrolled, _, outside in seen] == [
        (width, width, []) for width in (320, 360, 1280)
    ]
    assert all(height > 800 for _, _, height, _ in seen)
    assert "CONSOLE" not in outcome.stderr


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_painted_in_light_and_in_dark(chromium: Any, tmp_path: Path, dark: bool) -> None:
    (tmp_path / "report.html").write_text(render(good_run(), None, pictures()), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    target = tmp_path / "page.png"
    outcome = chromium(
        *scheme, f"--screenshot={target}", "--window-size=1280,2000", (tmp_path / "report.html").as_uri()
    )
    pixels = np.asarray(Image.open(target).convert("L"), np.float64)
    assert pixels.shape == (2000, 1280)
    assert (np.median(pixels) < 64) == dark
    assert all(band.std() > 5 for band in np.array_split(pixels, 4)), "a quarter of the page is blank"
    assert "CONSOLE" not in outcome.stderr


def test_rendering_leaves_the_run_as_it_is() -> None:
    run = good_run()
    before = copy.deepcopy(run)
    render(run, None)
    assert run == before
