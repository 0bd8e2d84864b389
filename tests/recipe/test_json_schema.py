"""The JSON schema of recipes: it takes and refuses what the loader does, at the same key."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from enum import Enum
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from graphsurgery.errors import RecipeError
from graphsurgery.gate.tolerances import Tolerance
from graphsurgery.recipe.json_schema import json_schema
from graphsurgery.recipe.layers import SOURCE_KINDS, packaged_recipes
from graphsurgery.recipe.load import load_recipe
from graphsurgery.recipe.plugin_options import plugin_options
from graphsurgery.recipe.schema import ToleranceKeys
from graphsurgery.rewrite import GraphPass
from graphsurgery.rewrite.registry import Registry, discover
from graphsurgery.sources import SourceSpec
from graphsurgery.strict_yaml.positions import Place, parse_yaml, plain

ROOT = Path(__file__).parent.parent.parent
COMMITTED = ROOT / "recipes" / "recipe.schema.json"

SOURCE = "source: {demo: shapes}\n"
PARTS = "partition: {at: RoiAlign, parts: {head: npu, rest: cpu}}\n"
BASE = """\
source: {demo: shapes, opset: 18}
partition: {at: RoiAlign, parts: {head: npu, rest: cpu}, include: {head: [Sigmoid]}}
variants:
  int8: {}
  htp: {part_passes: {rest: [quantize]}, devices: {npu: qnn}, on_request: true}
check:
  samples: 3
  tolerance: {a: 1, b: {relative: 1, absolute: 1}, c: {relative: 1}, unmatched: {rois: 1}}
  grant: {quantize: {a: 1}}
evaluate: {samples: 5}
"""


@cache
def own_passes() -> Registry:
    """The passes of this repository alone, whatever other packages bring."""
    found, own = discover(), Registry()
    for name in found.names():
        if (cls := found.get(name)).__module__.startswith("graphsurgery.passes."):
            own.add(cls)
    return own


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema(own_passes()))


def parsed(text: str) -> Any:
    return plain(parse_yaml(text, Place("x.yaml", 1, Path())))


def flagged(text: str) -> set[str]:
    """The dotted keys that the schema has something against."""

    def keys(error: ValidationError) -> Iterator[str]:
        names = [""]
        if error.validator in ("required", "additionalProperties"):
            names += re.findall(r"'([^']+)'", error.message)
        if error.validator == "pattern":
            names.append(str(error.instance))  # a key that must not be called so
        if error.validator == "not":
            names += error.validator_value.get("required", [])
        for name in names:
            yield ".".join(filter(None, [*map(str, error.absolute_path), name]))
        for below in error.context or ():
            yield from keys(below)

    return {key for error in validator().iter_errors(parsed(text)) for key in keys(error)}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str) -> object:
        Path("base.yaml").write_text(BASE, encoding="utf-8")
        Path("x.yaml").write_text(text, encoding="utf-8")
        return load_recipe("x.yaml", registry=own_passes())

    return write_and_load


def test_the_committed_file_is_up_to_date() -> None:
    committed = json.loads(COMMITTED.read_text(encoding="utf-8"))
    remedy = f"make it anew: python -m graphsurgery recipe-schema --out {COMMITTED.relative_to(ROOT).as_posix()}"
    assert committed == json.loads(json.dumps(json_schema(own_passes()))), remedy
    Draft202012Validator.check_schema(committed)


def test_a_wheel_holds_the_recipes_and_their_schema() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    files = {file.name for file in COMMITTED.parent.iterdir() if file.is_file() and file.suffix != ".py"}
    assert {"shapes.yaml", COMMITTED.name} <= files
    assert all(any(fnmatch(name, pattern) for pattern in data["graphsurgery.recipes"]) for name in files)


@pytest.mark.parametrize("name", sorted(packaged_recipes()))
def test_a_packaged_recipe_fits_and_tells_editors_where_the_schema_is(name: str) -> None:
    text = packaged_recipes()[name].read_text(encoding="utf-8")
    assert flagged(text) == set()
    assert text.startswith(f"# yaml-language-server: $schema={COMMITTED.name}\n")


@pytest.mark.parametrize(
    "text",
    [
        SOURCE,
        "source: {demo: shapes, torchvision: , size: , weights: }",
        "source: {torchvision: ssd300_vgg16, weights: random:0, size: [300, 300], opset: 18}",
        "source: {onnx: a.onnx}\nevaluate: {images: a, annotations: b.json}",
        "source: {onnx: a.onnx}\nevaluate: {iou: [bbox], max_detections: [100, 300, 1000], min_score: 0.05}",
        "source: {onnx: a.onnx}\nevaluate: {published: {bbox_ap: 0.381, bbox_ap50: 0.588, keypoints_ap: 0.5}}",
        SOURCE + "capture: {annotations: }\nevaluate: {}",
        SOURCE + "passes: [simplify, simplify: , simplify: {}, {simplify: {seconds: 5, skip: [a]}}]",
        SOURCE + "passes: [{freeze-shapes: {batch: , inputs: {a: [1, 2]}}}, {quantize: {exclude: auto, sqnr_goal: 3}}]",
        SOURCE
        + "passes: [{quantize: {exclude: [a], samples: , method: minmax}}, {set-attributes: {nodes: a, delete: [b]}}]",
        SOURCE + PARTS + "part_passes: {head: [{freeze-batch: {size: 3}}], rest: []}",
        SOURCE + PARTS + "variants: {int8: {part_passes: {head: [quantize]}, max_ap_drop: , on_request: true}}",
        SOURCE + PARTS + "variants: {htp: {devices: {npu: qnn}, max_ap_drop: 0}}",
        SOURCE + PARTS + "variants: {int8: {grant: {quantize: {'*': {sqnr: 3}}, widen-maxpool: {a: 1}}}}",
        SOURCE + "partition: {at: [R, detections], parts: {a: npu}, supported: []}",
        SOURCE + "partition: {at: {tensors: ['/a/b*']}, parts: {a: npu}, supported: [Gather]}",
        SOURCE + "partition: {at: {operators: [R], tensors: [x]}, parts: {a: npu}}",
        SOURCE + "variants: {int8: {devices: {}}}",
        SOURCE + "check: {tolerance: {a: 0, b: 1.5, c: {relative: 1}, d: {absolute: 1, relative: }, '*': {sqnr: 9}}}",
        SOURCE + "check: {samples: 2, tolerance: {unmatched: 2}}",
        SOURCE + "check: {samples: , tolerance: {unmatched: {proposals: 3}}, grant: {quantize: {a: 1, unmatched: 1}}}",
        "extends: shapes",
        "extends: shapes\ncapture:\npasses:\nevaluate:\nvariants:\ncheck:\n",
        "extends: shapes\npartition:\npart_passes:\nvariants:\n",
        "extends: base.yaml\npartition: {include: }",
        "extends: base.yaml\nvariants: {int8: , htp: {part_passes: {rest: }, devices: {npu: }, on_request: }}",
        "extends: base.yaml\nsource: {demo: , onnx: a.onnx, opset: }\nevaluate:",
        "extends: base.yaml\ncheck: {tolerance: {a: , b: {relative: }, c: {}, unmatched: {rois: }}}",
        "extends: base.yaml\ncheck: {grant: {quantize: }, samples: }",
        "extends: shapes\nevaluate: {samples: , images: a, annotations: b}",
    ],
)
def test_takes_what_the_loader_takes(text: str, load: Callable[[str], object]) -> None:
    load(text)
    assert flagged(text) == set()


WRONG = [
    ("sorce: {demo: a}\n" + SOURCE, "x.yaml:1: unknown key 'sorce' in the recipe. Did you mean 'source'?", "sorce"),
    ("passes: []", "x.yaml:1: a recipe needs a source, its own or that of", "source"),
    ("source: 5", "x.yaml:1: source should be a mapping, got 5", "source"),
    ("source:\n  size: [1, 2]", "x.yaml:1: source needs exactly one of torchvision, demo, onnx; it has none", "source"),
    ("source: {demo: a, onnx: b}", "x.yaml:1: source needs exactly one of torchvision, demo, onnx; it has", "source"),
    ("source:\n  demo: a\n  sice: 1", "x.yaml:3: unknown key 'sice' in source. Did you mean 'size'?", "source.sice"),
    ("source:\n  demo: a\n  size: [1]", "x.yaml:3: source.size has too few items", "source.size"),
    ("source:\n  demo: a\n  size: [1, 0]", "x.yaml:3: source.size[1] should be greater than 0", "source.size.1"),
    ("source:\n  onnx: a\n  batch: 0", "x.yaml:3: source.batch should be greater than 0, got 0", "source.batch"),
    (
        "source:\n  onnx: a\n  inputs:\n    x: [hight]",
        "x.yaml:4: source.inputs.x: 'hight' is none of",
        "source.inputs.x.0",
    ),
    ("source:\n  onnx: a\n  inputs:\n    x: []", "x.yaml:4: source.inputs.x: is []; give a number", "source.inputs.x"),
    (
        "source:\n  onnx: a\n  inputs: {x: [mask]}",
        "x.yaml:3: source.inputs.x: 'mask' stands alone",
        "source.inputs.x.0",
    ),
    ("source:\n  demo: a\n  opset: '17'", "x.yaml:3: source.opset should be a whole number, got '17'", "source.opset"),
    ("source:\n  demo: a\n  opset:", "x.yaml:3: source.opset should be a whole number, got nothing", "source.opset"),
    ("source:\n  demo: a b", "x.yaml:2: source.demo should be a plain name, got 'a b'", "source.demo"),
    (SOURCE + "extends:", "x.yaml:2: extends should be the name of a recipe, or a path", "extends"),
    (SOURCE + "extends: shaeps", "x.yaml:2: extends: unknown recipe 'shaeps'. Did you mean 'shapes'?", "extends"),
    (SOURCE + "capture:", "x.yaml:2: capture should be a mapping, got nothing; write {} for the", "capture"),
    (SOURCE + "capture: {samples: 0}", "x.yaml:2: capture.samples should be greater than 0", "capture.samples"),
    (SOURCE + "capture: {annotations: a}", "x.yaml:2: capture.annotations needs capture.images", "capture.images"),
    (SOURCE + "evaluate: {images: a}", "x.yaml:2: evaluate needs both images and", "evaluate.annotations"),
    ("source: {onnx: a}\nevaluate: {}", "x.yaml:2: evaluate needs both images and annotations", "evaluate.images"),
    (
        SOURCE + "evaluate: {max_ap_drop: 2}",
        "x.yaml:2: evaluate.max_ap_drop should be less than",
        "evaluate.max_ap_drop",
    ),
    (SOURCE + "evaluate: {iou: [box]}", "x.yaml:2: evaluate.iou[0] should be 'bbox', 'segm' or", "evaluate.iou.0"),
    (
        SOURCE + "evaluate: {published: {bbox_ap: 38.1}}",
        "x.yaml:2: evaluate.published.bbox_ap should be less than or equal to 1, got 38.1",
        "evaluate.published.bbox_ap",
    ),
    (
        SOURCE + "evaluate: {published: {box_ap: 0.381}}",
        "x.yaml:2: evaluate.published.box_ap: 'box_ap' is no figure of COCO's; write it as bbox_ap",
        "evaluate.published",
    ),
    (
        SOURCE + "evaluate: {max_detections: [100]}",
        "x.yaml:2: evaluate.max_detections has too few items",
        "evaluate.max_detections",
    ),
    (SOURCE + "target: {precision: int8}", "x.yaml:2: target lacks 'name'", "target.name"),
    (SOURCE + "partition: {parts: {a: npu}}", "x.yaml:2: partition lacks 'at'", "partition.at"),
    (SOURCE + "partition: {at: [], parts: {a: npu}}", "x.yaml:2: partition.at should have an item", "partition.at"),
    (SOURCE + "partition: {at: {}, parts: {a: npu}}", "x.yaml:2: partition.at names nothing to cut at", "partition.at"),
    (SOURCE + "partition: {at: R, parts: {}}", "x.yaml:2: partition.parts is empty; write", "partition.parts"),
    (
        SOURCE + "partition: {at: R, parts: {B: npu}}",
        "x.yaml:2: partition.parts.B: 'B' can't name",
        "partition.parts.B",
    ),
    (SOURCE + "partition: {at: R, parts: {a: }}", "x.yaml:2: partition.parts.a should be text", "partition.parts.a"),
    (SOURCE + PARTS.replace("rest", "nul"), "x.yaml:2: partition.parts.nul: 'nul' can't name", "partition.parts.nul"),
    (
        SOURCE + "partition: {at: R, parts: {a: npu}, include: {a: Sigmoid}}",
        "x.yaml:2: partition.include.a should be a list, got 'Sigmoid'",
        "partition.include.a",
    ),
    (SOURCE + "part_passes:\n  a: [simplify]", "x.yaml:2: part_passes needs a partition, whose", "part_passes"),
    (
        SOURCE + PARTS + "part_passes:\n  head:",
        "x.yaml:4: part_passes.head should be a list of passes; write []",
        "part_passes.head",
    ),
    (SOURCE + "passes: simplify", "x.yaml:2: passes should be a list of passes; write [] for none", "passes"),
    (SOURCE + "passes:\n- simplfy", "x.yaml:3: unknown pass 'simplfy'. Did you mean 'simplify'?", "passes.0"),
    (SOURCE + "passes:\n- 5", "x.yaml:3: an item of passes is the name of a pass, or name:", "passes.0"),
    (SOURCE + "passes:\n- {simplify: , quantize: }", "x.yaml:3: an item of passes is the name of a", "passes.0"),
    (
        SOURCE + "passes:\n- widen-maxpool:\n    kernal: 3",
        "x.yaml:4: unknown option 'kernal' of pass 'widen-maxpool' (options: kernel). Did you mean 'kernel'?",
        "passes.0.widen-maxpool.kernal",
    ),
    (
        SOURCE + "passes:\n- widen-maxpool:\n    kernel: '3'",
        "x.yaml:4: pass 'widen-maxpool': kernel should be a whole number",
        "passes.0.widen-maxpool.kernel",
    ),
    (
        SOURCE + "passes:\n- replace-unit-maxpool: {by: konv}",
        "x.yaml:3: pass 'replace-unit-maxpool': by should be 'conv' or 'averagepool'",
        "passes.0.replace-unit-maxpool.by",
    ),
    (SOURCE + "passes:\n- freeze-batch", "x.yaml:3: pass 'freeze-batch' needs the option 'size': write", "passes.0"),
    (
        SOURCE + "passes:\n- freeze-batch: {}",
        "x.yaml:3: pass 'freeze-batch' needs the option 'size': write freeze-batch: {size: ...}",
        "passes.0.freeze-batch.size",
    ),
    (SOURCE + "check: {tolerances: {}}", "x.yaml:2: unknown key 'tolerances' in check. Did you", "check.tolerances"),
    (SOURCE + "check: {samples: 0}", "x.yaml:2: check.samples should be greater than 0", "check.samples"),
    (SOURCE + "check: {tolerance: {a: -1}}", "x.yaml:2: check.tolerance: tolerance 'a': -1", "check.tolerance.a"),
    (SOURCE + "check: {tolerance: {a: }}", "x.yaml:2: check.tolerance: tolerance 'a': a", "check.tolerance.a"),
    (SOURCE + "check: {tolerance: {a: {}}}", "x.yaml:2: check.tolerance: tolerance 'a': a", "check.tolerance.a"),
    (
        SOURCE + "check: {tolerance: {a: {rel: 1}}}",
        "x.yaml:2: check.tolerance: tolerance 'a': unknown key 'rel': give a number",
        "check.tolerance.a.rel",
    ),
    (
        SOURCE + "check: {tolerance: {unmatched: 0.5}}",
        "x.yaml:2: check.tolerance: tolerance 'unmatched': 0.5 is no count",
        "check.tolerance.unmatched",
    ),
    (
        SOURCE + "check: {tolerance: {unmatched: {absolute: 1}}}",
        "x.yaml:2: check.tolerance: tolerance 'unmatched': {'absolute': 1} is no count",
        "check.tolerance.unmatched",
    ),
    (SOURCE + "check: {grant: {simplify: {a: 1}}}", "x.yaml:2: pass 'simplify' is exact; only", "check.grant.simplify"),
    (
        SOURCE + "check: {grant: {widen-maxpol: {a: 1}}}",
        "x.yaml:2: unknown pass 'widen-maxpol'. Did you mean 'widen-maxpool'?",
        "check.grant.widen-maxpol",
    ),
    (
        SOURCE + PARTS + "variants:\n  int8:\n    passes: []",
        "x.yaml:5: unknown key 'passes' in variants.int8. Did you mean 'part_passes'?",
        "variants.int8.passes",
    ),
    (
        SOURCE + "variants: {a: {grant: {simplify: {a: 1}}}}",
        "x.yaml:2: pass 'simplify' is exact; only",
        "variants.a.grant.simplify",
    ),
    (SOURCE + "variants: {Int8: {}}", "x.yaml:2: variants.Int8: 'Int8' can't name a variant", "variants.Int8"),
    (SOURCE + "variants: {int8: }", "x.yaml:2: variants.int8 should be a mapping", "variants.int8"),
    (SOURCE + "variants: {a: {part_passes: {}}}", "x.yaml:2: variants.a.part_passes needs a part", "variants.a"),
    (SOURCE + "variants: {a: {devices: {npu: qnn}}}", "x.yaml:2: variants.a.devices: no part is on", "variants.a"),
    ("extends: shapes\nsource: {demo: a, onnx: b}", "x.yaml:2: source needs exactly one of", "source"),
    ("extends: shapes\nsource:", "x.yaml:1: a recipe needs a source", "source"),
    ("extends: shapes\npart_passes: {box_head: }", "x.yaml:2: part_passes.box_head should be", "part_passes.box_head"),
    ("extends: shapes\ncapture: {sample: 3}", "x.yaml:2: unknown key 'sample' in capture. Did", "capture.sample"),
]


@pytest.mark.parametrize(("text", "message", "key"), WRONG)
def test_refuses_what_the_loader_refuses(text: str, message: str, key: str, load: Callable[[str], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert str(caught.value).startswith(message)
    assert key in flagged(text)


def test_every_pass_is_there_with_what_it_does_its_options_and_their_defaults() -> None:
    names, with_options = json_schema(own_passes())["$defs"]["PassItem"]["anyOf"]
    assert list(with_options["properties"]) == own_passes().names()
    bare = {one["const"] for one in names["anyOf"]}
    for name, schema in with_options["properties"].items():
        options = plugin_options(own_passes().get(name))
        assert list(schema["properties"]) == list(options)
        assert schema["additionalProperties"] is False
        assert (name in bare) == (not any(option.required for option in options.values()))
    assert with_options["properties"]["widen-maxpool"]["properties"] == {"kernel": {"type": "integer", "default": 3}}
    about = with_options["properties"]["widen-maxpool"]["description"]
    assert about.startswith("Give a 1x1 MaxPool a wider window")
    assert "It is approximate" in about
    assert "`kernel` is the new window's height and width" in about


class Check(Enum):
    """Called as a section of a recipe is."""

    STRICT = "strict"
    LOOSE = "loose"


@dataclasses.dataclass(frozen=True)
class Odd(GraphPass):
    """Do nothing."""

    name = "odd"
    effect = "approximate"

    scale: float = float("nan")
    table: Path | None = None
    weight: Callable[[int], int] = abs
    check: Check = Check.LOOSE
    made: int = dataclasses.field(default=3, init=False)


def test_a_plug_in_has_its_pass_in_the_schema_and_options_that_only_code_can_give_are_refused() -> None:
    passes = Registry()
    passes.add(Odd)
    schema = json_schema(passes)
    json.dumps(schema, allow_nan=False)
    properties = schema["$defs"]["PassItem"]["anyOf"][1]["properties"]["odd"]["properties"]
    assert properties == {
        "scale": {"type": "number"},
        "table": {"type": ["string", "null"], "format": "path"},
        "weight": {"not": {}},
        "check": {"$ref": "#/$defs/option.Check", "default": "loose"},
    }
    assert schema["$defs"]["option.Check"]["enum"] == ["strict", "loose"]
    assert list(schema["$defs"]["Check"]["properties"]["grant"]["properties"]) == ["odd"]


def test_a_tolerance_and_a_source_have_the_keys_that_those_who_read_them_know() -> None:
    assert list(ToleranceKeys.model_fields) == [field.name for field in dataclasses.fields(Tolerance)]
    assert get_args(get_type_hints(SourceSpec)["kind"]) == SOURCE_KINDS
