"""A graph from text, and the Editor of a pass that looks at it."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph.model import Model
from graphsurgery.rewrite import Editor
from graphsurgery.testing import parse


def view(text: str, opset: int = 17) -> tuple[gs.Graph, Editor]:
    graph = Model(parse(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')).graph()
    return graph, Editor(graph, "test")
