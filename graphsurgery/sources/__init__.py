"""Where graphs come from: torchvision's detectors, the embedded demos, or any ONNX file.

source           what all of them offer
open             the one that a recipe names
torchvision      detectors of torchvision, and the demo that is built like one: exported and traced
shapes_yolo      the demo of one stage, the same way; torch_export: what both share
networks         builds their networks; random_weights: weights drawn so that they don't explode
onnx_file        any ONNX file

Importing this package imports neither torch nor onnxruntime; `open_source` imports what the source needs.
"""

from graphsurgery.sources.open import open_source
from graphsurgery.sources.source import HasBoundary, HasNamedOutputs, Image, Source, SourceSpec, Tensors

__all__ = ["HasBoundary", "HasNamedOutputs", "Image", "Source", "SourceSpec", "Tensors", "open_source"]
