"""A node of the CPU between two that are joined costs all; what a body reads is overlooked as nodes are joined.

Each case was measured on Qualcomm's emulator (onnxruntime-qnn 2.7.0), which says so again wherever it is installed.
"""

from __future__ import annotations

import importlib.util
import platform
import sys

import pytest

from graphsurgery.devices.placement import place
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.graph.model import Model
from graphsurgery.targets.load import Named, load_target
from graphsurgery.targets.support import support, taker
from graphsurgery.testing import parse
from targets.nodes import registry

_HERE = (sys.platform, platform.machine().lower()) in {("linux", "x86_64"), ("win32", "arm64")}
SAME = """If (c) <then_branch = t () => (float[4] z1) { z1 = Sigmoid (a) },
    else_branch = e () => (float[4] z2) { z2 = Exp (a) }>"""
ON_CPU = SAME.replace("Sigmoid", "Softsign")  # which isn't taken
COUNT = "n = Constant<value = int64 {2}> () t = Constant<value = bool {1}> ()"
LOOP = f"""{COUNT} b = Loop (n, t, x) <body = l (int64 i, bool more, float[4] v) => (bool same, float[4] w) {{
    same = Identity (more) w = Add (v, a) }}>"""
SIZED = "s = Constant<value = int64[1] {4}> () d = Reshape (b, s)"  # what a Loop gives is of no known size

# what of a graph g (float[4] x, bool[1] c) => (float[4] y, ...) is taken; {} where all is lost
CASES = {
    "both branches are taken": (f"a = Relu (x) b = {SAME} y = Tanh (b)", {"Relu", "If", "Tanh"}),
    "an If between that isn't": (f"a = Relu (x) b = {ON_CPU} y = Tanh (b)", {"Relu", "Tanh"}),
    "an If that comes before what it reads": (
        f"r = Relu (x) s = Softsign (r) a = Tanh (s) b = {SAME} y = Add (b, r)",
        set(),
    ),
    "a Loop right behind what it reads": (f"a = Relu (x) {LOOP} {SIZED} y = Tanh (d)", {"Relu", "Tanh"}),
    "a Loop that comes before what it reads": (f"r = Relu (x) a = Exp (r) {LOOP} {SIZED} y = Tanh (d)", set()),
    "a Loop at the end": (f"r = Relu (x) a = Exp (r) {LOOP} y = Softsign (b)", {"Relu", "Exp"}),
    "a Loop that needs what it reads as an input too": (
        f"a = Relu (x) {LOOP.replace(', x)', ', a)')} {SIZED} y = Tanh (d)",
        {"Relu", "Tanh"},
    ),
    "a branch of two outputs": (
        """a = Relu (x) b, d = If (c) <
            then_branch = t () => (float[4] z1, float[4] q1) { z1 = Sigmoid (a) q1 = Tanh (a) },
            else_branch = e () => (float[4] z2, float[4] q2) { z2 = Exp (a) q2 = Relu (a) }> y = Add (b, d)""",
        {"Relu", "Add"},
    ),
    "sizes that differ": (
        """a = Relu (x) b = If (c) <then_branch = t () => (float[2, 2] z1) { s = Constant<value = int64[2] {2, 2}> ()
        z1 = Reshape (a, s) }, else_branch = e () => (float[4] z2) { z2 = Exp (a) }> y = Softsign (b)""",
        {"Relu"},
    ),
    "what is read comes of the CPU": (f"a = Softsign (x) b = {SAME} y = Tanh (b)", {"Tanh"}),
}


def model(body: str) -> Model:
    return Model(
        parse(f'<ir_version: 8, opset_import: ["": 17]> g (float[4] x, bool[1] c) => (float[4] y) {{ {body} }}')
    )


@pytest.fixture(scope="module")
def htp() -> Named:
    return load_target("qnn-htp", registry())


@pytest.mark.parametrize("name", CASES)
def test_support_says_what_was_measured(htp: Named, name: str) -> None:
    body, taken = CASES[name]
    found = support(model(body), htp)
    assert {each.op for each in found.taken} == taken
    lost = {each.op for each in found.left if each.verdict.limit == "captured"}
    assert bool(lost) == (not taken)
    if lost:
        assert {each.verdict.fixes for each in found.left if each.op in lost} == {("inline-if",)}
        assert found.islands == 0


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed")
@pytest.mark.skipif(not _HERE, reason="onnxruntime-qnn has an emulator for x86-64 Linux only")
@pytest.mark.parametrize("name", CASES)
def test_the_emulator_says_so(name: str) -> None:
    body, taken = CASES[name]
    assert {node.op for node in place(model(body), DeviceChoice("qnn")).taken} == taken


def test_a_node_with_bodies_is_in_no_part(htp: Named) -> None:
    body, _ = CASES["both branches are taken"]
    view = model(body).graph()
    takes = taker(17, htp.target, "float16")
    assert {node.op for node in view.nodes if takes(node, True)} == {"Relu", "Tanh"}


def test_open_sizes_are_told_before_a_line_about_sizes(htp: Named) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[1, N, 4] boxes, float[1, 1, N] scores) => (int64[K, 3] y)
        <int64[1] most = {10}, float[1] iou = {0.5}, float[1] least = {0.1}> {
            y = NonMaxSuppression (boxes, scores, most, iou, least) }"""
    (node,) = support(Model(parse(text)), htp).nodes
    assert (node.verdict.outcome, node.verdict.limit) == ("cpu", "static")
    assert "freeze-shapes" in node.verdict.fixes
