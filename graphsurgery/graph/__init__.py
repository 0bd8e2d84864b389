"""The graph that a pass sees, and the model around it.

queries          questions about a gs.Graph: is_op, constant, producer, consumers, static_shape ...
model            a model, read safely and written whole or not at all
multiply_adds    what each node costs
view             a lossless way from ONNX to a gs.Graph and back
"""

from graphsurgery.graph.queries import (
    RANDOM_OPS,
    STANDARD_DOMAINS,
    attribute,
    constant,
    consumers,
    detach,
    drop_unused,
    extract,
    is_constant,
    is_graph_output,
    is_op,
    producer,
    set_inputs,
    set_outputs,
    sort,
    static_shape,
    subgraphs,
    tensor_names,
    walk_graphs,
    walk_nodes,
    with_bodies,
)

__all__ = [
    "RANDOM_OPS",
    "STANDARD_DOMAINS",
    "attribute",
    "constant",
    "consumers",
    "detach",
    "drop_unused",
    "extract",
    "is_constant",
    "is_graph_output",
    "is_op",
    "producer",
    "set_inputs",
    "set_outputs",
    "sort",
    "static_shape",
    "subgraphs",
    "tensor_names",
    "walk_graphs",
    "walk_nodes",
    "with_bodies",
]
