from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.joined_outputs import JoinedOutput, joined, joins_of
from graphsurgery.graph.model import Model
from graphsurgery.passes.rename_tensors import RenameTensors
from graphsurgery.passes.split_detection_output import SplitDetectionOutput
from graphsurgery.rewrite import MASKS_NOTE, PassContext, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed

if TYPE_CHECKING:
    from conftest import Cli

INSIDE = """
    b = Sigmoid (x)
    boxes = Mul (b, pixels)
    scores = Sigmoid (z)"""
ENDS = "float[1, 4, 5] boxes, float[1, 2, 5] scores"


def model(end: str, y: str = "float[1, 6, 5] y", inside: str = INSIDE) -> str:
    return f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[1, 4, 5] x, float[1, 2, 5] z) => ({y}) <float pixels = {{640}}> {{ {inside} {end} }}"""


JOINED = "y = Concat <axis = 1> (boxes, scores)"


@dataclass(frozen=True)
class Drawn:
    """A captured sample."""

    tensors: Mapping[str, np.ndarray]
    id: str = "0"

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def load(self, name: str) -> np.ndarray:
        return self.tensors[name]


def test_boxes_and_scores_become_outputs_of_their_own() -> None:
    assert_rewrites(SplitDetectionOutput(), model(JOINED), model("", ENDS), outputs_agree=False)


def test_a_transpose_behind_the_concat_goes_too() -> None:
    end = "j = Concat <axis = -2> (boxes, scores)  y = Transpose <perm = [0, 2, 1]> (j)"
    before = model(end, "float[1, 5, 6] y")
    assert_rewrites(SplitDetectionOutput(), before, model("", ENDS), outputs_agree=False)
    value = np.ones((1, 5, 6), np.float32)
    value[..., :4] = 9
    context = PassContext([Drawn({"y": value})])  # measured along the axis that the Transpose moves it to
    assert apply_pass(SplitDetectionOutput(), Model(parse(before)), context).model.outputs == ["y"]
    value[..., :4] = 11
    assert apply_pass(SplitDetectionOutput(), Model(parse(before)), context).model.outputs == ["boxes", "scores"]


def test_what_was_captured_counts_more_than_what_may_be() -> None:
    value = np.ones((1, 6, 5), np.float32)
    context = PassContext([Drawn({"y": value})])
    applied = apply_pass(SplitDetectionOutput(), Model(parse(model(JOINED))), context)
    assert applied.model.outputs == ["y"]
    assert "joins what goes up to 1 and 1, which differ by no more than 10 times" in applied.skips[0].reason


def test_an_output_that_is_named_is_split_however_far_it_goes() -> None:
    inside = "boxes = Relu (x)  scores = Sigmoid (z)"
    text = model(JOINED, inside=inside)
    assert_untouched(SplitDetectionOutput(), text, "nothing tells how far 'boxes' goes; name the output in `outputs`")
    assert_rewrites(SplitDetectionOutput(("y",)), text, model("", ENDS, inside), outputs_agree=False)


def test_another_factor_may_be_asked_for() -> None:
    assert_untouched(SplitDetectionOutput(times=1000), model(JOINED), "differ by no more than 1000 times")


@pytest.mark.parametrize(
    ("end", "y", "why"),
    [
        ("s = ReduceMean <axes = [1]> (scores)  y = Add (boxes, s)", "float[1, 4, 5] y", "is not written by a Concat"),
        ("y = Concat <axis = 1> (boxes, scores, x)", "float[1, 10, 5] y", "joins 'x', which is a constant, an input"),
        (JOINED, "float[1, 6, 5] y, float[1, 2, 5] scores", "joins 'scores', which is a constant, an input, or an out"),
        ("y = Concat <axis = 1> (boxes, scores, boxes)", "float[1, 10, 5] y", "joins the same tensor twice"),
    ],
)
def test_what_can_not_be_split_stays(end: str, y: str, why: str) -> None:
    assert_untouched(SplitDetectionOutput(), model(end, y), why)


def test_of_two_outputs_that_join_one_tensor_the_second_stays() -> None:
    end = f"{JOINED}  v = Concat <axis = 1> (boxes, other)"
    inside = f"{INSIDE}  other = Softmax (z)"
    applied = apply_pass(SplitDetectionOutput(), Model(parse(model(end, "float[1, 6, 5] y, float[1, 6, 5] v", inside))))
    assert applied.model.outputs == ["boxes", "scores", "v"]
    assert "output 'v' joins 'boxes', as another output does" in applied.skips[0].reason


def test_the_model_says_how_the_outputs_are_joined() -> None:
    end = """
        i = Concat <axis = -2> (boxes, scores)
        j = Transpose (i)
        k = Identity (j)
        y = Transpose <perm = [0, 2, 1]> (k)"""
    got = apply_pass(SplitDetectionOutput(("y",)), Model(parse(model(end, "float[5, 1, 6] y")))).model
    assert joins_of(got.proto) == (JoinedOutput("y", ("boxes", "scores"), 1, (2, 0, 1)),)
    renamed = apply_pass(RenameTensors({"boxes": "places"}), got).model
    assert joins_of(renamed.proto) == (JoinedOutput("y", ("places", "scores"), 1, (2, 0, 1)),)


def test_a_piece_that_is_split_later_is_joined_first() -> None:
    inside = f"{INSIDE}  more = Relu (z)  classes = Concat <axis = 2> (scores, more)"
    end = "y = Concat <axis = 1> (wide, classes)"
    text = model(end, "float[1, 6, 10] y", f"{inside}  wide = Concat <axis = 2> (boxes, b)")
    once = apply_pass(SplitDetectionOutput(("y",)), Model(parse(text))).model
    twice = apply_pass(SplitDetectionOutput(("wide", "classes")), once).model
    assert twice.outputs == ["boxes", "b", "scores", "more"]
    assert [join.name for join in joins_of(twice.proto)] == ["wide", "classes", "y"]
    inputs = {"x": np.ones((1, 4, 5), np.float32), "z": np.ones((1, 2, 5), np.float32)}
    assert_same_values(
        session.run(parse(text), inputs), joined(session.run(twice.proto, inputs), joins_of(twice.proto))
    )


def test_masks_that_are_to_be_pasted_stay() -> None:
    before = parse(model(JOINED))
    before.metadata_props.add(key=MASKS_NOTE, value='"y"')
    assert_untouched(SplitDetectionOutput(), before, "holds masks that are to be pasted")


def test_an_output_that_is_not_there_is_said() -> None:
    applied = apply_pass(SplitDetectionOutput(("Y",), times=1000), Model(parse(model(JOINED))))
    assert "there is no output 'Y'" in applied.skips[0].reason
    with pytest.raises(ValueError, match="times is 0"):
        SplitDetectionOutput(times=0)


def joined_and_turned(build: Builder) -> list[str]:
    shape = build.shape(rank=(2, 4), sizes=(1, 3))
    axis, parts = build.integer(0, len(shape) - 1), []
    for _ in range(build.integer(2, 3)):
        own = [build.integer(1, 3) if place == axis else size for place, size in enumerate(shape)]
        op = build.choice(["Sigmoid", "Relu"])
        parts.append(build.node(op, [build.input(own)]))
    x = build.node("Concat", parts, axis=axis - build.choice([0, len(shape)]))
    if build.chance(2):
        turns = [[*range(len(shape))][::-1], [*range(1, len(shape)), 0], None]
        x = build.node("Transpose", [x], perm=build.choice(turns))
    return [x]


def test_what_any_concat_joins_is_what_comes_out() -> None:
    split = 0
    for seed in range(150):
        _, case = Fuzzed(SplitDetectionOutput(), joined_and_turned).draw(random.Random(seed).randint)
        if case is None:
            continue
        pass_ = SplitDetectionOutput(tuple(info.name for info in case.model.graph.output))
        got = apply_pass(pass_, Model(case.model)).model
        onnx.checker.check_model(got.proto, full_check=True)
        assert apply_pass(pass_, got).model.fingerprint == got.fingerprint
        split += got.outputs != Model(case.model).outputs
        asked = onnx.ModelProto()
        asked.CopyFrom(case.model)
        known = Model(case.model).outputs
        asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in got.outputs if name not in known)
        expected, computed = session.run(asked, case.inputs), session.run(got.proto, case.inputs)
        assert_same_values({name: expected[name] for name in got.outputs}, computed)
        assert_same_values({name: expected[name] for name in known}, joined(computed, joins_of(got.proto)))
    assert split > 30


# --- in a recipe ------------------------------------------------------------------------------------------------

HEAD = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 16, 16] image) => (float[1, 6, 256] y)
    <float[8, 3, 3, 3] w, float[4, 8, 1, 1] wb, float[2, 8, 1, 1] ws, float pixels = {640},
     int64[3] four = {1, 4, 256}, int64[3] two = {1, 2, 256}> {
        a = Conv <pads = [1, 1, 1, 1]> (image, w)
        r = Relu (a)
        b = Conv (r, wb)
        f = Sigmoid (b)
        m = Mul (f, pixels)
        places = Reshape (m, four)
        s = Conv (r, ws)
        t = Sigmoid (s)
        classes = Reshape (t, two)
        y = Concat <axis = 1> (places, classes)
    }"""


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> object:
    """Write the detector and a recipe with `plan`, apply that, and return what stands in the folder of the parts."""
    from PIL import Image

    network, drawn = parse(HEAD), np.random.default_rng(0)
    for name, shape in (("w", (8, 3, 3, 3)), ("wb", (4, 8, 1, 1)), ("ws", (2, 8, 1, 1))):
        network.graph.initializer.append(
            onnx.numpy_helper.from_array(drawn.standard_normal(shape).astype(np.float32) / 3, name)
        )
        network.graph.value_info.remove(next(info for info in network.graph.value_info if info.name == name))
    onnx.save(network, tmp_path / "head.onnx")
    (tmp_path / "images").mkdir()
    for number in range(3):
        pixels = drawn.integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")

    def apply(plan: str) -> Path:
        recipe = tmp_path / "head.yaml"
        grant = 'check: {grant: {quantize: {"*": {relative: 1}}}}'
        recipe.write_text(f"source: {{onnx: head.onnx}}\n{plan}\n{grant}\n", encoding="utf-8")
        outcome = cli(
            *("apply", recipe, "--images", tmp_path / "images", "--out", tmp_path / "parts"),
            *("--model-io", tmp_path / "model_io"),
        )
        assert outcome.code == 0, outcome.err
        return tmp_path / "parts"

    return apply


def distinct_scores(file: Path, column: int) -> int:
    """Return how many different scores a quantized detector can tell apart; they are its last rows from `column` on."""
    image = np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)
    outputs = session.run(onnx.load(file), {"image": image})
    value = outputs.get("classes", outputs.get("y"))
    assert value is not None
    return len(np.unique(value[:, column:]))


def test_scores_survive_eight_bits_as_an_output_of_their_own(run: object) -> None:
    folder = run("passes: [quantize]")  # type: ignore[operator]
    assert distinct_scores(folder / "head.onnx", 4) == 1
    folder = run("passes: [split-detection-output, quantize]")  # type: ignore[operator]
    assert [info.name for info in onnx.load(folder / "head.onnx").graph.output] == ["places", "classes"]
    assert distinct_scores(folder / "head.onnx", 0) > 20


def test_a_partition_leaves_the_concat_to_the_host(run: object) -> None:
    """What the pass says of recipes that shall keep the one output."""
    plan = "partition: {at: NonMaxSuppression, parts: {network: npu, decode: cpu}}"
    folder = run(f"{plan}\npart_passes: {{network: [quantize]}}")  # type: ignore[operator]
    decode = onnx.load(folder / "decode.onnx").graph
    assert [info.name for info in decode.output] == ["y"]
    assert len(decode.input) == 2
    assert "Concat" in {node.op_type for node in decode.node}
