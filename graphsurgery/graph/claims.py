"""Shapes that a file has written down of tensors which nodes write, and so need not be true, are claims."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, TypeProto, ValueInfoProto

from graphsurgery.graph.protos import bodies, holders, stored_names


def forget_claims(graph: GraphProto) -> None:
    """Forget the shapes that are written down in `graph` and its bodies of anything but its inputs; types stay."""
    _forget_shapes((*graph.value_info, *graph.output), graph)
    forget_claims_in_bodies(graph)


def forget_claims_in_bodies(graph: GraphProto) -> None:
    """Forget the shapes that are written down in the bodies of `graph`, those of their inputs too.

    Only the counter and the condition of a Loop keep theirs: ONNX leaves their rank to the body.
    """
    for node in holders(graph):
        own = 2 if node.op_type == "Loop" else 0
        for body in bodies(node):
            _forget_shapes((*body.value_info, *body.output, *body.input[own:]), body)


def _forget_shapes(infos: Iterable[ValueInfoProto], graph: GraphProto) -> None:
    written = list(infos)
    stored = stored_names(graph) if written else set()  # inference believes what is said of an initializer more than it
    for info in written:
        if info.name not in stored:
            _forget_shape(info.type)


def _forget_shape(kind: TypeProto) -> None:
    held = kind.WhichOneof("value")
    if held in ("tensor_type", "sparse_tensor_type"):
        getattr(kind, held).ClearField("shape")
    elif held in ("sequence_type", "optional_type"):
        _forget_shape(getattr(kind, held).elem_type)
