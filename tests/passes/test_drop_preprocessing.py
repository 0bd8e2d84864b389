import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notes import normalisation

from graphsurgery.devices import session
from graphsurgery.errors import GraphSurgeryError, PassError
from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_preprocessing import DropPreprocessing
from graphsurgery.passes.freeze_shapes import FreezeShapes
from graphsurgery.passes.simplify import Simplify
from graphsurgery.rewrite import Applied, apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse
from graphsurgery.testing.fuzzing import Builder, Fuzzed, fuzz
from graphsurgery.testing.fuzzing.builder import Draw

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHTS = "float[1, 3, 1, 1] w = {1, 2, 3}"
MEAN = "float[3, 1, 1] mean = {0.5, 0.25, 0.125}"
STD = "float[3, 1, 1] std = {0.5, 0.25, 2}"
BATCH = "int64[1] batch = {0}"
NORMALISE = "a = Sub (image, mean)  b = Div (a, std)  c = Unsqueeze (b, batch)"


def front(
    nodes: str,
    image: str = "float[3, 8, 10] image",
    outputs: str = "float[1, 1, 8, 10] y",
    constants: Sequence[str] = (MEAN, STD, BATCH, WEIGHTS),
) -> str:
    return f"{HEAD} g ({image}) => ({outputs}) <{', '.join(constants)}> {{ {nodes} }}"


def tail(nodes: str, outputs: str = "float[n, 4] boxes", inputs: str = "float[n, 4] x", constants: str = "") -> str:
    return f"{HEAD} g ({inputs}) => ({outputs}) {f'<{constants}>' if constants else ''} {{ {nodes} }}"


# --- the start ---


def test_the_normalised_image_becomes_the_input() -> None:
    applied = assert_rewrites(
        DropPreprocessing(),
        front(f"{NORMALISE}  y = Conv (c, w)"),
        front("y = Conv (c, w)", "float[1, 3, 8, 10] c", constants=[WEIGHTS]),
        outputs_agree=False,
    )
    assert normalisation(applied) == {"mean": [0.5, 0.25, 0.125], "std": [0.5, 0.25, 2.0]}


def test_the_network_computes_the_same_from_an_image_normalised_outside() -> None:
    before = Model(parse(front(f"{NORMALISE}  y = Conv (c, w)")))
    applied = apply_pass(DropPreprocessing(), before)
    image = np.random.default_rng(1).random((3, 8, 10), dtype=np.float32)
    mean, std = (np.array(normalisation(applied)[key], np.float32)[:, None, None] for key in ("mean", "std"))
    expected = session.run(before.proto, {"image": image})["y"]
    got = session.run(applied.model.proto, {"c": ((image - mean) / std)[None]})["y"]
    np.testing.assert_array_equal(got, expected)


def test_reads_the_normalisation_from_a_multiplication_and_an_addition() -> None:
    constants = ["float m = {4}", "float[3, 1, 1] p = {-2, -1, 3}", BATCH, WEIGHTS]
    nodes = "a = Mul (m, image)  b = Add (a, p)  c = Unsqueeze (b, batch)  y = Conv (c, w)"
    applied = apply_pass(DropPreprocessing(), Model(parse(front(nodes, constants=constants))))
    assert normalisation(applied) == {"mean": [0.5, 0.25, -0.75], "std": [0.25, 0.25, 0.25]}


def test_measures_a_normalisation_that_is_no_plain_arithmetic() -> None:
    constants = [
        "float[3] s = {1, 2, 4}",
        "float[3] bias = {0, 1, 2}",
        "float[3] m = {0.5, 0.25, 0.125}",
        "float[3] v = {1, 1, 4}",
        WEIGHTS,
    ]
    nodes = "c = BatchNormalization <epsilon = 0.0> (image, s, bias, m, v)  y = Conv (c, w)"
    text = front(nodes, "float[1, 3, 8, 10] image", constants=constants)
    applied = apply_pass(DropPreprocessing(), Model(parse(text)))
    assert [i.name for i in applied.model.proto.graph.input] == ["c"]
    # s * (x - m) / sqrt(v) + bias = (x - mean) / std
    np.testing.assert_allclose(normalisation(applied)["mean"], [0.5, -0.25, -0.875], rtol=1e-6)
    np.testing.assert_allclose(normalisation(applied)["std"], [1, 0.5, 0.5], rtol=1e-6)


def test_a_resize_and_a_pad_that_change_nothing_go_too() -> None:
    constants = [
        MEAN,
        STD,
        BATCH,
        WEIGHTS,
        "int64[4] sizes = {1, 3, 8, 10}",
        "int64[8] none = {0, 0, 0, 0, 0, 0, 0, 0}",
    ]
    nodes = f'{NORMALISE}  d = Resize <mode = "linear"> (c, , , sizes)  e = Pad (d, none)  y = Conv (e, w)'
    assert_rewrites(
        DropPreprocessing(),
        front(nodes, constants=constants),
        front("y = Conv (e, w)", "float[1, 3, 8, 10] e", constants=[WEIGHTS]),
        outputs_agree=False,
    )


def test_what_is_no_normalisation_stays_in_the_network() -> None:
    constants = [MEAN, STD, BATCH, WEIGHTS, "int64[3] bgr = {2, 1, 0}"]
    assert_rewrites(
        DropPreprocessing(),
        front(f"{NORMALISE}  d = Gather <axis = 1> (c, bgr)  y = Conv (d, w)", constants=constants),
        front(
            "d = Gather <axis = 1> (c, bgr)  y = Conv (d, w)",
            "float[1, 3, 8, 10] c",
            constants=[*constants[4:], WEIGHTS],
        ),
        outputs_agree=False,
    )


def test_shapes_of_what_is_gone_become_constants() -> None:
    applied = assert_rewrites(
        DropPreprocessing(),
        front(
            f"{NORMALISE}  y = Conv (c, w)  s = Shape <start = 1> (b)  z = Abs (s)  n = Size (image)",
            outputs="float[1, 1, 8, 10] y, int64[2] z, int64 n",
        ),
        front(
            "y = Conv (c, w)  z = Abs (shape)  n = Identity (shape_2)",
            "float[1, 3, 8, 10] c",
            "float[1, 1, 8, 10] y, int64[2] z, int64 n",
            [WEIGHTS, "int64[2] shape = {8, 10}", "int64 shape_2 = {240}"],
        ),
        outputs_agree=False,
    )
    values = session.run(applied.model.proto, {"c": np.zeros((1, 3, 8, 10), np.float32)})
    assert (values["z"].tolist(), values["n"].tolist()) == ([8, 10], 240)


def test_a_shape_read_in_the_body_of_an_if_becomes_a_constant() -> None:
    branches = """z = If (k) <
        then_branch = t () => (int64[3] p) { p = Shape (b) },
        else_branch = e () => (int64[3] q) { o = Shape (image)  q = Neg (o) }
    >"""
    text = front(
        f"{NORMALISE}  y = Conv (c, w)  {branches}",
        "float[3, 8, 10] image, bool k",
        "float[1, 1, 8, 10] y, int64[3] z",
    )
    applied = apply_pass(DropPreprocessing(), Model(parse(text)))
    onnx.checker.check_model(applied.model.proto, full_check=True)
    canvas = np.zeros((1, 3, 8, 10), np.float32)
    for choice, expected in ((True, [3, 8, 10]), (False, [-3, -8, -10])):
        assert session.run(applied.model.proto, {"c": canvas, "k": np.array(choice)})["z"].tolist() == expected


@pytest.mark.parametrize(
    ("nodes", "image", "reason"),
    [
        ("y = Conv (image, w)", "float[1, 3, 8, 10] image", "feeds the network as it is"),
        ("y = Conv (image, w)", "float[1, 3, h, v] image", "feeds the network as it is"),
        ("a = Sigmoid (image)  y = Conv (a, w)", "float[1, 3, 8, 10] image", "only normalises"),
        ("y = Relu (image)", "float[1, 3, 8, 10] image", "no weighted node reads"),
        ("a = Cast <to = 1> (image)  y = Conv (a, w)", "uint8[1, 3, 8, 10] image", "not one float32 input"),
        ("y = Conv (image, w)", "float[1, 3, 8, 10] image, float[3, 8, 10] other", "not one float32 input"),
    ],
)
def test_leaves_a_start_without_normalisation_alone(nodes: str, image: str, reason: str) -> None:
    assert_untouched(DropPreprocessing(), front(nodes, image, constants=[WEIGHTS]), reason)


@pytest.mark.parametrize(
    ("nodes", "image", "message"),
    [
        (
            'd = Resize <mode = "linear"> (c, , , sizes)  y = Conv (d, w)',
            "float[3, 8, 10] image",
            r"8, 10.*Resize.*canvas",
        ),
        ("d = Pad (c, pads)  y = Conv (d, w)", "float[3, 8, 10] image", r"padded by 'd' \(Pad\)"),
        ("y = Conv (c, w)", "float[3, h, 10] image", "'h', 10.*freeze-shapes"),
        ("y = Conv (c, w)  z = ReduceMean (b)", "float[3, 8, 10] image", r"'z' \(ReduceMean\) reads the image"),
        ("y = Conv (c, w)  z = Identity (c)  zc = Identity (a)", "float[3, 8, 10] image", "'zc' .* reads the image"),
    ],
)
def test_fails_where_more_than_a_normalisation_would_be_lost(nodes: str, image: str, message: str) -> None:
    constants = [MEAN, STD, BATCH, WEIGHTS, "int64[4] sizes = {1, 3, 8, 9}", "int64[8] pads = {0, 0, 0, 0, 0, 0, 0, 6}"]
    extra = "".join(f", float {name}" for name in ("z", "zc") if f" {name} =" in nodes)
    model = Model(parse(front(f"{NORMALISE}  {nodes}", image, f"float y{extra}", constants)))
    with pytest.raises(PassError, match=message):
        apply_pass(DropPreprocessing(), model)


STEM = "d = Pad (c, pads)  y = Conv <strides = [2, 2]> (d, stem)"
SAME = [MEAN, STD, BATCH, "float[1, 3, 3, 3] stem = {1}", "int64[8] pads = {0, 0, 0, 0, 0, 0, 1, 1}"]


def with_stem(text: str) -> onnx.ModelProto:
    model = parse(text)
    stem = next(tensor for tensor in model.graph.initializer if tensor.name == "stem")
    values = np.random.default_rng(0).standard_normal((1, 3, 3, 3)).astype(np.float32)
    stem.CopyFrom(onnx.numpy_helper.from_array(values, "stem"))
    return model


def test_the_pad_of_a_stem_belongs_to_the_network() -> None:
    y = "float[1, 1, 4, 5] y"
    before = with_stem(front(f"{NORMALISE}  {STEM}", outputs=y, constants=SAME))
    after = apply_pass(DropPreprocessing(), Model(before)).model.proto
    assert [node.op_type for node in after.graph.node] == ["Pad", "Conv"]
    assert [info.name for info in after.graph.input] == ["c"]
    image = np.random.default_rng(1).random((3, 8, 10), dtype=np.float32)
    mean, std = (np.array(values, np.float32)[:, None, None] for values in ((0.5, 0.25, 0.125), (0.5, 0.25, 2)))
    expected = session.run(before, {"image": image})
    assert_same_values(expected, session.run(after, {"c": ((image - mean) / std)[None]}))


@pytest.mark.parametrize(
    ("nodes", "pads"),
    [
        (STEM.replace("[2, 2]>", "[2, 2], pads = [1, 1, 1, 1]>"), "0, 0, 0, 0, 0, 0, 1, 1"),
        (STEM.replace("[2, 2]>", "[3, 3]>"), "0, 0, 0, 0, 0, 0, 1, 2"),  # patches that don't overlap
        (STEM, "0, 0, 0, 0, 0, 0, 3, 3"),
        (f"{STEM}  z = Relu (d)", "0, 0, 0, 0, 0, 0, 1, 1"),
    ],
)
def test_fails_where_a_pad_may_be_that_of_a_canvas(nodes: str, pads: str) -> None:
    constants = [*SAME[:-1], f"int64[8] pads = {{{pads}}}"]
    outputs = "float y, float z" if "z =" in nodes else "float y"
    model = Model(with_stem(front(f"{NORMALISE}  {nodes}", outputs=outputs, constants=constants)))
    with pytest.raises(PassError, match=r"padded by 'd' \(Pad\)"):
        apply_pass(DropPreprocessing(), model)


def test_fails_where_the_image_is_changed_in_another_way() -> None:
    nodes = "a = Sigmoid (image)  c = Unsqueeze (a, batch)  y = Conv (c, w)"
    with pytest.raises(PassError, match=r"no a \* x \+ b per channel"):
        apply_pass(DropPreprocessing(), Model(parse(front(nodes, constants=[BATCH, WEIGHTS]))))


def test_fails_where_a_caller_may_set_the_normalisation() -> None:
    constants = [MEAN, "float[1] std = {2}", BATCH, WEIGHTS]
    text = front(f"{NORMALISE}  y = Conv (c, w)", "float[3, 8, 10] image, float[1] std", constants=constants)
    with pytest.raises(PassError, match=r"'b' \(Div\) .* reads 'std', which a caller may set"):
        apply_pass(DropPreprocessing(), Model(parse(text)))


def test_fails_where_the_normalised_image_is_an_output() -> None:
    text = front(f"{NORMALISE}  y = Conv (c, w)", outputs="float[1, 1, 8, 10] y, float[1, 3, 8, 10] c")
    with pytest.raises(PassError, match="output 'c' is the image"):
        apply_pass(DropPreprocessing(), Model(parse(text)))


# --- boxes and keypoints ---

COLUMNS = "int64[4] ones = {1, 1, 1, 1}, int64[1] last = {1}, float r = {%s}, float u = {%s}"
RESCALE = """
    t = Relu (x)
    a, b, c, d = Split <axis = 1> (t, ones)
    e = Squeeze (a, last)  f = Squeeze (b, last)  g = Squeeze (c, last)  h = Squeeze (d, last)
    i = Mul (e, r)  j = Mul (f, u)  k = Mul (g, r)  l = Mul (h, u)
    m = Unsqueeze (i, last)  n = Unsqueeze (j, last)  o = Unsqueeze (k, last)  p = Unsqueeze (l, last)
    boxes = Concat <axis = 1> (m, n, o, p)"""


def test_boxes_scaled_by_one_are_the_boxes() -> None:
    assert_rewrites(DropPreprocessing(), tail(RESCALE, constants=COLUMNS % (1, 1)), tail("boxes = Relu (x)"))


def test_other_readers_of_the_boxes_read_the_output() -> None:
    assert_rewrites(
        DropPreprocessing(),
        tail(
            f"{RESCALE}  z = Neg (t)  v = Abs (boxes)",
            "float[n, 4] boxes, float[n, 4] z, float[n, 4] v",
            constants=COLUMNS % (1, 1),
        ),
        tail("boxes = Relu (x)  z = Neg (boxes)  v = Abs (boxes)", "float[n, 4] boxes, float[n, 4] z, float[n, 4] v"),
    )


def test_scales_that_follow_each_other_go_together() -> None:
    scales = "float[1, 4] r = {1, 1, 1, 1}, float u = {1}"
    assert_rewrites(
        DropPreprocessing(),
        tail("t = Relu (x)  a = Mul (t, r)  boxes = Div (a, u)", constants=scales),
        tail("boxes = Relu (x)"),
    )


def test_keypoints_scaled_by_one_are_the_keypoints() -> None:
    nodes = """
        t = Relu (x)
        a = Gather <axis = 2> (t, zero)  b = Gather <axis = 2> (t, one)  c = Gather <axis = 2> (t, two)
        d = Mul (a, r)  e = Mul (b, r)
        f = Unsqueeze (d, last)  g = Unsqueeze (e, last)  h = Unsqueeze (c, last)
        y = Concat <axis = 2> (f, g, h)"""
    constants = "int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] last = {2}, float r = {1}"
    for last in ("3", "l"):
        before = parse(tail(nodes, f"float[n, k, {last}] y", "float[n, k, 3] x", constants))
        before.graph.value_info.append(onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, ["n", "k", 3]))
        after = tail("y = Relu (x)", f"float[n, k, {last}] y", "float[n, k, 3] x")
        assert_rewrites(DropPreprocessing(), before, after)


def test_fails_where_boxes_are_scaled() -> None:
    with pytest.raises(PassError, match=r"'boxes' is 't' times \[2.0, 0.5, 2.0, 0.5\].*canvas"):
        apply_pass(DropPreprocessing(), Model(parse(tail(RESCALE, constants=COLUMNS % (2, 0.5)))))


@pytest.mark.parametrize(
    "nodes",
    [
        "boxes = Relu (x)",
        "a = Relu (x)  boxes = Identity (a)",
        "a = Relu (x)  boxes = Slice (a, zero, five, zero)",
        "a = Relu (x)  b = Slice (a, zero, five, zero)  boxes = Gather <axis = 1> (b, turned)",
        "a = Relu (x)  boxes = Mul (a, a)",
        "a = Relu (x)  boxes = Clip (a, r)",
    ],
)
def test_leaves_outputs_that_are_not_scaled_alone(nodes: str) -> None:
    constants = "int64[1] zero = {0}, int64[1] five = {5}, int64[4] turned = {1, 0, 3, 2}, float r = {1}"
    assert_untouched(DropPreprocessing(), tail(nodes, constants=constants), "'boxes' is not scaled behind the network")


def test_keeps_a_limit_on_the_number_of_boxes() -> None:
    constants = "int64[1] zero = {0}, int64[1] some = {50}, float r = {1}"
    assert_rewrites(
        DropPreprocessing(),
        tail("a = Relu (x)  b = Slice (a, zero, some, zero)  boxes = Mul (b, r)", constants=constants),
        tail("a = Relu (x)  boxes = Slice (a, zero, some, zero)", constants=constants.rsplit(",", 1)[0]),
        inputs={"x": np.ones((60, 4), np.float32)},
    )
    text = tail("a = Relu (x)  b = Mul (a, r)  boxes = Slice (b, zero, some, zero)", constants=constants)
    assert_untouched(DropPreprocessing(), text, "not scaled")


@pytest.mark.parametrize(("columns", "reason"), [("6", "'boxes' is not scaled"), ("m", "'a' has is not known")])
def test_leaves_boxes_that_are_some_columns_of_a_wider_tensor_alone(columns: str, reason: str) -> None:
    constants, nodes = "int64[4] four = {0, 1, 2, 3}", "a = Relu (x)  boxes = Gather <axis = 1> (a, four)"
    text = tail(nodes, inputs=f"float[n, {columns}] x", constants=constants)
    assert_untouched(DropPreprocessing(), text, reason)


def test_leaves_one_column_of_four_alone() -> None:
    # a single column, fed in the place of all four, is broadcast to them, and comes out of the Split as it went in
    nodes = """t = Relu (x)
               scaled = Mul (t, ones)
               a, b, c, d = Split <axis = 1> (scaled, split)
               boxes = Identity (d)"""
    constants = "float[1, 4] ones = {1, 1, 1, 1}, int64[4] split = {1, 1, 1, 1}"
    assert_untouched(DropPreprocessing(), tail(nodes, "float[n, 1] boxes", constants=constants), "not scaled")


def test_copies_boxes_that_are_an_output_before_their_scaling_too() -> None:
    outputs = "float[n, 4] boxes, float[n, 4] t"
    after = tail("t = Relu (x)  boxes = Identity (t)", outputs)
    assert_rewrites(DropPreprocessing(), tail(RESCALE, outputs, constants=COLUMNS % (1, 1)), after)


# --- masks ---

ROIS = """
    boxes = Relu (x)
    f = Conv (image, w)
    s = Shape <end = 1> (boxes)
    which = ConstantOfShape <value = int64[1] {0}> (s)
    r = RoiAlign <output_height = 4, output_width = 4> (f, boxes, which)
    p = Conv (r, v)"""


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        (f"{ROIS}  masks = Sigmoid (p)", "float[n, 4] boxes, float[n, 1, 4, 4] masks", "[3, 1, 4, 4], not pasted"),
        (f"{ROIS}  masks = Resize (p, , scales)", "float[n, 4] boxes, float[n, 1, 8, 10] masks", "not pasted as the"),
        ("masks = Conv (image, w)", "float[1, 1, 8, 10] masks", "boxes and one head behind"),
        (
            "boxes = Relu (x)  masks = Conv (image, w)",
            "float[n, 4] boxes, float[1, 1, 8, 10] masks",
            "boxes and one head behind",
        ),
    ],
)
def test_leaves_masks_that_are_not_pasted_alone(nodes: str, outputs: str, reason: str) -> None:
    inputs = "float[1, 3, 8, 10] image, float[n, 4] x"
    constants = f"{WEIGHTS}, float[1, 1, 1, 1] v = {{1}}, float[4] scales = {{1, 1, 2, 2.5}}"
    assert_untouched(DropPreprocessing(), tail(nodes, outputs, inputs, constants), reason)


# --- torchvision ---


@pytest.fixture(scope="module")
def tv() -> SimpleNamespace:
    """torch and what torchvision builds detectors from, on one thread."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from torchvision.models.detection import transform
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return SimpleNamespace(torch=torch, transform=transform, paste=paste_masks_in_image)


def exported(tv: SimpleNamespace, module: Any, argument: Any, outputs: Sequence[str]) -> Model:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tv.torch.onnx.export(
            module.eval(),
            (argument,),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=list(outputs),
        )
    return Model(onnx.load_from_string(file.getvalue()))


def assert_same_detections(
    model: Model, applied: Applied, image: np.ndarray, paste: Callable[..., Any] | None = None, torch: Any = None
) -> dict[str, np.ndarray]:
    """Assert equal outputs, the canvas normalised and the masks pasted outside; returns the detections."""
    (entry,) = applied.model.proto.graph.input
    assert [d.dim_value for d in entry.type.tensor_type.shape.dim] == [1, *image.shape]
    mean, std = (np.array(normalisation(applied)[key], np.float32)[:, None, None] for key in ("mean", "std"))
    expected = session.run(model.proto, {"image": image})
    got = session.run(applied.model.proto, {entry.name: ((image - mean) / std)[None]})
    for (name, old), new in zip(expected.items(), got.values(), strict=True):
        if name == "masks" and paste is not None:
            assert new.shape == (len(old), 1, 28, 28)
            new = paste(torch.from_numpy(new), torch.from_numpy(got["boxes"]), image.shape[1:]).numpy()
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5, err_msg=name)
    again = apply_pass(DropPreprocessing(), applied.model)
    assert again.model.fingerprint == applied.model.fingerprint
    return got


@pytest.mark.parametrize(
    ("shape", "transform", "refused"),
    [
        ((64, 96), {"min_size": 64, "max_size": 96}, None),
        ((64, 1312), {"min_size": 64, "max_size": 1312, "fixed_size": (1312, 64)}, None),
        ((300, 300), {"min_size": 300, "max_size": 300, "fixed_size": (300, 300), "size_divisible": 1}, None),
        ((60, 90), {"min_size": 60, "max_size": 90}, "Pad"),
        ((64, 96), {"min_size": 128, "max_size": 192}, "Resize"),
        # 1312 * (1 / 1312) is less than 1 in float32, so the graph, unlike torch, shrinks the image by a pixel
        ((64, 1312), {"min_size": 64, "max_size": 1312}, "Resize"),
    ],
)
def test_removes_the_transform_of_torchvision(
    tv: SimpleNamespace, shape: tuple[int, int], transform: dict[str, Any], refused: str | None
) -> None:
    class Front(tv.torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            self.transform = tv.transform.GeneralizedRCNNTransform(image_mean=mean, image_std=std, **transform)
            self.stem = tv.torch.nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, images: list[Any]) -> Any:
            return self.stem(self.transform(images)[0].tensors)

    model = exported(tv, Front(), [tv.torch.rand(3, *shape)], ["y"])
    if refused is not None:
        with pytest.raises(PassError, match=rf"\({refused}\); export it at the canvas size"):
            apply_pass(DropPreprocessing(), model)
        return
    applied = apply_pass(DropPreprocessing(), model)
    assert [node.op_type for node in applied.model.proto.graph.node] == ["Conv"]
    assert normalisation(applied) == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert_same_detections(model, applied, np.random.default_rng(0).random((3, *shape), dtype=np.float32))


def test_removes_the_postprocess_of_boxes_and_keypoints(tv: SimpleNamespace) -> None:
    class Tail(tv.torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.transform = tv.transform.GeneralizedRCNNTransform(64, 96, [0.5] * 3, [0.25] * 3)
            self.stem = tv.torch.nn.Conv2d(3, 55, (32, 48), stride=(32, 48))

        def forward(self, images: list[Any]) -> Any:
            placed = self.transform(images)[0]
            rows = self.stem(placed.tensors)[0].flatten(1).T
            found = {"boxes": rows[:, :4], "keypoints": rows[:, 4:].reshape(-1, 17, 3)}
            sizes = [image.shape[-2:] for image in images]
            return self.transform.postprocess([found], placed.image_sizes, sizes)[0]

    raw = exported(tv, Tail(), [tv.torch.rand(3, 64, 96)], ["boxes", "keypoints"])
    model = apply_pass(FreezeShapes(), raw).model
    applied = apply_pass(DropPreprocessing(), model)
    assert not {"Mul", "Div", "Split"} & {node.op_type for node in applied.model.proto.graph.node}
    assert_same_detections(model, applied, np.random.default_rng(0).random((3, 64, 96), dtype=np.float32))


@pytest.fixture(scope="module")
def shapes(tv: SimpleNamespace) -> Model:
    from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn

    network = shapes_maskrcnn(CHECKPOINT)
    network.roi_heads.score_thresh = 0.5  # so that a black image has no detections
    return exported(tv, network, [tv.torch.rand(3, 256, 320)], ["boxes", "labels", "scores", "masks"])


@pytest.mark.parametrize("first", [None, FreezeShapes(), Simplify()], ids=["raw", "frozen", "simplified"])
def test_a_mask_rcnn_gives_the_masks_of_its_head(tv: SimpleNamespace, shapes: Model, first: Any) -> None:
    from graphsurgery.demo.shapes import embedded_images

    model = shapes if first is None else apply_pass(first, shapes).model
    applied = apply_pass(DropPreprocessing(), model)
    assert not applied.skips
    ops = [node.op_type for node in applied.model.proto.graph.node]
    assert "Loop" not in ops
    assert ops.count("Resize") == 3  # those of the feature pyramid
    *others, masks = applied.model.proto.graph.output
    assert [output.name for output in others] == ["boxes", "labels", "scores"]
    dims = masks.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims][1:] == [1, 28, 28]
    assert dims[0].dim_param

    image = np.ascontiguousarray(embedded_images(1)[0].image.transpose(2, 0, 1), np.float32) / 255
    assert len(assert_same_detections(model, applied, image, tv.paste, tv.torch)["boxes"]) > 0
    nothing = assert_same_detections(model, applied, np.zeros_like(image), tv.paste, tv.torch)
    assert {len(value) for value in nothing.values()} == {0}


@pytest.mark.parametrize(
    ("name", "size"),
    [("fasterrcnn_mobilenet_v3_large_320_fpn", (128, 160)), ("ssdlite320_mobilenet_v3_large", (320, 320))],
)
def test_a_detector_without_masks_gives_the_boxes_of_its_network(
    tv: SimpleNamespace, name: str, size: tuple[int, int]
) -> None:
    from torchvision.models import detection

    from graphsurgery.sources.random_weights import calibrate

    network = getattr(detection, name)(weights=None, weights_backbone=None)
    if not network.transform.fixed_size:
        network.transform.min_size, network.transform.max_size = (min(size),), max(size)
    images = [tv.torch.rand(3, *size) for _ in range(2)]
    calibrate(network, images)
    model = exported(tv, network, images[:1], ["boxes", "a", "b"])
    applied = apply_pass(DropPreprocessing(), model)
    assert not applied.skips
    assert len(assert_same_detections(model, applied, images[0].numpy())["boxes"]) > 0


# --- whatever is drawn ---

SIZE = [1, 3, 4, 6]


def any_front(build: Builder) -> list[str]:
    """An image, arithmetic on it per channel and more that may or may not go, and a network."""
    batch = build.chance(2)
    x = build.input(SIZE if batch else SIZE[1:], scale=0.5)
    image, ready = x, batch
    for _ in range(build.integer(0, 4)):
        op = build.choice(["Sub", "Div", "Mul", "Add", "Unsqueeze", "Resize", "Pad", "Gather", "Identity", "Sigmoid"])
        op = build.choice([op, "Sub", "Div"])
        if op in ("Sub", "Add", "Div", "Mul"):
            shape = build.choice([[3, 1, 1], [3, 1, 1], [], [1], [1, 3, 1, 1] if ready else [1, 1, 1]])
            value = build.values(shape)
            if op in ("Div", "Mul"):
                value = np.where(build.chance(6), -1, 1) * (np.abs(value) + 1) / 2
            constant = build.constant(value.astype(np.float32), overridable=True)
            swapped = build.chance(5) and op != "Div"
            x = build.node(op, [constant, x] if swapped else [x, constant])
        elif op == "Unsqueeze" and not ready:
            x, ready = unsqueezed(build, x), True
        elif op == "Pad" and ready and build.opset >= 11:
            pads = [0] * 7 + [1 if build.chance(5) else 0]
            x = build.node(op, [x, build.constant(np.array(pads))])
        elif op == "Resize" and ready and build.opset >= 13:
            sizes = [*SIZE[:3], SIZE[3] * (2 if build.chance(5) else 1)]
            x = build.node(op, [x, "", "", build.constant(np.array(sizes))], mode=build.choice(["nearest", "linear"]))
        elif op == "Gather":
            x = build.node(op, [x, build.constant(np.array([2, 1, 0]))], axis=1 if ready else 0)
        elif op == "Identity" or build.chance(4):
            x = build.node(op if op == "Sigmoid" else "Identity", [x])
    x = x if ready else unsqueezed(build, x)
    y = build.node("Conv", [x, build.weight([2, 3, 1, 1])])
    if build.chance(3):
        y = build.node("Mul", [y, build.node("Cast", [build.node("Size", [build.choice([image, x])])], to=1)])
    return [y]


def unsqueezed(build: Builder, x: str) -> str:
    if build.opset < 13:
        return str(build.node("Unsqueeze", [x], axes=[0]))
    return str(build.node("Unsqueeze", [x, build.constant(np.array([0]))]))


def normalises_as_it_notes(draw: Draw) -> str:
    """Draw a model; where the pass takes its start away, assert that its note makes up for it."""
    _, case = Fuzzed(DropPreprocessing(), any_front).draw(draw)
    if case is None:
        return "no valid model"
    try:
        expected = session.run(case.model, case.inputs)
    except GraphSurgeryError:
        return "no valid model"
    try:
        applied = apply_pass(DropPreprocessing(), Model(case.model))
    except PassError as error:
        if error.__cause__ is not None:  # the pass did not say so itself: it crashed
            raise AssertionError(f"{error}\n{case}") from error
        return "stopped"
    story = f"{case}\n--- after\n{onnx.printer.to_text(applied.model.proto)}"
    onnx.checker.check_model(applied.model.proto, full_check=True)
    assert apply_pass(DropPreprocessing(), applied.model).model.fingerprint == applied.model.fingerprint, story
    inputs = {info.name: list(info.type.tensor_type.shape.dim) for info in applied.model.proto.graph.input}
    given = {name: value for name, value in case.inputs.items() if name in inputs}
    new = [name for name in inputs if name not in case.inputs and len(inputs[name]) == 4]
    if new:
        (image,) = (value for value in case.inputs.values() if list(value.shape[-3:]) == SIZE[1:])
        mean, std = (np.array(normalisation(applied)[key], np.float32)[:, None, None] for key in ("mean", "std"))
        given[new[0]] = ((image - mean) / std).reshape(SIZE)
    try:
        assert_same_values(expected, session.run(applied.model.proto, given), relative=1e-4)
    except (AssertionError, GraphSurgeryError) as error:
        raise AssertionError(f"{error}\n{story}") from error
    return "dropped" if new else "refused"


def test_any_start_that_goes_is_made_up_for_by_its_note() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def explore(data: st.DataObject) -> None:
        outcomes[normalises_as_it_notes(lambda low, high: data.draw(st.integers(low, high)))] += 1

    explore()
    assert outcomes["dropped"] > 5, outcomes


@fuzz(DropPreprocessing())
def test_any_end_that_goes_changed_nothing(build: Builder) -> list[str]:
    columns = 4
    rows = build.integer(0, 5)
    x = build.node("Relu", [build.input([rows, columns])])
    outputs = [x] if build.chance(8) else []
    for _ in range(build.integer(1, 2)):
        scale = [1.0] if not build.chance(4) else build.choice([[2.0], [1.0, 1.0, 2.0, 2.0], [0.5]])
        op = build.choice(["Mul", "Div"])
        if build.chance(2) and build.opset >= 13:
            parts = build.node("Split", [x, build.constant(np.array([1] * columns))], outputs=columns, axis=1)
            if build.chance(8):
                parts[0], parts[1] = parts[1], parts[0]
            scaled = [build.node(op, [part, build.constant(np.float32(scale[-1:]))]) for part in parts]
            x = build.node("Concat", scaled, axis=1)
        else:
            shape = build.choice([[1], [1, 4]])
            scale_of = np.broadcast_to(np.float32(scale), shape if len(scale) == 1 else [1, 4])
            x = build.node(op, [x, build.constant(np.ascontiguousarray(scale_of))])
    return [x, *outputs]
