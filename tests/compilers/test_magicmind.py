import ast
import json
from pathlib import Path

import numpy as np
import pytest

from graphsurgery.compilers.magicmind import MagicMind
from graphsurgery.errors import InputError, MissingTool

from .parts import job, sample

GRAPH = """<ir_version: 8, opset_import: ["": 17]>
    g (float[batch, 3, height, width] x) => (float[batch, 3, height, width] y) { y = Neg (x) }"""
STATIC = GRAPH.replace("batch", "1").replace("height", "4").replace("width", "6")
# typed by hand from gen_model.py of the vendor's own flow, for a dynamic model in float
AS_THEY_WRITE_IT = {
    "archs": [{"mtp_372": [2, 6, 8]}],
    "precision_config": {"precision_mode": "force_float32"},
    "opt_config": {"type64to32_conversion": True, "conv_scale_fold": False},
    "graph_shape_mutable": True,
    "dim_range": {"x": {"min": [1, 3, 224, 224], "max": [2, 3, 256, 320]}},
    "computation_preference": "auto",
}


def test_the_options_are_as_the_vendor_writes_them(tmp_path: Path) -> None:
    ranges = {"x": {"min": (1, 3, 224, 224), "max": (2, 3, 256, 320)}}
    MagicMind(dim_range=ranges).write(job(GRAPH, tmp_path))  # type: ignore[arg-type]
    assert json.loads((tmp_path / "build.json").read_text()) == AS_THEY_WRITE_IT
    ast.parse((tmp_path / "build.py").read_text())


def test_integers_have_their_scales(tmp_path: Path) -> None:
    compiler = MagicMind(precision="qint8_mixed_float16", weights="per_axis", archs={"tp_322": (1,)})
    compiler.write(job(STATIC, tmp_path))
    options = json.loads((tmp_path / "build.json").read_text())
    assert options["precision_config"] == {
        "precision_mode": "qint8_mixed_float16",
        "activation_quant_algo": "symmetric",
        "weight_quant_granularity": "per_axis",
    }
    assert (options["archs"], options["graph_shape_mutable"]) == ([{"tp_322": [1]}], False)
    assert "QUANTIZED = True" in (tmp_path / "build.py").read_text()


def test_8_bit_pixels_are_normalised_by_mean_and_variance(tmp_path: Path) -> None:
    made = job(STATIC, tmp_path, range=255, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    compiler = MagicMind(uint8_image=True, input_layout="NHWC")
    compiler.write(made)
    options = json.loads((tmp_path / "build.json").read_text())
    normalising = options["insert_bn_before_firstnode"]["0"]
    np.testing.assert_allclose(normalising["mean"], [123.675, 116.28, 103.53], rtol=1e-5)
    np.testing.assert_allclose(normalising["var"], [58.395**2, 57.12**2, 57.375**2], rtol=1e-5)
    assert options["convert_input_layout"] == {"0": {"src": "NCHW", "dst": "NHWC"}}
    compiler.write_sample(made, sample(x=np.zeros((1, 3, 4, 6), np.float32)))
    assert (tmp_path / "calibration.txt").read_text() == "input/photo0.bin shape[1,4,6,3]\n"
    written = np.fromfile(tmp_path / "input" / "photo0.bin", np.uint8)
    assert np.array_equal(written.reshape(4, 6, 3), sample().pixels)


def test_an_input_that_is_open_without_a_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the shape of 'x' is \['batch', 3, 'height', 'width'\]"):
        MagicMind().write(job(GRAPH, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"archs": {"mtp_373": (1,)}}, "archs: there is no 'mtp_373'"),
        ({"archs": {"mtp_372": ()}}, "archs: mtp_372 has clusters"),
        ({"dim_range": {"x": {"min": (2, 3), "max": (1, 3)}}}, "dim_range: 'x' goes from"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MagicMind(**options)  # type: ignore[arg-type]


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match=r"needs the package magicmind of Cambricon's MagicMind.*--no-run"):
        MagicMind().run(job(STATIC, tmp_path))
