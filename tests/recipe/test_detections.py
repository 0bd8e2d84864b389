"""The section `detections` of a recipe: a word, a mapping over a preset, and what is refused, with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.presets import PRESETS
from graphsurgery.errors import RecipeError
from graphsurgery.images.preprocessing import PRESETS as IMAGE_PRESETS
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.recipe.load import Recipe, load_recipe
from recipe.test_json_schema import flagged, own_passes

Load = Callable[..., Recipe]
SOURCE = "source: {onnx: a.onnx}\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str, *overrides: str) -> Recipe:
        Path("x.yaml").write_text(text, encoding="utf-8")
        return load_recipe("x.yaml", overrides, registry=own_passes())

    return write_and_load


def read(recipe: Recipe) -> Postprocessing:
    assert recipe.source.detections is not None
    return recipe.source.detections


def test_without_it_there_is_none(load: Load) -> None:
    assert load(SOURCE).source.detections is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_word_is_a_preset(load: Load, name: str) -> None:
    text = f"{SOURCE}detections: {name}\n"
    assert read(load(text)) == Postprocessing.from_json(PRESETS[name])
    assert read(load(text.replace(f": {name}", f": {{preset: {name}}}"))) == Postprocessing.from_json(PRESETS[name])
    assert flagged(text) == set()


def test_a_preset_is_laid_under_key_by_key_and_null_takes_a_key_away(load: Load) -> None:
    text = SOURCE + "detections: {preset: yolox, boxes: {form: cxcywh}, points: , nms: {iou: 0.3}, classes: [a, b]}"
    found = read(load(text))
    assert found == Postprocessing.from_json({**PRESETS["yolox_decoded"], "nms": {"iou": 0.3}, "classes": ["a", "b"]})
    assert flagged(text) == set()


def test_a_recipe_is_laid_over_the_word_of_another(load: Load) -> None:
    Path("base.yaml").write_text(SOURCE + "detections: ultralytics\nimage: yolox\n", encoding="utf-8")
    recipe = load("extends: base.yaml\ndetections: {score: 0.25}\nimage: {pad: 0}\n", "detections.nms.iou=0.5")
    found = Postprocessing.from_json({**PRESETS["ultralytics"], "score": 0.25, "nms": {"iou": 0.5}})
    assert read(recipe) == found
    assert recipe.source.image == Preprocessing(**{**IMAGE_PRESETS["yolox"], "pad": 0})
    assert load("extends: base.yaml\ndetections:\n").source.detections is None


def test_the_command_line_gives_a_word_too(load: Load) -> None:
    recipe = load(SOURCE, "detections=detr", "detections.classes=coco91", "image=detr")
    assert read(recipe).class_names == ["background", *read(recipe).class_names[1:]]  # type: ignore[index]
    assert recipe.source.image.shortest == 800


def test_categories_are_a_list_or_by_label(load: Load) -> None:
    for text in ("[5, null, 9]", "{'0': 5, 2: 9}"):
        section = f"{SOURCE}detections: {{preset: detr, categories: {text}}}"
        assert read(load(section)).category_of_label == {0: 5, 2: 9}
        assert flagged(section) == set()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("detections: ultralitics", "x.yaml:2: detections.preset should be 'torchvision', 'torchvision_mask'"),
        ("detections:", "x.yaml:2: detections should be a mapping, got nothing"),
        ("detections: {}", "x.yaml:2: detections: lacks scores"),
        ("detections:\n  scors: {}", "x.yaml:3: unknown key 'scors' in detections. Did you mean 'scores'?"),
        ("detections:\n  boxes:\n    fromm: xyxy", "x.yaml:4: unknown key 'fromm' in detections.boxes. Did you mean"),
        ("detections:\n  preset: detr\n  boxes:\n    form: polar", "x.yaml:5: detections.boxes.form should be 'xyxy'"),
        ("detections:\n  preset: yolox\n  points:", "x.yaml:4: detections.points go with boxes.form ltrb and yolox"),
        ("detections:\n  preset: detr\n  boxes:\n    bins: 4", "x.yaml:5: detections.boxes.bins are of distances"),
        ("detections:\n  preset: detr\n  maximum: 99999", "x.yaml:4: detections.maximum is 99999; give a whole number"),
        ("detections:\n  preset: effdet\n  anchors:\n    levels: [{}]", "x.yaml:5: detections.anchors.levels[0] lacks"),
        ("detections:\n  preset: detr\n  classes: coco", "x.yaml:4: detections.classes should be"),
        ("detections:\n  preset: detr\n  categories: {cat: 1}", "x.yaml:4: detections.categories"),
    ],
)
def test_a_fault_is_told_with_its_line(load: Load, section: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(SOURCE + section)
    assert str(caught.value).startswith(said), caught.value
    assert "\n" not in str(caught.value)


def test_a_detector_of_torchvision_has_its_own(load: Load) -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml:2: detections is for an ONNX file"):
        load("source: {demo: shapes}\ndetections: torchvision\n")
