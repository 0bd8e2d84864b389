"""The files of one-stage detectors, each with the recipe that it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto

from zoo import networks
from zoo.photos import write_photos

# file: its recipe and its network
ZOO: dict[str, tuple[str, Callable[[], ModelProto]]] = {
    "yolo": ("yolo", networks.yolo),
    "yolo_seg": ("yolo_seg", networks.yolo_seg),
    "yolo10": ("yolo_end2end", networks.yolo_end2end),
    "yolo26": ("yolo_end2end", lambda: networks.yolo_end2end(bins=1)),
    "yolox": ("yolox", networks.yolox),
    "efficientdet": ("efficientdet", networks.efficientdet),
}
PHOTOS = 8


def written(root: Path, name: str) -> Path:
    """Write a file of the zoo and the photos, where they aren't there; return the file."""
    if not (root / "photos").exists():
        write_photos(root, PHOTOS)
    path = root / f"{name}.onnx"
    if not path.exists():
        onnx.save(ZOO[name][1](), path)
    return path
