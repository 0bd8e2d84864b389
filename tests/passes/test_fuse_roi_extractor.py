from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.fuse_roi_extractor import FuseRoiExtractor
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_same_outputs, assert_untouched, parse

BORDERS = (16, 32)  # sizes in pixels at which the first and the second of three levels end
SCALES = (0.25, 0.125, 0.0625)
Array = np.ndarray

WEIGHTS = """
    float border = {16}, float ln2 = {0.6931472}, float eps = {0.000001}, float low = {0}, float high = {2},
    int64 k0 = {0}, int64 k1 = {1}, int64 k2 = {2}, int64 c1 = {1}, int64 c2 = {2}, int64 c3 = {3},
    int64[4] corners = {1, 2, 3, 4}, int64[1] flat = {-1}, int64[2] column = {-1, 1}, int64[4] block = {-1, 1, 1, 1},
    int64[3] rest = {2, 3, 3}, int64[1] one = {1}, int64[1] five = {5}, float nothing = {0},
    float[1] half0 = {2}, float[1] half1 = {4}, float[1] half2 = {8}"""
RULE = """
    rois = Concat <axis = 1> (images, boxes)
    x1 = Gather <axis = 1> (boxes, k0)  y1 = Gather <axis = 1> (boxes, c1)
    x2 = Gather <axis = 1> (boxes, c2)  y2 = Gather <axis = 1> (boxes, c3)
    w = Sub (x2, x1)  h = Sub (y2, y1)  area = Mul (w, h)  size = Sqrt (area)
    ratio = Div (size, border)  log = Log (ratio)  power = Div (log, ln2)  above = Add (power, eps)
    whole = Floor (above)  raised = Add (whole, one_level)  clipped = Clip (raised, low, high)
    level = Cast <to = 7> (clipped)
    rows = Shape (level)  sizes = Concat <axis = 0> (rows, rest)  s = ConstantOfShape (sizes)"""
OPTIONS = "output_height = 3, output_width = 3, sampling_ratio = 2"


def picked(number: int, regions: str, options: str) -> str:
    """RoiAlign of the regions of one level."""
    return f"""
        e{number} = Equal (level, k{number})  z{number} = NonZero (e{number})
        t{number} = Transpose <perm = [1, 0]> (z{number})
        {regions}
        b{number} = Gather <axis = 1> (r{number}, corners)
        g{number} = Gather <axis = 1> (r{number}, k0)  i{number} = Cast <to = 7> (g{number})
        p{number} = RoiAlign <{options}, spatial_scale = {SCALES[number]}> (f{number}, b{number}, i{number})"""


def detectron2(number: int, into: str, out: str, options: str) -> str:
    regions = f"r{number} = GatherND (rois, t{number})"
    return picked(number, regions, options) + f"  {out} = ScatterND ({into}, t{number}, p{number})"


def torchvision(number: int, into: str, out: str, options: str) -> str:
    regions = f"n{number} = Reshape (t{number}, flat)  r{number} = Gather <axis = 0> (rois, n{number})"
    return (
        picked(number, regions, options)
        + f"""
        o{number} = Reshape (n{number}, block)  q{number} = Shape (p{number})
        d{number} = Expand (o{number}, q{number})
        {out} = ScatterElements <axis = 0> ({into}, d{number}, p{number})"""
    )


def mmdet(number: int, into: str, out: str, options: str) -> str:
    """Regions are moved by half a cell by hand, as operator sets below 16 want it."""
    return f"""
        e{number} = Equal (level, k{number})  m{number} = Cast <to = 1> (e{number})
        n{number} = Reshape (m{number}, column)  r{number} = Mul (rois, n{number})
        a{number} = Slice (r{number}, one, five, one)  b{number} = Sub (a{number}, half{number})
        g{number} = Gather <axis = 1> (r{number}, k0)  i{number} = Cast <to = 7> (g{number})
        p{number} = RoiAlign <{options}, spatial_scale = {SCALES[number]}> (f{number}, b{number}, i{number})
        v{number} = Reshape (m{number}, block)  q{number} = Mul (p{number}, v{number})
        {out} = Add ({into}, q{number})"""


Spelling = Callable[[int, str, str, str], str]


def network(spelling: Spelling, options: str = OPTIONS, opset: int = 17, count: str = "count") -> str:
    if opset >= 16:
        options += ', coordinate_transformation_mode = "output_half_pixel"'
    features = ", ".join(f"float[2, 2, {side}, {side}] f{number}" for number, side in enumerate((64, 32, 16)))
    body = spelling(0, "s", "s0", options) + spelling(1, "s0", "s1", options) + spelling(2, "s1", "y", options)
    return f"""
        <ir_version: 8, opset_import: ["": {opset}]>
        g (float[{count}, 4] boxes, float[{count}, 1] images, {features}) => (float[{count}, 2, 3, 3] y)
        <{WEIGHTS}, float one_level = {{1}}> {{ {RULE} {body} }}"""


def feeds(boxes: Array | list[list[float]]) -> dict[str, Array]:
    draw = np.random.default_rng(0).standard_normal
    given = {f"f{number}": draw((2, 2, side, side)).astype(np.float32) for number, side in enumerate((64, 32, 16))}
    images = np.arange(len(boxes)).reshape(-1, 1) % 2
    return given | {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "images": images.astype(np.float32)}


def regions(count: int = 60) -> Array:
    """Regions of a cell or more of their level, and of no size at which a level ends."""
    random = np.random.default_rng(1)
    size = random.choice(
        [random.uniform(6, 15.5, count), random.uniform(16.5, 31.5, count), random.uniform(33, 99, count)]
    )
    stretch = random.uniform(0.7, 1.4, count)
    corner = random.uniform(-5, 150, (count, 2))
    return np.concatenate([corner, corner + np.stack([size * stretch, size / stretch], axis=1)], axis=1)


def fused(text: str | ModelProto, aligned: bool | None = None) -> ModelProto:
    """Return the model with one RoiExtractor, and no other node, behind its regions."""
    model = Model(parse(text))
    applied = apply_pass(FuseRoiExtractor(aligned), model)
    operators = [node.op_type for node in applied.model.proto.graph.node]
    assert operators == ["Concat", "RoiExtractor"], applied.skips
    applied.model.check("after")
    assert apply_pass(FuseRoiExtractor(aligned), applied.model).model.fingerprint == applied.model.fingerprint
    return applied.model.proto


def attributes(model: ModelProto) -> dict[str, object]:
    (node,) = (node for node in model.graph.node if node.op_type == "RoiExtractor")
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("spelling", [detectron2, torchvision, mmdet])
def test_levels_become_one_node_that_pools_the_same(spelling: Spelling, opset: int) -> None:
    before = parse(network(spelling, opset=opset))
    after = fused(before)
    assert list(after.graph.node[-1].input) == ["f0", "f1", "f2", "rois"]
    assert after.graph.node[-1].domain == ""
    assert attributes(after) == {
        "finest_scale": 8,
        "roi_scale_factor": 0.0,
        "spatial_scale": list(SCALES),
        "pooled_height": 3,
        "pooled_width": 3,
        "sample_num": 2,
        "pool_mode": b"avg",
        "aligned": int(spelling is mmdet),
    }
    assert_same_outputs(before, after, feeds(regions()))
    assert_same_outputs(before, after, feeds([]))


@pytest.mark.parametrize("spelling", [detectron2, mmdet])
def test_a_fixed_number_of_regions_is_asked_in_portions(spelling: Spelling) -> None:
    before = parse(network(spelling, count="40"))
    assert_same_outputs(before, fused(before), feeds(regions(40)))


def test_half_a_cell_of_the_operator_itself_is_aligned() -> None:
    before = parse(network(detectron2).replace("output_half_pixel", "half_pixel"))
    after = fused(before)
    assert attributes(after)["aligned"] == 1
    assert_same_outputs(before, after, feeds(regions()))


@pytest.mark.parametrize("aligned", [False, True])
def test_aligned_is_set_whatever_the_file_has(aligned: bool) -> None:
    texts = {False: network(detectron2), True: network(detectron2).replace("output_half_pixel", "half_pixel")}
    after = fused(texts[not aligned], aligned)
    assert attributes(after)["aligned"] == int(aligned)
    assert_same_outputs(parse(texts[aligned]), after, feeds(regions()))


def test_regions_of_several_images_are_joined_row_by_row() -> None:
    text = network(torchvision).replace(
        "rois = Concat <axis = 1> (images, boxes)",
        """
        boxes = Concat <axis = 0> (left, right)
        rois = Concat <axis = 1> (images, boxes)""",
    )
    text = text.replace("float[count, 4] boxes", "float[a, 4] left, float[b, 4] right")
    before = parse(text)
    after = apply_pass(FuseRoiExtractor(), Model(before)).model.proto
    assert [node.op_type for node in after.graph.node] == ["Concat", "Concat", "RoiExtractor"]
    given = feeds(regions())
    boxes = given.pop("boxes")
    assert_same_outputs(before, after, given | {"left": boxes[:20], "right": boxes[20:]})


@pytest.mark.parametrize("spelling", [torchvision, mmdet])
def test_regions_may_come_with_their_images(spelling: Spelling) -> None:
    text = network(spelling).replace("rois = Concat <axis = 1> (images, boxes)", "boxes = Slice (rois, one, five, one)")
    before = parse(text.replace("float[count, 4] boxes, float[count, 1] images", "float[count, 5] rois"))
    after = apply_pass(FuseRoiExtractor(), Model(before)).model.proto
    assert [node.op_type for node in after.graph.node] == ["RoiExtractor"]
    given = feeds(regions())
    rois = np.concatenate([given.pop("images"), given.pop("boxes")], axis=1)
    assert_same_outputs(before, after, given | {"rois": rois})


def test_a_size_at_which_a_level_ends_is_of_the_level_below() -> None:
    before = parse(network(detectron2))
    given = feeds([[0, 0, side, side] for side in (15, *BORDERS, 33)])
    given |= {f"f{number}": np.full_like(given[f"f{number}"], number) for number in range(3)}
    levels = [session.run(model, given)["y"][:, 0, 0, 0].tolist() for model in (before, fused(before))]
    assert levels == [[0, 1, 2, 2], [0, 0, 1, 2]]


def test_a_region_below_a_cell_is_taken_for_one_of_a_cell() -> None:
    before = parse(network(detectron2).replace("output_half_pixel", "half_pixel"))
    small, cell = feeds([[40, 40, 41, 42]]), feeds([[40, 40, 44, 44]])
    got = session.run(fused(before), small)["y"]
    np.testing.assert_allclose(got, session.run(before, cell)["y"], atol=1e-5)
    assert np.abs(got - session.run(before, small)["y"]).max() > 0.1


def test_shapes_asked_of_a_level_in_between_are_those_of_the_whole() -> None:
    text = (
        network(detectron2)
        .replace("y)\n", "y, int64[4] asked)\n")
        .replace("p2 = RoiAlign", "asked = Shape (s0)  p2 = RoiAlign")
    )
    before = parse(text)
    after = apply_pass(FuseRoiExtractor(), Model(before)).model.proto
    assert "RoiAlign" not in {node.op_type for node in after.graph.node}
    assert_same_outputs(before, after, feeds(regions()))


def changed(old: str, new: str, spelling: Spelling = detectron2, count: int = -1) -> str:
    text = network(spelling)
    assert old in text
    return text.replace(old, new, count)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (changed("ln2 = {0.6931472}", "ln2 = {1.0986123}"), "its levels don't double in size from 16 pixels on"),
        (changed("border = {16}", "border = {17}"), "its first level ends at regions of 17 pixels, which is not twice"),
        (changed("border = {16}", "border = {1e6}"), "no region of 1 to 32768 pixels is where its first level ends"),
        (changed("size = Sqrt (area)", "size = Max (w, h)"), "its levels don't double in size"),
        (
            changed("Div (size, border)", "Div (size, more)").replace(
                "float[count, 1] images", "float[count, 1] images, float[count] more"
            ),
            "does not follow from the region",
        ),
        (changed("x1 = Gather <axis = 1> (boxes, k0)", "x1 = Gather <axis = 1> (boxes, c1)"), "levels don't double"),
        (changed("sampling_ratio = 2", 'sampling_ratio = 2, mode = "max"'), "it pools by max in 3 x 3 bins"),
        (changed("sampling_ratio = 2", "sampling_ratio = 0", count=1), "its levels don't pool in the same way"),
        (changed("k1 = {1}", "k1 = {3}"), "its levels are numbered 0, 2, 3, not one after the other"),
        (changed("(s0, t1, p1)", "(s0, t0, p1)"), "is written into other rows than its regions come from"),
        (changed("NonZero (e1)", "NonZero (level)"), "are not those of one level, which NonZero(Equal) picks"),
        (changed("corners = {1, 2, 3, 4}", "corners = {1, 2, 3, 3}"), "are not the columns of its regions"),
        (changed("Gather <axis = 1> (r0, k0)", "Gather <axis = 1> (r1, k0)"), "not known to be columns of its regions"),
        (
            changed("(s1, t2, p2)", "(s1, t2, held)").replace("p2 = RoiAlign", "held = Neg (p2)  p2 = RoiAlign"),
            "not all",
        ),
        (changed("half1 = {4}", "half1 = {2}", mmdet), "moved by 0.25 of a cell, not by none or a half"),
        (changed("half1 = {4}", "half1 = {0}", mmdet), "its levels don't pool in the same way"),
        (changed("n1 = Reshape (m1, column)", "n1 = Expand (m1, five)", mmdet), "is masked in another way than its"),
        (changed("v1 = Reshape (m1", "v1 = Reshape (m0", mmdet), "is masked in another way than its regions are"),
        (
            changed("Add (s, q0)", "Add (more, q0)", mmdet).replace("rows = Shape", "more = Relu (p0)  rows = Shape"),
            "nor",
        ),
    ],
)
def test_what_is_another_pool_is_refused(text: str, reason: str) -> None:
    without_dead_nodes = apply_pass(DropIdentity(), Model(parse(text))).model.proto
    assert_untouched(FuseRoiExtractor(), without_dead_nodes, reason)


def test_a_level_in_between_that_is_read_elsewhere_is_refused() -> None:
    text = changed("p2 = RoiAlign", "z = Neg (s0)  p2 = RoiAlign").replace("y)\n", "y, float[count, 2, 3, 3] z)\n")
    assert_untouched(FuseRoiExtractor(), text, "'s0', a level in between, is read elsewhere too")


def test_operator_sets_in_which_it_is_not_known_are_refused() -> None:
    text = network(mmdet, opset=10).replace("Clip (raised, low, high)", "Clip <min = 0.0, max = 2.0> (raised)")
    assert_untouched(FuseRoiExtractor(), text, "known from operator set 11 on, and the model has 10")


def test_oblong_bins_are_refused() -> None:
    text = changed("output_width = 3", "output_width = 2").replace("rest = {2, 3, 3}", "rest = {2, 3, 2}")
    assert_untouched(FuseRoiExtractor(), text.replace("2, 3, 3] y", "2, 3, 2] y"), "it pools by avg in 3 x 2 bins")


@pytest.mark.parametrize("body", ["y = Add (x, x)", "a = Neg (x)  b = Mul (a, x)  c = Mul (x, x)  y = Add (b, c)"])
def test_other_sums_are_none_of_its_business(body: str) -> None:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x) => (float[2, 3] y) {{ {body} }}'
    assert_untouched(FuseRoiExtractor(), text, None)
