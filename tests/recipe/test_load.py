"""Recipes: what they become, how they are laid over one another, and what is refused at which line."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from graphsurgery.errors import InputError, RecipeError
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.partition.stages import CutPoints
from graphsurgery.recipe.layers import packaged_recipes
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.rewrite import GraphPass
from graphsurgery.rewrite.registry import Registry, discover


@dataclass(frozen=True)
class Plain(GraphPass):
    name = "simplify"
    effect = "exact"


@dataclass(frozen=True)
class Freeze(GraphPass):
    name = "freeze-batch"
    effect = "exact"

    size: int
    names: tuple[str, ...] = ()
    mode: Literal["pad", "loop"] = "pad"
    share: float = 0.5
    strict: bool = False
    table: Path | None = None
    extra: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more,\nnot {self.size}")
        if self.share > 1:
            raise InputError(f"share must be 1 at most, not {self.share}")
        if self.mode == "loop" and self.names:
            raise ValueError("a loop takes no list of inputs")


@dataclass(frozen=True)
class Widen(GraphPass):
    name = "widen-maxpool"
    effect = "approximate"

    kernel: int = 3


def registry() -> Registry:
    passes = Registry()
    for pass_ in (Plain, Freeze, Widen):
        passes.add(pass_)
    return passes


SOURCE = "source: {demo: shapes}\n"

FULL = """\
source:
  torchvision: maskrcnn_resnet50_fpn_v2
  weights: weights/best.pth
  size: [544, 960]
  opset: 18
capture: {images: images, annotations: boxes.json, samples: 5}
passes:
  - simplify
  - freeze-batch: {size: 2, names: [a, b], share: 1, strict: true, table: t.json, extra: {k: 1}}
partition:
  at: RoiAlign
  parts: {backbone_rpn: npu, box_proposal: cpu, mask_head: npu}
  include: {mask_head: [Sigmoid, Flatten]}
part_passes:
  mask_head: [{freeze-batch: {size: 100}}, widen-maxpool]
check:
  samples: 4
  tolerance: {boxes: 1.0e-3, labels: 0, "*": {relative: 1.0e-4}}
  grant: {widen-maxpool: {objectness_4: 10.0}}
evaluate: {samples: 50, images: /data/val, annotations: val.json}
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "x.yaml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def load(text: str, *overrides: str, weights: str | None = None) -> Recipe:
    return load_recipe(write(text), overrides, registry=registry(), weights=weights)


def refusal(text: str, *overrides: str, name: str = "x.yaml") -> str:
    write(text, name)
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides, registry=registry())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "points"),
    [
        ("RoiAlign", CutPoints(("RoiAlign",))),
        ("[TopK, detections]", CutPoints(("TopK",), (), True)),
        ("{tensors: ['/model.22/Concat*', x]}", CutPoints((), ("/model.22/Concat*", "x"))),
        ("{operators: [RoiAlign], tensors: [x]}", CutPoints(("RoiAlign",), ("x",))),
    ],
)
def test_a_place_to_cut_at_has_several_forms(at: str, points: CutPoints) -> None:
    recipe = load(f"source: {{demo: shapes}}\npartition: {{at: {at}, parts: {{a: npu}}, supported: [Gather, Tile]}}\n")
    assert recipe.partition is not None
    assert (recipe.partition.cut_points, recipe.partition.supported) == (points, ("Gather", "Tile"))


def test_a_recipe_knows_which_of_its_passes_look_at_an_operator() -> None:
    recipe = load_recipe("shapes", registry=discover())
    assert "lower-gather" in recipe.passes_for("Gather")


def test_reads_every_key_of_a_recipe(tmp_path: Path) -> None:
    recipe = load(FULL)
    assert recipe.name == "x"
    assert (recipe.source.kind, recipe.source.name) == ("torchvision", "maskrcnn_resnet50_fpn_v2")
    assert (recipe.source.size, recipe.source.opset) == ((544, 960), 18)
    assert recipe.source.weights == str(tmp_path / "weights" / "best.pth")
    assert recipe.capture.images == tmp_path / "images"
    assert recipe.capture.annotations == tmp_path / "boxes.json"
    assert recipe.capture.samples == 5
    assert recipe.checked_samples == 4
    assert [use.pass_ for use in recipe.passes] == [
        Plain(),
        Freeze(2, ("a", "b"), share=1.0, strict=True, table=tmp_path / "t.json", extra={"k": 1}),
    ]
    assert [(use.name, use.file, use.line) for use in recipe.passes] == [
        ("simplify", "x.yaml", 8),
        ("freeze-batch", "x.yaml", 9),
    ]
    assert recipe.partition is not None
    assert recipe.partition.at == "RoiAlign"
    assert list(recipe.partition.parts.items()) == [
        ("backbone_rpn", "npu"),
        ("box_proposal", "cpu"),
        ("mask_head", "npu"),
    ]
    assert recipe.partition.include == {"mask_head": ("Sigmoid", "Flatten")}
    assert {part: [use.pass_ for use in uses] for part, uses in recipe.part_passes.items()} == {
        "mask_head": [Freeze(100), Widen()]
    }
    assert recipe.tolerances == Tolerances.parse({"boxes": 1e-3, "labels": 0, "*": {"relative": 1e-4}})
    assert recipe.grants == {"widen-maxpool": Tolerances.parse({"objectness_4": 10.0})}
    assert recipe.evaluate is not None
    assert recipe.evaluate.samples == 50
    assert recipe.evaluate.images == tmp_path / "/data/val"
    assert recipe.evaluate.annotations == tmp_path / "val.json"


def test_needs_a_source_alone_and_fills_in_the_rest() -> None:
    recipe = load(SOURCE)
    assert (recipe.source.weights, recipe.source.size, recipe.source.opset) == (None, None, 17)
    assert recipe.capture.samples == 3
    assert recipe.capture.images is None
    assert recipe.passes == ()
    assert recipe.partition is None
    assert recipe.part_passes == {}
    assert recipe.tolerances == Tolerances.parse({})
    assert recipe.grants == {}
    assert recipe.evaluate is None


def test_is_frozen() -> None:
    recipe = load(FULL)
    with pytest.raises(FrozenInstanceError):
        recipe.name = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        recipe.capture.samples = 1  # type: ignore[misc]


def test_gives_the_merged_recipe_as_json_that_nobody_else_can_change(tmp_path: Path) -> None:
    write(FULL, "base.yaml")
    recipe = load("extends: base.yaml\n", "capture.samples=7")
    record = recipe.to_json()
    assert json.loads(json.dumps(record)) == record
    assert record["name"] == "x"
    assert "extends" not in record
    assert record["capture"]["samples"] == 7
    assert record["source"]["weights"] == str(tmp_path / "weights" / "best.pth")
    record["capture"]["samples"] = 8
    assert recipe.to_json()["capture"]["samples"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml:1: the file holds nothing; a recipe has at least a source, or extends another"),
        ("- a", "x.yaml:1: a recipe is a mapping that starts with source: or extends:"),
        ("passes: []", "x.yaml:1: a recipe needs a source"),
        ("sorce: 1", "x.yaml:1: unknown key 'sorce' in the recipe. Did you mean 'source'? Its keys: extends, source,"),
        ("source: 5", "x.yaml:1: source should be a mapping, got 5"),
        ("source:\n  demo: a\n  batch: 4", "x.yaml:3: source.batch is for an ONNX file; the others take one image"),
        ("source:\n  size: [1, 2]", "x.yaml:1: source needs exactly one of torchvision, demo, onnx; it has none"),
        (
            "source: {demo: a, onnx: b}",
            "x.yaml:1: source needs exactly one of torchvision, demo, onnx; it has demo",
        ),
        ("source:\n  demo: shapes\n  sice: [1, 2]", "x.yaml:3: unknown key 'sice' in source. Did you mean 'size'?"),
        ("source:\n  demo: shapes\n  size: [1]", "x.yaml:3: source.size has too few items"),
        ("source:\n  demo: shapes\n  size: [1, 2, 3]", "x.yaml:3: source.size has more than 2 items"),
        ("source:\n  size:\n  - 1\n  - 0\n", "x.yaml:4: source.size[1] should be greater than 0, got 0"),
        ("source:\n  size: 256x320", "x.yaml:2: source.size should be a list, got '256x320'"),
        ("source:\n  size: [256.0, 320]", "x.yaml:2: source.size[0] should be a whole number, got 256.0"),
        ("source:\n  opset: '17'", "x.yaml:2: source.opset should be a whole number, got '17'"),
        ("source:\n  opset: true", "x.yaml:2: source.opset should be a whole number, got true"),
        ("source:\n  weights: 5", "x.yaml:2: source.weights should be text, got 5"),
        ("source:\n  demo: a b", "x.yaml:2: source.demo should be a plain name, got 'a b'"),
        ("source: {demo: s, size: [1, 2]}\non: 1", "x.yaml:2: unknown key 'on' in the recipe."),
    ],
)
def test_refuses_a_source_that_is_no_source(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("capture:", "x.yaml:2: capture should be a mapping, got nothing; write {} for the defaults, or leave the key"),
        ("capture:\n  samples: 0", "x.yaml:3: capture.samples should be greater than 0, got 0"),
        ("capture:\n  samples: yes", "x.yaml:3: capture.samples should be a whole number, got 'yes'"),
        ("capture:\n  images: [a]", 'x.yaml:3: capture.images should be text, got ["a"]'),
        ("capture:\n  annotations: a.json", "x.yaml:2: capture.annotations needs capture.images"),
        ("evaluate: {images: a}", "x.yaml:2: evaluate needs both images and annotations; only a demo source"),
        ("evaluate: {sample: 3}", "x.yaml:2: unknown key 'sample' in evaluate. Did you mean 'samples'?"),
        ("partition: {parts: {a: npu}}", "x.yaml:2: partition lacks 'at'"),
        ("partition: {at: RoiAlign}", "x.yaml:2: partition lacks 'parts'"),
        ("partition: {at: 5, parts: {a: npu}}", "x.yaml:2: partition.at should be text, got 5"),
        ("partition: {at: [], parts: {a: npu}}", "x.yaml:2: partition.at should have an item or more, got []"),
        ("partition:\n  at:\n    - R\n    - 5\n", "x.yaml:5: partition.at[1] should be text, got 5"),
        (
            "partition:\n  at: {tensor: [a]}\n",
            "x.yaml:3: unknown key 'tensor' in partition.at. Did you mean 'tensors'?",
        ),
        ("partition:\n  at: {tensors: a}\n", "x.yaml:3: partition.at.tensors should be a list, got 'a'"),
        ("partition:\n  at: {}\n", "x.yaml:3: partition.at names nothing to cut at; give operators, tensors or both"),
        (
            "partition: {at: R, parts: {a: npu}, supported: Gather}",
            "x.yaml:2: partition.supported should be a list, got",
        ),
        ("partition:\n  at: RoiAlign\n  parts: {}", "x.yaml:4: partition.parts is empty; write name: device"),
        ("partition:\n  at: RoiAlign\n  parts: [a]", 'x.yaml:4: partition.parts should be a mapping, got ["a"]'),
        ("partition:\n  at: R\n  parts:\n    a: npu\n    B: cpu", "x.yaml:6: partition.parts.B: 'B' can't name a part"),
        ("partition: {at: R, parts: {../a: npu}}", "x.yaml:2: partition.parts.../a: '../a' can't name a part"),
        ("partition: {at: R, parts: {nul: npu}}", "x.yaml:2: partition.parts.nul: 'nul' can't name a part"),
        ("partition: {at: R, parts: {a: }}", "x.yaml:2: partition.parts.a should be text, got nothing"),
        (
            "partition:\n  at: R\n  parts: {head: npu}\n  include: {haed: [Sigmoid]}",
            "x.yaml:5: partition.include: there is no part 'haed'. Did you mean 'head'? The parts at x.yaml:4 are head",
        ),
        (
            "partition: {at: R, parts: {a: npu}, include: {a: Sigmoid}}",
            "x.yaml:2: partition.include.a should be a list, got 'Sigmoid'",
        ),
        ("part_passes:\n  a: [simplify]", "x.yaml:2: part_passes needs a partition, whose parts it names"),
        (
            "partition: {at: R, parts: {a: npu}}\npart_passes:\n  b: [simplify]",
            "x.yaml:4: part_passes: there is no part 'b'. The parts at x.yaml:2 are a",
        ),
        ("check: {tolerances: {}}", "x.yaml:2: unknown key 'tolerances' in check. Did you mean 'tolerance'?"),
        ("check:\n  tolerance: {boxes: 1e-4}", "x.yaml:3: 1e-4 is a number to some YAML readers and text to others"),
        ("check:\n  tolerance:\n    a: 1\n    b: -1", "x.yaml:5: check.tolerance: tolerance 'b':"),
        ("check:\n  tolerance:\n    a: 1\n    b: x", "x.yaml:5: check.tolerance: tolerance 'b':"),
        ("check:\n  tolerance:\n    a: 1\n    b:", "x.yaml:5: check.tolerance: tolerance 'b':"),
        ("check:\n  tolerance:\n    a: {rel: 1}", "x.yaml:4: check.tolerance: tolerance 'a':"),
        ("check:\n  tolerance:\n    unmatched: 0.5", "x.yaml:4: check.tolerance: tolerance 'unmatched':"),
        ("check:\n  tolerance: 5", "x.yaml:3: check.tolerance should be a mapping, got 5"),
        (
            "check:\n  grant:\n    widen-maxpol: {a: 1}",
            "x.yaml:4: unknown pass 'widen-maxpol'. Did you mean 'widen-maxpool'?",
        ),
        (
            "check:\n  grant:\n    simplify: {a: 1}",
            "x.yaml:4: pass 'simplify' is exact; only an approximate pass can be granted a tolerance",
        ),
        ("check:\n  grant:\n    widen-maxpool:\n      a: -1", "x.yaml:5: check.grant.widen-maxpool: tolerance 'a':"),
        ("check:\n  grant:\n    widen-maxpool: 1", "x.yaml:4: check.grant.widen-maxpool should be a mapping, got 1"),
    ],
)
def test_refuses_a_wrong_section_at_its_line(text: str, message: str) -> None:
    assert refusal(SOURCE + text).startswith(message)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("simplfy", "x.yaml:4: unknown pass 'simplfy'. Did you mean 'simplify'? See: python -m graphsurgery passes"),
        ("5", "x.yaml:4: an item of passes is the name of a pass, or name: {option: value} with one name"),
        ("", "x.yaml:4: an item of passes is the name of a pass"),
        ("[simplify]", "x.yaml:4: an item of passes is the name of a pass"),
        ("{simplify: {}, widen-maxpool: {}}", "x.yaml:4: an item of passes is the name of a pass"),
        ("widen-maxpool: 3", "x.yaml:4: what follows 'widen-maxpool' should be a mapping, got 3"),
        (
            "widen-maxpool:\n      kernal: 3",
            "x.yaml:5: unknown option 'kernal' of pass 'widen-maxpool' (options: kernel). Did you mean 'kernel'?",
        ),
        ("simplify: {fast: true}", "x.yaml:4: unknown option 'fast' of pass 'simplify' (it has none)."),
        ("widen-maxpool:\n      kernel: '3'", "x.yaml:5: pass 'widen-maxpool': kernel should be a whole"),
        ("freeze-batch", "x.yaml:4: pass 'freeze-batch' needs the option 'size': write freeze-batch: {size: ...}"),
        ("freeze-batch:\n      size: 0", "x.yaml:5: pass 'freeze-batch': size must be 1 or more, not 0"),
        ("freeze-batch:\n      size: 1\n      share: 2", "x.yaml:6: pass 'freeze-batch': share must be 1 at most"),
        (
            "freeze-batch:\n      size: 1\n      names: a",
            "x.yaml:6: pass 'freeze-batch': names should be a list",
        ),
        (
            "freeze-batch:\n      size: 1\n      names:\n      - a\n      - 5",
            "x.yaml:8: pass 'freeze-batch': names[1] should be text, got 5",
        ),
        (
            "freeze-batch:\n      size: 1\n      mode: stretch",
            "x.yaml:6: pass 'freeze-batch': mode should be 'pad' or 'loop', got 'stretch'",
        ),
        (
            "freeze-batch:\n      size: 1\n      strict: on",
            "x.yaml:6: pass 'freeze-batch': strict should be true or false, got 'on'",
        ),
        (
            "freeze-batch:\n      size: 1\n      extra:\n        k: x",
            "x.yaml:7: pass 'freeze-batch': extra.k should be a whole number, got 'x'",
        ),
        (
            "freeze-batch:\n      size: 1\n      mode: loop\n      names: [a]",
            "x.yaml:4: pass 'freeze-batch': a loop takes no list of inputs",
        ),
    ],
)
def test_refuses_a_wrong_pass_at_its_line(item: str, message: str) -> None:
    assert refusal(f"{SOURCE}passes:\n  - widen-maxpool:\n  - {item}\n").startswith(message)


def test_takes_a_null_option_as_none(tmp_path: Path) -> None:
    recipe = load(SOURCE + "passes: [{freeze-batch: {size: 1, table: }}]")
    assert recipe.passes[0].pass_ == Freeze(1, table=None)


def test_refuses_passes_that_are_no_list() -> None:
    assert refusal(SOURCE + "passes: simplify").startswith("x.yaml:2: passes should be a list of passes")


@pytest.mark.parametrize(
    ("weights", "is_file"),
    [("COCO_V1", False), ("random:0", False), ("best.pth", True), ("runs/best", True), ("runs\\best", True)],
)
def test_takes_weights_with_a_dot_or_slash_for_a_file(tmp_path: Path, weights: str, is_file: bool) -> None:
    recipe = load(f"source: {{demo: shapes, size: [1, 2], weights: {weights}}}")
    assert recipe.source.weights == (str(tmp_path / weights) if is_file else weights)


VARIANTS = """\
variants:
  int8:
    part_passes: {mask_head: [widen-maxpool]}
    grant: {widen-maxpool: {boxes: 3}}
  htp:
    devices: {npu: "qnn,soc_model=60"}
    max_ap_drop: 0.015
"""


def test_reads_variants_with_passes_and_devices_of_their_own() -> None:
    int8, htp = load(FULL + VARIANTS).variants
    assert (int8.name, list(int8.part_passes), int8.devices, int8.max_ap_drop) == ("int8", ["mask_head"], {}, None)
    assert int8.part_passes["mask_head"][0].line == 23
    assert int8.grants == {"widen-maxpool": Tolerances.parse({"boxes": 3})}
    assert htp.grants == {}
    assert (htp.name, htp.part_passes, htp.devices) == ("htp", {}, {"npu": "qnn,soc_model=60"})
    assert htp.max_ap_drop == 0.015
    assert load(FULL).variants == ()


def test_paths_of_devices_are_relative_to_the_file_that_they_stand_in(tmp_path: Path) -> None:
    devices = "devices: {npu: 'qnn,context=cache/c'}"
    (variant,) = load(f"{FULL}variants: {{htp: {{{devices}}}}}").variants
    assert variant.devices == {"npu": f"qnn,context={tmp_path / 'cache/c'}"}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{int8: {part_passes: {head: []}}}", "variants.int8.part_passes: there is no part 'head'"),
        ("{int8: {devices: {gpu: cuda}}}", "variants.int8.devices: no part is on 'gpu'; devices are cpu, npu"),
        ("{int8: {max_ap_drop: 2}}", "variants.int8.max_ap_drop"),
        ("{int8: {grant: {simplify: {boxes: 1}}}}", "pass 'simplify' is exact; only an approximate pass"),
        ("{int8: {grant: {widen-maxpool: {boxes: -1}}}}", "variants.int8.grant.widen-maxpool: tolerance 'boxes'"),
        ("{int8: {passes: []}}", "unknown key 'passes' in variants.int8. Did you mean 'part_passes'?"),
        ("{Int8: {}}", "'Int8' can't name a variant, which is a file name everywhere"),
        ("{mask_head: {}}", "variants.mask_head: a part has that name already"),
        ("[int8]", "variants should be a mapping"),
    ],
)
def test_refuses_a_variant_that_does_not_fit(variants: str, message: str) -> None:
    assert message in refusal(f"{FULL}variants: {variants}\n")


def test_lays_a_recipe_over_the_one_it_extends() -> None:
    write(FULL, "base.yaml")
    recipe = load(
        "extends: base.yaml\nsource: {size: [8, 9]}\ncheck: {tolerance: {boxes: 2}}\npasses: [widen-maxpool]\n"
    )
    assert (recipe.source.name, recipe.source.size) == ("maskrcnn_resnet50_fpn_v2", (8, 9))
    assert [use.pass_ for use in recipe.passes] == [Widen()]
    assert recipe.to_json()["check"]["tolerance"] == {"boxes": 2, "labels": 0, "*": {"relative": 1e-4}}
    assert recipe.part_passes["mask_head"][0].file == "base.yaml"
    assert recipe.part_passes["mask_head"][0].line == 15


def test_lets_the_patterns_of_the_extending_recipe_win() -> None:
    write(SOURCE + 'check: {tolerance: {"*": 1}}', "base.yaml")
    recipe = load('extends: base.yaml\ncheck: {tolerance: {"feature*": 2}}')
    assert recipe.tolerances == Tolerances.parse({"feature*": 2, "*": 1})
    assert list(recipe.tolerances.rules) == ["feature*", "*"]


def test_replaces_parts_include_and_part_passes_as_a_whole() -> None:
    write(FULL, "base.yaml")
    recipe = load("extends: base.yaml\npartition: {parts: {all: npu}, include: {}}\npart_passes: {all: [simplify]}\n")
    assert recipe.partition is not None
    assert (recipe.partition.at, recipe.partition.parts) == ("RoiAlign", {"all": "npu"})
    assert recipe.partition.include == {}
    assert list(recipe.part_passes) == ["all"]


def test_names_both_files_when_an_inherited_key_no_longer_fits() -> None:
    write(FULL, "base.yaml")
    assert refusal("extends: base.yaml\npartition:\n  parts: {all: npu}\n  include: {}\n") == (
        "base.yaml:15: part_passes: there is no part 'mask_head'. The parts at x.yaml:3 are all"
    )


def test_drops_the_inherited_model_and_its_weights_when_it_names_another() -> None:
    write(FULL, "base.yaml")
    recipe = load("extends: base.yaml\nsource: {demo: shapes}\nevaluate:\n")
    assert (recipe.source.kind, recipe.source.name, recipe.source.weights) == ("demo", "shapes", None)
    assert (recipe.source.size, recipe.source.opset) == ((544, 960), 18)


def test_removes_what_stands_without_a_value() -> None:
    write(FULL, "base.yaml")
    recipe = load("extends: base.yaml\nevaluate:\npart_passes:\npartition:\ncheck: {tolerance: {'*': }}\n")
    assert (recipe.evaluate, recipe.partition, recipe.part_passes) == (None, None, {})
    assert list(recipe.tolerances.rules) == ["boxes", "labels"]


def test_extends_over_several_files_in_several_folders(tmp_path: Path) -> None:
    write("source: {onnx: models/net.onnx}\n", "a/base.yaml")
    write("extends: ../a/base.yaml\ncapture: {images: photos}\n", "b/middle.yaml")
    recipe = load("extends: b/middle.yaml\ncapture: {samples: 1}\n")
    assert recipe.source.kind == "onnx"
    assert Path(recipe.source.name).resolve() == (tmp_path / "a" / "models" / "net.onnx").resolve()
    assert recipe.source.size is None
    assert recipe.capture.images == tmp_path / "b" / "photos"
    assert recipe.capture.samples == 1


def test_places_an_error_in_the_file_where_the_value_stands() -> None:
    write("\n\nsource: {demo: shapes, size: [1, x]}\n", "a/base.yaml")
    place = Path("a") / "base.yaml"
    assert refusal("extends: a/base.yaml") == f"{place}:3: source.size[1] should be a whole number, got 'x'"


def test_shows_a_recipe_by_the_path_that_was_given(tmp_path: Path) -> None:
    assert refusal("a: 1", name="./sub/../y.yaml").startswith("./sub/../y.yaml:1: unknown key")
    given = str(tmp_path / "z.yaml")
    assert refusal("a: 1", name=given).startswith(f"{given}:1: unknown key")


def test_refuses_recipes_that_extend_one_another_in_a_circle() -> None:
    write("extends: x.yaml\n", "y.yaml")
    assert refusal("# first\nextends: y.yaml\n") == (
        "y.yaml:1: extends 'x.yaml' leads back to x.yaml; a recipe can't extend itself"
    )
    assert refusal("extends: x.yaml") == "x.yaml:1: extends 'x.yaml' leads back to x.yaml; a recipe can't extend itself"


def test_refuses_an_endless_row_of_recipes() -> None:
    for number in range(30):
        write(f"extends: r{number + 1}.yaml\n", f"r{number}.yaml")
    assert refusal("extends: r0.yaml") == "r19.yaml:1: more than 20 recipes extend one another"


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("maskrcn", "x.yaml:2: extends: unknown recipe 'maskrcn'. Did you mean 'maskrcnn'? There are "),
        ("no.yaml", "x.yaml:2: extends: no.yaml: there is no such recipe file in "),
        ("[a, b]", "x.yaml:2: extends should be the name of a recipe, or a path that ends in .yaml"),
        ("", "x.yaml:2: extends should be the name of a recipe, or a path that ends in .yaml"),
    ],
)
def test_says_what_is_wrong_with_extends(extends: str, message: str) -> None:
    assert refusal(f"{SOURCE}extends: {extends}").startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shaeps", "unknown recipe 'shaeps'. Did you mean 'shapes'? There are ascend_mmdet, detectron2_maskrcnn,"),
        ("", "unknown recipe ''. There are"),
        ("a\nb", "unknown recipe 'a\\nb'. There are"),
        ("shapes.yaml", "shapes.yaml: there is no such recipe file; for the recipe that comes with graphsurgery write"),
        ("none.yaml", "none.yaml: there is no such recipe file; check the path"),
    ],
)
def test_lists_the_recipes_where_there_is_none_of_that_name(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, registry=registry())
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("source.size=[256,320]", ("source", "size"), [256, 320]),
        ("check.tolerance.boxes=0.5", ("check", "tolerance", "boxes"), 0.5),
        ("check.tolerance={a: 1}", ("check", "tolerance"), {"a": 1}),
        ("check.tolerance={onnx::a.b: 1}", ("check", "tolerance"), {"onnx::a.b": 1}),
        ("passes.0=widen-maxpool", ("passes", 0), "widen-maxpool"),
        ("passes.1.freeze-batch.size=7", ("passes", 1, "freeze-batch", "size"), 7),
        ("part_passes.backbone_rpn=[simplify]", ("part_passes", "backbone_rpn"), ["simplify"]),
        ("partition.parts.mask_head=cpu", ("partition", "parts", "mask_head"), "cpu"),
        ("source.weights=random:0", ("source", "weights"), "random:0"),
        (" source.opset = 19", ("source", "opset"), 19),
    ],
)
def test_sets_one_value(override: str, path: tuple[str | int, ...], value: object) -> None:
    before, after = load(FULL).to_json(), load(FULL, override).to_json()
    assert after != before
    at: object = after
    for step in path:
        at = at[step]  # type: ignore[index]
    assert at == value


def test_creates_the_keys_on_the_way_to_the_value_that_it_sets() -> None:
    recipe = load(SOURCE, "check.grant.widen-maxpool.boxes=2")
    assert recipe.grants == {"widen-maxpool": Tolerances.parse({"boxes": 2})}


def test_sets_values_in_order_and_weights_last(tmp_path: Path) -> None:
    recipe = load(SOURCE, "source.weights=a", "source.weights=b", "source.opset=20", weights="w.pth")
    assert (recipe.source.weights, recipe.source.opset) == (str(tmp_path / "w.pth"), 20)


def test_removes_with_an_empty_value() -> None:
    assert load(FULL, "evaluate=").evaluate is None


def test_drops_the_model_of_the_file_when_another_is_set() -> None:
    recipe = load(FULL, "source.weights=random:3", "source.demo=shapes", "evaluate=")
    assert (recipe.source.kind, recipe.source.weights) == ("demo", "random:3")
    assert load(FULL, "source.torchvision=other").source.weights is None


def test_resolves_a_path_that_is_set_against_the_working_directory(tmp_path: Path) -> None:
    recipe = load_recipe(
        write("source: {onnx: a.onnx}\n", "sub/x.yaml"), ["capture.images=photos"], registry=registry()
    )
    assert recipe.source.name == str(tmp_path / "sub" / "a.onnx")
    assert recipe.capture.images == tmp_path / "photos"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.size", "--set source.size: write it as --set path.to.key=value"),
        ("=5", "--set =5: write it as --set path.to.key=value"),
        ("a..b=5", "--set a..b=5: write it as --set path.to.key=value"),
        ("extends=shapes", "--set extends=shapes: extends can't be set; write a recipe file that extends the other"),
        ("check.tolerance.boxes=1e-4", "--set check.tolerance.boxes=1e-4: 1e-4 is a number to some YAML readers"),
        ("source.size=[1", "--set source.size=[1: not valid YAML: while parsing a flow sequence"),
        ("source.size=[1,\n 2, 3]", "--set source.size=[1, 2, 3]: source.size has more than 2 items"),
        ("source.size.0.a=1", "--set source.size.0.a=1: source.size.0 is the single value 544; nothing can be set"),
        ("source.size.2=1", "--set source.size.2=1: source.size is a list of 2 and has no position '2'; positions"),
        ("source.size.-1=1", "--set source.size.-1=1: source.size is a list of 2 and has no position '-1'"),
        ("soruce.size=1", "--set soruce.size=1: unknown key 'soruce' in the recipe. Did you mean 'source'?"),
        ("source.sise=1", "--set source.sise=1: unknown key 'sise' in source. Did you mean 'size'?"),
        ("passes.0=simplfy", "--set passes.0=simplfy: unknown pass 'simplfy'. Did you mean 'simplify'?"),
        ("partition.parts.mask_head=", "x.yaml:13: partition.include: there is no part 'mask_head'."),
    ],
)
def test_names_the_option_when_what_is_set_is_wrong(override: str, message: str) -> None:
    assert refusal(FULL, override).startswith(message)


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_a_packaged_recipe_loads_with_the_passes_that_there_are(name: str) -> None:
    recipe = load_recipe(name, registry=discover())
    if recipe.partition is None:
        assert recipe.compilers  # a vendor's tool takes the whole graph
        return
    assert set(recipe.part_passes) <= set(recipe.partition.parts)
    heads = {part for part, device in recipe.partition.parts.items() if device != "cpu" and part.endswith("_head")}
    frozen = {part for part, uses in recipe.part_passes.items() if any(use.name == "freeze-batch" for use in uses)}
    assert frozen == heads - {"backbone_head"}  # all heads behind RoIAlign see a varying number of boxes


def test_the_packaged_recipes_are_found_by_name() -> None:
    one_stage = {"efficientdet", "retinanet", "shapes_yolo", "ssd", "yolo", "yolo_end2end", "yolo_seg", "yolox"}
    two_stages = {"fasterrcnn", "keypointrcnn", "maskrcnn", "maskrcnn_v1", "shapes"}
    foreign = {"detectron2_maskrcnn", "detr", "dfine", "mmdet_maskrcnn", "rfdetr", "rtdetr"}
    flows = {"ascend_mmdet", "magicmind_mmdet", "magicmind_mmdet_800"}
    assert list(packaged_recipes()) == sorted(one_stage | two_stages | foreign | flows)
