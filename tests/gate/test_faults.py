"""The gate against generated faults: what changes a value beyond its tolerance is reported, what does not is not.

Each fault is put into a part of the embedded detector. An oracle of its own, a few lines of numpy, says what the
verdict has to be: it compares what the faulty part computes with what the sound one does, in order, row by row.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from graphsurgery.capture.samples import Capture
from graphsurgery.errors import InputError
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.parts.manifest import Manifest
from graphsurgery.parts.part import Part
from graphsurgery.sources.row_groups import ROW_GROUPS

RELATIVE = 1e-4  # of the largest value: what every tensor is allowed here
PARTS = ("backbone_rpn", "box_proposal", "box_head", "mask_proposal", "mask_head", "postprocess")

Verdict = Literal["caught", "harmless", "either"]


@dataclass(frozen=True)
class Fault:
    """A part with a fault in it; `expected` is given where the fault is what it is by definition."""

    kind: str
    part: str
    what: str
    model: ModelProto = field(repr=False)
    expected: Verdict | None = None


@dataclass(frozen=True)
class Bench:
    """The sound parts, and the gate with one sample that shows something."""

    parts: dict[str, Part]
    gate: Gate

    def inputs(self, part: str) -> dict[str, np.ndarray]:
        return {name: self.gate.samples[0].load(name) for name in self.parts[part].model.inputs}

    def caught(self, fault: Fault) -> bool:
        sound = self.parts[fault.part]
        try:
            faulty = Part(sound.name, sound.device, sound.accelerator, Model(fault.model))
            verdict = self.gate.check_part(faulty, sound.model.outputs)
        except InputError:  # it does not load or run any more, or writes what nobody captured
            return True
        return verdict.verdict != "passed"

    def oracle(self, fault: Fault) -> Verdict:
        """Say from the values alone what the verdict must be; "either" at the edge of the tolerance."""
        if fault.expected is not None:
            return fault.expected
        from graphsurgery.devices import session

        given = self.inputs(fault.part)
        sound = session.run(self.parts[fault.part].model.proto, given)
        try:
            faulty = session.run(fault.model, given)
        except InputError:
            return "caught"
        verdict: Verdict = "harmless"
        for name, value in sound.items():
            other = faulty.get(name)
            if other is None or (other.shape, other.dtype) != (value.shape, value.dtype):
                return "caught"
            if value.dtype.kind != "f":
                if not np.array_equal(value, other):
                    return "either" if np.array_equal(np.sort(value), np.sort(other)) else "caught"
                continue
            if np.array_equal(np.sort(value, axis=0), np.sort(other, axis=0)) and not np.array_equal(value, other):
                return "either"  # detections and proposals are sets: their order is another test's business
            off = np.max(np.abs(value - other), initial=0.0)
            allowed = RELATIVE * np.max(np.abs(value), initial=0.0)
            if not off <= 1.5 * allowed:  # NaN too
                return "caught"
            if off > 0.5 * allowed:
                verdict = "either"
        return verdict


@pytest.fixture(scope="module")
def bench(shapes: Any) -> Bench:
    manifest = Manifest.read(shapes.folder)
    parts = {
        entry.name: Part(entry.name, entry.device, entry.device != "cpu", _loose(shapes.folder / entry.file))
        for entry in manifest.parts
    }
    samples = [s for s in Capture.open(shapes.model_io).samples if len(s.load("boxes")) > 1][:1]
    return Bench(parts, Gate(samples, Tolerances.parse({"*": {"relative": RELATIVE}}), {}, ROW_GROUPS))


def _loose(path: Path) -> Model:
    """Return a part that takes as many boxes as there are, which is quicker than filling up a batch."""
    proto = Model.load(path).proto
    batched = [entry for entry in proto.metadata_props if entry.key == "graphsurgery.batch"]
    if batched:
        proto.metadata_props.remove(batched[0])
        del proto.graph.value_info[:]
        for info in (*proto.graph.input, *proto.graph.output):
            info.type.tensor_type.shape.dim[0].dim_param = "rows"
    return Model(proto)


def _copy(part: Part) -> ModelProto:
    proto = ModelProto()
    proto.CopyFrom(part.model.proto)
    return proto


# --- faults -----------------------------------------------------------------------------------------------------


def weights(part: Part) -> Iterator[Fault]:
    """Every weight in turn off by a thousandth."""
    for index, tensor in enumerate(part.model.proto.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1 and np.any(values):
            model = _copy(part)
            changed = (values * np.float32(1.001)).astype(np.float32)
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(changed, tensor.name))
            yield Fault("weight", part.name, tensor.name, model)


def attributes(part: Part) -> Iterator[Fault]:
    """One attribute of every kind of node in turn a little different."""
    seen: Counter[tuple[str, str]] = Counter()
    for index, node in enumerate(part.model.proto.graph.node):
        for place, attribute in enumerate(node.attribute):
            seen[node.op_type, attribute.name] += 1
            if seen[node.op_type, attribute.name] > 2:
                continue
            model = _copy(part)
            changed = model.graph.node[index].attribute[place]
            if attribute.type == onnx.AttributeProto.INT:
                # onnxruntime divides by the number of groups, so that 0 of them ends the process
                flag = attribute.i in (0, 1) and attribute.name != "group"
                changed.i = 1 - attribute.i if flag else attribute.i + 1
            elif attribute.type == onnx.AttributeProto.FLOAT:
                changed.f = attribute.f * 1.01 if attribute.f else 0.01
            elif attribute.type == onnx.AttributeProto.INTS and attribute.ints:
                changed.ints[0] = attribute.ints[0] + 1
            else:
                continue
            yield Fault("attribute", part.name, f"{node.op_type}.{attribute.name} of {node.output[0]}", model)


def lost_nodes(part: Part) -> Iterator[Fault]:
    """Activations that do nothing any more."""
    for index, node in enumerate(part.model.proto.graph.node):
        if node.op_type in ("Relu", "Sigmoid", "Softmax", "Clip", "Exp"):
            model = _copy(part)
            output = node.output[0]
            model.graph.node[index].CopyFrom(helper.make_node("Identity", node.input[:1], [output], name=node.name))
            yield Fault("lost node", part.name, f"{node.op_type} of {output}", model)


def interfaces(part: Part) -> Iterator[Fault]:
    """Every output in turn lost, renamed, retyped, reshaped, shortened, broadcastable, or with a NaN in it."""
    for index, info in enumerate(part.model.proto.graph.output):
        kind = info.type.tensor_type.elem_type
        floating = kind == onnx.TensorProto.FLOAT
        rank = len(info.type.tensor_type.shape.dim)

        lost = _copy(part)
        del lost.graph.output[index]
        yield Fault("output lost", part.name, info.name, lost, "caught")

        renamed = _copy(part)
        renamed.graph.node.append(helper.make_node("Identity", [info.name], [f"{info.name}_other"]))
        renamed.graph.output[index].name = f"{info.name}_other"
        yield Fault("output renamed", part.name, info.name, renamed, "caught")

        other = onnx.TensorProto.DOUBLE if floating else onnx.TensorProto.INT32
        cast = helper.make_node("Cast", ["sound"], [info.name], to=other)
        yield Fault("output retyped", part.name, info.name, _ending(part, index, [cast], kind=other), "caught")

        wider = helper.make_node("Unsqueeze", ["sound", "axis"], [info.name])
        model = _ending(part, index, [wider], {"axis": np.array([0])}, rank=rank + 1)
        yield Fault("output reshaped", part.name, info.name, model, "caught")

        first = helper.make_node("Slice", ["sound", "from", "to", "axis"], [info.name])
        bounds = {"from": np.array([0]), "to": np.array([1]), "axis": np.array([rank - 1])}
        expected: Verdict | None = None if rank > 1 else "caught"
        yield Fault("broadcastable", part.name, info.name, _ending(part, index, [first], bounds), expected)

        if floating:
            nan = helper.make_node("Where", ["spot", "nan", "sound"], [info.name])
            spots = [
                helper.make_node("ReduceMax", ["sound"], ["largest"], keepdims=0),
                helper.make_node("Equal", ["sound", "largest"], ["spot"]),
                nan,
            ]
            model = _ending(part, index, spots, {"nan": np.float32(np.nan)})
            yield Fault("NaN", part.name, info.name, model, "caught")


def swapped_outputs(part: Part) -> Iterator[Fault]:
    """Two outputs of one type that carry each other's values, and the same outputs declared in another order."""
    infos = list(part.model.proto.graph.output)
    for one, other in itertools.combinations(range(len(infos)), 2):
        if infos[one].type.tensor_type.elem_type == infos[other].type.tensor_type.elem_type and other == one + 1:
            model = _copy(part)
            for node in model.graph.node:
                names = {infos[one].name: infos[other].name, infos[other].name: infos[one].name}
                node.output[:] = [names.get(name, name) for name in node.output]
                node.input[:] = [names.get(name, name) for name in node.input]
            yield Fault("outputs swapped", part.name, f"{infos[one].name} and {infos[other].name}", model)
    if len(infos) > 1:
        model = _copy(part)
        del model.graph.output[:]
        model.graph.output.extend(reversed(infos))
        yield Fault("declared in another order", part.name, "all outputs", model, "harmless")


def detections(part: Part) -> Iterator[Fault]:
    """Detections in another order, which are the same; one of them missing, one twice, or boxes alone reordered."""
    if part.name != "mask_proposal":
        return
    names = [info.name for info in part.model.proto.graph.output]
    orders: dict[str, tuple[list[str], Callable[[str], list[NodeProto]], Verdict]] = {
        "reversed": (names, _reversed, "harmless"),
        "boxes alone reversed": (["boxes"], _reversed, "caught"),
        "scores alone reversed": (["scores"], _reversed, "caught"),
        "last one missing": (names, _without_last, "caught"),
        "last one missing from the boxes alone": (["boxes"], _without_last, "caught"),
        "first one twice": (names, _first_twice, "caught"),
    }
    for what, (chosen, change, expected) in orders.items():
        model = _copy(part)
        for name in chosen:
            _rename_output(model, name, f"{name}_sound")
            model.graph.node.extend(change(name))
        bounds = {"first": [0], "second": [1], "last": [-1], "before": [-(2**31)], "back": [-1], "rows": [0]}
        for name, value in bounds.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"bound_{name}"))
        yield Fault("detections", part.name, what, model, expected)


def _reversed(name: str) -> list[NodeProto]:
    bounds = ["bound_last", "bound_before", "bound_rows", "bound_back"]
    return [helper.make_node("Slice", [f"{name}_sound", *bounds], [name])]


def _without_last(name: str) -> list[NodeProto]:
    return [helper.make_node("Slice", [f"{name}_sound", "bound_first", "bound_last", "bound_rows"], [name])]


def _first_twice(name: str) -> list[NodeProto]:
    head = helper.make_node("Slice", [f"{name}_sound", "bound_first", "bound_second", "bound_rows"], [f"{name}_head"])
    return [head, helper.make_node("Concat", [f"{name}_head", f"{name}_sound"], [name], axis=0)]


def _ending(
    part: Part,
    index: int,
    nodes: list[NodeProto],
    constants: dict[str, Any] | None = None,
    kind: int | None = None,
    rank: int | None = None,
) -> ModelProto:
    """Return the part with `nodes` behind one output, whose sound value they read as "sound"."""
    model = _copy(part)
    info = model.graph.output[index]
    _rename_output(model, info.name, "sound")
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items())
    sizes = [None] * (len(info.type.tensor_type.shape.dim) if rank is None else rank)
    info.CopyFrom(helper.make_tensor_value_info(info.name, kind or info.type.tensor_type.elem_type, sizes))
    return model


def _rename_output(model: ModelProto, name: str, new: str) -> None:
    for node in model.graph.node:
        node.output[:] = [new if each == name else each for each in node.output]
        node.input[:] = [new if each == name else each for each in node.input]


GENERATORS = (weights, attributes, lost_nodes, interfaces, swapped_outputs, detections)


# --- tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_identical_models_raise_no_alarm(bench: Bench, name: str) -> None:
    assert not bench.caught(Fault("none", name, "", bench.parts[name].model.proto))


@pytest.mark.parametrize("name", PARTS)
def test_what_is_off_is_caught_and_what_is_not_is_left_alone(bench: Bench, name: str) -> None:
    counts: Counter[str] = Counter()
    wrong = []
    for fault in (fault for generator in GENERATORS for fault in generator(bench.parts[name])):
        expected, caught = bench.oracle(fault), bench.caught(fault)
        counts[expected] += 1
        counts[f"{fault.kind} {'caught' if caught else 'passed'}"] += 1
        if expected != "either" and caught != (expected == "caught"):
            wrong.append(f"{expected}, but {'caught' if caught else 'not caught'}: {fault}")
    assert not wrong
    assert counts["caught"] >= 10
    # a thousandth in most weights is well above rounding; a small bias drowns
    assert counts["weight caught"] >= counts["weight passed"]


def test_there_are_at_least_200_faults_of_every_kind(bench: Bench) -> None:
    counts = Counter(f.kind for part in bench.parts.values() for generator in GENERATORS for f in generator(part))
    assert sum(counts.values()) >= 200, counts
    assert len(counts) == 12, counts
