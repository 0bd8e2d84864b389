"""Nodes for the tests of targets: the only node of a small model, asked as `support` asks it."""

from __future__ import annotations

import json

import onnx

from graphsurgery.graph.model import Model
from graphsurgery.graph.shapes import infer_shapes
from graphsurgery.rewrite.registry import Registry, discover
from graphsurgery.targets.asked import Asked
from graphsurgery.targets.load import Named
from graphsurgery.targets.schema import Target
from graphsurgery.targets.support import Support, Verdict, judge, support
from graphsurgery.testing import parse

SOURCE = {"title": "a list", "date": "2026", "basis": "document"}
_REGISTRY: list[Registry] = []


def registry() -> Registry:
    """All passes, found once."""
    if not _REGISTRY:
        _REGISTRY.append(discover())
    return _REGISTRY[0]


def model(body: str, opset: int = 17, ir: int = 8, domains: str = "") -> onnx.ModelProto:
    """A model from `g (inputs) => (outputs) {...}`, without its head."""
    return parse(f'<ir_version: {ir}, opset_import: ["": {opset}{domains}]>\n{body}')


def asked(body: str, opset: int = 17) -> Asked:
    """The last node of a model, its shapes inferred."""
    found = Model(model(body, opset))
    view = found.graph()
    infer_shapes(view)
    return Asked(view.nodes[-1], found.opset)


def target(**keys: object) -> Target:
    """A target of which only what is given matters."""
    base = {"title": "A target", "sources": {"list": SOURCE}, "source": "list", "others": "taken", "operators": {}}
    return Target.model_validate_json(json.dumps(base | keys), strict=True)


def judged(body: str, found: Target, precision: str | None = None, opset: int = 17) -> Verdict:
    """What becomes of the last node of a model."""
    node = asked(body, opset)
    return judge(node.node, opset, found, precision or found.precisions[0])


def supported(proto: onnx.ModelProto, found: Target, precision: str | None = None) -> Support:
    """A model held against a target."""
    return support(Model(proto), Named("mine", found), precision)
