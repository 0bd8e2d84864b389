"""What a provider makes of a small model, in this process: which nodes it takes, why not others, what it computes.

A provider that dies takes this process with it: `graphsurgery.probing` has one for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from graphsurgery.devices.attach import attach
from graphsurgery.devices.placement import FOLDED, is_marked, mark_nodes, marked
from graphsurgery.devices.providers import CPU, PROVIDERS, DeviceChoice
from graphsurgery.devices.time_limit import run_limited
from graphsurgery.errors import first_line
from graphsurgery.graph.model import Model


@dataclass(frozen=True)
class Trial:
    """Where each node of a model ran, by its number, and the outputs; or the `error` at which it ended.

    A node runs on the provider, on "cpu", or is "folded". `others` are where nodes run that ONNX Runtime put in the
    place of some. `loaded` says whether the error came behind the compiler.
    """

    ran: Mapping[int, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    error: str | None = None
    loaded: bool = False


def load() -> None:
    """Import what compiles, ahead of the first model. Raises ImportError."""
    import onnxruntime  # noqa: F401


def try_model(proto: ModelProto, feeds: Mapping[str, npt.NDArray[Any]], choice: DeviceChoice) -> Trial:
    """Compile a model for a provider, what it leaves being the CPU's, and run it; the log goes to standard error.

    Nodes are named by their marks in the log, as `placement.reasons_in` reads them. Raises MissingTool where the
    provider finds nothing to run on.
    """
    import onnxruntime as ort

    given = ModelProto()
    given.CopyFrom(proto)
    mark_nodes(given)
    options = ort.SessionOptions()
    options.log_severity_level = 0
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    attach(options, choice, Model(given), "the one-node model")
    try:
        session = ort.InferenceSession(given.SerializeToString(), options, enable_fallback=0)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        return Trial(error=first_line(error))
    names = {PROVIDERS[choice.provider].ort_name: choice.provider, CPU.details.ort_name: CPU.provider}
    groups = session.get_provider_graph_assignment_info()
    assigned = [(group.ep_name, [node.name for node in group.get_nodes()]) for group in groups]
    found = dict(marked(assigned))
    ran = {at: names.get(found[at], found[at]) if at in found else FOLDED for at in range(len(given.graph.node))}
    others = frozenset(names.get(ep, ep) for ep, nodes in assigned if not all(map(is_marked, nodes)))
    try:
        outputs = run_limited(session, None, {name: np.asarray(value) for name, value in feeds.items()})
    except Exception as error:  # as above
        return Trial(ran, others, error=first_line(error), loaded=True)
    computed = dict(zip((each.name for each in session.get_outputs()), outputs, strict=True))
    return Trial(ran, others, computed, loaded=True)
