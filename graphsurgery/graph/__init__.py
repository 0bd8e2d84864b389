"""The graph that a pass sees, and the model around it.

queries          questions about a gs.Graph: is_op, constant, producer, consumers, static_shape ...
clean_up         unused nodes and order
door             what a model from a file must be to be let in
protos           the same of a ModelProto: nodes, bodies, external data
view             a lossless way from ONNX to a gs.Graph and back
model            a model, read safely and written whole or not at all
shapes           shape inference
edited_shapes    the same, kept up to date while a pass changes the graph
element_types    the element type of a tensor by the constants near it, nothing inferred
names            how a tensor is renamed, and a name that nothing has
renaming         the same for a whole model, where another tensor has the name
expansion        custom operators, written in operators of ONNX so that they can be run
notes            what a pass leaves in the model for the manifest
joined_outputs   outputs that a pass took apart, and how they are joined
multiply_adds    what each node costs
"""

from graphsurgery.graph.clean_up import drop_unused, ordered, sort
from graphsurgery.graph.queries import (
    RANDOM_OPS,
    STANDARD_DOMAINS,
    attribute,
    changes,
    constant,
    consumers,
    detach,
    extract,
    has_default,
    holders,
    is_constant,
    is_graph_output,
    is_op,
    producer,
    set_inputs,
    set_outputs,
    static_shape,
    subgraphs,
    tensor_names,
    tensors,
    walk_graphs,
    walk_nodes,
    with_bodies,
)

__all__ = [
    "RANDOM_OPS",
    "STANDARD_DOMAINS",
    "attribute",
    "changes",
    "constant",
    "consumers",
    "detach",
    "drop_unused",
    "extract",
    "has_default",
    "holders",
    "is_constant",
    "is_graph_output",
    "is_op",
    "ordered",
    "producer",
    "set_inputs",
    "set_outputs",
    "sort",
    "static_shape",
    "subgraphs",
    "tensor_names",
    "tensors",
    "walk_graphs",
    "walk_nodes",
    "with_bodies",
]
