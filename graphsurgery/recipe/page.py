"""docs/recipes.md: every key of a recipe as `schema` has it, and two recipes from the first line to the last."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graphsurgery.recipe.detections_schema import (
    AnchorsKeys,
    BoxesKeys,
    DetectionsKeys,
    KeypointsKeys,
    LevelKeys,
    MasksKeys,
    PointsKeys,
    ScoresKeys,
    SuppressionKeys,
    ViewKeys,
)
from graphsurgery.recipe.image_schema import ImageKeys
from graphsurgery.recipe.json_schema import REF, Schema, key_schemas
from graphsurgery.recipe.schema import (
    CapturePlan,
    Check,
    CutKeys,
    EvaluationPlan,
    PartitionPlan,
    RecipeKeys,
    SearchKeys,
    Source,
    TargetKeys,
    ToleranceKeys,
    TolerancesKeys,
    VariantKeys,
    WorstKeys,
)

_HEAD = """\
# Recipes

Made by `python -m graphsurgery recipe-schema --markdown --out docs/recipes.md` from `graphsurgery/recipe/schema.py`;
not to be edited. A recipe is a YAML file that names the model, the passes that rewrite it, where it is cut into parts,
and how far off the result may be. It names passes, it never holds code. What passes there are, with their options:
[passes.md](passes.md).

- `extends` lays a recipe over another. Mappings merge key by key; lists and single values replace. `partition.parts`,
  `partition.include` and `part_passes` replace as a whole, since together they name all parts. A `source` that names a
  model drops the inherited model and its weights. A key without a value (`evaluate:`) takes the inherited value away.
- `--set a.b=c` puts one value in place of another, from the command line; numbers count the items of a list from 0.
- Relative paths are relative to the file in which they stand, those of `--set` and `--weights` to the working
  directory.
- YAML readers disagree about some values. `1e-4`, `010` and `1_000` are refused, with the form to write; `yes`, `no`,
  `on` and `off` are text, only `true` and `false` are booleans; a key that stands twice, an anchor, an alias and a tag
  are refused.

## In an editor

An editor with a YAML language server (the YAML extension of VS Code, for example) completes keys and the names of
passes, explains them, and marks what is wrong. The first line of a recipe says where the schema is. Write the schema
beside your recipe, with the passes of your own plug-ins in it:

```sh
python -m graphsurgery recipe-schema --plugin my_passes.py --out recipe.schema.json
```

and start the recipe with

```yaml
# yaml-language-server: $schema=recipe.schema.json
```

The recipes that come with graphsurgery do the same; their schema is `recipes/recipe.schema.json`. Whether part names
agree, and what depends on the recipe that another extends, graphsurgery alone can tell: it names file and line."""

_CUTS = """\
## Where to cut

`python -m graphsurgery inspect --cuts FILE` shows where a graph can be cut: `at` as a recipe writes it, and of each
part that comes out the nodes, the multiply-adds and the bytes that other parts give it. Look at the file behind its
passes (`simplify` at least), since a tensor is named as the graph has it when it is cut.

| detector | `at` | parts |
|---|---|---|
| two stages (Mask R-CNN) | `RoiAlign` | a network up to each pool, and what the host does between them |
| one stage (YOLO, with or without DFL) | `detections`, `{tensors: ["/model.22/Concat*"]}` | npu; cpu: the decode |
| DETR | `{tensors: [MEMORY]}`: what the encoder gives | npu: backbone and encoder; npu: decoder; cpu: a Sigmoid |
| RT-DETR | `GatherElements`: it takes the encoder's best | npu: backbone and encoder; cpu: the decoder |
| RT-DETR, each head | `[Gather, GatherElements, Tile, TopK]` | npu and cpu in turn |

- An operator that is named begins a stage; a tensor that is named ends one. Tensors that a pattern matches are one cut,
  unless one is computed of another: then it is a cut further on.
- The accelerator part of a stage is what lies between its weights, and up to the tensors that are named. What lies
  between two such parts is the host's. With tensors or `detections` a layer of the decode (DFL's, or a matrix that
  makes corners of centres) is no weight, so the decode is one host part.
- A node that no accelerator runs (TopK, Gather, NonMaxSuppression, ...) can't stand between the weights of a part. The
  message names it, the passes that look at it, and the tensor to cut at; `supported` says that the target runs it.
  Where the recipe has a cpu part in place of such a stage, the stage is the host's as a whole.
- Boxes in pixels and scores in one tensor share one scale when they are quantized, and the scores are lost. `inspect`,
  `quantize`, `apply` and the report name such a tensor, and what to cut at, or the pass that takes an output apart: the
  runtime joins the pieces again before it reads `detections` out of them."""

_EXAMPLES = """\
## Two recipes

A detector of your own, in an ONNX file, in three parts:

```yaml
# yaml-language-server: $schema=recipe.schema.json
source: {onnx: detector.onnx}          # beside this file; the weights and the size of the canvas come with it
image: {preset: torchvision, pad: 0}   # what it wants of an image
detections:                            # what its outputs are
  preset: torchvision_mask
  classes: [background, cat, dog]      # so that `evaluate` finds the categories of the same name
capture:
  images: photos                       # folder of images that the detector finds something in
  samples: 8
passes:                                # on the whole graph, in this order
  - freeze-shapes: {batch: 1}          # a pass with an option
  - simplify                           # one without
partition:
  at: RoiAlign                         # no accelerator runs it: it goes to the parts on the CPU
  parts:                               # in the order data flows; the cuts are found by structure
    backbone_rpn: npu
    box_proposal: cpu
    box_head: npu
    postprocess: cpu
part_passes:
  backbone_rpn:
    - replace-unit-maxpool
    - widen-maxpool: {kernel: 3}       # approximate: it needs the grant below
  box_head: [{freeze-batch: {size: 1000}}]     # proposals of an image at most
check:
  samples: 3                           # compare three of the eight
  tolerance:
    boxes: 2.0e-2                      # pixels of the canvas
    labels: 0
    scores: {absolute: 1.0e-4, relative: 1.0e-3}
    "feature_*": {relative: 1.0e-4}    # a pattern is quoted where it starts with *
    unmatched: 1                       # one detection may be without partner
  grant:
    widen-maxpool: {boxes: 15, scores: 0.4, unmatched: 5}
evaluate:                              # COCO AP of the file and of the parts
  images: val2017
  annotations: instances_val2017.json
  samples: 500
  max_ap_drop: 0.01                    # the run fails where the parts lose more
```

Mask R-CNN with weights of your own, besides in two quantized variants:

```yaml
# yaml-language-server: $schema=recipe.schema.json
extends: maskrcnn                      # source, passes, partition and tolerances are its
source:
  weights: runs/best.pth               # has a slash, so it is a file, relative to this one
  size: [768, 1344]                    # height, width
capture: {images: photos, samples: 32}
passes: [{freeze-shapes: {batch: 1}}, drop-preprocessing, simplify]    # a list replaces the inherited one
variants:
  int8:                                # ONNX Runtime's quantizer, calibrated from the captured tensors
    part_passes:                       # after those of part_passes
      backbone_rpn: [quantize]
      box_head: [{quantize: {exclude: auto, sqnr_goal: 30}}]
    max_ap_drop: 0.01
  htp:                                 # Qualcomm's NPU
    part_passes: {backbone_rpn: [{quantize: {config: qnn}}]}
    devices: {npu: "qnn,soc_model=60"}
    on_request: true                   # made for --variant htp or --variant all
check:
  samples: 3                           # the quantizer sees all 32
  tolerance: {masks_pasted: }          # without a value: the inherited tolerance is taken away
  grant:
    quantize: {"*": {sqnr: 15}}        # in dB, of every tensor
evaluate: {images: val2017, annotations: instances_val2017.json}
```
"""

_SECTIONS: Mapping[str, type[BaseModel]] = {
    "Keys": RecipeKeys,
    "source": Source,
    "image": ImageKeys,
    "detections": DetectionsKeys,
    "detections.VIEW": ViewKeys,
    "detections.boxes": BoxesKeys,
    "detections.scores": ScoresKeys,
    "detections.points": PointsKeys,
    "detections.anchors": AnchorsKeys,
    "detections.anchors.levels": LevelKeys,
    "detections.masks": MasksKeys,
    "detections.keypoints": KeypointsKeys,
    "detections.nms": SuppressionKeys,
    "capture": CapturePlan,
    "partition": PartitionPlan,
    "partition.at": CutKeys,
    "target": TargetKeys,
    "variants.NAME": VariantKeys,
    "variants.NAME.search": SearchKeys,
    "variants.NAME.search.passes.PASS.OPTION": WorstKeys,
    "check": Check,
    "check.tolerance": TolerancesKeys,
    "check.tolerance.NAME": ToleranceKeys,
    "evaluate": EvaluationPlan,
}
_LINKS = {keys.__name__: f"[mapping](#{path.replace('.', '').lower()})" for path, keys in _SECTIONS.items()}
_LINKS["PassItem"] = "[pass](passes.md)"


def page() -> str:
    """Return docs/recipes.md."""
    root, shared = key_schemas()
    shared[RecipeKeys.__name__] = root
    sections = [_section(path, keys, shared[keys.__name__]) for path, keys in _SECTIONS.items()]
    return "\n\n".join([_HEAD, *sections, _CUTS, _EXAMPLES])


def _section(path: str, keys: type[BaseModel], schema: Schema) -> str:
    rows = ["| key | type | default | meaning | example |", "|---|---|---|---|---|"]
    for key, field in keys.model_fields.items():
        rows.append(_row(key, schema["properties"][key], _default(field), field.examples or ()))
    if others := schema.get("additionalProperties"):
        rows.append(_row("NAME", others, "", others["examples"]))
    return "\n\n".join([f"## {path}", _escaped(schema["description"]), "\n".join(rows)])


def _row(key: str, schema: Schema, default: str, examples: Iterable[Any]) -> str:
    shown = "<br>".join(f"`{key}: {_yaml(example)}`" for example in examples)
    cells = (f"`{key}`", _type(schema), default, _escaped(schema["description"]), shown)
    return f"| {' | '.join(cells)} |"


def _yaml(value: Any) -> str:
    """Return the value in one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("...\n").rstrip("\n")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return f"`{_yaml(field.default)}`" if isinstance(field.default, int | float | str) else ""


def _type(schema: Schema) -> str:
    """Return in words what a value may be. Null isn't mentioned: it stands for no value everywhere."""
    if "$ref" in schema:
        return _LINKS[schema["$ref"].removeprefix(REF)]
    if "anyOf" in schema:
        return " or ".join(_type(branch) for branch in schema["anyOf"] if branch.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    if "type" not in schema:
        return "anything"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    match kinds[0]:
        case "object" if schema.get("additionalProperties") is True:
            return "mapping"
        case "object":
            return f"mapping: name -> {_type(schema['additionalProperties'])}"
        case "array" if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
        case "array":
            return f"list: {_type(schema['items'])}"
        case "string":
            return "path" if schema.get("format") == "path" else "name" if "pattern" in schema else "text"
        case "boolean":
            return "true or false"
        case kind:
            number = "whole number" if kind == "integer" else "number"
            if not schema.keys() & {"minimum", "exclusiveMinimum"}:
                return number
            lowest = 1 if "exclusiveMinimum" in schema else schema["minimum"]
            return f"{number} from {lowest:g}" + (f" to {schema['maximum']:g}" if "maximum" in schema else "")


def _escaped(text: str) -> str:
    """Keep Markdown from reading * < and | in plain text; what is between backticks is code and stays."""
    pieces = text.split("`")
    return "`".join(piece if odd % 2 else re.sub(r"([*<|])", r"\\\1", piece) for odd, piece in enumerate(pieces))
