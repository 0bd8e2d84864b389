"""AMD's VitisAI provider (Ryzen AI): its session options, and what would end the process, found beforehand.

Several of its refusals are no errors: the process aborts, and names nothing. So the model is looked at before a session
is made. Source of the refusals: onnxsim's authors, module vitisai_target, measured on Ryzen AI 1.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from onnx import NodeProto, TensorProto

from graphsurgery.devices.providers import DeviceChoice, session_options
from graphsurgery.errors import InputError
from graphsurgery.graph import STANDARD_DOMAINS
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import bodies, walk_protos

_WRITTEN_OUT = ("strides", "pads", "dilations", "kernel_shape", "group")
_FEWEST_CONVS = 2


def vitisai_options(choice: DeviceChoice, part: str, fingerprint: str) -> dict[str, str]:
    """Return what ONNX Runtime is to hand to the provider for one part.

    The compiled model lies in cache_dir/cache_key, and the provider takes what lies there for this model's without a
    look: so each part has a key of its own, and a model that changed has another, unless the user names one.
    """
    options = session_options(choice)
    safe = re.sub(r"[^0-9A-Za-z_-]+", "_", part).strip("_") or "part"
    for folder, key in (("cache_dir", "cache_key"), ("cacheDir", "cacheKey")):
        if key in options:
            options[key] = f"{options[key]}_{safe}"
        elif folder in options:
            options[key] = f"{safe}_{fingerprint[:16]}"
    return options


def refuse_what_aborts(model: Model, name: str, *, allow_fallback: bool = False) -> None:
    """Raise InputError for what the provider is known to crash at, naming the node and the pass that helps.

    A part with fewer than two Convs does no harm there, but none of it would run on the NPU: `allow_fallback` lets it
    pass.
    """
    complaint = next(_complaints(model), None)
    convs = sum(_is(node, "Conv") for node in walk_protos(model.proto.graph))
    if complaint is None and convs < _FEWEST_CONVS and not allow_fallback:
        complaint = (
            f"it has {convs} Conv, and VitisAI leaves a part with fewer than {_FEWEST_CONVS} to the CPU; "
            "keep it on the cpu, or accept that with --allow-fallback"
        )
    if complaint is not None:
        raise InputError(f"{name}: {complaint}")


def _complaints(model: Model) -> Iterator[str]:
    for node in walk_protos(model.proto.graph):
        label = f"{node.op_type} '{node.name or next(iter(node.output), '')}'"
        if bodies(node):
            help_ = "the pass inline-if takes one out whose branch is settled" if _is(node, "If") else "move the cut"
            yield f"{label}: VitisAI aborts at a node with a body; {help_}, or keep this part on the cpu"
        elif _is(node, "LSTM"):
            yield f"{label}: VitisAI crashes at an LSTM; keep this part on the cpu"
        elif _is(node, "Conv"):
            absent = [each for each in _WRITTEN_OUT if each not in {a.name for a in node.attribute}]
            if absent:
                listed = ", ".join(absent)
                yield (
                    f"{label}: VitisAI aborts at a Conv that leaves {listed} to the default; "
                    "add the pass fill-default-attributes, after quantize if there is one"
                )
    for tensor in _bfloat16(model):
        yield (
            f"tensor '{tensor}': VitisAI rejects bfloat16; give it the float32 model and a config_file, "
            "and it computes in bfloat16 itself"
        )


def _bfloat16(model: Model) -> Iterator[str]:
    graphs = [model.proto.graph, *(body for node in walk_protos(model.proto.graph) for body in bodies(node))]
    for graph in graphs:
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                yield info.name
        for tensor in graph.initializer:
            if tensor.data_type == TensorProto.BFLOAT16:
                yield tensor.name
        for node in graph.node:
            to = [attribute.i for attribute in node.attribute if attribute.name == "to"]
            if _is(node, "Cast") and to == [TensorProto.BFLOAT16]:
                yield node.output[0]


def _is(node: NodeProto, op: str) -> bool:
    return node.op_type == op and node.domain in STANDARD_DOMAINS
