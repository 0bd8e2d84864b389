"""What the outputs of a network are: boxes, scores, labels, masks, keypoints, their form, and what is to be chosen.

Data, no code: `decode` reads detections by it. Positions of pixels are those of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from graphsurgery.detections.class_names import CLASSES
from graphsurgery.detections.pieces import Anchors, Boxes, Keypoints, Masks, Points, Scores, Suppression
from graphsurgery.detections.plain import (
    Nested,
    from_plain,
    require_choice,
    require_list,
    require_number,
    require_switch,
    require_whole,
    to_plain,
)
from graphsurgery.detections.views import Column, OpenShapes, Role, Shapes, View, axis_of_rows, everything, find
from graphsurgery.errors import InputError

__all__ = ["Background", "Column", "Postprocessing", "Rows", "View"]

Background = Literal["none", "first", "last"]

_MOST_CLASSES = 2**14


class Rows(NamedTuple):
    """Tensors whose rows belong together: tensor -> the axes that its rows lie along."""

    axes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Postprocessing:
    """The section `detections` of a recipe.

    A row is a detection. Its label is the column of its best score, `background` left out, or what `labels` say; with
    `multi_label` each score is a detection of its own. Those with a score above `score` are kept, `nms` chooses among
    them if it is given, and the best `maximum` stay. `classes` are the names of the labels from 0 on, or coco80, coco90
    or coco91; `categories` are the category ids of a data set by label, as pairs. Raises InputError for values that
    contradict each other.
    """

    NESTED: ClassVar[Nested] = {
        "boxes": Boxes,
        "scores": Scores,
        "objectness": Scores,
        "labels": View,
        "points": Points,
        "anchors": Anchors,
        "masks": Masks,
        "keypoints": Keypoints,
        "nms": Suppression,
    }

    scores: Scores
    boxes: Boxes | None = None
    objectness: Scores | None = None
    labels: View | None = None
    background: Background = "none"
    multi_label: bool = False
    points: Points | None = None
    anchors: Anchors | None = None
    masks: Masks | None = None
    keypoints: Keypoints | None = None
    score: float = 0.0
    maximum: int = 300
    nms: Suppression | None = None
    classes: str | tuple[str, ...] | None = None
    categories: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        require_choice("background", self.background, Background)
        require_switch("multi_label", self.multi_label)
        require_number("score", self.score, -1e6, 1e6)
        require_whole("maximum", self.maximum, 1, 10_000)
        if self.labels is not None and (self.multi_label or self.background != "none"):
            raise InputError("labels say what a row is; neither multi_label nor background goes with them")
        if self.boxes is None and (self.masks is None or self.masks.form != "per_query"):
            raise InputError("boxes: say where they are; only masks with form per_query do without")
        form = None if self.boxes is None else self.boxes.form
        for name, forms in (("points", ("ltrb", "yolox")), ("anchors", ("deltas",))):
            if (getattr(self, name) is not None) != (form in forms):
                raise InputError(f"{name} go with boxes.form {' and '.join(forms)}, and these need them; it is {form}")
        if self.nms is not None and self.boxes is None:
            raise InputError("nms chooses among boxes; there are none")
        if isinstance(self.classes, str):
            require_choice("classes", self.classes, Literal[*CLASSES])
        elif self.classes is not None:
            for each in require_list("classes", self.classes, 1, _MOST_CLASSES):
                if not isinstance(each, str) or not 0 < len(each) <= 200:
                    raise InputError("classes: give the names as text, none empty, or coco80, coco90 or coco91")
        if self.categories is not None:
            for pair in require_list("categories", self.categories, 1, _MOST_CLASSES):
                for each in require_list("categories", pair, 2, 2):
                    require_whole("categories", each, 0, 2**31)

    @property
    def class_names(self) -> list[str] | None:
        """The names of the labels from 0 on, None where they aren't known."""
        if self.classes is None:
            return None
        return list(CLASSES[self.classes] if isinstance(self.classes, str) else self.classes)

    @property
    def category_of_label(self) -> dict[int, int] | None:
        """The category ids of a data set by label, None where they aren't given."""
        return None if self.categories is None else dict(self.categories)

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON has it; `from_json` reads it."""
        plain: dict[str, Any] = to_plain(self)
        if self.categories is not None:
            plain["categories"] = {str(label): category for label, category in self.categories}
        return plain

    @classmethod
    def from_json(cls, value: object) -> Postprocessing:
        """Read what `to_json` gave, or a recipe has. Raises InputError for anything else."""
        if isinstance(value, Mapping) and value.get("categories") is not None:
            value = {**value, "categories": _pairs(value["categories"])}
        return from_plain(cls, value, "detections", cls.NESTED)

    def labels_of(self, outputs: OpenShapes) -> range | None:
        """Return the labels that there can be, from the columns of the scores; None where they don't tell."""
        name = find(self.scores.tensors[0], outputs, "scores")
        shape = outputs[name]
        if self.labels is not None or not shape:
            return None
        count = self.scores.count_columns([size if isinstance(size, int) else -1 for size in shape], name, "scores")
        if count is None:
            return None
        return range(1 if self.background == "first" else 0, count - (self.background == "last"))

    def require_outputs(self, outputs: OpenShapes) -> None:
        """Raise InputError where the section names an output that isn't there, or whose known shape doesn't fit."""
        shapes = {name: tuple(shape or ()) for name, shape in outputs.items()}
        for role, view, single in self._views():
            for each in view.tensors:
                name = find(each, shapes, _place(role))
                shape = tuple(size for size in shapes[name] if isinstance(size, int))
                if outputs[name] is not None and len(shape) == len(shapes[name]):
                    View(name, view.columns, view.axis, view.per_cell).slices(
                        {name: shape}, _place(role), role, single=single
                    )
        if self.masks is not None:
            find(self.masks.tensor, shapes, "masks")

    def columns(self, outputs: Shapes) -> dict[str, tuple[Column, ...]]:
        """Return which slices of which tensors have which role, for each tensor that the section names.

        Raises InputError where it names another, or the shape doesn't fit.
        """
        found: dict[str, list[Column]] = {}
        for role, view, single in self._views():
            for name, slices in view.slices(outputs, _place(role), role, single=single).items():
                found.setdefault(name, []).extend(slices)
        if self.masks is not None:
            name = find(self.masks.tensor, outputs, "masks")
            kind: Role = "prototypes" if self.masks.form == "prototypes" else "masks"
            found.setdefault(name, []).append(everything(outputs[name], kind))
        return {name: tuple(slices) for name, slices in found.items()}

    def rows(self, outputs: Shapes) -> tuple[Rows, ...]:
        """Return the sets of tensors whose rows belong together; more than one where a tensor is in several levels.

        Raises as `columns`.
        """
        levels: dict[int, dict[str, tuple[int, ...]]] = {}
        for role, view, single in self._views():
            for level, (name, axes) in enumerate(view.row_axes(outputs, _place(role), single=single).items()):
                levels.setdefault(level, {})[name] = axes
        if self.masks is not None and self.masks.form != "prototypes":
            name = find(self.masks.tensor, outputs, "masks")
            known = next(iter(levels[0].items()))
            count = math.prod(outputs[known[0]][axis] for axis in known[1])
            levels[0][name] = (axis_of_rows(outputs[name], count),)
        return tuple(Rows(axes) for axes in levels.values())

    def _views(self) -> list[tuple[Role, View, bool]]:
        given: list[tuple[Role, View | None, bool]] = [
            ("boxes", self.boxes, False),
            ("scores", self.scores, self.labels is not None),
            ("objectness", self.objectness, True),
            ("labels", self.labels, True),
            ("keypoints", self.keypoints, False),
            ("coefficients", None if self.masks is None else self.masks.coefficients, False),
        ]
        return [(role, view, single) for role, view, single in given if view is not None]


def _place(role: str) -> str:
    return "masks.coefficients" if role == "coefficients" else role


def _pairs(categories: object) -> tuple[tuple[int, int], ...]:
    """Return label and category id in pairs, out of a mapping, or of a list by label with None where there is none."""
    if isinstance(categories, Mapping):
        try:
            return tuple((int(label), category) for label, category in categories.items())
        except (TypeError, ValueError) as error:
            raise InputError("detections.categories: a label is a whole number from 0 on") from error
    if not isinstance(categories, list | tuple):
        raise InputError("detections.categories: give label: category id, or a list of category ids by label")
    return tuple((label, category) for label, category in enumerate(categories) if category is not None)
