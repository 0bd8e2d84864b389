"""ONNX's own backend test suite: no exact pass may change what any of its models computes.

The suite ships in the onnx package: models made in memory (node) and files (simple, light, pytorch-*), each with
inputs and expected outputs. It feeds weights, axes and sizes as inputs, which most passes need as constants, so each
model comes a second time with all inputs but the first as initializers.

A pass may rewrite a model or refuse it; what it rewrites must be valid, stay as it is in a second run, and give the
expected outputs within the suite's tolerance wherever the original gives them, in ONNX Runtime or, where that can't
run the original, in ONNX's reference evaluator.

    python tests/test_backend_suite.py     prints, per pass, how many models it rewrote and refused
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import GraphProto, ModelProto, TypeProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from graphsurgery.devices import session
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.graph import RANDOM_OPS
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.rewrite import Editor, ModelPass, NodePass, Pass, apply_pass, registry

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
SHARDS = 4
FROZEN = " (frozen)"  # ends the name of a model whose inputs but the first have become initializers
# these are made for any model, so they may refuse one but not end the run
MADE_FOR_ANY_MODEL = ("fold-constants", "simplify")

Values = Sequence[Any]
Run = Callable[[ModelProto, dict[str, Any]], Values]
Outcome = Literal["untouched", "refused", "stopped", "rewritten", "not comparable"]


@dataclass(frozen=True)
class Case:
    """A model of the suite, and pairs of inputs and expected outputs."""

    name: str
    model: ModelProto = field(repr=False)
    data: tuple[tuple[Values, Values], ...] = field(repr=False)
    rtol: float
    atol: float


# --- the suite --------------------------------------------------------------------------------------------------


@cache
def cases() -> tuple[Case, ...]:
    """Return every model of the suite that ships in the onnx package; node models are unique by name."""
    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for test in load_model_tests(kind="node"):
            if test.model is None:
                continue  # onnx before 1.23 ships these as files, which the next loop finds
            found.append(Case(test.name, test.model, tuple(map(_arrays, test.data_sets)), test.rtol, test.atol))
    for folder in sorted(path.parent for path in DATA.glob("*/*/model.onnx")):
        model = onnx.load(str(folder / "model.onnx"))
        sets = (
            (_files(data, "input", model.graph.input), _files(data, "output", model.graph.output))
            for data in sorted(folder.glob("test_data_set_*"))
        )
        found.append(Case(f"{folder.parent.name}/{folder.name}", model, tuple(sets), 1e-3, 1e-7))
    found += [_light(path) for path in sorted((DATA / "light").glob("*.onnx"))]
    return (*found, *filter(None, map(_frozen, found)))


def _frozen(case: Case) -> Case | None:
    """Return the case with all inputs but the first as initializers, as a detector has its axes, sizes and weights."""
    names = _inputs(case.model)
    if len(names) < 2 or len(case.data) != 1:
        return None
    (inputs, expected), model = case.data[0], ModelProto()
    if not all(isinstance(value, np.ndarray) and value.dtype.kind in "fiub" for value in inputs):
        return None
    model.CopyFrom(case.model)
    values = dict(zip(names, inputs, strict=False))
    frozen = [info for info in model.graph.input if info.name in names[1:] and info.name in values]
    for info in frozen:
        model.graph.input.remove(info)
        model.graph.initializer.append(numpy_helper.from_array(values[info.name], info.name))
    model.ir_version = max(model.ir_version, 4)
    return Case(f"{case.name}{FROZEN}", model, ((list(inputs)[:1], expected),), case.rtol, case.atol)


def _arrays(data: tuple[Values, Values]) -> tuple[Values, Values]:
    def array(value: Any) -> Any:
        return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    return [array(value) for value in data[0]], [array(value) for value in data[1]]


def _files(folder: Path, kind: str, infos: Sequence[onnx.ValueInfoProto]) -> Values:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [_value((folder / f"{kind}_{i}.pb").read_bytes(), infos[i].type) for i in range(count)]


def _value(data: bytes, kind: TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _light(path: Path) -> Case:
    """Return a network whose weights are made by ConstantOfShape; the suite feeds it a ramp from 0 to 1."""
    model = onnx.load(str(path))
    inputs = []
    for name in _inputs(model):
        (info,) = (info for info in model.graph.input if info.name == name)
        shape = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in info.type.tensor_type.shape.dim]
        size = int(np.prod(shape))
        inputs.append((np.arange(size).reshape(shape) / size).astype(np.float32))
    expected = onnx.load_tensor(str(path.with_name(f"{path.stem}_output_0.pb")))
    return Case(f"light/{path.stem}", model, ((inputs, [numpy_helper.to_array(expected)]),), 1e-3, 1e-7)


def _inputs(model: ModelProto) -> list[str]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [info.name for info in model.graph.input if info.name not in defaults]


# --- the judge --------------------------------------------------------------------------------------------------


def _onnxruntime(model: ModelProto, inputs: dict[str, Any]) -> Values:
    return list(session.Session(model, threads=1).run(inputs).values())


def _reference(model: ModelProto, inputs: dict[str, Any]) -> Values:
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(ReferenceEvaluator(model).run(None, inputs))


def difference(case: Case, model: ModelProto, run: Run) -> str | None:
    """Say how the outputs of `model` differ from what the suite expects of `case`; None where they don't."""
    for inputs, expected in case.data:
        given = dict(zip(_inputs(case.model), inputs, strict=False))
        got = run(model, given)
        if len(got) != len(expected):
            return f"{len(got)} outputs instead of {len(expected)}"
        for info, value, wanted in zip(case.model.graph.output, got, expected, strict=True):
            if not _equal(value, wanted, case):
                return f"output '{info.name}' differs"
    return None


def _equal(value: Any, wanted: Any, case: Case) -> bool:
    if wanted is None or value is None:
        return value is wanted
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(_equal(a, b, case) for a, b in zip(value, wanted, strict=True))
    value, wanted = np.asarray(value), np.asarray(wanted)
    if value.shape != wanted.shape or (value.dtype != wanted.dtype and "OUS".find(wanted.dtype.kind.upper()) < 0):
        return False
    if wanted.dtype.kind in "OUSb":
        return value.tolist() == wanted.tolist()
    if wanted.dtype.kind == "V":  # bfloat16, float8, int4 and the like
        value, wanted = value.astype(np.float32), wanted.astype(np.float32)
    return bool(np.allclose(value, wanted, rtol=case.rtol, atol=case.atol, equal_nan=True))


_judges: dict[str, Run | None] = {}


def judge(case: Case) -> Run | None:
    """Return what runs the original as the suite expects it; None where nothing does, or it draws random numbers."""
    if case.name not in _judges:
        _judges[case.name] = _find_judge(case)
    return _judges[case.name]


def _find_judge(case: Case) -> Run | None:
    nodes = walk_protos(case.model.graph)
    for function in case.model.functions:
        nodes += walk_protos(GraphProto(node=function.node))
    if any(node.op_type in RANDOM_OPS for node in nodes) or not case.data:
        return None
    for run in (_onnxruntime, _reference):
        try:
            if difference(case, case.model, run) is None:
                return run
        except Exception:  # an operator that this judge lacks; each says so in its own way
            continue
    return None


# --- the sweep --------------------------------------------------------------------------------------------------


def exact_passes() -> dict[str, type[Pass]]:
    """Return the exact passes that need no options."""
    found = registry.discover()
    classes = {name: found.get(name) for name in found.names()}
    return {CleanUp.name: CleanUp} | {
        name: cls
        for name, cls in classes.items()
        if cls.effect == "exact"
        and all(
            option.default is not dataclasses.MISSING or option.default_factory is not dataclasses.MISSING
            for option in dataclasses.fields(cls)
        )
    }


@dataclass(frozen=True)
class CleanUp(NodePass):
    """No pass at all: unused nodes are dropped and the rest is sorted, as after every pass."""

    name = "clean-up"
    effect = "exact"

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        return


def outcome(pass_: Pass, case: Case) -> tuple[Outcome, str]:
    """Apply `pass_` to the model of `case` and return what became of it, and why; clean-up alone counts for nothing.

    Raises AssertionError where the pass broke the model.
    """
    model = Model(case.model) if isinstance(pass_, CleanUp) else _clean(case)
    if isinstance(pass_, NodePass) and not _looks_at(pass_, case):
        return "untouched", ""  # it is cleaned up once more and that is all, which the sweep of CleanUp has looked at
    try:
        applied = apply_pass(pass_, model)
    except GraphSurgeryError as error:
        return "stopped", str(error)
    reasons = "; ".join(sorted({skip.reason for skip in applied.skips}))
    after = applied.model
    if after.fingerprint == model.fingerprint:
        return ("refused", reasons) if reasons else ("untouched", "")
    if _valid(case.model):
        onnx.checker.check_model(after.proto)
    # onnxsim is run until it changes nothing; tests/passes/test_simplify.py looks at that
    if not isinstance(pass_, ModelPass):
        assert apply_pass(pass_, after).model.fingerprint == after.fingerprint, "a second run changes it again"
    run = judge(case)
    if run is None or not _takes(after.proto, case):
        return "not comparable", reasons
    problem = difference(case, after.proto, run)
    assert problem is None, problem
    return "rewritten", reasons


_cleaned: dict[str, Model] = {}


def _clean(case: Case) -> Model:
    if case.name not in _cleaned:
        _cleaned[case.name] = apply_pass(CleanUp(), Model(case.model)).model
    return _cleaned[case.name]


_ops: dict[str, set[str]] = {}


def _looks_at(pass_: NodePass, case: Case) -> bool:
    """Whether `pass_` is called for a node of the cleaned model, its bodies included; domains aside."""
    if case.name not in _ops:
        _ops[case.name] = {node.op_type for node in walk_protos(_clean(case).proto.graph)}
    return not pass_.matches or not _ops[case.name].isdisjoint(name.rpartition(".")[2] for name in pass_.matches)


def _valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def _takes(model: ModelProto, case: Case) -> bool:
    """Whether the inputs of `case` still fit: a pass may freeze a size, or take an input away."""
    infos = {info.name: info.type.tensor_type.shape.dim for info in model.graph.input}
    if _inputs(model) != _inputs(case.model):
        return False
    for inputs, _ in case.data:
        for name, value in zip(_inputs(case.model), inputs, strict=False):
            for dim, size in zip(infos[name], np.shape(value) if isinstance(value, np.ndarray) else (), strict=False):
                if dim.HasField("dim_value") and dim.dim_value != size:
                    return False
    return True


@dataclass
class Tally:
    """What became of the models under one pass, the reasons of refusals, and what broke."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    stopped: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def sweep(pass_: Pass, suite: Sequence[Case]) -> Tally:
    """Apply `pass_` to every model of `suite`."""
    tally = Tally()
    for case in suite:
        tally.counts["seen"] += 1
        try:
            kind, reason = outcome(pass_, case)
        except Exception as error:  # a crash is a finding here, and the sweep goes on
            tally.broken.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        tally.counts[kind] += 1
        if kind == "stopped":
            tally.stopped.append(f"{case.name}: {reason}")
        elif reason:
            tally.reasons[reason] += 1
    return tally


# --- tests ------------------------------------------------------------------------------------------------------


def test_the_suite_is_all_there() -> None:
    whole = [case.name for case in cases() if not case.name.endswith(FROZEN)]
    assert 0.3 * len(whole) < len(cases()) - len(whole) < len(whole)
    kinds = Counter(name.partition("/")[0] if "/" in name else "node" for name in whole)
    assert set(kinds) == {"node", "simple", "light", "pytorch-converted", "pytorch-operator"}
    assert kinds["node"] > 1000
    assert all(case.data for case in cases())


def test_most_of_the_suite_can_be_judged() -> None:
    judged = Counter(judge(case) is not None for case in cases()[::SHARDS])
    assert judged[True] > 0.8 * judged.total()


def test_loading_seeing_as_a_graph_and_saving_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    lost = []
    for case in cases():
        path.write_bytes(case.model.SerializeToString())
        model = Model.load(path)
        Model.of(model.graph(), model.folder).save(path)
        if _ordered(onnx.load(str(path))) != _ordered(case.model):
            lost.append(case.name)
    assert not lost


def _ordered(model: ModelProto) -> ModelProto:
    """Return `model` with everything sorted whose order means nothing."""
    ordered = ModelProto()
    ordered.CopyFrom(model)
    for graph in [ordered.graph, *(a.g for n in walk_protos(ordered.graph) for a in n.attribute if a.HasField("g"))]:
        for items in (graph.initializer, graph.value_info):
            items.sort(key=lambda item: item.name)
        for node in graph.node:
            node.attribute.sort(key=lambda item: item.name)
    ordered.opset_import.sort(key=lambda item: item.domain)
    return ordered


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("name", sorted(exact_passes()))
def test_an_exact_pass_changes_no_output(name: str, shard: int) -> None:
    tally = sweep(exact_passes()[name](), cases()[shard::SHARDS])
    assert not tally.broken
    if name in MADE_FOR_ANY_MODEL:
        assert not tally.stopped


def reversed_chain(length: int) -> ModelProto:
    """Return a model of `length` nodes, each standing before the one that it reads."""
    nodes = [onnx.helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in reversed(range(length))]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("t0", f"t{length}")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def passes_that_look_at_any_node() -> list[str]:
    """Return the exact passes that a long chain means work for; to the others it is what clean-up makes of it."""
    return sorted(name for name, cls in exact_passes().items() if not (issubclass(cls, NodePass) and cls.matches))


@pytest.mark.parametrize("name", passes_that_look_at_any_node())
def test_a_reversed_chain_of_20000_nodes_is_handled(name: str) -> None:
    proto = apply_pass(exact_passes()[name](), Model(reversed_chain(20_000))).model.proto
    onnx.checker.check_model(proto)
    x = np.float32([1, -2])
    np.testing.assert_array_equal(session.run(proto, {"t0": x})["t20000"], x)


def main() -> None:
    suite = cases()
    judges = Counter(run.__name__.strip("_") if (run := judge(case)) else "none" for case in suite)
    print(f"{len(suite)} models; judged by {dict(judges)}")
    columns = ("seen", "untouched", "rewritten", "refused", "stopped", "not comparable")
    print(f"{'pass':24}" + "".join(f"{column:>16}" for column in (*columns, "broken", "seconds")))
    for name, cls in exact_passes().items():
        start = time.perf_counter()
        tally = sweep(cls(), suite)
        row = [tally.counts[column] for column in columns] + [len(tally.broken), round(time.perf_counter() - start)]
        print(f"{name:24}" + "".join(f"{cell:16}" for cell in row))
        for reason, count in tally.reasons.most_common(12):
            print(f"    {count:5}  {reason[:160]}")
        for line in (*tally.stopped[:20], *tally.broken[:20]):
            print(f"    !      {line[:300]}")


if __name__ == "__main__":
    main()
