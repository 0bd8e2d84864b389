"""Opens the source that a recipe names; what it needs is imported then."""

from __future__ import annotations

from graphsurgery.errors import InputError, missing_extra
from graphsurgery.sources.source import Source, SourceSpec


def open_source(spec: SourceSpec) -> Source:
    """Build or read the model that `spec` names.

    Raises InputError for a spec that names nothing, and MissingTool where torch, or a download, can't be had.
    """
    if spec.kind == "onnx":
        from graphsurgery.sources.onnx_file import OnnxSource

        return OnnxSource(spec)
    if spec.kind not in ("torchvision", "demo"):
        raise InputError(f"source: '{spec.kind}' is no kind of source; write torchvision, demo or onnx")
    try:
        import safetensors
        import torch
        import torchvision
    except ImportError as error:
        package = (error.name or "torch").partition(".")[0]
        raise missing_extra(package, "torch", f"the source {spec.kind}: {spec.name}") from error
    del safetensors, torch, torchvision
    if spec.kind == "demo" and spec.name == "shapes_yolo":
        from graphsurgery.sources.shapes_yolo import ShapesYoloSource

        return ShapesYoloSource(spec)
    from graphsurgery.sources.torchvision import TorchvisionSource

    return TorchvisionSource(spec)
