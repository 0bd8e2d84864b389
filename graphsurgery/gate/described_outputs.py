"""What the recipe's `detections` tell the gate of the original's outputs.

Their columns have roles, with a tolerance each. Their rows are sets where the network has chosen them itself: [1, 300,
6] of an export with NMS, queries behind a TopK. A row of a raw output is a place on the canvas: it has an order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.activations import activated
from graphsurgery.detections.boxes import corners
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.row_groups import Group, Keys
from graphsurgery.detections.views import Array
from graphsurgery.errors import InputError
from graphsurgery.gate.columns import Roles
from graphsurgery.images.placement import Placement

_ABSENT = np.zeros(0, np.float32)
_ANY = Placement.whole((1, 1))  # the IoU of boxes is the same on any canvas


@dataclass(frozen=True)
class DecodedGroup(Group):
    """Rows of a network's `outputs`, in its order, which `section` reads and which lie along `axes`."""

    section: Postprocessing | None = None
    outputs: tuple[str, ...] = ()
    axes: tuple[tuple[str, int], ...] = ()

    def read(self, tensors: Mapping[str, Array]) -> Keys | None:
        """As Group. Labels are keys where they are columns; which of several scores is best may hang on a rounding."""
        section = self.section
        if section is None or section.boxes is None:
            return None
        outputs = {name: tensors.get(name, _ABSENT) for name in self.outputs}  # a part gives some
        try:
            values = section.boxes.rows(outputs, "boxes")
            boxes = corners(section, section.boxes, values, np.arange(len(values)), _ANY)
            scores = section.scores.rows(outputs, "scores", single=section.labels is not None)
            labels = None if section.labels is None else section.labels.rows(outputs, "labels", single=True)[:, 0]
        except InputError:  # the comparison tells of shapes that don't fit
            return None
        scores = activated(scores, section.scores.activation)
        if section.background != "none":
            scores = scores[:, 1:] if section.background == "first" else scores[:, :-1]
        if not len(boxes) == len(scores) == len(boxes if labels is None else labels):
            return None
        return Keys(boxes, labels, scores.max(1, initial=-np.inf))

    def axis(self, name: str, tensor: Array) -> int | None:
        """As Group."""
        return dict(self.axes).get(name)


@dataclass(frozen=True)
class DescribedOutputs:
    """What a recipe's `section` says of the original's outputs, `names` in its order."""

    section: Postprocessing | None = None
    names: tuple[str, ...] = ()

    def roles(self, sample: Sample) -> Roles:
        """Return what the columns of each output are. Raises InputError where the section doesn't fit the outputs."""
        return {} if self.section is None else self.section.columns(self._shapes(sample))

    def groups(self, sample: Sample) -> tuple[DecodedGroup, ...]:
        """Return the rows that are sets: those of one group, or none. Raises as `roles`."""
        section = self.section
        if section is None or section.boxes is None or section.nms or section.points or section.anchors:
            return ()
        shapes = self._shapes(sample)
        found = section.rows(shapes)
        if len(found) != 1 or any(len(axes) != 1 for axes in found[0].axes.values()):
            return ()
        axes = {name: axis for name, (axis,) in found[0].axes.items()}
        boxes, *members = axes
        along = tuple(axes.items())
        group = DecodedGroup(
            (boxes,), tuple(members), "detections", ranked=True, section=section, outputs=self.names, axes=along
        )
        return (group,)

    def _shapes(self, sample: Sample) -> dict[str, tuple[int, ...]]:
        return {name: sample.shape(name) for name in self.names}


NOT_DESCRIBED = DescribedOutputs()
