"""Detections as COCO and JSON have them, and their COCO average precision, computed by pycocotools."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError, missing_extra
from graphsurgery.images.annotations import read_annotations, refuse_mask
from graphsurgery.images.pasting import picture_masks
from graphsurgery.images.run_lengths import compress_rle, encode_rle
from graphsurgery.parts.ap_protocol import COCO_LIMITS, lines_of

Array = npt.NDArray[Any]

# The part of a result, and of an annotation, that each kind of evaluation compares.
_COMPARED = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


@dataclass(frozen=True)
class AveragePrecision:
    """The numbers of one COCO evaluation by name, each 0..1; None where the images hold no such object.

    Boxes and masks: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl. Keypoints: AP, AP50,
    AP75, APm, APl, AR, AR50, AR75, ARm, ARl. See https://cocodataset.org/#detection-eval. `per_category` is the AP
    of each category by its id.
    """

    lines: Mapping[str, float | None]
    per_category: Mapping[int, float | None] = field(default_factory=dict)

    @property
    def ap(self) -> float:
        """AP averaged over IoU 0.50:0.95; it is never None, as evaluate() asks for an object."""
        value = self.lines["AP"]
        assert value is not None
        return value


def require_pycocotools() -> None:
    """Raise MissingTool without pycocotools: better before the work than after it."""
    _cocotools()


class _Cocotools(NamedTuple):
    coco: Any
    cocoeval: Any
    mask: Any


def _cocotools() -> _Cocotools:
    try:
        return _Cocotools(*(importlib.import_module(f"pycocotools.{name}") for name in _Cocotools._fields))
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "pycocotools", "coco", "COCO average precision") from error


def coco_results(
    image_id: int,
    detections: Mapping[str, Array],
    label_to_category: Mapping[int, int] | None = None,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """The detections of one image as COCO results: bbox, and segmentation and keypoints where there are any.

    `detections` are in pixels of the original image. Masks are pasted probabilities [M,1,h,w] cut at 0.5;
    when the image's `size` (height, width) is given, they are as CanvasImage.restore(paste=False) leaves them, and are
    pasted one at a time. Labels are category ids unless `label_to_category` is given; then a detection whose
    label is not in it is left out. A box, keypoint or score that isn't finite counts as empty, at the origin
    or 0, so that it is a false positive: pycocotools would match it to anything. Raises InputError where
    shapes don't fit.
    """
    _require_shapes(detections)
    boxes, labels, scores = (detections[name] for name in ("boxes", "labels", "scores"))
    solid = np.where(np.isfinite(boxes).all(1, keepdims=True), boxes, 0).astype(np.float64)
    bounds = np.concatenate([solid[:, :2], solid[:, 2:] - solid[:, :2]], axis=1).tolist()
    finite = np.where(np.isfinite(scores), scores, 0).tolist()
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(label), "bbox": bound, "score": score}
        for label, bound, score in zip(labels, bounds, finite, strict=True)
    ]
    if size is not None:
        pictures: Iterable[Array] | None = picture_masks(detections, size)
    else:
        pictures = detections["masks"][:, 0] if "masks" in detections else None
    if pictures is not None:
        for result, segmentation in zip(results, _encoded(pictures), strict=True):
            result["segmentation"] = segmentation
    if "keypoints" in detections:
        keypoints = detections["keypoints"]
        for result, points in zip(results, np.where(np.isfinite(keypoints), keypoints, 0), strict=True):
            result["keypoints"] = points.ravel().tolist()
    if label_to_category is None:
        return results
    known = [result for result in results if result["category_id"] in label_to_category]
    return [{**result, "category_id": label_to_category[result["category_id"]]} for result in known]


def describe_detections(
    detections: Mapping[str, Array], class_names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The detections of one image for people and programs to read, the best first; JSON can hold them.

    Each has label, class (the label as text where `class_names`, indexed by label, has none), score, and box
    (x0, y0, x1, y1 in pixels); segmentation (COCO's compressed RLE) where there are masks, pasted probabilities
    [M,1,h,w] cut at 0.5; keypoints ([x, y, visible] each) where there are any. Numbers that aren't finite are None, and
    such scores sort last. Needs no pycocotools. Raises InputError where shapes don't fit.
    """
    _require_shapes(detections)
    scores = detections["scores"]
    described = []
    for row in np.argsort(np.where(np.isfinite(scores), -scores, np.inf), kind="stable"):
        label = int(detections["labels"][row])
        known = class_names is not None and 0 <= label < len(class_names)
        entry: dict[str, Any] = {
            "label": label,
            "class": class_names[label] if known and class_names is not None else str(label),
            "score": _finite(scores[row]),
            "box": _finite(detections["boxes"][row]),
        }
        if "masks" in detections:
            entry["segmentation"] = compress_rle(encode_rle(detections["masks"][row, 0] > 0.5))
        if "keypoints" in detections:
            entry["keypoints"] = _finite(detections["keypoints"][row])
        described.append(entry)
    return described


def _finite(numbers: Array) -> Any:
    """The numbers as JSON knows them: None for what isn't finite."""
    known = np.asarray(numbers, np.float64).astype(object)
    known[~np.isfinite(numbers)] = None
    return known.tolist()


def _require_shapes(detections: Mapping[str, Array]) -> None:
    """Raise InputError unless all arrays are there and have as many rows as there are boxes."""
    missing = [name for name in ("boxes", "labels", "scores") if name not in detections]
    if missing:
        raise InputError(f"detections: {missing[0]} are missing; there are {', '.join(detections) or 'none'}")
    count = len(detections["boxes"])
    for name, shape in (("boxes", (count, 4)), ("labels", (count,)), ("scores", (count,))):
        if detections[name].shape != shape:
            raise InputError(f"detections: {name} have shape {detections[name].shape}, expected {shape}")
    masks, keypoints = detections.get("masks"), detections.get("keypoints")
    if masks is not None and (masks.ndim != 4 or masks.shape[:2] != (count, 1)):
        raise InputError(f"detections: masks have shape {masks.shape}, expected [{count},1,height,width]")
    if keypoints is not None and (keypoints.ndim != 3 or keypoints.shape[::2] != (count, 3)):
        raise InputError(f"detections: keypoints have shape {keypoints.shape}, expected [{count},K,3]")


def _encoded(pictures: Iterable[Array]) -> Iterable[dict[str, Any]]:
    """Each picture of probabilities as a run-length encoding that JSON can hold."""
    mask = _cocotools().mask
    for picture in pictures:
        encoded = mask.encode(np.asfortranarray(picture > 0.5, dtype=np.uint8))
        yield {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def evaluate(
    annotations: Path | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    iou_types: Sequence[str] = ("bbox", "segm"),
    image_ids: Sequence[int] | None = None,
    max_detections: tuple[int, int, int] = COCO_LIMITS,
) -> dict[str, AveragePrecision]:
    """Average precision per kind of IoU ("bbox", "segm", "keypoints") over some images, all of them if None.

    `annotations` is a COCO JSON file, or what read_annotations() made of one; neither is changed. `results`
    are those of coco_results(); the ones of other images don't count, and where there are none AP is 0. Of an image's
    boxes and masks the best `max_detections[2]` count, and each of the three limits has its recall.
    Raises InputError for annotations that are broken or hold nothing to evaluate on, for an image that they
    don't know, and when no result has one of their categories; MissingTool without pycocotools.
    """
    for kind in iou_types:
        if kind not in _COMPARED:
            raise InputError(f"evaluate: unknown IoU type {kind!r}; choose from {', '.join(_COMPARED)}")
    tools = _cocotools()
    place = str(annotations) if isinstance(annotations, Path) else "annotations"
    dataset: Mapping[str, Any] = read_annotations(annotations) if isinstance(annotations, Path) else annotations
    known = {image["id"] for image in dataset["images"]}
    wanted = known if image_ids is None else set(image_ids)
    for name, ids in (("image_ids", wanted), ("results", {result["image_id"] for result in results})):
        if ids - known:
            raise InputError(f"{place}: {name} hold image {min(ids - known)}, which is not in this file")
    categories = {category["id"] for category in dataset["categories"]}
    labels = {result["category_id"] for result in results}
    if labels and not labels & categories:
        raise InputError(
            f"{place}: no detection has one of its categories {_some(categories)}, but {_some(labels)}; "
            "map labels to categories"
        )
    dataset = {
        **dataset,
        "images": [image for image in dataset["images"] if image["id"] in wanted],
        "annotations": [entry for entry in dataset["annotations"] if entry["image_id"] in wanted],
    }
    found = [result for result in results if result["image_id"] in wanted]
    return {kind: _average_precision(tools, dataset, found, kind, place, max_detections) for kind in iou_types}


def _average_precision(
    tools: _Cocotools,
    dataset: Mapping[str, Any],
    results: list[Mapping[str, Any]],
    kind: str,
    place: str,
    limits: tuple[int, int, int],
) -> AveragePrecision:
    compared = _COMPARED[kind]
    for holder, entries in (("an annotation", dataset["annotations"]), ("a result", results)):
        if not all(entry.get(compared) for entry in entries):
            raise InputError(f"{place}: {holder} has no {compared}; leave {kind} out")
        if kind == "keypoints" and not all(len(entry[compared]) == 3 * 17 for entry in entries):
            raise InputError(f"{place}: {holder} has not the 17 keypoints that COCO evaluates; leave {kind} out")
    if kind == "segm":
        _check_masks(dataset, results, place)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on stdout
        truth = tools.coco.COCO()
        truth.dataset = {"info": {}, **dataset, "annotations": []}
        truth.createIndex()
        truth.dataset["annotations"] = [
            _complete(number, entry, truth, tools, place) for number, entry in enumerate(dataset["annotations"], 1)
        ]
        truth.createIndex()
        if results:
            # loadRes takes an object's area from its bbox where there is one, and writes into the entries: so
            # each kind gets its own, with no more than it compares.
            kept = ("image_id", "category_id", "score", compared)
            found = truth.loadRes([{name: result[name] for name in kept} for result in results])
        else:
            found = tools.coco.COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = tools.cocoeval.COCOeval(truth, found, kind)
        if kind != "keypoints":
            evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [IoU threshold, recall, category, size, most detections]: all sizes, and as many detections as AP counts
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    ap = _mean(precision)
    if ap is None:
        raise InputError(f"{place}: no object to find for {kind} in {len(dataset['images'])} images")
    stats = [float(value) for value in evaluation.stats]
    # pycocotools' word for nothing to find is -1, and its first line counts 100 detections, whatever the limits
    lines = {n: None if v < 0 else v for n, v in zip(lines_of(kind, limits), stats, strict=True)} | {"AP": ap}
    return AveragePrecision(
        lines,
        {int(category): _mean(precision[:, :, k]) for k, category in enumerate(evaluation.params.catIds)},
    )


def _mean(precision: Array) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _check_masks(dataset: Mapping[str, Any], results: list[Mapping[str, Any]], place: str) -> None:
    """Raise InputError for what is no mask, and where one isn't as large as its image, and so would match nothing."""
    sizes = {image["id"]: _size(image) for image in dataset["images"]}
    for identity, size in sizes.items():
        if size is None:
            raise InputError(f"{place}: image {identity} has no height or no width; masks need them")
    for result in results:
        seen, size = list(result["segmentation"]["size"]), sizes[result["image_id"]]
        assert size is not None
        if seen != list(size):
            raise InputError(
                f"{place}: image {result['image_id']} is {size[0]} x {size[1]}, "
                f"a mask found in it {seen[0]} x {seen[1]}; map detections back to the original image"
            )
    for entry in dataset["annotations"]:
        _check_mask(entry, sizes[entry["image_id"]], place)


def _check_mask(entry: Mapping[str, Any], size: tuple[int, int] | None, place: str) -> None:
    assert size is not None
    try:
        refuse_mask(entry["segmentation"], size)
    except ValueError as error:
        raise InputError(f"{place}: a segmentation in image {entry['image_id']}: {error}") from error


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    return None if height is None or width is None else (height, width)


def _complete(number: int, entry: Mapping[str, Any], truth: Any, tools: _Cocotools, place: str) -> dict[str, Any]:
    """A copy of an annotation with what COCOeval reads and not every file has.

    The id is a new one: COCOeval takes an object whose id is 0 for one that was not found.
    """
    complete = {"iscrowd": 0, **entry, "id": number}
    if "area" not in entry:
        size = _size(truth.imgs[entry["image_id"]])
        if size is not None and entry.get("segmentation"):
            _check_mask(entry, size, place)
            complete["area"] = float(tools.mask.area(truth.annToRLE(entry)))
        else:
            complete["area"] = entry["bbox"][2] * entry["bbox"][3]
    if "keypoints" in entry:
        complete.setdefault("num_keypoints", sum(visible > 0 for visible in entry["keypoints"][2::3]))
    return complete


def _some(numbers: Iterable[int]) -> str:
    first = sorted(numbers)
    return ", ".join(str(number) for number in first[:5]) + (", ..." if len(first) > 5 else "")
