"""The keys of the section `detections`: types and words for `graphsurgery.detections`, which knows what goes together.

A section may lack anything, as a preset is laid under it. Where None is in a type, null takes away what the preset has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints

from graphsurgery.detections.pieces import Activation, BoxForm, MaskForm, PositionUnit, Unit
from graphsurgery.detections.postprocessing import Background
from graphsurgery.detections.presets import PRESETS
from graphsurgery.recipe.section import Section

Label = Annotated[str, StringConstraints(pattern=r"^[0-9]+$")]
Pair = tuple[float, float]
Four = tuple[float, float, float, float]
Share = Annotated[float, Field(ge=0, le=1)]


class ViewKeys(Section):
    """Some columns of one tensor, or of several whose rows follow one another. Rows are what the other axes count."""

    tensor: str | int | tuple[str | int, ...] = Field(
        0,
        description="name of an output, or its position, from 0 on; a list of them for the levels of a pyramid",
        examples=["logits", 1, ["cls_8", "cls_16", "cls_32"]],
    )
    columns: int | Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] | None = Field(
        None,
        description="one column, [first] for all from there on, or [first, end], where the end is not among them; "
        "negative ones count from the end. All without it",
        examples=[4, [4], [4, -32]],
    )
    axis: int = Field(
        -1, description="where the columns lie, the batch counted; negative ones count from the end", examples=[1]
    )
    per_cell: PositiveInt = Field(
        1,
        description="number of rows that lie side by side along `axis`, as those of the anchors of a cell do in a "
        "tensor [1, anchors x columns, H, W]",
        examples=[9],
    )


class ScoresKeys(ViewKeys):
    """As VIEW, and what the network leaves to do."""

    activation: Activation = Field(
        "none", description="still to be done; softmax over all columns, the background's too", examples=["sigmoid"]
    )


class BoxesKeys(ViewKeys):
    """As VIEW: four columns, and their form."""

    form: BoxForm = Field(
        "xyxy",
        description="xyxy and yxyx (two corners), xywh (corner and size), cxcywh (centre and size), ltrb (distances "
        "from `points`), yolox (offsets in the cells of `points`, logarithms of sizes), deltas (from `anchors`)",
        examples=["cxcywh"],
    )
    unit: Unit = Field(
        "pixels",
        description="pixels, of the canvas, or relative to its size; image_pixels or image_relative, of the image "
        "itself, where the network was told its size (`source.inputs`); or strides of the points, of distances",
        examples=["relative"],
    )
    bins: PositiveInt | None = Field(
        None,
        description="a side is the mean of a distribution over so many bins, after softmax (DFL); needs form ltrb",
        examples=[16],
    )
    weights: Four = Field(
        (1.0, 1.0, 1.0, 1.0), description="what deltas are divided by, column by column", examples=[[10, 10, 5, 5]]
    )
    order: Literal["xy", "yx"] = Field("xy", description="of deltas", examples=["yx"])


class PointsKeys(Section):
    """What rows stand for: cells of the canvas, level by level, each row by row."""

    strides: tuple[PositiveInt, ...] = Field(
        (), description="size of a cell in pixels, for each level", examples=[[8, 16, 32]]
    )
    offset: Share = Field(0.5, description="where in its cell a point lies, in strides", examples=[0])


class LevelKeys(Section):
    """The anchors of one level of a pyramid."""

    stride: PositiveInt = Field(description="size of a cell in pixels", examples=[8])
    sizes: tuple[Pair, ...] = Field(
        description="width and height in pixels of each anchor of a cell, in the order of the rows",
        examples=[[[32, 32], [45, 23], [23, 45]]],
    )


class AnchorsKeys(Section):
    """The boxes that deltas are from: `levels` or `boxes`."""

    levels: tuple[LevelKeys, ...] | None = Field(
        None,
        description="level by level, each cell by cell, row by row",
        examples=[[{"stride": 8, "sizes": [[32, 32], [64, 64]]}, {"stride": 16, "sizes": [[128, 128], [256, 256]]}]],
    )
    offset: Share = Field(0.5, description="where in its cell the centre of an anchor lies, in strides", examples=[0])
    boxes: tuple[Four, ...] | None = Field(
        None,
        description="one by one, x0, y0, x1, y1 in pixels",
        examples=[[[0, 0, 32, 32], [16, 0, 48, 32]]],
    )


class MasksKeys(Section):
    """Where masks are, and in what form."""

    tensor: str | int = Field(0, description="the masks, or the prototypes", examples=["masks", 2])
    form: MaskForm = Field(
        "per_box",
        description="pasted (as large as the canvas), per_box (small ones, to be pasted into the boxes), prototypes "
        "(summed by `coefficients` and cut out by the boxes), per_query (a map of the canvas for each row)",
        examples=["pasted"],
    )
    activation: Literal["none", "sigmoid"] = Field("none", description="still to be done", examples=["sigmoid"])
    coefficients: ViewKeys | None = Field(
        None, description="of the prototypes, for each row", examples=[{"axis": 1, "columns": [-32]}]
    )
    rescore: bool = Field(
        False, description="multiply the score by the mean probability inside of the mask", examples=[True]
    )


class KeypointsKeys(ViewKeys):
    """As VIEW: x, y and visibility of each keypoint."""

    count: PositiveInt = Field(17, description="number of keypoints", examples=[17])
    values: Literal[2, 3] = Field(3, description="columns of a keypoint; 2 where there is no visibility", examples=[2])
    unit: PositionUnit = Field("pixels", description="as that of boxes", examples=["relative"])
    activation: Literal["none", "sigmoid"] = Field(
        "none", description="still to be done with the visibility", examples=["sigmoid"]
    )


class SuppressionKeys(Section):
    """Non-maximum suppression, which an export with its own does without."""

    iou: Share = Field(0.5, description="overlap above which the worse box goes", examples=[0.7])
    per_class: bool = Field(True, description="only boxes of one label suppress each other", examples=[False])
    candidates: PositiveInt = Field(30_000, description="so many of the best scores are looked at", examples=[5000])


class DetectionsKeys(Section):
    """What the outputs of an ONNX file are. A preset is laid under the other keys, mappings key by key."""

    preset: Literal[*PRESETS] | None = Field(  # type: ignore[valid-type]
        None, description="the outputs of a library or a family of models", examples=["ultralytics"]
    )
    boxes: BoxesKeys | None = Field(
        None,
        description="the boxes, a row for each",
        examples=[{"tensor": "pred_boxes", "form": "cxcywh", "unit": "relative"}],
    )
    scores: ScoresKeys | None = Field(
        None,
        description="a column for each class, or one where `labels` are given",
        examples=[{"tensor": "logits", "activation": "sigmoid"}],
    )
    objectness: ScoresKeys | None = Field(
        None, description="one column that scores are multiplied by", examples=[{"columns": 4}]
    )
    labels: ViewKeys | None = Field(
        None, description="one column; without it the column of the best score", examples=[{"columns": 5}]
    )
    background: Background = Field(
        "none",
        description="a column of scores that is no class, and is never chosen; a label stays the number of its column",
        examples=["last"],
    )
    multi_label: bool = Field(
        False, description="each score of a row is a detection of its own, not the best alone", examples=[True]
    )
    points: PointsKeys | None = Field(
        None, description="what rows stand for, where boxes are ltrb or yolox", examples=[{"strides": [8, 16, 32]}]
    )
    anchors: AnchorsKeys | None = Field(
        None,
        description="what deltas are from",
        examples=[{"levels": [{"stride": 16, "sizes": [[32, 32], [64, 64]]}]}],
    )
    masks: MasksKeys | None = Field(
        None, description="masks, if there are any", examples=[{"tensor": "masks", "form": "pasted"}]
    )
    keypoints: KeypointsKeys | None = Field(
        None, description="keypoints, if there are any", examples=[{"axis": 1, "columns": [5]}]
    )
    score: float = Field(0, description="only what scores more is a detection", examples=[0.25])
    maximum: PositiveInt = Field(300, description="the best so many are given", examples=[100])
    nms: SuppressionKeys | None = Field(
        None, description="suppress boxes that overlap a better one; without it none are", examples=[{"iou": 0.6}]
    )
    classes: Literal["coco80", "coco90", "coco91"] | tuple[str, ...] | None = Field(
        None,
        description="names of the labels, from 0 on; coco80 (in a row), coco90 (category id less 1) or coco91 "
        "(category id)",
        examples=["coco80", ["cat", "dog"]],
    )
    categories: Mapping[Label, int] | tuple[int | None, ...] | None = Field(
        None,
        description="label -> category id of the data set to evaluate on, or ids in a list, null for none; without it "
        "the categories that are called as `classes`",
        examples=[{"0": 1, "1": 3}, [1, 3]],
    )
