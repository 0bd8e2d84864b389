"""Quantization annotations, which go along with the tensors that a pass moves."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorAnnotation

from graphsurgery.graph.view import table


def annotation(graph: gs.Graph, tensor: gs.Tensor) -> TensorAnnotation | None:
    """Return what `graph` says of how `tensor` is quantized, if it does."""
    return next((note for note in table(graph).annotations if note.tensor_name == tensor.name), None)


def annotate(graph: gs.Graph, tensor: gs.Tensor, note: TensorAnnotation | None) -> None:
    """Let the annotation of `tensor` say what `note` says, which may be that of another tensor."""
    old = annotation(graph, tensor)
    if old is note:
        return
    notes = table(graph).annotations
    if old is not None:
        notes.remove(old)
    if note is not None:
        renamed = TensorAnnotation()
        renamed.CopyFrom(note)
        renamed.tensor_name = tensor.name
        notes.append(renamed)


def differ(one: TensorAnnotation | None, other: TensorAnnotation | None) -> bool:
    """Whether two annotations are there and name other parameters, whatever tensors they are of."""
    if one is None or other is None:
        return False
    said = [sorted((p.key, p.value) for p in note.quant_parameter_tensor_names) for note in (one, other)]
    return said[0] != said[1]
