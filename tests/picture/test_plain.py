"""A graph, or a region of it, as boxes and lines."""

from __future__ import annotations

import pytest
from onnx import helper

from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.picture.plain import Outcome, Subject, around, whole
from graphsurgery.picture.scene import Scene
from graphsurgery.testing import parse
from picture.graphs import HEAD, X, subject

CONV = "c = Conv <kernel_shape = [1, 1], strides = [2, 2], pads = [0, 0, 0, 0]> (x, w)  y = Relu (c)"
WEIGHTS = "<float[2,2,1,1] w = {1, 2, 3, 4}>"


def titles(scene: Scene) -> list[str]:
    return [box.title for box in scene.boxes]


def flows(scene: Scene) -> set[tuple[str, str]]:
    called = {box.key: box.title for box in scene.boxes}
    return {(called[line.source], called[line.target]) for line in scene.lines}


def test_a_graph_goes_from_its_inputs_to_its_outputs() -> None:
    scene = whole(subject("a = Relu (x)  b = Neg (a)  y = Add (a, b)"))
    assert titles(scene) == ["x", "Relu", "Neg", "Add", "y"]
    assert flows(scene) == {("x", "Relu"), ("Relu", "Neg"), ("Relu", "Add"), ("Neg", "Add"), ("Add", "y")}


def test_shapes_stand_on_the_lines_once_for_each_tensor() -> None:
    typed = parse(
        f"{HEAD} g (float[1,2] x) => (float[1,2] y) <float[1,2] a, int64[N,4] b> "
        "{ a = Relu (x)  b = Cast <to = 7> (a)  y = Add (a, a)  z = Neg (b) }"
    )
    labels = [line.label for line in whole(Subject.of(Model(typed))).lines if line.label]
    assert labels == [f"1{X}2", f"N{X}4 int64"]


def test_a_box_tells_its_weights_and_what_is_not_usual() -> None:
    conv = whole(subject(CONV, WEIGHTS)).boxes[1]
    assert conv.kind == "node"  # four elements are shown by value, as no weights
    assert conv.lines == ("W 1, 2, 3, 4", f"kernel_shape 1{X}1", "strides 2")
    assert conv.about[0] == "Conv"
    assert "reads x, w" in conv.about


def test_constants_stand_in_the_box_that_reads_them() -> None:
    scene = whole(subject("s = Constant <value = int64[2] {1, -1}> ()  y = Reshape (x, s)", outputs="float[1,128] y"))
    assert titles(scene) == ["x", "Reshape", "y"]
    assert scene.boxes[1].lines == ("shape 1, -1",)


def test_what_a_target_makes_of_a_node_stands_in_it() -> None:
    plain = subject("a = Relu (x)  y = Neg (a)")
    told = Subject(plain.outline, plain.types, {0: Outcome("taken"), 1: Outcome("cpu", "never taken", "lower-neg")})
    relu, neg = whole(told).boxes[1:3]
    assert (relu.outcomes, relu.lines) == ({"taken": 1}, ())
    assert (neg.outcomes, neg.lines) == ({"cpu": 1}, ("cpu: never taken",))
    assert "what helps: lower-neg" in neg.about
    (one,) = [box for box in whole(told, 1).boxes if box.kind == "fold"]
    assert one.outcomes == {"taken": 1, "cpu": 1}


def test_of_many_ends_some_are_drawn_and_the_others_counted() -> None:
    nodes = "  ".join(f"y{n} = Relu (x)" for n in range(50))
    scene = whole(subject(nodes, outputs=", ".join(f"float[1,2,8,8] y{n}" for n in range(50))))
    assert sum(box.kind == "output" for box in scene.boxes) == 40
    assert titles(scene)[-1] == "and 10 more outputs"


def test_a_region_names_what_lies_beyond_it() -> None:
    scene = around(subject("a = Relu (x)  b = Neg (a)  c = Abs (b)  d = Sin (c)  y = Cos (d)"), "c", depth=1)
    kinds = {box.title: box.kind for box in scene.boxes}
    assert kinds == {"Neg": "node", "Abs": "node", "Sin": "node", "Relu": "beyond", "Cos": "beyond"}


def test_a_region_holds_no_more_than_it_may() -> None:
    scene = around(subject("a = Relu (x)  b = Neg (a)  c = Abs (b)  y = Sin (c)"), "b", depth=9, most=2)
    assert sum(box.kind == "node" for box in scene.boxes) == 2


def test_a_region_may_stand_in_a_body() -> None:
    scene = around(subject(BRANCHES), "inside", depth=1)
    assert "Neg" in titles(scene)
    assert "If" not in titles(scene)
    (branch,) = [box for box in whole(subject(BRANCHES)).boxes if box.title == "If"]
    assert branch.lines == ("2 nodes in one", "1 nodes in other")


BRANCHES = """
    n = ReduceSum <keepdims = 0> (x)  z = Constant <value = float {0}> ()  c = Greater (n, z)
    y = If (c) <then_branch = one () => (float[1,2,8,8] t) { inside = Neg (x)  t = Relu (inside) },
                else_branch = other () => (float[1,2,8,8] e) { e = Abs (x) }>"""


def test_a_name_that_is_nowhere_is_told_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--around yy: no node and no tensor has this name\. Nearest: y"):
        around(subject("y = Relu (x)"), "yy", depth=1)


def test_what_a_file_calls_its_nodes_is_no_harm() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "a\x00\n\x1b[31m</svg>" + "long" * 400)
    info = [helper.make_tensor_value_info(name, 1, [1]) for name in ("x", "y")]
    scene = whole(Subject.of(Model(helper.make_model(helper.make_graph([node], "g", info[:1], info[1:])))))
    told = scene.boxes[1].about[0]
    assert told.isprintable()
    assert len(told) <= 300


def test_a_scene_is_read_as_it_was_written() -> None:
    scene = whole(subject(CONV, WEIGHTS))
    assert Scene.from_json(scene.to_json()) == scene
