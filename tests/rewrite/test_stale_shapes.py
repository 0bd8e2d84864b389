"""A shape that is written down and does not follow from the inputs is a claim, and nothing is computed from it."""

from __future__ import annotations

import numpy as np
import pytest

from graphsurgery.devices import session
from graphsurgery.graph.model import Model
from graphsurgery.passes.fold_constants import FoldConstants
from graphsurgery.passes.simplify import Simplify
from graphsurgery.rewrite import Pass, apply_pass
from graphsurgery.testing import assert_same_outputs, parse

# made dynamic by hand: of c the old size is still written down
STALE = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 1, h, w] x) => (float[1, 1, h2, w2] y)
    <float[1, 1, 2, 2] weight = {1, 2, 3, 4}, int64[2] two = {2, 2}, int64[2] front = {1, 1},
     int64[1] first = {2}, int64[1] last = {4}, float[1, 1, 4, 4] c> {
        c = Conv <strides = [2, 2]> (x, weight)
        s = Shape (c)
        half = Slice (s, first, last)
        size = Mul (half, two)
        all = Concat <axis = 0> (front, size)
        y = Resize <mode = "nearest"> (c, , , all)
    }"""


@pytest.mark.parametrize("pass_", [FoldConstants(), Simplify()])
def test_a_pass_believes_no_shape_that_does_not_follow_from_the_inputs(pass_: Pass) -> None:
    model = Model(parse(STALE))
    after = apply_pass(pass_, model).model
    x = np.random.default_rng(0).standard_normal((1, 1, 20, 24)).astype(np.float32)
    assert session.run(after.proto, {"x": x})["y"].shape == (1, 1, 20, 24)
    assert_same_outputs(model.proto, after.proto, {"x": x})
