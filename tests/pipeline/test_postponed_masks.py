"""Parts whose masks are those of all classes: the gate and the runtime take the label's, from another part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Applied, Cli

from graphsurgery.demo.shapes import VAL_SEED, draw
from graphsurgery.runtime.detector import Detector


@pytest.mark.whole
def test_parts_that_leave_the_choice_to_the_host_find_the_same(cli: Cli, shapes: Applied, tmp_path: Path) -> None:
    passes = "[{freeze-shapes: {batch: 1}}, drop-preprocessing, simplify, postpone-mask-select]"
    without = [part for name in ("evaluate", "variants") for part in ("--set", f"{name}=")]
    outcome = cli(
        *("apply", "shapes", "--set", f"passes={passes}", "--set", "capture.samples=2", *without),
        *("--out", tmp_path / "parts", "--model-io", tmp_path / "io"),
    )
    assert outcome.code == 0, outcome.err
    before, after = Detector.load(shapes.folder), Detector.load(tmp_path / "parts")
    for number in range(2):
        image = draw(VAL_SEED, number).image
        raw, found, expected = after.raw(image), after(image), before(image)
        assert raw["masks"].shape == (len(raw["labels"]), 4, 28, 28)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, atol=1e-3, err_msg=name)
