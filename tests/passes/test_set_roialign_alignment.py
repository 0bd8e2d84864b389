import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.raise_opset import RaiseOpset
from graphsurgery.passes.set_roialign_alignment import SetRoialignAlignment
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import assert_rewrites, assert_untouched, parse

INPUTS = "float[1, 2, 8, 8] x, float[3, 4] boxes, int64[3] batch"
UNALIGNED, ALIGNED = (f'coordinate_transformation_mode = "{mode}", ' for mode in ("output_half_pixel", "half_pixel"))


def model(mode: str, opset: int = 17, op: str = "RoiAlign") -> str:
    attributes = f"<{mode}output_height = 2, output_width = 2, sampling_ratio = 2, spatial_scale = 0.5>"
    return f"""<ir_version: 8, opset_import: ["": {opset}, "my": 1]>
        g ({INPUTS}) => (float[3, 2, 2, 2] y) {{ y = {op} {attributes} (x, boxes, batch) }}"""


def test_either_way_becomes_the_other() -> None:
    assert_rewrites(SetRoialignAlignment(aligned=True), model(UNALIGNED), model(ALIGNED))
    assert_rewrites(SetRoialignAlignment(aligned=False), model(ALIGNED), model(UNALIGNED))


def test_what_is_left_out_is_aligned_since_operator_set_16() -> None:
    assert_rewrites(SetRoialignAlignment(aligned=False), model("", 16), model(UNALIGNED, 16))
    assert_untouched(SetRoialignAlignment(aligned=True), model("", 16), None)


def test_leaves_what_is_so_already_alone() -> None:
    assert_untouched(SetRoialignAlignment(aligned=True), model(ALIGNED), None)
    assert_untouched(SetRoialignAlignment(aligned=False), model(UNALIGNED), None)


def test_an_older_operator_set_is_never_aligned() -> None:
    reason = "no half_pixel in operator set 11; raise the operator set to 16 before"
    assert_untouched(SetRoialignAlignment(aligned=True), model("", 11), reason)
    assert_untouched(SetRoialignAlignment(aligned=False), model("", 11), None)


def test_leaves_a_custom_operator_of_that_name_alone() -> None:
    assert_untouched(SetRoialignAlignment(aligned=False), model("", op="my.RoiAlign"), None)


@pytest.mark.parametrize("opset", [11, 16])
def test_a_box_is_read_half_a_cell_further_up_and_left(opset: int) -> None:
    """On a ramp the mean over a bin is the place of its middle, so the shift shows as half a cell in each element."""
    before = Model(parse(model("" if opset < 16 else UNALIGNED, opset)))
    raised = before if opset >= 16 else apply_pass(RaiseOpset(opset=17), before).model
    after = apply_pass(SetRoialignAlignment(aligned=True), raised).model
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 2, 8, 8)).copy()
    boxes = np.array([[4, 4, 12, 12], [2, 2, 10, 8], [6, 4, 14, 14]], np.float32)
    given = {"x": ramp, "boxes": boxes, "batch": np.zeros(3, np.int64)}
    shift = session.run(before.proto, given)["y"] - session.run(after.proto, given)["y"]
    np.testing.assert_allclose(shift, 0.5, atol=1e-6)
