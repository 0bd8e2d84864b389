"""How average precision is measured, where a recipe wants another way than COCO's, and what was published of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Kind = Literal["bbox", "segm", "keypoints"]
Limit = Annotated[int, Field(ge=1, le=10_000)]
Share = Annotated[float, Field(ge=0, le=1)]

COCO_LIMITS = (1, 10, 100)
# What pycocotools computes of keypoints, and of the others with the three limits among the recalls, in its order
_KEYPOINT_LINES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
_PRECISIONS, _RECALLS = ("AP", "AP50", "AP75", "APs", "APm", "APl"), ("ARs", "ARm", "ARl")
_FIGURE = r"^(bbox|segm)_(ap(50|75|s|m|l)?|ar([1-9][0-9]{0,4}|s|m|l))$|^keypoints_a[pr](50|75|m|l)?$"


def lines_of(kind: str, limits: tuple[int, ...] = COCO_LIMITS) -> tuple[str, ...]:
    """Return the names of what is measured of a kind, where at most so many detections count: AP, AP50, ..., AR100."""
    if kind == "keypoints":
        return _KEYPOINT_LINES
    return (*_PRECISIONS, *(f"AR{limit}" for limit in limits), *_RECALLS)


def _increasing(limits: tuple[int, int, int]) -> tuple[int, int, int]:
    if not limits[0] < limits[1] < limits[2]:
        raise ValueError(f"{list(limits)} doesn't increase; write them as [1, 10, 100]")
    return limits


def _figure(name: str) -> str:
    if not re.match(_FIGURE, name):
        raise ValueError(f"'{name}' is no figure of COCO's; write it as bbox_ap, bbox_ap50, segm_ap or bbox_ar100")
    return name


Limits = Annotated[tuple[Limit, Limit, Limit], AfterValidator(_increasing)]
Figure = Annotated[str, AfterValidator(_figure), Field(json_schema_extra={"pattern": _FIGURE})]


class ApProtocol(BaseModel):
    """Which kinds of IoU are compared, all that there are if None, and which of an image's detections count.

    The three `max_detections` stand for COCO's 1, 10 and 100 of the best: AP counts those of the last one, and each has
    its recall. A detection with a score below `min_score` doesn't count. `published` are figures by names such as
    bbox_ap50.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iou: tuple[Kind, ...] | None = None
    max_detections: Limits = COCO_LIMITS
    min_score: Share = 0.0
    published: Mapping[Figure, Share] = {}

    def figures(self, kind: str) -> dict[str, float]:
        """Return what was published of a kind, by the names of its lines."""
        names = {name.lower(): name for name in lines_of(kind, self.max_detections)}
        found = [(name.partition("_"), figure) for name, figure in self.published.items()]
        return {names.get(line, line.upper()): figure for (of, _, line), figure in found if of == kind}
