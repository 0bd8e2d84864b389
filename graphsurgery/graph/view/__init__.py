"""The lossless graphsurgeon view of a ModelProto: what a pass does not change comes out as it went in.

graphsurgeon's own import and export drop doc strings, metadata_props, attribute kinds they don't know, and
initializers that are also inputs. Here the proto that a gs object was made from is kept (view/origin.py), and the way
back reuses that proto for everything still equal to it. Weights are referenced, not copied, and external data is
read only when a pass asks for the values of that tensor.

What a pass sees:
- an initializer is a gs.Constant; one that is also a graph input is a gs.Variable, since a caller may override it
- If, Loop and Scan bodies are gs.Graphs that share the tensors of the graph around them
- `edit.metadata`, a dict: the model's metadata_props; a pass may leave a note there for later steps
- quantization annotations go along with the tensors that the Editor moves; one whose tensor is gone is not written, and
  while one is, so are the initializers that it names
- model-local functions stay out of sight and come back untouched
"""

from graphsurgery.graph.view.exporting import in_order, to_proto
from graphsurgery.graph.view.importing import tensor_type, to_graph
from graphsurgery.graph.view.origin import release, table

__all__ = ["in_order", "release", "table", "tensor_type", "to_graph", "to_proto"]
