"""Other names for the tensors of a whole model."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from graphsurgery.graph.model import Model
from graphsurgery.graph.names import fresh, rename_in, tensor_names


def rename_tensors(model: Model, names: Mapping[str, str]) -> Model:
    """Return the model with tensors renamed, in bodies too; a tensor that has a wanted name already makes way.

    An input or output of the graph does not make way: then the name is not given.
    """
    ends = {info.name for info in (*model.proto.graph.input, *model.proto.graph.output)} - set(names)
    names = {old: new for old, new in names.items() if new not in ends}
    if not names:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    present = tensor_names(proto)
    mapping = dict(names)
    for wanted in names.values():
        if wanted in present and wanted not in names:
            mapping[wanted] = fresh(f"{wanted}_inner", present | set(names.values()))
    rename_in(proto, mapping)
    return Model(proto, model.folder)
