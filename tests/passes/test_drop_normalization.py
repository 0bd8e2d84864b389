import random
from collections.abc import Sequence

import numpy as np
import pytest
from notes import normalisation

from graphsurgery.devices import session
from graphsurgery.errors import PassError
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.passes.drop_normalization import DropNormalization
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_values, assert_untouched, parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
WEIGHTS = "float[1, 3, 1, 1] w = {1, 2, 3}"
MEAN = "float[3, 1, 1] mean = {103.5, 116.25, 123.75}"
STD = "float[3, 1, 1] std = {2, 4, 1}"
BATCH = "int64[1] batch = {0}"
PADS = "int64[6] pads = {0, 0, 0, 0, 2, 3}"
# detectron2: ImageList.from_tensors pads what is normalised, and stacks it
DETECTRON2 = "a = Sub (image, mean)  b = Div (a, std)  c = Pad (b, pads)  d = Unsqueeze (c, batch)  y = Conv (d, w)"
PLAIN = "a = Sub (image, mean)  b = Div (a, std)  d = Unsqueeze (b, batch)  y = Conv (d, w)"


def model(
    nodes: str,
    image: str = "float[3, 8, 10] image",
    outputs: str = "float[1, 1, H, W] y",
    constants: Sequence[str] = (MEAN, STD, BATCH, WEIGHTS, PADS),
) -> str:
    used = [constant for constant in constants if f"{constant.split(' = ')[0].split()[-1]}" in nodes]
    return f"{HEAD} g ({image}) => ({outputs}) <{', '.join(used)}> {{ {nodes} }}"


def test_the_normalised_image_becomes_the_input() -> None:
    after = model("y = Conv (d, w)", "float[1, 3, 8, 10] d")
    applied = assert_rewrites(DropNormalization(), model(PLAIN), after, outputs_agree=False)
    assert normalisation(applied) == {"mean": [103.5, 116.25, 123.75], "std": [2.0, 4.0, 1.0]}


def test_zeros_below_and_to_the_right_are_put_there_by_the_host() -> None:
    after = model("y = Conv (d, w)", "float[1, 3, 10, 13] d")
    applied = assert_rewrites(DropNormalization(), model(DETECTRON2), after, outputs_agree=False)
    assert normalisation(applied)["margin"] == [2, 3]


@pytest.mark.parametrize("nodes", [PLAIN, DETECTRON2])
def test_the_host_prepares_what_the_graph_did_to_the_bit(nodes: str) -> None:
    before = Model(parse(model(nodes)))
    applied = apply_pass(DropNormalization(), before)
    own = Preprocessing(range=255, channels="BGR", pad=(103.5, 116.25, 123.75))
    found = normalisation(applied)
    margin = tuple(int(size) for size in found.get("margin", [0, 0]))
    canvas = Canvas(8, 10, image=own).with_normalisation(tuple(found["mean"]), tuple(found["std"]), margin)  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    placed = canvas.fit(image).input
    expected = session.run(before.proto, {"image": own.apply(placed)})["y"]
    np.testing.assert_array_equal(session.run(applied.model.proto, {"d": canvas.normalise(placed)})["y"], expected)


@pytest.mark.parametrize(
    ("nodes", "image", "reason"),
    [
        ("y = Conv (image, w)", "float[1, 3, 8, 10] image", "feeds the network as it is"),
        ("y = Relu (image)", "float[1, 16, 8, 10] image", "has 16 channels, and an image has three"),
        ("a = Sigmoid (image)  y = Conv (a, w)", "float[1, 3, 8, 10] image", "only normalises"),
        ("y = Relu (image)", "float[1, 3, 8, 10] image", "no weighted node reads"),
        ("a = Cast <to = 1> (image)  y = Conv (a, w)", "uint8[1, 3, 8, 10] image", "not one float32 input"),
    ],
)
def test_leaves_alone_what_does_not_normalise(nodes: str, image: str, reason: str) -> None:
    assert_untouched(DropNormalization(), model(nodes, image), reason)


@pytest.mark.parametrize(
    ("nodes", "pads", "message"),
    [
        (DETECTRON2, "0, 1, 0, 0, 2, 3", r"padded by 'c' \(Pad\)"),
        (DETECTRON2, "0, 0, 0, 0, -1, 3", r"padded by 'c' \(Pad\)"),
        (DETECTRON2.replace("(b, pads)", "(b, pads, grey)"), "0, 0, 0, 0, 2, 3", r"padded by 'c' \(Pad\)"),
        (f"{PLAIN}  z = ReduceMean (b)", "", r"'z' \(ReduceMean\) reads the image"),
        (f"g = Clip (image, , one)  {PLAIN.replace('(image', '(g')}", "", r"no a \* x \+ b per channel"),
    ],
)
def test_fails_where_more_than_a_normalisation_would_be_lost(nodes: str, pads: str, message: str) -> None:
    constants = [MEAN, STD, BATCH, WEIGHTS, f"int64[6] pads = {{{pads}}}", "float grey = {0.5}", "float one = {1}"]
    outputs = "float[1, 1, H, W] y" + (", float z" if "z =" in nodes else "")
    with pytest.raises(PassError, match=message):
        apply_pass(DropNormalization(), Model(parse(model(nodes, outputs=outputs, constants=constants))))


def test_the_pad_of_a_stem_belongs_to_the_network() -> None:
    constants = [MEAN, STD, BATCH, "int64[8] same = {0, 0, 0, 0, 0, 0, 1, 1}"]
    nodes = "e = Pad (d, same)  y = Conv <strides = [2, 2]> (e, stem)"
    before = parse(
        model(PLAIN.replace("y = Conv (d, w)", nodes), constants=[*constants, "float[1, 3, 3, 3] stem = {1}"])
    )
    stem = next(tensor for tensor in before.graph.initializer if tensor.name == "stem")
    del stem.float_data[:]
    stem.raw_data = np.ones((1, 3, 3, 3), np.float32).tobytes()
    applied = apply_pass(DropNormalization(), Model(before))
    assert [node.op_type for node in applied.model.proto.graph.node] == ["Pad", "Conv"]
    assert "margin" not in normalisation(applied)


def test_a_size_that_is_not_fixed_is_an_error() -> None:
    with pytest.raises(PassError, match="put freeze-shapes before it"):
        apply_pass(DropNormalization(), Model(parse(model(PLAIN, "float[3, h, 10] image"))))


@pytest.mark.parametrize("seed", range(12))
def test_any_chain_is_what_the_note_says(seed: int) -> None:
    draw = random.Random(seed)
    names = iter("abcdefgh")
    nodes, weights, last = [], [WEIGHTS, BATCH, PADS], "image"
    steps = [draw.choice(["Sub", "Add", "Mul", "Div"]) for _ in range(draw.randint(1, 4))]
    for step in [*steps, *draw.sample(["Pad", "Unsqueeze"], draw.randint(1, 2))]:
        name = next(names)
        if step in ("Pad", "Unsqueeze"):
            second = "batch" if step == "Unsqueeze" else "pads"
        else:
            second = f"k{name}"
            values = [draw.choice([0.5, 2, 4, 100.25]) for _ in range(3)]
            weights.append(f"float[3, 1, 1] {second} = {{{', '.join(map(str, values))}}}")
        nodes.append(f"{name} = {step} ({last}, {second})")
        last = name
    if not any("Unsqueeze" in node for node in nodes):
        nodes.append(f"z = Unsqueeze ({last}, batch)")
        last = "z"
    padded = [node for node in nodes if "Pad" in node]
    if padded and "Unsqueeze" in " ".join(nodes[: nodes.index(padded[0])]):
        weights[2] = "int64[8] pads = {0, 0, 0, 0, 0, 0, 2, 3}"
    before = Model(parse(model("  ".join([*nodes, f"y = Conv ({last}, w)"]), constants=weights)))
    applied = apply_pass(DropNormalization(), before)
    found = normalisation(applied)
    image = np.random.default_rng(seed).random((3, 8, 10), dtype=np.float32)
    mean, std = (np.array(found[key], np.float32)[:, None, None] for key in ("mean", "std"))
    below, right = (int(size) for size in found.get("margin", [0, 0]))
    prepared = np.pad((image - mean) / std, ((0, 0), (0, below), (0, right)))[None]
    (name,) = (info.name for info in applied.model.proto.graph.input)
    got = session.run(applied.model.proto, {name: prepared})
    assert_same_values(session.run(before.proto, {"image": image}), got, scale=500)
