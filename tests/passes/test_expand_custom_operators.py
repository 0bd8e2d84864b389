import numpy as np
import onnx
import pytest

from graphsurgery.graph.model import Model
from graphsurgery.passes.expand_custom_operators import ExpandCustomOperators
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_same_outputs, assert_untouched, parse

GRID = "y = mmcv.grid_sampler <interpolation_mode = 0, padding_mode = 0, align_corners = 0> (x, where)"
IMPORTS = '"mmcv": 1'
SIGNATURE = "(float[1, 2, 5, 6] x, float[1, 3, 4, 2] where) => (float[1, 2, 3, 4] y)"


def grid_model(body: str = GRID, opset: int = 17, imports: str = f", {IMPORTS}") -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}{imports}]> g {SIGNATURE} {{ {body} }}'


def test_becomes_what_it_means_and_its_domain_goes() -> None:
    after = "y = GridSample <align_corners = 0, mode = 'bilinear', padding_mode = 'zeros'> (x, where)".replace("'", '"')
    assert_rewrites(ExpandCustomOperators(), grid_model(), grid_model(after, imports=""))


def test_is_written_in_the_operator_set_that_the_model_has() -> None:
    before = parse(grid_model(opset=13))
    after = apply_pass(ExpandCustomOperators(), Model(before)).model.proto
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 13)]
    assert {node.domain for node in after.graph.node} == {""}
    assert "GridSample" not in {node.op_type for node in after.graph.node}
    onnx.checker.check_model(after, full_check=True)
    assert_same_outputs(before, after)


TWO = """
    <ir_version: 8, opset_import: ["": 17, "mmcv": 1]>
    g (float[1, 2, 16, 16] x, float[3, 5] rois) => (float[3, 2, 4, 4] y) {
        half = Cast <to = 10> (x)
        a = RoiExtractor <pooled_height = 3, pooled_width = 3, spatial_scale = [0.25]> (half, rois)
        b = mmcv.MMCVRoiAlign <output_height = 4, output_width = 4, spatial_scale = 1.0> (x, rois)
        c = RoiExtractor <pooled_height = 4, pooled_width = 4, spatial_scale = [1.0]> (a, rois)
        d = Cast <to = 1> (c)
        y = Add (b, d)
    }"""


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*"], []),
        (["mmcv.*"], ["RoiExtractor", "RoiExtractor"]),
        (["RoiExtractor"], ["MMCVRoiAlign"]),
        (["mmcv.MMCVRoiAlign", "Roi*"], []),
    ],
)
def test_operators_chooses_which_go(patterns: list[str], left: list[str]) -> None:
    before = parse(TWO)
    applied = apply_pass(ExpandCustomOperators(tuple(patterns)), Model(before))
    after = applied.model.proto
    custom = [node.op_type for node in after.graph.node if node.op_type in ("RoiExtractor", "MMCVRoiAlign")]
    assert (custom, applied.skips) == (left, ())
    assert ("mmcv" in {entry.domain for entry in after.opset_import}) == ("MMCVRoiAlign" in left)
    rois = [[0, 1, 1, 9, 12], [0, 0, 2, 3, 3], [0, 4, 4, 15, 15]]
    inputs = {"x": _ramp(1, 2, 16, 16), "rois": np.array(rois, np.float32)}
    assert_same_outputs(before, after, inputs)
    assert apply_pass(ExpandCustomOperators(tuple(patterns)), applied.model).model.fingerprint == (
        applied.model.fingerprint
    )


def _ramp(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def test_types_follow_through_an_operator_that_stays() -> None:
    """What is behind it in float16 is written as float16, though the operator in front of it is not expanded."""
    text = """
        <ir_version: 8, opset_import: ["": 17, "mmdeploy": 1]>
        g (float16[1, 2, 16, 16] x, float[3, 5] rois) => (float16[3, 2, 2, 2] y) {
            a = mmdeploy.RoiExtractor <pooled_height = 3, pooled_width = 3, spatial_scale = [1.0]> (x, rois)
            y = RoiExtractor <pooled_height = 2, pooled_width = 2, spatial_scale = [1.0]> (a, rois)
        }"""
    rois = np.array([[0, 1, 1, 9, 12], [1, 0, 2, 3, 3], [2, 4, 4, 15, 15]], np.float32)
    rois[:, 0] = 0
    before = parse(text)
    after = apply_pass(ExpandCustomOperators(("RoiExtractor",)), Model(before)).model.proto
    assert [node.domain for node in after.graph.node if node.op_type == "RoiExtractor"] == ["mmdeploy"]
    assert_same_outputs(before, after, {"x": _ramp(1, 2, 16, 16).astype(np.float16), "rois": rois})


def test_nodes_in_bodies_become_standard_ones() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17, {IMPORTS}]>
        g (float[1, 2, 5, 6] x, float[1, 3, 4, 2] where, bool c) => (float[1, 2, 3, 4] y) {{
            y = If (c) <
                then_branch = a () => (float[1, 2, 3, 4] t) {{ {GRID.replace("y =", "t =")} }},
                else_branch = b () => (float[1, 2, 3, 4] f) {{ {GRID.replace("y =", "s =")}  f = Neg (s) }}>
        }}"""
    before = parse(text)
    after = apply_pass(ExpandCustomOperators(), Model(before)).model.proto
    onnx.checker.check_model(after, full_check=True)
    assert "mmcv" not in {entry.domain for entry in after.opset_import}
    for chosen in (True, False):
        feed = {"x": _ramp(1, 2, 5, 6), "where": _ramp(1, 3, 4, 2), "c": np.array(chosen)}
        assert_same_outputs(before, after, feed)


def test_an_operator_that_needs_a_newer_operator_set_stays() -> None:
    text = grid_model(opset=10)
    reason = "written for operator set 11 or later, and the model has 10; raise the model's operator set"
    assert_untouched(ExpandCustomOperators(), text, reason)


def test_a_node_that_its_operator_does_not_allow_is_named() -> None:
    text = grid_model("y = mmcv.grid_sampler <interpolation_mode = 7> (x, where)")
    assert_untouched(ExpandCustomOperators(), text, "node 'y' (mmcv.grid_sampler): attribute 'interpolation_mode' is 7")


def test_a_name_that_the_model_has_none_of_is_told() -> None:
    reason = "no custom operator is called 'mmcv.grid_sample'; it holds mmcv.grid_sampler. Nearest: mmcv.grid_sampler"
    assert_untouched(ExpandCustomOperators(("mmcv.grid_sample",)), grid_model(), reason)


def test_a_model_of_onnx_alone_is_left_alone() -> None:
    assert_untouched(ExpandCustomOperators(), grid_model("y = GridSample (x, where)", imports=""), None)
