"""docs/recipes.md is what the schema of recipes says, and every example in it loads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphsurgery.recipe.load import load_recipe
from graphsurgery.recipe.page import page
from recipe.test_json_schema import ROOT, flagged, own_passes

PAGE = ROOT / "docs" / "recipes.md"

# What an example needs around it: the parts that it names, and images where it gives annotations.
AROUND = """\
source: {demo: shapes}
partition:
  at: RoiAlign
  parts: {backbone_rpn: npu, box_proposal: cpu, box_head: npu, mask_proposal: cpu, mask_head: npu, postprocess: cpu}
capture: {images: photos}
target: rk3588
evaluate: {images: a, annotations: b}
"""
NAMES = {
    "variants.NAME": "variants.int8",
    "variants.NAME.search": "variants.int8.search",
    "variants.NAME.search.passes.PASS.OPTION": "variants.int8.search.passes.quantize.exclude",
    "check.tolerance.NAME": "check.tolerance.boxes",
    "detections.VIEW": "detections.labels",
}
# What a search needs: passes to look into, what to look for, and what to keep.
AROUND_SEARCH: dict[str, Any] = {
    "part_passes": {"backbone_rpn": ["quantize"]},
    "search": {"passes": {"quantize": {"method": ["minmax"]}}, "sqnr": 30},
}
# What makes sense of an example of detections: by its section, or by its section and key.
ULTRALYTICS, YOLOX, EFFDET = ({"preset": name} for name in ("ultralytics", "yolox", "effdet"))
AROUND_DETECTIONS: dict[str, dict[str, Any]] = {
    "detections": ULTRALYTICS,
    "detections points": YOLOX,
    "detections anchors": EFFDET,
    "detections labels": {**ULTRALYTICS, "multi_label": False},
    "detections.VIEW": {**ULTRALYTICS, "multi_label": False},
    "detections.boxes": ULTRALYTICS,
    "detections.boxes form": {"preset": "ssd"},
    "detections.boxes bins": {**ULTRALYTICS, "boxes": {"form": "ltrb"}, "points": {"strides": [8]}},
    "detections.scores": ULTRALYTICS,
    "detections.points": YOLOX,
    "detections.anchors": EFFDET,
    "detections.anchors boxes": {**EFFDET, "anchors": {"levels": None}},
    "detections.anchors.levels": EFFDET,
    "detections.masks": {"preset": "ultralytics_seg"},
    "detections.masks form": {"preset": "mmdet_mask"},
    "detections.keypoints": {"preset": "ultralytics_pose"},
    "detections.nms": ULTRALYTICS,
}


def laid_over(around: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    both = {key: laid_over(around.get(key, {}), each) for key, each in own.items() if isinstance(each, dict)}
    return {**around, **own, **both}


def examples() -> Iterator[tuple[str, str, str]]:
    """The section, the key and the line of every example in a table."""
    for section, text in re.findall(r"^## ([\w.]+)\n(.*?)(?=^## )", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        for key, cell in re.findall(r"^\| `(\w+)` \|.* \| ([^|]+) \|$", text, re.M):
            yield from ((section, key, line) for line in re.findall(r"`([^`]+)`", cell))


def whole_recipes() -> list[str]:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in blocks if yaml.safe_load(block)]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("common").mkdir()
    Path("common", "base.yaml").write_text(AROUND, encoding="utf-8")
    of_package = ROOT / "graphsurgery" / "targets" / "generic-cnn.yaml"
    Path("my_npu.yaml").write_text(of_package.read_text(encoding="utf-8"), encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    remedy = "make it anew: python -m graphsurgery recipe-schema --markdown --out docs/recipes.md"
    assert PAGE.read_text(encoding="utf-8") == page(), remedy


def test_every_key_has_an_example() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    shown = list(dict.fromkeys((section, key) for section, key, _ in examples()))
    assert [key for _, key in shown] == keys
    assert {("Keys", "variants"), ("source", "onnx"), ("check.tolerance.NAME", "sqnr")} <= set(shown)


@pytest.mark.parametrize(("section", "key", "line"), examples())
def test_an_example_of_a_key_loads(section: str, key: str, line: str) -> None:
    recipe: dict[str, Any] = yaml.safe_load(line)
    assert list(recipe) == [key]
    if section != "Keys":
        for name in reversed(NAMES.get(section, section).split(".")):
            recipe = {name: recipe}
    if section.startswith("variants.NAME.search") or key == "search":
        recipe = laid_over({"variants": {"int8": AROUND_SEARCH}}, recipe)
    if "image" in recipe or "detections" in recipe:  # the others have their own
        recipe["source"] = {"onnx": "detector.onnx"}
    if section == "source" and key in ("inputs", "batch", "outputs"):
        recipe["source"]["onnx"] = "detector.onnx"
    if key == "by":
        recipe["partition"]["at"] = None  # the inherited one
    if section.startswith("detections"):
        if section == "detections.anchors.levels":
            level = {"stride": 8, "sizes": [[32, 32]]} | recipe["detections"]["anchors"]["levels"]
            recipe["detections"]["anchors"]["levels"] = [level]
        around = AROUND_DETECTIONS.get(f"{section} {key}") or AROUND_DETECTIONS[section]
        recipe["detections"] = laid_over(around, recipe["detections"])
    text = yaml.safe_dump({"extends": "common/base.yaml", **recipe}, sort_keys=False)
    Path("x.yaml").write_text(text, encoding="utf-8")
    load_recipe("x.yaml", registry=own_passes())
    assert flagged(text) == set()


@pytest.mark.parametrize("text", whole_recipes())
def test_a_whole_recipe_loads(text: str) -> None:
    Path("x.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("x.yaml", registry=own_passes())
    assert flagged(text) == set()
    assert recipe.partition is not None
    assert recipe.grants


def test_there_are_two_whole_recipes_one_of_which_extends_another() -> None:
    assert ["extends:" in text for text in whole_recipes()] == [False, True]
