import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from graphsurgery.devices import session
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


def split_to_slice() -> Any:
    """Split becomes Slices, by AMD's ShapeShifter."""
    return {"onnx_convert_split_to_slice": {"convert_split_to_slice": True}}


Deduplicate = adapters.onnx_ir_pass("deduplicate-weights", "exact", deduplicate)
DropNegations = adapters.onnxscript_rules("drop-negations", "exact", negations)
DropIdentity = adapters.graph_function("drop-identity-gs", "exact", drop_identity)
Rename = adapters.model_function("rename-graph", "approximate", rename)
SplitToSlice = adapters.shapeshifter_passes("split-to-slice-amd", "exact", split_to_slice)
ALL: list[type[Pass]] = [Deduplicate, DropNegations, DropIdentity, Rename, SplitToSlice]

HALVES = f"{HEAD} g (float[4] x) => (float[2] y, float[2] z)"
SPLIT = f"{HALVES} <int64[2] s = {{2, 2}}> {{ y, z = Split <axis = 0> (x, s) }}"
# A stand-in for AMD's package, which wants an older onnx: it notes what it sees, and logs as that does.
STAND_IN = """
import logging

LOGGER = logging.getLogger("quark.shapeshifter.passes.onnx_convert_split_to_slice_screen")
LOGGER.propagate = False
LOGGER.addHandler(logging.StreamHandler())
LOGGER.warning("some passes are not here")


class RunConfig:
    def __init__(self, passes):
        self.passes = passes


def shapeshifter(config, model):
    LOGGER.setLevel(logging.INFO)
    LOGGER.info("running %s", config.passes)
    if "onnx_convert_split_to_slice" not in config.passes:
        raise ValueError("not registered")
    for node in model.graph.node:
        if len(node.input) < 2:
            LOGGER.warning("No split detected of %s", node.name)
        else:
            node.doc_string = "seen"
    model.graph.name = "shifted"
    return model
"""


def test_they_are_registered_like_any_pass() -> None:
    found = Registry()
    assert found.add_module(sys.modules[__name__]) == 5
    assert found.names() == [
        "deduplicate-weights",
        "drop-identity-gs",
        "drop-negations",
        "rename-graph",
        "split-to-slice-amd",
    ]
    names = ["DeduplicateWeights", "DropNegations", "DropIdentityGs", "RenameGraph", "SplitToSliceAmd"]
    assert [pass_.__name__ for pass_ in ALL] == names
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


@pytest.fixture
def shapeshifter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `quark` that is found before any that is installed."""
    package = tmp_path / "quark" / "shapeshifter"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("", encoding="utf-8")
    (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "quark"}
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "quark"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.mark.usefixtures("shapeshifter")
def test_shapeshifter_gets_its_passes_and_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    before = Model(parse(SPLIT))
    applied = apply_pass(SplitToSlice(), before)
    assert applied.model.proto.graph.name == "shifted"
    assert before.proto.graph.name == "g"
    assert applied.skips == ()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("shapeshifter")
def test_what_shapeshifter_warns_of_is_a_reason_and_not_on_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    applied = apply_pass(SplitToSlice(), Model(parse(f"{HALVES} {{ y, z = Split <axis = 0> (x) }}")))
    assert [skip.reason for skip in applied.skips] == ["No split detected of "]
    assert capfd.readouterr() == ("", "")
    handlers = logging.getLogger("quark.shapeshifter.passes.onnx_convert_split_to_slice_screen").handlers
    assert logging.StreamHandler in {type(handler) for handler in handlers}, "its own are back in their places"


@pytest.mark.usefixtures("shapeshifter")
def test_a_pass_that_shapeshifter_does_not_have_is_an_error() -> None:
    pass_ = adapters.shapeshifter_passes("odd-amd", "exact", lambda: {"onnx_odd": {}})
    with pytest.raises(PassError, match="pass 'odd-amd': it fails: ValueError: not registered"):
        apply_pass(pass_(), Model(parse(SPLIT)))


def test_shapeshifter_itself_splits() -> None:
    pytest.importorskip("quark.shapeshifter", reason="amd-quark is not installed")
    after = apply_pass(SplitToSlice(), Model(parse(SPLIT))).model
    assert {node.op_type for node in after.proto.graph.node} == {"Constant", "Slice"}
    given = {"x": np.arange(4, dtype=np.float32)}
    assert all(np.array_equal(session.run(after.proto, given)[n], session.run(parse(SPLIT), given)[n]) for n in "yz")


@pytest.mark.parametrize(
    ("pass_", "package", "said"),
    [
        (Deduplicate, "onnx_ir", r"pass 'deduplicate-weights' needs onnx_ir.*pip install 'graphsurgery\[ir\]'"),
        (DropNegations, "onnxscript.rewriter", r"pass 'drop-negations' needs onnxscript.*\[ir\]"),
        (SplitToSlice, "quark.shapeshifter", r"pass 'split-to-slice-amd' needs quark.*\[quark\]"),
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
