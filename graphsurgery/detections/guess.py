"""Which preset the outputs of a network look like, by their names and shapes: advice, never a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphsurgery.detections.views import OpenShapes
from graphsurgery.text import shortened

_SECTION = "detections in the recipe says what the outputs of a network are"


def missing_section(outputs: OpenShapes, canvas: tuple[int, int] | None = None) -> str:
    """Return a line for whoever needs detections: which section is missing, and what preset there seems to be."""
    guessed = guess(outputs, canvas)
    if guessed is not None:
        return f"{_SECTION}: {guessed}"
    seen = ", ".join(f"{name} {_shown(shape)}" for name, shape in outputs.items())
    return f"{_SECTION}; {shortened(seen, 160) or 'nothing'} {_look(outputs)} like no preset"


def guess(outputs: OpenShapes, canvas: tuple[int, int] | None = None) -> str | None:
    """Return "output0 [1, 84, 8400] looks like ultralytics, 80 classes", None where nothing fits.

    `outputs` are shapes by name in the order of the network, None where one isn't known, with None or a symbol for a
    size that varies; `canvas` is its height and width.
    """
    if not outputs or any(shape is None for shape in outputs.values()):
        return None
    shapes = {name: _numbers(shape) for name, shape in outputs.items() if shape is not None}
    found = _by_name(shapes) or _one(shapes, canvas) or _two(shapes) or _several(shapes)
    if found is None:
        return None
    shown = ", ".join(f"{name} {_shown(shape)}" for name, shape in list(outputs.items())[:2])
    more = f" and {len(outputs) - 2} more" if len(outputs) > 2 else ""
    return f"{shortened(shown, 120)}{more} {_look(outputs)} like {found}"


def _look(outputs: OpenShapes) -> str:
    return "look" if len(outputs) > 1 else "looks"


def _numbers(shape: Sequence[int | str | None]) -> list[int]:
    """Return the sizes, 0 for one that varies."""
    return [size if isinstance(size, int) else 0 for size in shape]


def _shown(shape: Sequence[int | str | None] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"[{', '.join(str(size) if size is not None and len(str(size)) <= 9 else '?' for size in shape)}]"


def _by_name(shapes: Mapping[str, list[int]]) -> str | None:
    if not {"boxes", "labels", "scores"} <= set(shapes):
        return None
    kind = "_mask" if "masks" in shapes else "_keypoint" if "keypoints" in shapes else ""
    return f"torchvision{kind}"


def _one(shapes: Mapping[str, list[int]], canvas: tuple[int, int] | None) -> str | None:
    """Rows with all that there is of a detection, one tensor, or two where the second holds prototypes."""
    first, *others = shapes.values()
    prototypes = 0
    if len(others) == 1 and len(others[0]) == 4 and others[0][0] in (0, 1) and first[1:2] != others[0][1:2]:
        prototypes = others[0][1]
    elif others:
        return None
    if len(first) == 2 and first[1] == 6 and not others:
        return "ultralytics_end2end"
    if len(first) != 3 or first[0] not in (0, 1):
        return None
    _, rows, columns = first
    if columns == 6 + prototypes and (not rows or rows <= 1000):
        return "ultralytics_end2end" if not prototypes else None
    if rows > 4 + prototypes and (not columns or columns > rows):
        if prototypes:
            return f"ultralytics_seg, {_classes(rows - 4 - prototypes)}"
        return "ultralytics_pose, 17 keypoints" if rows == 4 + 1 + 51 else f"ultralytics, {_classes(rows - 4)}"
    if columns > 5 and not others and (not rows or rows > columns):
        return f"{_with_objectness(rows, canvas)}, {_classes(columns - 5)}"
    return None


def _with_objectness(rows: int, canvas: tuple[int, int] | None) -> str:
    """YOLOX has a row for each cell, YOLOv5 three."""
    if canvas is None or not rows:
        return "yolov5 or yolox"
    cells = sum(-(-canvas[0] // stride) * -(-canvas[1] // stride) for stride in (8, 16, 32))
    return {cells: "yolox (yolox_decoded with its grid inside)", 3 * cells: "yolov5"}.get(rows, "yolov5 or yolox")


def _two(shapes: Mapping[str, list[int]]) -> str | None:
    """Scores and boxes of queries or anchors, or scores and masks."""
    if len(shapes) != 2:
        return None
    (first_name, first), (_, second) = shapes.items()
    if len(first) == 3 and len(second) == 4 and first[1] == second[1] > 0:
        return f"mask2former, {_classes(first[2] - 1)}"
    if len(first) != 3 or len(second) != 3 or first[1] != second[1]:
        return None
    if second[2] == 4:
        if first[1] > 1000:
            return f"ssd, {_classes(first[2] - 1)}"
        if first[1] == 300:
            return f"rtdetr, {_classes(first[2])}"
        return f"detr, {_classes(first[2] - 1)} (rtdetr, {_classes(first[2])}, where scores are of sigmoid)"
    return f"rfdetr, {_classes(second[2])}" if first[2] == 4 and first_name != "scores" else None


def _several(shapes: Mapping[str, list[int]]) -> str | None:
    """Instances, field by field, or the levels of a pyramid."""
    ranks = [len(shape) for shape in shapes.values()]
    if set(ranks) == {4} and len(ranks) == 10:
        scores, boxes = list(shapes.values())[:5], list(shapes.values())[5:]
        if all(each[1] == 36 for each in boxes) and len({each[1] for each in scores}) == 1 and not scores[0][1] % 9:
            return f"effdet, {_classes(scores[0][1] // 9)}"
        return None
    first = next(iter(shapes.values()))
    if "dets" in shapes and "labels" in shapes:
        return "mmdet_mask" if ranks[2:3] in ([3], [4]) else "mmdet" if len(ranks) == 2 else None
    if len(first) != 2 or first[1] not in (0, 4):
        return None
    return {
        (2, 1, 1): "detectron2",
        (2, 1, 1, 1): "detectron2",
        (2, 1, 4, 1): "detectron2_mask",
        (2, 1, 4, 1, 1): "detectron2_mask",
        (2, 1, 1, 4): "maskrcnn_benchmark",
    }.get(tuple(ranks))


def _classes(count: int) -> str:
    return f"{count} class{'' if count == 1 else 'es'}"
