"""A detector that takes four images at once says of an image what the same one says that takes one.

Its file takes four, or any number of which a recipe makes four.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli, Outcome
from PIL import Image

from graphsurgery.capture.samples import Capture
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.errors import InputError
from graphsurgery.images import batches
from graphsurgery.images.batches import as_batch, of_first, turned
from graphsurgery.images.canvas import Canvas
from graphsurgery.images.preprocessing import Preprocessing
from graphsurgery.report.pictures import sample_pictures
from graphsurgery.runtime.detector import Detector
from graphsurgery.sources import SourceSpec, open_source
from graphsurgery.testing import parse

RECIPE = """\
source: {onnx: NAME.onnx}
capture: {samples: 2}
detections: {boxes: {columns: [0, 4], axis: 1}, scores: {columns: [4, 6], axis: 1}, score: 0.01, categories: [1, 2]}
passes: [drop-identity]
"""


# Passes that spoil one image of a batch alone, or take one for another
BROKEN = """\
from dataclasses import dataclass
import numpy as np
import onnx_graphsurgeon as gs
from graphsurgery.graph import is_op
from graphsurgery.rewrite import Editor, GraphPass

@dataclass(frozen=True)
class SpoilRow(GraphPass):
    name = "spoil-row"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = next(node for node in graph.nodes if is_op(node, "Identity"))
        noise = np.zeros((4, 1, 1, 1), np.float32)
        noise[2] = 0.01
        edit.replace(node, "Add", [node.inputs[0], edit.constant("noise", noise)])

@dataclass(frozen=True)
class SwapRows(GraphPass):
    name = "swap-rows"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = next(node for node in graph.nodes if is_op(node, "Identity"))
        edit.replace(node, "Gather", [node.inputs[0], edit.constant("rows", [0, 1, 3, 2])], {"axis": 0})
"""


def detector(folder: Path, batch: int | str, reshape: str = "") -> str:
    """Write a detector of 16 boxes and its recipe; return their name.

    `reshape` is the batch that its last Reshape has, where that isn't `batch`.
    """
    weights = np.abs(np.random.default_rng(0).normal(size=(6, 3, 8, 8))) / 100
    model = parse(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{batch},3,32,32] x) => (float[{batch},6,16] y)
        <float[6,3,8,8] w = {{{", ".join(f"{value:.6f}" for value in weights.ravel())}}},
         int64[3] s = {{{reshape or batch}, 6, 16}}> {{
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


def in_batches(
    folder: Path, cli: Cli, passes: str, batch: int | str = 4, reshape: str = "-1", *more: object
) -> Outcome:
    """Apply passes to the detector with an open batch, of which `source.batch` makes a number."""
    name = detector(folder, "N", reshape)
    recipe = folder / f"{name}.yaml"
    text = recipe.read_text(encoding="utf-8").replace("bN.onnx", f"bN.onnx, batch: {batch}")
    recipe.write_text(text.replace("[drop-identity]", passes), encoding="utf-8")
    return cli("apply", recipe, "--out", folder / "open", "--model-io", folder / "io_open", *more)


@pytest.mark.parametrize(
    "passes",
    [
        "[{freeze-shapes: {batch: 4}}, drop-identity]",
        "[freeze-shapes, drop-identity]",
        "[{freeze-batch: {size: 4}}, drop-identity]",
        "[drop-identity, {freeze-shapes: {dims: {N: 4}}}]",
    ],
)
def test_an_open_batch_is_frozen_and_checked(cli: Cli, tmp_path: Path, passes: str) -> None:
    outcome = in_batches(tmp_path, cli, passes)
    assert outcome.code == 0, outcome.err
    (given,) = onnx.load(tmp_path / "open" / "bN.onnx").graph.input
    assert given.type.tensor_type.shape.dim[0].dim_value == 4
    assert "<img" in (tmp_path / "open" / "report.html").read_text(encoding="utf-8")
    image = np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8)
    name = detector(tmp_path, 1)
    alone = cli("apply", tmp_path / f"{name}.yaml", "--out", tmp_path / "one", "--model-io", tmp_path / "io_one")
    assert alone.code == 0, alone.err
    one, four = (Detector.load(tmp_path / folder)(image) for folder in ("one", "open"))
    assert len(one["boxes"]) > 0
    for key, value in one.items():
        np.testing.assert_allclose(four[key], value, rtol=1e-5, atol=1e-5)


def test_what_is_left_open_takes_one_image_in_the_end(cli: Cli, tmp_path: Path) -> None:
    outcome = in_batches(tmp_path, cli, "[drop-identity]")
    assert outcome.code == 0, outcome.err
    detect = Detector.load(tmp_path / "open")
    for picture in sample_pictures(Capture.open(tmp_path / "io_open").samples, detect, score=0.01):
        assert picture.found is not None
        assert picture.found[0] == picture.found[1] > 0, "of four captured images the first is shown"
    assert detect.inputs(detect.place(np.zeros((8, 8, 3), np.uint8)))["x"].shape[0] == 1


def test_ap_is_that_of_batch_one(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    assert in_batches(tmp_path, cli, "[freeze-shapes, drop-identity]").code == 0
    name = detector(tmp_path, 1)
    assert (
        cli("apply", tmp_path / f"{name}.yaml", "--out", tmp_path / "one", "--model-io", tmp_path / "io_one").code == 0
    )
    (tmp_path / "photos").mkdir()
    image = np.random.default_rng(2).integers(0, 255, (24, 32, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photos" / "1.png")
    found = Detector.load(tmp_path / "one")(image)
    entries = [
        {"id": number, "image_id": 1, "category_id": int(label) + 1, "iscrowd": 0, "area": float(abs(w * h))}
        | {"bbox": [float(x), float(y), float(w), float(h)]}
        for number, (label, (x, y, w, h)) in enumerate(
            zip(found["labels"], found["boxes"] - np.tile(found["boxes"][:, :2], 2) * [0, 0, 1, 1], strict=True), 1
        )
    ]
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "height": 24, "width": 32}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": entries,
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    measured = []
    for folder, file in (("one", "b1.onnx"), ("open", "bN.onnx")):
        outcome = cli(
            *("evaluate", tmp_path / folder, "--images", tmp_path / "photos", "--json", "-"),
            *(
                "--annotations",
                tmp_path / "truth.json",
                "--weights",
                tmp_path / file,
                "--out",
                tmp_path / f"ap_{folder}",
            ),
        )
        assert outcome.code == 0, outcome.err
        measured.append(json.loads(outcome.out)["ap"]["bbox"])
    assert measured[0] == measured[1]
    assert measured[1]["parts"] == measured[1]["original"] > 0.01
    manifest = json.loads((tmp_path / "open" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["batch"] == 4


@pytest.mark.parametrize("fault", ["spoil-row", "swap-rows"])
def test_a_fault_in_one_image_of_the_batch_is_seen(cli: Cli, tmp_path: Path, fault: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    outcome = in_batches(tmp_path, cli, f"[freeze-shapes, {fault}]", 4, "-1", "--plugin", tmp_path / "broken.py")
    assert outcome.code == 1
    assert f"pass '{fault}'" in outcome.err


@pytest.mark.parametrize(
    ("passes", "batch", "reshape", "said"),
    [
        ("[freeze-shapes]", 4, "1", r"node 'y' \(Reshape\) has the target \[1, 6, 16\], which fits no batch of 4"),
        (
            "[{freeze-shapes: {batch: 2}}]",
            4,
            "-1",
            r"would take 2 images .* source feeds 4: write source\.batch: 2, or 4",
        ),
        (
            "[{freeze-batch: {size: 2}}]",
            4,
            "-1",
            r"would take 2 images .* source feeds 4: write source\.batch: 2, or 4",
        ),
        (
            "[{freeze-batch: {size: 4}}]",
            1,
            "-1",
            r"would take 4 images .* source feeds 1: write source\.batch: 4, or 1",
        ),
        ("[drop-identity]", -4, "-1", r"bN\.yaml:1: source\.batch should be greater than 0, got -4"),
        ("[drop-identity]", "many", "-1", r"bN\.yaml:1: source\.batch should be a whole number, got 'many'"),
        ("[drop-identity]", 10**9, "-1", r"source\.batch is 1000000000; give a whole number from 1 to 65536"),
        ("[drop-identity]", 65536, "-1", r"a batch of 65536 images of \[3, 32, 32\] is larger than 536870912 bytes"),
    ],
)
def test_a_batch_that_can_not_be_is_one_line(
    cli: Cli, tmp_path: Path, passes: str, batch: int, reshape: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 2**29)
    outcome = in_batches(tmp_path, cli, passes, batch, reshape)
    assert outcome.code == 2
    assert re.search(said, outcome.last_line), outcome.err
    assert "Traceback" not in outcome.err


def test_a_batch_is_that_of_the_file_where_it_has_one(tmp_path: Path) -> None:
    file = f"{detector(tmp_path, 4)}.onnx"
    assert open_source(SourceSpec("onnx", file, folder=tmp_path)).batch == 4
    assert open_source(SourceSpec("onnx", file, folder=tmp_path, batch=4)).batch == 4
    with pytest.raises(InputError, match=r"source\.batch: .* works on float \[4, 3, 32, 32\], not on 2 at once"):
        open_source(SourceSpec("onnx", file, folder=tmp_path, batch=2))
    onnx.save(
        parse('<ir_version: 8, opset_import: ["": 17]> g (float[3, 8, 8] x) => (float[3, 8, 8] y) { y = Abs (x) }'),
        tmp_path / "bare.onnx",
    )
    with pytest.raises(InputError, match=r"source\.batch: .* works on float \[3, 8, 8\], not on 2 at once"):
        open_source(SourceSpec("onnx", "bare.onnx", folder=tmp_path, batch=2))


def test_a_file_that_takes_four_may_be_frozen_to_four(cli: Cli, tmp_path: Path) -> None:
    name = detector(tmp_path, 4)
    recipe = tmp_path / f"{name}.yaml"
    text = recipe.read_text(encoding="utf-8").replace("[drop-identity]", "[{freeze-shapes: {batch: 4}}, drop-identity]")
    recipe.write_text(text, encoding="utf-8")
    outcome = cli("apply", recipe, "--out", tmp_path / "parts", "--model-io", tmp_path / "io")
    assert outcome.code == 0, outcome.err


def test_the_images_of_a_batch_are_others_at_the_same_place() -> None:
    canvas = Canvas(16, 24, image=Preprocessing(place="centre", pad=114))
    placed = canvas.fit(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    rows = [placed, *(turned(placed, row / 4) for row in (1, 2, 3))]
    assert len({row.input.tobytes() for row in rows}) == 4
    for row in rows:
        assert row.placement == placed.placement
        np.testing.assert_array_equal(np.sort(row.filled, axis=2), np.sort(placed.filled, axis=2))
        np.testing.assert_array_equal(row.input[:, :, :4], placed.input[:, :, :4])


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


def test_a_source_detects_in_the_image_alone_as_the_runtime_does(tmp_path: Path) -> None:
    section = Postprocessing.from_json(
        {"boxes": {"columns": [0, 4], "axis": 1}, "scores": {"columns": [4, 6], "axis": 1}, "score": 0.01}
    )
    sources = [
        open_source(SourceSpec("onnx", f"{detector(tmp_path, batch)}.onnx", folder=tmp_path, detections=section))
        for batch in (1, 4)
    ]
    placed = sources[0].canvas.fit(np.random.default_rng(3).integers(0, 255, (24, 32, 3), np.uint8))
    one, four = (source.detect(placed) for source in sources)
    assert len(one["boxes"]) > 0
    for name, value in one.items():
        np.testing.assert_array_equal(four[name], value)
