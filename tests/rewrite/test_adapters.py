import sys
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from graphsurgery.errors import MissingTool, PassError
from graphsurgery.graph.model import Model
from graphsurgery.plugins import source_file
from graphsurgery.rewrite import Pass, adapters, apply_pass
from graphsurgery.rewrite.registry import Registry, picture
from graphsurgery.testing import assert_rewrites, assert_untouched, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TWICE = f"{HEAD} g (float[2] x) => (float[2] y) {{ a = Identity (x)  b = Neg (a)  y = Neg (b) }}"


def deduplicate() -> Any:
    """Makes one initializer of two equal ones."""
    from onnx_ir.passes.common import DeduplicateInitializersPass

    return DeduplicateInitializersPass()


def negations() -> Sequence[Any]:
    from onnxscript.rewriter import pattern

    def twice(op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(x))

    def once(op: Any, x: Any) -> Any:
        return op.Identity(x)

    return [pattern.RewriteRule(twice, once)]


def drop_identity(graph: gs.Graph) -> None:
    """Drops Identity."""
    for node in [node for node in graph.nodes if node.op == "Identity"]:
        for reader in list(node.outputs[0].outputs):
            reader.inputs = [node.inputs[0]]


def rename(model: ModelProto) -> ModelProto:
    model.graph.name = "renamed"
    return model


Deduplicate = adapters.onnx_ir_pass("deduplicate-weights", "exact", deduplicate)
DropNegations = adapters.onnxscript_rules("drop-negations", "exact", negations)
DropIdentity = adapters.graph_function("drop-identity-gs", "exact", drop_identity)
Rename = adapters.model_function("rename-graph", "approximate", rename)
ALL: list[type[Pass]] = [Deduplicate, DropNegations, DropIdentity, Rename]


def test_they_are_registered_like_any_pass() -> None:
    found = Registry()
    assert found.add_module(sys.modules[__name__]) == 4
    assert found.names() == ["deduplicate-weights", "drop-identity-gs", "drop-negations", "rename-graph"]
    assert [pass_.__name__ for pass_ in ALL] == ["DeduplicateWeights", "DropNegations", "DropIdentityGs", "RenameGraph"]
    assert {source_file(pass_) for pass_ in ALL} == {__file__}
    assert Rename.effect == "approximate"
    assert Deduplicate.__doc__ == deduplicate.__doc__
    assert picture(Deduplicate) == deduplicate.__doc__


def test_an_onnx_ir_pass_runs() -> None:
    pytest.importorskip("onnx_ir")
    weights = "<float[2] v = {1, 2}, float[2] w = {1, 2}>"
    assert_rewrites(
        Deduplicate(),
        f"{HEAD} g (float[2] x) => (float[2] y) {weights} {{ a = Add (x, v)  y = Mul (a, w) }}",
        f"{HEAD} g (float[2] x) => (float[2] y) <float[2] v = {{1, 2}}> {{ a = Add (x, v)  y = Mul (a, v) }}",
    )


def test_onnxscript_rules_run() -> None:
    pytest.importorskip("onnxscript")
    after = apply_pass(DropNegations(), Model(parse(TWICE))).model
    assert "Neg" not in onnx.printer.to_text(after.proto)
    again = apply_pass(DropNegations(), after).model
    assert again.fingerprint == after.fingerprint


def test_a_graphsurgeon_function_runs() -> None:
    assert_rewrites(DropIdentity(), TWICE, f"{HEAD} g (float[2] x) => (float[2] y) {{ b = Neg (x)  y = Neg (b) }}")
    assert_untouched(DropIdentity(), f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Neg (x) }}", None)


def test_a_model_function_runs() -> None:
    before = Model(parse(TWICE))
    assert apply_pass(Rename(), before).model.proto.graph.name == "renamed"
    assert before.proto.graph.name == "g"


@pytest.mark.parametrize(
    ("pass_", "package", "said"),
    [
        (Deduplicate, "onnx_ir", r"pass 'deduplicate-weights' needs onnx_ir.*pip install 'graphsurgery\[ir\]'"),
        (DropNegations, "onnxscript.rewriter", r"pass 'drop-negations' needs onnxscript.*\[ir\]"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, pass_: type[Pass], package: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingTool, match=said) as caught:
        apply_pass(pass_(), Model(parse(TWICE)))
    assert caught.value.exit_code == 3


def test_a_function_that_fails_is_named() -> None:
    def fail(graph: gs.Graph) -> None:
        raise RuntimeError("no")

    with pytest.raises(PassError, match="pass 'fail-it': it fails: RuntimeError: no"):
        apply_pass(adapters.graph_function("fail-it", "exact", fail)(), Model(parse(TWICE)))


def test_the_rules_are_made_anew_for_each_run() -> None:
    made = []

    def make() -> Any:
        made.append(deduplicate())
        return made[-1]

    pass_ = adapters.onnx_ir_pass("fresh-state", "exact", make)()
    for _ in range(2):
        apply_pass(pass_, Model(parse(TWICE)))
    assert len(made) == 2
    assert made[0] is not made[1]
