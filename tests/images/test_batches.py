"""A detector whose file takes four images at once says of an image what the same one says that takes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli

from graphsurgery.errors import InputError
from graphsurgery.images import batches
from graphsurgery.images.batches import as_batch, of_first
from graphsurgery.runtime.detector import Detector
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

RECIPE = """\
source: {onnx: NAME.onnx}
capture: {samples: 2}
detections: {boxes: {columns: [0, 4], axis: 1}, scores: {columns: [4, 6], axis: 1}, score: 0.01}
passes: [drop-identity]
"""


def detector(folder: Path, batch: int) -> str:
    """Write a detector of 16 boxes and its recipe; return their name."""
    weights = np.abs(np.random.default_rng(0).normal(size=(6, 3, 8, 8))) / 100
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{batch},3,32,32] x) => (float[{batch},6,16] y)
        <float[6,3,8,8] w = {{{", ".join(f"{value:.6f}" for value in weights.ravel())}}},
         int64[3] s = {{{batch}, 6, 16}}> {{
            h = Conv <strides = [8, 8]> (x, w)
            i = Identity (h)
            y = Reshape (i, s)
        }}"""
    )
    onnx.save(model, folder / f"b{batch}.onnx")
    (folder / f"b{batch}.yaml").write_text(RECIPE.replace("NAME", f"b{batch}"), encoding="utf-8")
    return f"b{batch}"


def test_the_parts_of_a_batch_detect_what_those_of_one_image_do(cli: Cli, tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8)
    found = []
    for batch in (1, 4):
        name = detector(tmp_path, batch)
        out, model_io = tmp_path / f"parts{batch}", tmp_path / f"io{batch}"
        outcome = cli("apply", tmp_path / f"{name}.yaml", "--out", out, "--model-io", model_io)
        assert outcome.code == 0, outcome.err
        captured = next(model_io.glob("*/y.npy"))
        assert np.load(captured).shape == (batch, 6, 16)
        found.append(Detector.load(out)(image))
    one, four = found
    assert len(one["boxes"]) > 0
    assert {name: value.tolist() for name, value in one.items()} == {name: v.tolist() for name, v in four.items()}


def test_outputs_without_a_row_for_each_image_cannot_be_read() -> None:
    rows = np.zeros((8, 3), np.float32)
    with pytest.raises(InputError, match=r"output 'y' \[8, 3\] has no row for each of the 4 images of a batch"):
        of_first({"y": rows}, [4, 3, 32, 32])
    assert of_first({"y": rows}, ["N", 3, 32, 32])["y"] is rows
    assert of_first({"y": rows}, [3, 32, 32])["y"] is rows


def test_images_are_as_many_as_the_input_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(12.0).reshape(3, 2, 2)
    assert as_batch(image, [3, 2, 2]) is image
    assert as_batch(image, ["N", 3, 2, 2]).shape == (1, 3, 2, 2)
    assert as_batch(image, [4, 3, 2, 2]).tolist() == [image.tolist()] * 4
    monkeypatch.setattr(batches, "MOST_BYTES", 300)
    with pytest.raises(InputError, match=r"a batch of 4 images .* is larger than 300 bytes"):
        as_batch(image, [4, 3, 2, 2])


def test_a_source_traces_all_images_of_its_batch(tmp_path: Path) -> None:
    source = open_source(SourceSpec("onnx", f"{detector(tmp_path, 4)}.onnx", folder=tmp_path))
    traced = source.trace(source.canvas.fit(np.ones((3, 32, 32), np.float32)))
    assert (traced["x"].shape, traced["y"].shape) == ((4, 3, 32, 32), (4, 6, 16))
