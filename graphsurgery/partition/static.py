"""Whether every shape in a part is known: what an accelerator asks for."""

from __future__ import annotations

from dataclasses import replace

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
        raise ModelError(
            f"part '{part.name}' is for {part.device} but not static: {listed}{more}; "
            f"put freeze-batch among its part_passes, or freeze-shapes among the passes"
        )
    return replace(part, model=model)


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
