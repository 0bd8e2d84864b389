"""manifest.json: what is written is what is read, and what does not connect is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphsurgery.devices.providers import PROVIDERS, DeviceChoice
from graphsurgery.errors import InputError, ModelError
from graphsurgery.graph.joined_outputs import JoinedOutput
from graphsurgery.graph.model import Model
from graphsurgery.images.canvas import Canvas
from graphsurgery.parts.describe import describe_part, describe_parts
from graphsurgery.parts.manifest import FILE_NAME, Batch, Manifest, PartEntry, Tensor
from graphsurgery.parts.part import Part
from graphsurgery.rewrite import BATCH_NOTE, NORMALISATION_NOTE
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
FRONT = f"{HEAD}\ng (float[1, 3, 8, 8] image) => (float[N, 4] h, int64 n) {{ h = Relu (image) n = Size (h) }}"
BACK = f"{HEAD}\ng (float[5, 4] h, int64 n) => (float16[5, 4] y, bool[K, ?] z) {{ y = Cast <to = 10> (h) z = Not (n) }}"
CANVAS = Canvas(8, 8)
SOURCE = {"kind": "torchvision", "name": "maskrcnn", "size": [8, 8], "weights": None}


def part(name: str, text: str, device: str = "cpu", notes: dict[str, object] | None = None) -> Part:
    proto = parse(text)
    for key, note in (notes or {}).items():
        proto.metadata_props.add(key=key, value=json.dumps(note))
    return Part(name, device, device != "cpu", Model(proto))


def described(front_notes: dict[str, object] | None = None) -> Manifest:
    parts = [
        part("front", FRONT, "npu", front_notes),
        part("back", BACK, notes={BATCH_NOTE: {"size": 5}}),
    ]
    return describe_parts(parts, "shapes", SOURCE, CANVAS, ["image"], ["y", "z"])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest = described({NORMALISATION_NOTE: {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}})
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    again = Manifest.read(tmp_path)
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_a_part_is_described_by_its_file_and_its_tensors() -> None:
    front, back = described().parts
    assert (front.name, front.device, front.accelerator, front.file) == ("front", "npu", True, "front.onnx")
    assert front.batch is None
    assert front.inputs == {"image": Tensor(shape=[1, 3, 8, 8], dtype="float32")}
    assert front.outputs == {"h": Tensor(shape=["N", 4], dtype="float32"), "n": Tensor(shape=[], dtype="int64")}
    assert back.batch is not None
    assert back.batch == Batch(size=5, inputs=["h", "n"], outputs=["y", "z"])
    assert back.outputs == {"y": Tensor(shape=[5, 4], dtype="float16"), "z": Tensor(shape=["K", None], dtype="bool")}


def test_outputs_in_pieces_are_described_as_they_are_joined(tmp_path: Path) -> None:
    ends = "float[1, 4, N] b, float[1, 2, N] s"
    text = f"{HEAD}\ng (float[1, 3, 8, 8] image) => ({ends}) {{ b = Relu (image) s = Abs (image) }}"
    joins = [JoinedOutput("y", ("b", "s"), 1, (0, 2, 1))]
    manifest = describe_parts([part("all", text)], "shapes", SOURCE, CANVAS, ["image"], ["b", "s"], joins=joins)
    assert (manifest.outputs, manifest.output_shapes) == (["b", "s"], {"y": [1, "N", 6]})
    (tmp_path / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    assert Manifest.read(tmp_path) == manifest


def test_an_unknown_shape_stays_unknown() -> None:
    proto = parse(FRONT)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert describe_part(Part("p", "cpu", False, Model(proto))).outputs["h"] == Tensor(shape=None, dtype="float32")


def test_an_initializer_among_the_inputs_is_no_input() -> None:
    proto = parse(FRONT)
    proto.graph.initializer.append(onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0]))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1]))
    assert list(describe_part(Part("p", "cpu", False, Model(proto))).inputs) == ["image"]


def test_what_is_no_tensor_is_refused() -> None:
    text = f"{HEAD}\ng (seq(float[N]) x) => (int64 y) {{ y = SequenceLength (x) }}"
    with pytest.raises(ModelError, match="front: 'x' has sequence_type; inputs and outputs must be tensors"):
        describe_part(part("front", text))
    untyped = parse(FRONT)
    untyped.graph.output[0].ClearField("type")
    with pytest.raises(ModelError, match="p: 'h' has no type"):
        describe_part(Part("p", "cpu", False, Model(untyped)))


def test_the_normalisation_that_a_pass_took_out_becomes_the_runtimes() -> None:
    plain = described()
    assert not plain.normalise
    assert plain.canvas == {"height": 8, "width": 8, "mean": None, "std": None}
    dropped = described({NORMALISATION_NOTE: {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}})
    assert dropped.normalise
    assert Canvas.from_json(dropped.canvas) == Canvas(8, 8).with_normalisation((0.5,) * 3, (0.25,) * 3)
    padded = described({NORMALISATION_NOTE: {"mean": [0.5] * 3, "std": [0.25] * 3, "margin": [24, 0]}})
    assert Canvas.from_json(padded.canvas).margin == (24, 0)


def test_a_detector_has_one_input() -> None:
    with pytest.raises(InputError, match="the graph has inputs image, size; the runtime feeds one image"):
        describe_parts([part("front", FRONT)], "shapes", SOURCE, CANVAS, ["image", "size"], ["h"])


def _drop_name(content: dict[str, Any]) -> None:
    del content["parts"][0]["name"]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown key": (lambda m: m.update(more=1), "more: Extra inputs are not permitted"),
    "a part without a name": (_drop_name, r"parts\[0\]\.name: Field required"),
    "an empty batch": (lambda m: m["parts"][1]["batch"].update(size=0), r"parts\[1\]\.batch\.size: "),
    "rows in an input that is not there": (
        lambda m: m["parts"][1]["batch"].update(inputs=["k"]),
        r"parts\[1\]: .*the batch has rows in 'k', no input",
    ),
    "rows in an output that is not there": (
        lambda m: m["parts"][1]["batch"].update(outputs=["y", "k"]),
        r"parts\[1\]: .*the batch has rows in 'k', no output",
    ),
    "a batch in which no input has rows": (
        lambda m: m["parts"][1]["batch"].update(inputs=[]),
        r"parts\[1\]: .*no input has rows",
    ),
    "no dtype": (lambda m: m["parts"][0]["outputs"]["h"].update(dtype="float31"), "'float31' is no dtype"),
    "a dtype that NumPy lacks": (
        lambda m: m["parts"][0]["outputs"]["h"].update(dtype="bfloat16"),
        "'bfloat16' is none of NumPy's dtypes",
    ),
    "a canvas of no size": (lambda m: m["canvas"].update(height=0), "canvas: height is 0"),
    "a canvas without a width": (lambda m: m["canvas"].pop("width"), "canvas: expected height, width, mean and std"),
    "an input that no one gives": (
        lambda m: m["parts"][1]["inputs"].update(sizes=m["parts"][0]["inputs"]["image"]),
        "part 'back' reads 'sizes', which no part before it writes",
    ),
    "parts in the wrong order": (lambda m: m["parts"].reverse(), "part 'back' reads 'h', which no part before it"),
    "an image that no part reads": (lambda m: m.update(input="picture"), "no part reads the image 'picture'"),
    "an output nobody writes": (lambda m: m["outputs"].append("masks"), "no part writes the output 'masks'"),
    "a batch of more rows than anybody has": (
        lambda m: m["parts"][1]["batch"].update(size=10**7),
        r"parts\[1\]\.batch\.size: Input should be less than or equal to 65536",
    ),
    "a batch of rows that no memory holds": (
        lambda m: (
            m["parts"][1]["batch"].update(size=50_000),
            m["parts"][1]["inputs"]["h"].update(shape=["N", 256, 99]),
        ),
        r"parts\[1\]: .*a tensor of more than 4294967296 bytes",
    ),
    "a tensor that no memory holds": (
        lambda m: m["parts"][0]["outputs"]["h"].update(shape=[0, 2**60]),
        r"parts\[0\]\.outputs\.h: .*a tensor of more than 4294967296 bytes",
    ),
    "a size below 0": (lambda m: m["parts"][0]["outputs"]["h"].update(shape=[-1]), r"outputs\.h\.shape\[0\]"),
    "a dtype that is a program": (
        lambda m: m["parts"][0]["outputs"]["h"].update(dtype="(9999,9999)f8," * 99),
        r"'\(9999,9999\)f8,.*' is no dtype",
    ),
    "a canvas that no memory holds": (lambda m: m["canvas"].update(height=2**40), "canvas: height is 1099511627776"),
    "a large canvas": (lambda m: m["canvas"].update(height=9000, width=9000), "canvas: 9000 x 9000 is more than"),
    "two parts in one file": (
        lambda m: m["parts"][1].update(file="FRONT.onnx"),
        "part 'back' has the file 'FRONT.onnx', which is another part's",
    ),
    "a variant elsewhere": (lambda m: m["variants"].append("../../x"), r"variant '\.\./\.\./x' is no folder beside"),
    "a variant that is this folder": (lambda m: m["variants"].append("."), r"variant '\.' is no folder beside"),
    "a joined output of one piece": (
        lambda m: m.update(joins=[{"name": "w", "tensors": ["y"], "axis": 0}]),
        r"joins\[0\]: .*'w' needs two or more tensors",
    ),
    "a joined output of what is none": (
        lambda m: m.update(joins=[{"name": "w", "tensors": ["y", "h"], "axis": 0}]),
        "output 'w' is joined of 'h', which is no output",
    ),
    "a joined output and an unknown key": (
        lambda m: m.update(joins=[{"name": "w", "tensors": ["y", "z"], "axis": 0, "along": 1}]),
        r"joins\[0\]\.along: ",
    ),
    "two outputs of one name": (
        lambda m: (
            m["outputs"].append("h"),
            m.update(joins=[{"name": "h", "tensors": ["y", "z"], "axis": 0}]),
        ),
        "output 'h' is joined, and another one is called so",
    ),
    "no parts": (lambda m: m.update(parts=[]), "no part writes the output 'y'"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_manifest_is_refused_that_has(tmp_path: Path, what: str) -> None:
    change, message = CHANGES[what]
    content = json.loads(described().to_json())
    change(content)
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}") as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4"])
def test_a_tensor_that_numpy_has_no_type_for_is_refused_where_a_part_reads_or_writes_it(kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    name = np.dtype(helper.tensor_dtype_to_np_dtype(number)).name
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in "xy"]
    for at in (0, 1):
        kinds = [*ends]
        kinds[at] = helper.make_tensor_value_info("xy"[at], number, [1])
        graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=number)], "g", kinds[:1], kinds[1:])
        one = Part("head", "npu", True, Model(helper.make_model(graph)))
        with pytest.raises(
            ModelError, match=rf"^head: '{'xy'[at]}' is {name}, which NumPy doesn't have, .* cast it inside"
        ):
            describe_part(one)


@pytest.mark.parametrize("mode", ["pad", "loop"])
def test_a_batch_that_an_earlier_version_wrote_has_rows_everywhere(tmp_path: Path, mode: str) -> None:
    content = json.loads(described().to_json())
    content["parts"][1]["batch"] = {"size": 5, "mode": mode}
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    assert Manifest.read(tmp_path) == described()
    noted = part("back", BACK, notes={BATCH_NOTE: {"size": 5, "mode": mode}})
    assert describe_part(noted) == described().parts[1]


def test_a_batch_is_written_with_what_the_runtime_reads_and_nothing_else() -> None:
    """A key that no reader has means nothing: `mode` (pad, loop) was written and read by nobody."""
    written = json.loads(described().to_json())["parts"][1]["batch"]
    assert written == {"size": 5, "inputs": ["h", "n"], "outputs": ["y", "z"]}


def test_a_batch_says_which_inputs_are_parameters_without_rows() -> None:
    one = part("back", BACK, notes={BATCH_NOTE: {"size": 5, "parameters": ["n", "cut off"]}})
    assert describe_part(one).batch == Batch(size=5, inputs=["h"], outputs=["y", "z"])
    assert describe_part(part("back", BACK, notes={BATCH_NOTE: {"size": 5, "parameters": ["n", "h"]}})).batch is None


def test_entries_are_frozen() -> None:
    entry: PartEntry = described().parts[0]
    with pytest.raises(ValueError, match="frozen"):
        entry.file = "other.onnx"  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["deep", "large", "link"])
def test_what_is_no_manifest_at_all_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / FILE_NAME
    if kind == "deep":
        path.write_text("[" * 200_000, encoding="utf-8")
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**34)
    else:
        try:
            path.symlink_to(os.devnull)
        except OSError:
            pytest.skip("no links can be made here")
    with pytest.raises(InputError, match=r"manifest\.json: (not a manifest|can't be read \((171|a pipe))"):
        Manifest.read(tmp_path)


def test_a_model_with_a_tensor_that_no_memory_holds_is_refused() -> None:
    proto = parse(FRONT)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2**60
    with pytest.raises(ModelError, match=r"p: 'h': .*a tensor of more than 4294967296 bytes"):
        describe_part(Part("p", "cpu", False, Model(proto)))


def choosing(devices: dict[str, str], folder: Path) -> dict[str, DeviceChoice]:
    return described().model_copy(update={"devices": devices}).choose_devices(folder, {"cpu": DeviceChoice("cpu")})


def test_the_paths_of_a_manifest_are_those_of_its_folder(tmp_path: Path) -> None:
    chosen = choosing({"npu": "qnn,context=kept,soc_model=60", "cpu": "qnn,context=/x"}, tmp_path)
    assert chosen == {
        "npu": DeviceChoice("qnn", {"context": str(tmp_path.resolve() / "kept"), "soc_model": "60"}),
        "cpu": DeviceChoice("cpu"),  # the user goes first, whatever the manifest says
    }


@pytest.mark.parametrize(
    "choice",
    [
        "qnn,profiling_level=basic,profiling_file_path=/tmp/x.csv",
        "qnn,context=../kept",
        "qnn,context=out/kept",
        "vitisai,config_file=/dev/null",
        "vitisai,xclbin=../x.xclbin",
        "vitisai,cache_dir=..",
        "vitisai,cache_dir=here,cache_key=../../x",
        "openvino,load_config=/dev/null",
        "openvino,cache_dir=/tmp/x",
        "qnn,context=a\0b",
    ],
)
def test_a_manifest_reads_and_writes_nothing_outside_of_its_folder(tmp_path: Path, choice: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    try:
        (folder / "out").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        (folder / "out").write_text("no links can be made here", encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.json: --device npu=.*(leads out of|no path|name of a file)"):
        choosing({"npu": choice}, folder)


def test_every_option_that_names_a_file_is_marked_as_such() -> None:
    words = {"file", "path", "dir", "folder", "config", "cache", "context", "library", "lib", "xclbin", "so"}
    kinds = {
        f"{name}.{option.name}": option.kind
        for name, provider in PROVIDERS.items()
        for option in provider.options
        if words & set(option.name.lower().split("_")) and option.kind not in ("choice", "integer")
    }
    assert len(kinds) >= 8
    assert set(kinds.values()) <= {"file", "folder", "path", "name"}
