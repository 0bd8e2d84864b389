"""Where each node of a model really runs: on the accelerator that was asked for, or left to the CPU, and why.

    placement.place(model, DeviceChoice("qnn"), name="part 'box_head'")  ->  Placement

A session is made in a process of its own, falling back allowed, since providers abort instead of failing, and since
their reasons stand in ONNX Runtime's log only. `python -m graphsurgery.devices.placement FOLDER` is the other end.
Nodes get marks for names there: a provider that wants another layout renames them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphsurgery.devices.loadable import packed
from graphsurgery.devices.providers import CPU, PROVIDERS, DeviceChoice, require
from graphsurgery.devices.time_limit import run_limited
from graphsurgery.devices.vitisai import refuse_what_aborts
from graphsurgery.errors import InputError, ModelError, first_line
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.graph.expansion import expanded
from graphsurgery.graph.model import Model
from graphsurgery.graph.multiply_adds import multiply_adds

FOLDED = "folded"
_MARK = re.compile(r"gs_(\d+)_")
# What QNN means by it
_PLAIN = {"Cannot get shape": "a size in its shapes is not static (freeze-shapes, freeze-batch)"}


@dataclass(frozen=True)
class PlacedNode:
    """One node of the main graph: the provider that `ran` it, or "folded" where ONNX Runtime has none to run.

    It has none for what it computes beforehand or merges into another node. `reason` is why it is on the CPU.
    """

    name: str
    op: str
    ran: str
    multiply_adds: int | None
    reason: str | None = None

    @property
    def label(self) -> str:
        """The node in a message."""
        return f"{self.op} '{self.name}'"


@dataclass(frozen=True)
class Placement:
    """Where the nodes of one model run that was meant for `provider`."""

    name: str
    provider: str
    nodes: tuple[PlacedNode, ...]

    @property
    def left(self) -> list[PlacedNode]:
        """The nodes that an accelerator was asked for and did not take."""
        return [node for node in self.nodes if node.ran == "cpu"] if self.provider != "cpu" else []

    @property
    def taken(self) -> list[PlacedNode]:
        """The nodes on the accelerator."""
        return [node for node in self.nodes if node.ran not in ("cpu", FOLDED)]

    @property
    def running(self) -> list[PlacedNode]:
        """The nodes that run at all."""
        return [node for node in self.nodes if node.ran != FOLDED]

    def complaint(self) -> str:
        """Say which nodes fall back, and why, in one line."""
        groups: dict[str | None, list[str]] = {}
        for node in self.left:
            groups.setdefault(node.reason, []).append(node.label)
        shown = [_listed(labels) + (f" ({reason})" if reason else "") for reason, labels in list(groups.items())[:3]]
        more = f", for {len(groups) - 3} more reasons others" if len(groups) > 3 else ""
        return (
            f"{self.name}: {self.provider} leaves {len(self.left)} of {len(self.running)} nodes to the CPU: "
            f"{', '.join(shown)}{more}; change them with a pass, move the cut, or accept it with --allow-fallback"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        nodes = [vars(node) for node in self.nodes]
        return {"part": self.name, "provider": self.provider, **shares([self]), "nodes": nodes}


def shares(placements: Iterable[Placement]) -> dict[str, Any]:
    """Return how many nodes and multiply-adds run on accelerators, and their share of all.

    Nodes that do not run at all are left out, and so are multiply-adds of unknown shapes; `unknown` counts those nodes.
    """
    placements = list(placements)
    taken = [node for placement in placements for node in placement.taken]
    running = [node for placement in placements for node in placement.running]
    done, all_ = _known(taken), _known(running)
    return {
        "nodes_taken": len(taken),
        "nodes_running": len(running),
        "node_share": len(taken) / len(running) if running else None,
        "multiply_adds_taken": done,
        "multiply_adds": all_,
        "multiply_add_share": done / all_ if all_ else None,
        "unknown": sum(node.multiply_adds is None for node in running),
    }


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _known(nodes: Iterable[PlacedNode]) -> int:
    return sum(node.multiply_adds or 0 for node in nodes)


def place(
    model: Model, choice: DeviceChoice, *, name: str = "model", optimise: bool = True, profile: bool = False
) -> Placement:
    """Return where each node of `model` runs. `optimise` as for the session that is asked about.

    `profile` has it read off the profile of a run on zeros, which is done anyway where ONNX Runtime keeps no record.
    There an accelerator's nodes are one event, so that what is no event of the CPU's counts as the accelerator's.
    Raises MissingTool when the provider is not here, ModelError when it can't load the model or its process dies, and
    InputError for what is known to end it.
    """
    costs = multiply_adds(model)
    if not choice.accelerates:
        ran = [FOLDED if node.op_type == "Constant" else CPU.provider for node in model.proto.graph.node]
        return Placement(name, choice.provider, _nodes(model, costs, ran, {}))
    if choice.simulator is not None:
        raise InputError(
            f"{name}: '{choice.provider}' is a simulator; what runs where, compile says and compiled.json keeps"
        )
    require(choice, f"{name} on {choice.provider}")
    if choice.provider == "vitisai":
        refuse_what_aborts(model, name, allow_fallback=True)
    with temporary_folder() as folder:
        reply, log = _ask(model, choice, name, {"optimise": optimise, "profile": profile}, folder)
    found = _from_profile(reply["profile"]) if "assigned" not in reply else dict(marked(reply["assigned"]))
    names = {PROVIDERS[choice.provider].ort_name: choice.provider, CPU.details.ort_name: CPU.provider}
    default = FOLDED if "assigned" in reply else choice.provider
    ran = [names.get(found[index], found[index]) if index in found else default for index in range(len(costs))]
    return Placement(name, choice.provider, _nodes(model, costs, ran, reasons_in(log), choice))


def _nodes(
    model: Model,
    costs: Sequence[int | None],
    ran: Sequence[str],
    reasons: Mapping[int, str],
    choice: DeviceChoice = CPU,
) -> tuple[PlacedNode, ...]:
    nodes = []
    for index, node in enumerate(model.proto.graph.node):
        reason = None
        if choice.accelerates and ran[index] == CPU.provider:
            reason = reasons.get(index)
        label = node.name or next(iter(node.output), "")
        nodes.append(PlacedNode(label, node.op_type, ran[index], costs[index], reason))
    return tuple(nodes)


def mark_nodes(proto: ModelProto) -> None:
    """Give each node of the main graph the mark for a name that `marked` and `reasons_in` find again."""
    for index, node in enumerate(proto.graph.node):
        node.name = f"gs_{index}_"


def is_marked(name: str) -> bool:
    """Whether a name is that of a node which `mark_nodes` named, or comes of one."""
    return _MARK.match(name) is not None


def marked(assigned: Iterable[tuple[str, list[str]]]) -> Iterable[tuple[int, str]]:
    """Yield (node, provider); the CPU is named only where no other has a piece of the node."""
    ordered = sorted(assigned, key=lambda entry: entry[0] != CPU.details.ort_name)
    for provider, names in ordered:
        for name in names:
            mark = _MARK.match(name)
            if mark:
                yield int(mark[1]), provider


def _from_profile(events: Iterable[tuple[str, str]]) -> dict[int, str]:
    """Return {node: provider} out of the events of a profile, where an accelerator's nodes are one event together."""
    return dict(marked([(provider, [name]) for provider, name in events]))


def reasons_in(log: str) -> dict[int, str]:
    """Return {node: reason} out of ONNX Runtime's log; the first reason stands."""
    found: dict[int, str] = {}
    for block in log.split("Validation FAILED for")[1:]:  # QNN, of a node or of one with its Quantize and Dequantize
        nodes, said, rest = block.partition("REASON")
        if said and "onnxruntime:" not in nodes:  # else that is another record's
            reason = rest.partition("\n")[0].strip(" :.\r")
            for mark in _MARK.finditer(nodes):
                found.setdefault(int(mark[1]), _PLAIN.get(reason, reason))
    return found


def _ask(
    model: Model, choice: DeviceChoice, name: str, how: Mapping[str, bool], folder: Path
) -> tuple[dict[str, Any], str]:
    """Have the other process place a marked copy of `model`; return its answer and ONNX Runtime's log."""
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    mark_nodes(proto)
    packed_model, beside = packed(expanded(proto), name)  # the nodes of a custom operator have its name in front
    weights = beside or model.folder
    request = {
        "provider": choice.provider,
        "options": {key: value for key, value in choice.options.items() if key != "context"},
        "name": name,
        **how,
        "weights": None if weights is None else str(weights),
    }
    (folder / "model.onnx").write_bytes(packed_model)
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    with (folder / "log.txt").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "graphsurgery.devices.placement", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            check=False,
        )
    text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    try:
        reply: dict[str, Any] = json.loads((folder / "reply.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {choice.provider} ends the process ({ended.returncode}) as it loads it") from error
    if "error" in reply:
        raise ModelError(f"{name}: {choice.provider} can't load it: {reply['error']}")
    return reply, text


def answer(folder: Path) -> dict[str, Any]:
    """Place the model that lies in `folder`, in this process."""
    import onnxruntime as ort

    from graphsurgery.devices.attach import attach

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    choice = DeviceChoice(request["provider"], request["options"])
    model = Model(ModelProto.FromString((folder / "model.onnx").read_bytes()))
    options, level = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if request["optimise"] else level.ORT_DISABLE_ALL
    options.log_severity_level = 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if request["weights"] is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", request["weights"])
    recorded = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info") and not request["profile"]
    options.enable_profiling = not recorded
    options.profile_file_prefix = str(folder / "profile")
    attach(options, choice, model, request["name"])
    session = ort.InferenceSession((folder / "model.onnx").read_bytes(), options)
    if recorded:
        groups = session.get_provider_graph_assignment_info()
        return {"assigned": [[group.ep_name, [node.name for node in group.get_nodes()]] for group in groups]}
    run_limited(session, None, {item.name: _zeros(item) for item in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [(event["args"]["provider"], event["name"]) for event in events if "provider" in event.get("args", {})]
    return {"profile": list(Counter(ran))}


def _zeros(item: Any) -> Any:
    """Return zeros for an input of a session; a size that is not static is 1."""
    import numpy as np

    kinds = {"float": "float32", "double": "float64"}
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    return np.zeros([size if isinstance(size, int) else 1 for size in item.shape], kinds.get(kind, kind))


def main() -> None:
    """Answer one request; whatever goes wrong is the answer."""
    folder = Path(sys.argv[1])
    try:
        reply = answer(folder)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        reply = {"error": first_line(error)}
    (folder / "reply.tmp").write_text(json.dumps(reply), encoding="utf-8")
    (folder / "reply.tmp").replace(folder / "reply.json")


if __name__ == "__main__":
    main()
