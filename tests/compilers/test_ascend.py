import shlex
from pathlib import Path

import numpy as np
import pytest

from graphsurgery.compilers.ascend import Ascend
from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import Tensor

from .parts import job, sample

DETECTRON2 = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 1344, 1344] image) => (float[100, 4] boxes, float[100] scores, int64[100] labels, float[100, 80] m) {
        [Cast_1673] boxes = Cast <to = 1> (a)
        [Gather_1676] scores = Gather (a, i)
        [Reshape_1667] labels = Reshape (i, s)
        [Split_1706] other, m = Split (a)
    }"""
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
# typed by hand from onnx2om.sh of the vendor's own flow
AS_THEY_CALL_IT = """
    atc --model=maskrcnn.onnx --framework=5 --output=maskrcnn --input_format=NCHW
    --input_shape="image:1,3,1344,1344" --out_nodes="Cast_1673:0;Gather_1676:0;Reshape_1667:0;Split_1706:1"
    --log=error --soc_version=Ascend310P3
"""


def test_atc_is_called_as_the_vendor_calls_it(tmp_path: Path) -> None:
    made = job(DETECTRON2, tmp_path, "maskrcnn", "image")
    Ascend("Ascend310P3").write(made)
    script = (tmp_path / "atc.sh").read_text()
    assert shlex.split(AS_THEY_CALL_IT) == shlex.split(script[script.index("atc ") :].replace("\\\n", " "))
    assert b"\r" not in (tmp_path / "atc.sh").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["atc.sh"]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("g (float[N, 3] x) => (float[N, 3] y) { [a] y = Neg (x) }", r"shape of 'x' is \['N', 3\].*freeze-shapes"),
        ("g (float[1, 3] x) => (float[1, 3] y) { [a;b] y = Neg (x) }", "node 'a;b' has a ; or :"),
        ("g (float[1, 3] x) => (float[1, 3] x) {}", "no node writes its output 'x'"),
    ],
)
def test_a_part_that_atc_can_not_take_is_refused(tmp_path: Path, graph: str, message: str) -> None:
    if "a;b" in graph:
        made = job(HEAD + graph.replace("[a;b] ", ""), tmp_path)
        made.model.proto.graph.node[0].name = "a;b"
    else:
        made = job(HEAD + graph, tmp_path)
    with pytest.raises(InputError, match=f"part 'network': .*{message}"):
        Ascend("Ascend310P3").write(made)


def test_a_chip_is_a_plain_name() -> None:
    with pytest.raises(ValueError, match="soc_version is 'x; rm'"):
        Ascend("x; rm")


GRAPH = HEAD + "g (float[1, 3, 4, 6] x) => (float[1, 3, 4, 6] y) { [n] y = Neg (x) }"


def test_images_are_written_with_both_lists(tmp_path: Path) -> None:
    made, values = job(GRAPH, tmp_path), np.arange(72, dtype=np.float32).reshape(1, 3, 4, 6)
    for number in range(2):
        Ascend("Ascend310P3").write_sample(made, sample(number, x=values + number))
    assert (tmp_path / "input_bin.info").read_text() == "0 input/photo0.bin 6 4\n1 input/photo1.bin 6 4\n"
    assert (tmp_path / "input_jpg.info").read_text() == "0 photo0 60 40\n1 photo1 60 40\n"
    assert np.array_equal(np.fromfile(tmp_path / "input" / "photo1.bin", "<f4"), (values + 1).ravel())


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"range": 255, "channels": "BGR", "mean": (103.53, 116.28, 123.675)},
    ],
    ids=["plain", "imagenet", "detectron2"],
)
def test_the_chip_makes_the_same_of_pixels_as_the_host(tmp_path: Path, wanted: dict[str, object]) -> None:
    made, compiler = job(GRAPH, tmp_path, **wanted), Ascend("Ascend310P3", aipp=True)
    compiler.write(made)
    said = dict(line.strip().split(": ") for line in (tmp_path / "aipp.cfg").read_text().splitlines()[1:-1])
    assert (said["src_image_size_w"], said["src_image_size_h"], said["input_format"]) == ("6", "4", "RGB888_U8")
    assert "--insert_op_conf=aipp.cfg" in (tmp_path / "atc.sh").read_text()

    compiler.write_sample(made, sample(x=np.zeros((1, 3, 4, 6), np.float32)))
    pixels = np.fromfile(tmp_path / "input" / "photo0.bin", np.uint8).reshape(4, 6, 3)
    assert np.array_equal(pixels, sample().pixels)
    channels = pixels[..., ::-1] if said["rbuv_swap_switch"] == "true" else pixels  # as the chip does it
    low, reciprocal = ([float(said[f"{name}_chn_{c}"]) for c in range(3)] for name in ("min", "var_reci"))
    of_chip = ((channels - np.array(low)) * np.array(reciprocal)).transpose(2, 0, 1)
    of_host = made.canvas.image.apply(np.float32(pixels.transpose(2, 0, 1) / 255))
    np.testing.assert_allclose(of_chip, of_host, rtol=1e-5, atol=1e-5 * np.abs(of_host).max())


def test_results_are_read_by_their_number(tmp_path: Path) -> None:
    outputs = {"boxes": Tensor(shape=["N", 4], dtype="float32"), "labels": Tensor(shape=["N"], dtype="int64")}
    boxes, labels = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([3, 1])
    boxes.tofile(tmp_path / "photo_0.bin")
    labels.tofile(tmp_path / "photo_1.bin")
    found = Ascend("Ascend310P3").read_outputs(tmp_path, 7, "photo", outputs)
    assert np.array_equal(found["boxes"], boxes)
    assert np.array_equal(found["labels"], labels)
    (tmp_path / "photo_0.bin").write_bytes(bytes(17))
    with pytest.raises(InputError, match=r"photo_0\.bin: has 17 bytes, and output 'boxes' is float32 \['N', 4\]"):
        Ascend("Ascend310P3").read_outputs(tmp_path, 7, "photo", outputs)
    with pytest.raises(InputError, match=r"other_0\.bin: can't be read \(No such file or directory\)"):
        Ascend("Ascend310P3").read_outputs(tmp_path, 7, "other", outputs)
