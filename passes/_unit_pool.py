"""What a MaxPool must be for the passes that replace or widen a 1x1 one."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from graphsurgery.graph import attribute


def why_no_unit_pool(node: gs.Node) -> str | None:
    """Say why a MaxPool is not plain subsampling over a window of one element in two dimensions; None if it is."""
    window = list(attribute(node, "kernel_shape", []))
    if any(size != 1 for size in window):
        return f"the kernel is {'x'.join(map(str, window))}"
    if len(window) != 2:
        return f"the window has {len(window)} dimensions, not 2"
    padded = any(attribute(node, "pads", [])) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if padded or attribute(node, "ceil_mode", 0) or any(d != 1 for d in attribute(node, "dilations", [])):
        return "it pads, dilates or rounds up, so its output has another size than every s-th element"
    if len(node.outputs) > 1 and node.outputs[1].name:
        return "the indices of the maxima are read"
    return None
