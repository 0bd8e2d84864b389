import numpy as np
import onnx
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.freeze_nms import FreezeNms
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, fuzz

COUNT = 20


def model(node: str = "r = NonMaxSuppression (b, s, m, i, t)", shapes: tuple[str, str] = ("1, 20, 4", "1, 1, 20"),
          most: str = "int64 m = {12},", more: str = "") -> str:  # fmt: skip
    return f"""
        <ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[{shapes[0]}] b, float[{shapes[1]}] s{more}) => (int64[n, 3] r)
        <{most} float i = {{0.5}}, float t = {{0.3}}> {{ {node} }}"""


def frozen(text: str = "") -> Model:
    return apply_pass(FreezeNms(), Model(parse(text or model()))).model


def drawn(seed: int, scale: float, spread: float) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, spread, (1, COUNT, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(5, 10, (1, COUNT, 2))], 2).astype(np.float32)
    return {"b": boxes, "s": (draw.uniform(0, 1, (1, 1, COUNT)) * scale).astype(np.float32)}


def at(model: Model, name: str) -> onnx.ModelProto:
    """The model with a tensor inside as its only output."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model.proto)
    del cut.graph.output[:]
    cut.graph.output.add(name=name)
    return cut


def test_all_before_the_mask_is_static_by_what_is_written_down() -> None:
    graph = frozen().proto.graph
    assert [node.op_type for node in graph.node][:4] == ["NonMaxSuppression", "Concat", "Slice", "Reshape"]
    (written,) = (info for info in graph.value_info if info.name == graph.node[0].output[0])
    assert [size.dim_value for size in written.type.tensor_type.shape.dim] == [12, 3]


@pytest.mark.parametrize(("scale", "spread"), [(1, 100), (1, 3), (0.2, 100), (0.5, 30)])
def test_the_rows_are_the_same(scale: float, spread: float) -> None:
    given = drawn(3, scale, spread)
    expected = session.run(parse(model()), given)["r"]
    after = frozen()
    assert np.array_equal(session.run(after.proto, given)["r"], expected)
    box = session.run(at(after, "r_box"), given)["r_box"]
    assert box.shape == (12, 1)
    assert np.array_equal(box[: len(expected), 0], expected[:, 2])
    assert (box[len(expected) :] == -1).all()


@pytest.mark.parametrize("scale", [1, 0.2])
def test_the_copies_of_an_accelerator_do_not_count(scale: float) -> None:
    """HTP repeats the last row, and writes zeros where no box is left."""
    given = drawn(3, scale, 10)
    expected = session.run(parse(model()), given)["r"]
    assert 0 < len(expected) < 12 if scale == 1 else len(expected) == 0
    last = expected[-1:] if len(expected) else np.zeros((1, 3), np.int64)
    copied = np.concatenate([expected, np.repeat(last, 12 - len(expected), 0)])
    after = frozen().proto
    nms = after.graph.node[0]
    nms.op_type = "Identity"
    nms.input[:] = ["accelerator"]
    del nms.attribute[:]
    after.graph.input.append(onnx.helper.make_tensor_value_info("accelerator", onnx.TensorProto.INT64, [12, 3]))
    assert np.array_equal(session.run(after, given | {"accelerator": copied})["r"], expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (model(shapes=("1, n, 4", "1, 1, n")), "the number of its boxes is not known"),
        (model(shapes=("1, 20, 4", "1, 2, 20")), "it has 1 images and 2 classes, not one of each"),
        (model(shapes=("2, 20, 4", "2, 1, 20")), "it has 2 images and 1 classes, not one of each"),
        (model(most="", more=", int64 m"), "the largest number of boxes is computed, or not above 0"),
        (model("r = NonMaxSuppression (b, s)"), "the largest number of boxes is computed, or not above 0"),
        (model("r = my.NonMaxSuppression (b, s)"), None),
    ],
)
def test_leaves_what_it_can_not_tell_apart_alone(text: str, reason: str | None) -> None:
    assert_untouched(FreezeNms(), text, reason)


def test_boxes_are_filled_up_where_that_is_asked_for() -> None:
    after = apply_pass(FreezeNms(multiple=8, least=40), Model(parse(model()))).model
    told = onnx.shape_inference.infer_shapes(after.proto).graph.value_info
    shapes = {info.name: [size.dim_value for size in info.type.tensor_type.shape.dim] for info in told}
    assert (shapes["r_boxes"], shapes["r_filled_scores"]) == ([1, 40, 4], [1, 1, 40])
    for scale in (1, 0.2):
        given = drawn(3, scale, 10)
        assert np.array_equal(session.run(after.proto, given)["r"], session.run(parse(model()), given)["r"])
    few = apply_pass(FreezeNms(multiple=32, least=64), Model(parse(model()))).model
    assert "r_boxes" not in {name for node in few.proto.graph.node for name in node.output}


def test_nothing_is_filled_up_below_a_computed_threshold() -> None:
    text = model("r = NonMaxSuppression (b, s, m, i, u)", more=", float u")
    assert_untouched(FreezeNms(multiple=8), text, "its score_threshold is computed")


def test_options_are_checked() -> None:
    for options in ({"least": 64}, {"multiple": 64, "least": 100}, {"multiple": -1}):
        with pytest.raises(ValueError, match="least must be a multiple of multiple"):
            FreezeNms(**options)


@fuzz(FreezeNms(multiple=4, least=8))
def test_any_nms_that_is_filled_up_gives_the_same_rows(build: Builder) -> list[str]:
    return chosen(build)


@fuzz(FreezeNms())
def test_any_nms_gives_the_same_rows(build: Builder) -> list[str]:
    return chosen(build)


def chosen(build: Builder) -> list[str]:
    if build.opset < 11:
        build.reject()
    count = build.integer(1, 6)
    boxes = build.input([1, count, 4])
    scores = build.input([1, 1, count])
    most = build.constant(np.array(build.integer(1, 7), np.int64))
    numbers = [build.constant(np.array(build.choice([0.0, 0.5]), np.float32)) for _ in range(build.integer(0, 2))]
    rows = build.node("NonMaxSuppression", [boxes, scores, most, *numbers], center_point_box=build.choice([None, 1]))
    return [rows] if build.chance(2) else [build.node("Cast", [rows], to=1)]
