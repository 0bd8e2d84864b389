"""Every key of a recipe, once: its type, its default, what it means, and an example.

Made from it are the keys that the loader knows and what it refuses (`load`, `validate`), what is a path and what
replaces an inherited value as a whole (`layers`), the JSON schema for editors (`json_schema`) and docs/recipes.md
(`page`). Where None is in the type of a key, null stands for no value; elsewhere null only takes an inherited value
away (`layers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, RootModel, StringConstraints

from graphsurgery.detections.presets import PRESETS as DETECTION_PRESETS
from graphsurgery.images.other_inputs import CANVAS, MASK, NUMBER_WORDS
from graphsurgery.images.preprocessing import PRESETS
from graphsurgery.partition.stages import CutPoints
from graphsurgery.parts.ap_protocol import COCO_LIMITS, ApProtocol, Figure, Kind, Limits, Share
from graphsurgery.recipe.detections_schema import DetectionsKeys
from graphsurgery.recipe.image_schema import ImageKeys
from graphsurgery.recipe.section import Section
from graphsurgery.strict_yaml.positions import quoted

# A part and a variant name files. Windows opens a device when a file has one of these names, whatever its suffix.
PART_NAME = r"^(?!(con|prn|aux|nul|com[0-9]|lpt[0-9])$)[a-z][a-z0-9_]{0,63}$"


def part_name(name: str) -> str:
    """Return `name`. Raises ValueError where it can't be the name of a part."""
    if not re.fullmatch(PART_NAME, name):
        raise ValueError(
            f"{quoted(name)} can't name a part, which is a file name everywhere: write a lower-case letter first, "
            "then letters, digits and _"
        )
    return name


@dataclass(frozen=True)
class IsPath:
    """Marks text that is a path, relative to the folder of the file in which it stands, where it holds `pattern`."""

    pattern: str = ""


@dataclass(frozen=True)
class IsModel:
    """Marks the kinds of source: a source has exactly one, and one that is written drops the inherited one."""


@dataclass(frozen=True)
class IsReplaced:
    """Marks a mapping that replaces the inherited one as a whole, in place of being merged with it key by key."""


@dataclass(frozen=True)
class MayBeWord:
    """Marks a section that may be a word, which stands under `key` then: `image: detr` is `image: {preset: detr}`."""

    key: str


_Mark = TypeVar("_Mark")

PartName = Annotated[str, AfterValidator(part_name), Field(json_schema_extra={"pattern": PART_NAME})]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]
Words = Annotated[tuple[Word, ...], Field(min_length=1)]
# The rows of a set by their first tensor; what counts them has no keys of a tolerance.
RowsName = Annotated[str, Field(json_schema_extra={"pattern": r"^(?!(absolute|relative|sqnr)$)"})]
Count = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]
InputRow = Annotated[tuple[float | Literal[*NUMBER_WORDS], ...], Field(min_length=1)]  # type: ignore[valid-type]
InputRows = Annotated[tuple[InputRow, ...], Field(min_length=1)]
InputValue = float | Literal[CANVAS, MASK, *NUMBER_WORDS] | InputRow | InputRows  # type: ignore[valid-type]


class PassItem(RootModel[Any]):
    """A pass: its name, or `name: {option: value}`. Which passes there are, and their options, a registry knows."""


Passes = tuple[PassItem, ...]


class Source(Section):
    """Where the graph comes from: exactly one of torchvision, demo and onnx, and how it is exported."""

    torchvision: Annotated[Word | None, IsModel()] = Field(
        None, description="a detector of torchvision", examples=["maskrcnn_resnet50_fpn_v2"]
    )
    demo: Annotated[Word | None, IsModel()] = Field(
        None,
        description="an embedded detector: `shapes` is a Mask R-CNN, `shapes_yolo` of one stage",
        examples=["shapes", "shapes_yolo"],
    )
    onnx: Annotated[Path | None, IsModel(), IsPath()] = Field(
        None, description="an ONNX file", examples=["models/detector.onnx"]
    )
    weights: Annotated[str | None, IsPath(r"[./\\]")] = Field(
        None,
        description="a weights name of torchvision's, a file (it has a dot or a slash), or random:SEED; a detector of "
        "torchvision needs them, the others have their own",
        examples=["COCO_V1", "runs/best.pth", "random:0"],
    )
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None,
        description="height and width of the canvas in pixels, on which the whole graph works; without it the "
        "network's or the file's own, if it has one",
        examples=[[544, 960]],
    )
    opset: PositiveInt = Field(17, description="version of the standard operator set to export", examples=[17])
    batch: PositiveInt | None = Field(
        None,
        description="number of images that an ONNX file with an open batch is fed at once: the image itself, which is "
        "what counts, and others made of it. freeze-shapes and freeze-batch on the whole graph then take it",
        examples=[4],
    )
    inputs: Annotated[Mapping[str, InputValue], IsReplaced()] = Field(
        {},
        description="input of an ONNX file besides the image -> what it is. Numbers, or `canvas`, its height and "
        "width, become a constant of the graph: with the size of the canvas, a scale of 1 and a mask of 1 a network "
        "gives boxes in pixels of the canvas. What follows from each image stays an input: `height` and `width` of the "
        "image, `resized_height` and `resized_width` on the canvas, `scale_y` and `scale_x`, the second over the "
        "first, and `mask`, 1 where the image lies on the canvas",
        examples=[
            {"orig_target_sizes": ["width", "height"]},
            {"orig_target_sizes": "canvas"},
            {"im_shape": ["resized_height", "resized_width"], "scale_factor": ["scale_y", "scale_x"]},
            {"im_info": ["resized_height", "resized_width", 1]},
            {"pixel_mask": "mask"},
        ],
    )
    outputs: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description="names for the outputs of an ONNX file, in its order, in place of those that an exporter made up. "
        "Tensors are called so from then on, in tolerances, passes and `detections` too; what is called boxes, labels, "
        "scores and masks needs no `detections`",
        examples=[["boxes", "labels", "masks", "scores", "size"]],
    )


class CapturePlan(Section):
    """What the captured tensors are taken from; where it changes, apply captures anew."""

    images: Annotated[Path | None, IsPath()] = Field(
        None,
        description="folder of images, or one image; without it the demo's own, or generated ones",
        examples=["photos"],
    )
    annotations: Annotated[Path | None, IsPath()] = Field(
        None, description="COCO file that names the images of the folder; needs `images`", examples=["photos.json"]
    )
    samples: PositiveInt = Field(3, description="number of images", examples=[16])


class CutKeys(Section):
    """Operators before which the graph is cut, tensors behind which it is, or both."""

    operators: Words = Field((), description="op types, or `detections`", examples=[["RoiAlign"]])
    tensors: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        (),
        description="names of tensors, or patterns with * and ?, as the graph has them when it is cut; what computes "
        "them is the last before the cut. Those of which none depends on another are one cut",
        examples=[["/model.22/Concat*"]],
    )


class PartitionPlan(Section):
    """Where to cut the graph into parts, and what the parts are called and run on.

    `python -m graphsurgery inspect --cuts FILE` shows where a graph can be cut, and which parts come out. A stage that
    has a node between its weights which no accelerator runs is one part on the cpu, if the recipe has it so.
    """

    at: Word | Words | CutKeys | None = Field(
        None,
        description="op type at which stages end, or several; tensors, in a mapping; or `detections`: behind the raw "
        "outputs of the heads of a detector of one stage, so that what decodes them is the host's",
        examples=["RoiAlign", "detections", {"tensors": ["/model.22/Concat*"]}],
    )
    by: Literal["target"] | None = Field(
        None,
        description="in place of `at`: wherever a node stands between weights that the recipe's `target` doesn't take, "
        "once its sizes are frozen",
        examples=["target"],
    )
    smallest: Count = Field(
        0,
        description="with `by`: a part of fewer multiply-adds is the host's, as its tensors would cross for little",
        examples=[1000000],
    )
    parts: Annotated[Mapping[PartName, Word], IsReplaced(), Field(json_schema_extra={"minProperties": 1})] = Field(
        description="part name -> device, in the order data flows. A part name is a file name too: lower-case letters, "
        "digits and _",
        examples=[{"backbone_rpn": "npu", "box_proposal": "cpu", "box_head": "npu", "postprocess": "cpu"}],
    )
    include: Annotated[Mapping[PartName, tuple[Word, ...]], IsReplaced()] = Field(
        {},
        description="part name -> op types behind the part's last weighted node that it takes along",
        examples=[{"mask_head": ["Sigmoid"]}],
    )
    supported: tuple[Word, ...] = Field(
        (),
        description="op types that the target runs, of those that no accelerator runs as a rule: they may stand "
        "between the weights of a part",
        examples=[["Gather", "Tile"]],
    )
    static: bool = Field(
        True,
        description="every shape in a part for the accelerator must be known; false where what runs it takes others, "
        "so that a head keeps an open number of rows",
        examples=[False],
    )

    @property
    def cut_points(self) -> CutPoints:
        """What `at` says, in whichever form."""
        assert self.at is not None
        if isinstance(self.at, CutKeys):
            return CutPoints.of(self.at.operators, self.at.tensors)
        return CutPoints.of(self.at)


class ToleranceKeys(Section):
    """How far a tensor may be off; with both `absolute` and `relative` the larger one is allowed."""

    absolute: NotNegative | None = Field(None, description="largest absolute difference", examples=[0.02])
    relative: NotNegative | None = Field(
        None, description="largest difference as a share of the largest magnitude in the reference", examples=[0.001]
    )
    sqnr: NotNegative | None = Field(
        None,
        description="signal-to-quantization-noise ratio in dB that is enough, whatever the largest difference is; for "
        "quantized networks",
        examples=[15],
    )


class TolerancesKeys(BaseModel):
    """Tensor name, or a pattern with * and ? -> how far the tensor may be off.

    A number is the largest absolute difference. An exact name goes before the patterns, and those in their order; a
    tensor that none names may be off by 1e-4 of its largest magnitude, and each of its columns, where their ranges
    differ by more than 10 times, by 1e-4 of its own or 1e-5 of the tensor's. With `detections` the columns of an output
    go by their roles first: boxes, scores, objectness, labels (equal if nothing is said), keypoints, masks,
    coefficients, prototypes.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    unmatched: Count | Mapping[RowsName, Count] = Field(
        0,
        description="number of detections that may be without partner, or {TENSOR: number} of another set of rows, "
        "named by its first tensor. Rows are sets where the source has some, or `detections` leaves none to be chosen",
        examples=[5, {"proposals": 10}],
    )
    __pydantic_extra__: dict[
        str,
        Annotated[
            NotNegative | ToleranceKeys,
            Field(description="how far the tensors of that name may be off", examples=[0.02, {"relative": 0.001}]),
        ],
    ]


class Check(Section):
    """How far the result of a pass may be from the captured tensors."""

    tolerance: TolerancesKeys = Field(
        TolerancesKeys(),
        description="tensor name or pattern -> largest absolute difference, or {relative: x}, {absolute: x, relative: "
        "y} or {sqnr: dB}",
        examples=[{"boxes": 0.02, "labels": 0, "feature_*": {"relative": 0.001}, "unmatched": 2}],
    )
    samples: PositiveInt | None = Field(
        None,
        description="number of captured samples that are compared, the first ones; all without it, but quantizers "
        "calibrate from more than it takes to see a fault",
        examples=[3],
    )
    grant: Mapping[str, TolerancesKeys] = Field(
        {},
        description="approximate pass -> what it may cost, with the keys of `tolerance`. A pass behind it is compared "
        "with the graph before it too, by its own tolerance alone",
        examples=[
            {"widen-maxpool": {"objectness_4": 12, "boxes": 15, "unmatched": 5}, "quantize": {"*": {"sqnr": 15}}}
        ],
    )


class TargetKeys(Section):
    """The accelerator that parts are for: what it takes of them is certified, and what it refuses ends the run."""

    name: Annotated[str, IsPath(r"\.ya?ml$")] = Field(
        description="a target of `graphsurgery support`, or a .yaml file of one", examples=["rk3588", "my_npu.yaml"]
    )
    precision: str | None = Field(
        None, description="in which it computes, one of the target's; its usual one if not given", examples=["int8"]
    )


class WorstKeys(Section):
    """Layers that stay float, in place of values of an option that names such: so many of the worst at most."""

    worst: PositiveInt = Field(
        description="the pass ranks its layers by what they lose (`explain`), and from none to so many of the worst "
        "stay float",
        examples=[4],
    )


class SearchKeys(Section):
    """Options of the variant's passes that are looked for: which setting costs least and keeps what is asked.

    Each trial is one setting for all parts. Its quality is the SQNR of the worst output of a part against that part as
    it was before the variant's passes, over the captured samples; its cost the bit operations, multiply-adds times the
    bits of both factors, as a share of those in float32. See [searches](searches.md).
    """

    passes: Annotated[
        Mapping[str, Mapping[str, Annotated[tuple[Any, ...], Field(min_length=1)] | WorstKeys]],
        Field(min_length=1),
    ] = Field(
        description="pass of the variant's `part_passes` -> option -> its values, in a list. Each part chooses for "
        "itself; options that aren't named stay as they are",
        examples=[{"quantize": {"activations": ["uint8", "uint16"], "exclude": {"worst": 4}}}],
    )
    sqnr: NotNegative = Field(description="dB that every output of a part has to keep", examples=[30])
    max_ap_drop: Share | None = Field(
        None,
        description="besides, how much lower than the original's an AP may be: of the settings on the Pareto front "
        "that keep `sqnr`, the cheapest ones are evaluated one after another until one keeps it",
        examples=[0.01],
    )
    trials: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="number of settings that are tried; where there are no more than these, all are", examples=[200]
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="the same settings are tried for the same seed, however many processes try them", examples=[1]
    )
    seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="what one part of a trial may take; one that takes longer has failed", examples=[60]
    )
    memory_mb: PositiveInt = Field(
        8000, description="10^6 bytes of memory that one part of a trial may take", examples=[4000]
    )


class VariantKeys(Section):
    """The parts made once more in another way, for comparison."""

    part_passes: Mapping[PartName, Passes] = Field(
        {},
        description="part name -> rewrites of that part, after those of the recipe's own `part_passes`",
        examples=[{"backbone_rpn": ["quantize"]}, {"box_head": [{"quantize": {"exclude": "auto", "sqnr_goal": 30}}]}],
    )
    precision: str | None = Field(
        None,
        description="in which the target computes these parts, where it isn't `target.precision`",
        examples=["int8"],
    )
    devices: Mapping[Word, str] = Field(
        {},
        description="device -> execution provider, with options as --device has them",
        examples=[{"npu": "qnn,soc_model=60"}],
    )
    grant: Mapping[str, TolerancesKeys] = Field(
        {},
        description="as `check.grant`, in this variant alone: a pass that it names is granted this in place of what "
        "`check.grant` says, other passes what they are there. The parts before the variant's passes keep theirs",
        examples=[{"quantize": {"*": {"sqnr": 10}, "scores": {"sqnr": 0}}}],
    )
    search: SearchKeys | None = Field(
        None,
        description="look for the best options of these passes before the variant is made; its front is in the report",
        examples=[{"passes": {"quantize": {"method": ["minmax", "percentile"]}}, "sqnr": 30}],
    )
    max_ap_drop: Share | None = Field(None, description="as `evaluate.max_ap_drop`, for this variant", examples=[0.015])
    compile: bool = Field(False, description="let the compilers of the recipe have these parts too", examples=[True])
    on_request: bool = Field(
        False, description="made for --variant NAME or --variant all only, since it takes long", examples=[True]
    )


class EvaluationPlan(Section):
    """COCO AP of the original, of the parts and of each variant, and how much of it may be lost.

    A recipe without images may say how `evaluate` measures, on images that are given to it then; `apply` measures none.
    """

    samples: PositiveInt = Field(100, description="number of images", examples=[500])
    images: Annotated[Path | None, IsPath()] = Field(
        None, description="folder of images; with a demo source they are made", examples=["val2017"]
    )
    annotations: Annotated[Path | None, IsPath()] = Field(
        None, description="COCO file that names them; with a demo source it is made", examples=["val2017.json"]
    )
    max_ap_drop: Share | None = Field(
        None,
        description="how much lower than the original's an AP may be, 0 to 1; more fails the run",
        examples=[0.01],
    )
    iou: tuple[Kind, ...] | None = Field(
        None,
        description="what is compared; without it all that the model and the annotations have",
        examples=[["bbox"]],
    )
    max_detections: Limits = Field(
        COCO_LIMITS,
        description="in place of COCO's 1, 10 and 100: how many of an image's best detections count. AP goes by the "
        "last, and each has its recall",
        examples=[[100, 300, 1000]],
    )
    min_score: Share = Field(0.0, description="detections with a lower score don't count", examples=[0.05])
    published: Annotated[Mapping[Figure, Share], IsReplaced()] = Field(
        {},
        description="figure -> what was published of the original, 0 to 1; it is shown beside what is measured",
        examples=[{"bbox_ap": 0.381, "bbox_ap50": 0.588}],
    )

    @property
    def protocol(self) -> ApProtocol | None:
        """How AP is measured, None where nothing is said of it."""
        said = self.model_fields_set & ApProtocol.model_fields.keys()
        return ApProtocol(**{name: getattr(self, name) for name in said}) if said else None


# What stands for a section that is left out and has no default of its own. No RecipeKeys is ever made: sections are
# checked one at a time, so that the error is at the line of the value at fault.
_ABSENT: Any = None


class RecipeKeys(Section):
    """A recipe: the model, the passes that rewrite it, where it is cut, and how far off the result may be."""

    extends: str = Field(
        _ABSENT,
        description="the recipe that this one is laid over: name of a packaged recipe, or a path that ends in .yaml, "
        "relative to this file",
        examples=["maskrcnn", "common/base.yaml"],
    )
    source: Source = Field(
        description="where the graph comes from", examples=[{"torchvision": "maskrcnn_resnet50_fpn_v2"}]
    )
    image: Annotated[Literal[*PRESETS] | ImageKeys, MayBeWord("preset")] = Field(  # type: ignore[valid-type]
        ImageKeys(),
        description="what an ONNX file wants of an image, or a preset of it; without it pixels in 0..1, red first, "
        "aspect kept, top left",
        examples=["ultralytics", {"preset": "ultralytics", "pad": 0}],
    )
    detections: Annotated[Literal[*DETECTION_PRESETS] | DetectionsKeys, MayBeWord("preset")] = Field(  # type: ignore[valid-type]
        _ABSENT,
        description="what the outputs of an ONNX file are, or a preset of it; without it outputs that are called "
        "boxes, labels, scores and masks are detections, and others tensors",
        examples=["ultralytics", {"preset": "detr", "classes": "coco91"}],
    )
    capture: CapturePlan = Field(
        CapturePlan(), description="what the captured tensors are taken from", examples=[{"samples": 16}]
    )
    passes: Passes = Field(
        (),
        description="rewrites of the whole graph, in order: a name, or `name: {option: value}`",
        examples=[["simplify", {"freeze-shapes": {"batch": 1}}]],
    )
    target: Annotated[str | TargetKeys, MayBeWord("name")] = Field(
        _ABSENT,
        description="the accelerator that parts are for, so that apply holds them against what it takes; see "
        "[targets](targets.md)",
        examples=["rk3588", {"name": "rk3588", "precision": "float16"}],
    )
    partition: PartitionPlan = Field(
        _ABSENT,
        description="cut the graph into parts; without it, it stays in one piece",
        examples=[{"at": "RoiAlign", "parts": {"backbone_rpn": "npu", "postprocess": "cpu"}}],
    )
    part_passes: Annotated[Mapping[PartName, Passes], IsReplaced()] = Field(
        {},
        description="part name -> rewrites of that part, as in `passes`",
        examples=[{"backbone_rpn": ["replace-unit-maxpool"]}, {"box_head": [{"freeze-batch": {"size": 1000}}]}],
    )
    variants: Mapping[PartName, VariantKeys] = Field(
        {},
        description="name -> the parts made once more in another way, for comparison; a folder of that name in the "
        "folder of the parts. One that needs a tool which isn't installed is left out, and the run says so",
        examples=[{"int8": {"part_passes": {"backbone_rpn": ["quantize"]}}}],
    )
    compile: Mapping[str, Mapping[str, Any]] = Field(
        {},
        description="compiler -> its options: what its tool wants of the finished parts is written to compiled/NAME in "
        "their folder, and the tool is run where it is installed; see [compilers](compilers.md)",
        examples=[{"ascend": {"soc_version": "Ascend310P3"}}],
    )
    check: Check = Field(
        Check(),
        description="how far the result of a pass may be from the captured tensors",
        examples=[{"tolerance": {"boxes": 0.02, "labels": 0}}],
    )
    evaluate: EvaluationPlan = Field(
        _ABSENT, description="measure COCO AP; without it, none is measured", examples=[{"samples": 100}]
    )


def marked(mark: type[_Mark], keys: type[BaseModel] = RecipeKeys) -> Iterator[tuple[tuple[str, ...], _Mark]]:
    """Yield the path of every key that has such a mark, in the recipe itself and in its sections, with the mark."""
    for name, field in keys.model_fields.items():
        for one in field.metadata:
            if isinstance(one, mark):
                yield (name,), one
        for kind in (field.annotation, *get_args(field.annotation)):  # alone, or in a union
            if isinstance(kind, type) and issubclass(kind, Section):
                for below, one in marked(mark, kind):
                    yield (name, *below), one
