"""Whether every shape in a part is known: what an accelerator asks for."""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from graphsurgery import graph as graphs
from graphsurgery.errors import ModelError
from graphsurgery.graph.model import Model
from graphsurgery.parts.part import Part
from graphsurgery.rewrite import Editor


def certify_static(part: Part) -> Part:
    """Return an accelerator part with every shape written out, another as it is.

    Raises ModelError listing what is dynamic still in a part for the accelerator.
    """
    if not part.accelerator:
        return part
    graph = part.model.graph()
    Editor(graph, f"part '{part.name}'").infer_shapes()
    model = Model.of(graph)
    dynamic = dynamic_values(model)
    if dynamic:
        listed = ", ".join(f"{name} {shape}" for name, shape in dynamic[:6])
        more = f" and {len(dynamic) - 6} more" if len(dynamic) > 6 else ""
        raise ModelError(f"part '{part.name}' is for {part.device} but not static: {listed}{more}; {_cure(graph)}")
    return replace(part, model=model)


def _cure(graph: gs.Graph) -> str:
    """Say what makes a part static, by what its inputs leave open: not what has been done to them already."""
    shapes = [tensor.shape or [None, None] for tensor in graph.inputs]
    open_ = {axis > 0 for shape in shapes for axis, size in enumerate(shape) if not isinstance(size, int)}
    if True in open_:
        return "put freeze-shapes among the passes, with a size for each input that is open"
    if open_:
        return "put freeze-batch among its part_passes"
    return "its inputs are, so that a node in it computes these sizes: fold-constants, or cut the graph before it"


def dynamic_values(model: Model) -> list[tuple[str, str]]:
    """Return the tensors of `model` whose shape is not fully known, with what is known; bodies count too."""
    found = {}
    view = model.graph()
    for inner in graphs.walk_graphs(view):
        for tensor in (*inner.inputs, *(t for node in inner.nodes for t in node.outputs)):
            if tensor.name and graphs.static_shape(tensor) is None:
                shape = "of unknown rank" if tensor.shape is None else str(list(tensor.shape)).replace("'", "")
                found[tensor.name] = shape
    return list(found.items())
