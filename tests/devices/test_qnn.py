"""Qualcomm's HTP, for real: its compiler and emulator run here wherever onnxruntime-qnn is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Applied, Cli
from onnx import ModelProto, numpy_helper

from graphsurgery.devices.placement import Placement, place
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.passes.freeze_nms import FreezeNms
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import parse

_HERE = (sys.platform, platform.machine().lower()) in {("linux", "x86_64"), ("win32", "arm64")}
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("onnxruntime_qnn") is None, reason="onnxruntime-qnn is not installed"),
    pytest.mark.skipif(not _HERE, reason="onnxruntime-qnn has an emulator for x86-64 Linux only"),
]

QNN = DeviceChoice("qnn")
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)
WEIGHTS = {
    "w0": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32) / 4,
    "w1": RNG.standard_normal((4, 8, 1, 1)).astype(np.float32) / 3,
}
NET = """a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w0)
    b = Relu (a)
    [last] y = Conv <kernel_shape=[1,1]> (b, w1)"""


def model(text: str) -> ModelProto:
    """Return the parsed model with the weights in it that it names."""
    proto = parse(f"{HEAD} {text}")
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(w, name) for name, w in WEIGHTS.items() if name in read)
    return proto


PLAIN = model(f"g (float[1,3,16,16] x) => (float[1,4,16,16] y) {{ {NET} }}")
DYNAMIC = model(f"g (float[N,3,16,16] x) => (float[N,4,16,16] y) {{ {NET} }}")
COUNTING = model(f"g (float[1,3,16,16] x) => (float[1,4,16,16] y, int64[4,K] z) {{ {NET} [where] z = NonZero (y) }}")


def sqnr(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB: 10 log10(sum of squares / sum of squared differences)."""
    noise = float(np.sum((expected.astype(np.float64) - actual) ** 2))
    return math.inf if noise == 0 else 10 * math.log10(float(np.sum(expected.astype(np.float64) ** 2)) / noise)


def on_cpu(proto: ModelProto, image: np.ndarray = IMAGE) -> np.ndarray:
    return Session(proto).run({"x": image})["y"]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """The net as QDQ: uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rest = [{"x": IMAGE}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.rest.pop() if self.rest else None

    folder = tmp_path_factory.mktemp("quantized")
    onnx.save(PLAIN, folder / "plain.onnx")
    quantize_static(
        folder / "plain.onnx",
        folder / "qdq.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return onnx.load(folder / "qdq.onnx")


# --- running ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["43", "60", "69"])
def test_int8_runs_there_with_no_node_on_the_cpu(quantized: ModelProto, chip: str) -> None:
    got = Session(quantized, device=DeviceChoice("qnn", {"soc_model": chip}), optimise=True).run({"x": IMAGE})["y"]
    assert sqnr(on_cpu(PLAIN), got) > 30  # 36 measured; onnxruntime's own int8 gives as much
    assert sqnr(on_cpu(quantized), got) > 35


def test_a_float32_model_is_computed_in_float16_there() -> None:
    got = Session(PLAIN, device=QNN).run({"x": IMAGE})["y"]
    assert 50 < sqnr(on_cpu(PLAIN), got) < 90  # float32 would give 120


def test_a_second_session_finds_the_plug_in_registered() -> None:
    first, second = (Session(PLAIN, device=QNN) for _ in range(2))
    assert np.array_equal(first.run({"x": IMAGE})["y"], second.run({"x": IMAGE})["y"])


def test_nothing_is_written_to_standard_output_where_json_may_be_on_its_way(tmp_path: Path) -> None:
    onnx.save(PLAIN, tmp_path / "m.onnx")
    code = (
        "import sys; from pathlib import Path; from graphsurgery.devices.session import Session; "
        "from graphsurgery.devices.providers import DeviceChoice; print('before', end=' ', flush=True); "
        "Session(Path(sys.argv[1]), device=DeviceChoice('qnn')); print('after')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "before after"


# --- falling back -------------------------------------------------------------------------------------------------


def test_an_operator_that_it_has_not_is_named_with_its_reason() -> None:
    with pytest.raises(InputError) as caught:
        Session(COUNTING, name="part 'head'", device=QNN, optimise=True)
    said = str(caught.value)
    assert said.startswith(
        "part 'head': qnn leaves 1 of 4 nodes to the CPU: NonZero 'where' (NonZero output shape must"
    )
    assert said.endswith("or accept it with --allow-fallback")
    assert "\n" not in said


def test_a_dynamic_batch_sends_all_of_it_to_the_cpu_and_that_is_said() -> None:
    with pytest.raises(
        InputError, match=r"qnn leaves 3 of 3 nodes to the CPU: Conv 'a', Relu 'b', Conv 'last' \(a size"
    ):
        Session(DYNAMIC, device=QNN)


@pytest.mark.parametrize("proto", [COUNTING, DYNAMIC], ids=["NonZero", "dynamic batch"])
def test_it_runs_all_the_same_where_that_is_allowed(proto: ModelProto) -> None:
    got = Session(proto, device=QNN, allow_fallback=True).run({"x": IMAGE})["y"]
    assert sqnr(on_cpu(PLAIN), got) > 50


# --- placement ----------------------------------------------------------------------------------------------------


def where(found: Placement) -> list[tuple[str, str, int | None]]:
    return [(node.label, node.ran, node.multiply_adds) for node in found.nodes]


def test_each_node_is_placed() -> None:
    found = place(Model(COUNTING), QNN)
    assert where(found) == [
        ("Conv 'a'", "qnn", 8 * 256 * 27),
        ("Relu 'b'", "qnn", 0),
        ("Conv 'last'", "qnn", 4 * 256 * 8),
        ("NonZero 'where'", "cpu", 0),
    ]
    assert [node.reason is not None for node in found.nodes] == [False, False, False, True]


def test_the_profile_of_a_run_tells_the_same() -> None:
    assert where(place(Model(COUNTING), QNN, profile=True)) == where(place(Model(COUNTING), QNN))


def test_every_node_of_a_qdq_model_is_placed_or_folded(quantized: ModelProto) -> None:
    found = place(Model(quantized), QNN)
    assert found.left == []
    convs = [node for node in found.nodes if node.op == "Conv"]
    assert [(node.ran, node.multiply_adds) for node in convs] == [("qnn", 8 * 256 * 27), ("qnn", 4 * 256 * 8)]


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    path, copy = tmp_path / "m.onnx", ModelProto.FromString(PLAIN.SerializeToString())  # what is saved so is changed
    onnx.save(copy, path, save_as_external_data=True, size_threshold=0, location="m.data")
    assert place(Model.load(path), QNN).left == []
    assert sqnr(on_cpu(PLAIN), Session(path, device=QNN).run({"x": IMAGE})["y"]) > 50


MANIFEST: dict[str, Any] = {
    "recipe": "r",
    "source": {},
    "canvas": {"height": 16, "width": 16, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "normalise": False,
    "input": "x",
    "outputs": ["y", "z"],
}


def folder_of_parts(folder: Path, proto: ModelProto) -> Path:
    """Write a folder of two parts: `proto` for the npu, and a Relu behind it for the cpu."""
    folder.mkdir()
    onnx.save(proto, folder / "head.onnx")
    onnx.save(parse(f"{HEAD} g (float[1,4,16,16] y) => (float[1,4,16,16] z) {{ z = Relu (y) }}"), folder / "tail.onnx")
    image, found = {"shape": [1, 3, 16, 16], "dtype": "float32"}, {"shape": [1, 4, 16, 16], "dtype": "float32"}
    common = {"batch": None, "accelerator": True}
    parts = [
        {
            **common,
            "name": "head",
            "device": "npu",
            "file": "head.onnx",
            "inputs": {"x": image},
            "outputs": {"y": found},
        },
        {
            **common,
            "name": "tail",
            "device": "cpu",
            "file": "tail.onnx",
            "inputs": {"y": found},
            "outputs": {"z": found},
        },
    ]
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "parts": parts}), encoding="utf-8")
    return folder


def test_the_table_shows_nodes_and_multiply_adds(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = folder_of_parts(tmp_path / "parts", PLAIN)
    ended = cli("placement", folder, "--device", "npu=qnn,soc_model=43", "--json", tmp_path / "p.json")
    assert ended.code == 0, ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["head", "qnn", "3", "of", "3", "100.0%", "of", "63.5", "k"] in rows
    assert ["tail", "cpu", "0", "of", "1", "-"] in rows
    assert ["all", "3", "of", "4", "100.0%", "of", "63.5", "k"] in rows
    written = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert (written["nodes_taken"], written["nodes_running"], written["multiply_adds"]) == (3, 4, 63488)
    assert written["parts"][0]["nodes"][0] == {
        "name": "a",
        "op": "Conv",
        "ran": "qnn",
        "multiply_adds": 55296,
        "reason": None,
    }


def test_a_fallback_ends_the_command_with_the_list_unless_it_is_allowed(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = folder_of_parts(tmp_path / "parts", DYNAMIC)
    ended = cli("placement", folder, "--device", "npu=qnn")
    assert ended.code == 2
    assert "part 'head': qnn leaves 3 of 3 nodes to the CPU" in ended.last_line
    assert "Left to the CPU: 3 nodes" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80
    assert cli("placement", folder, "--device", "npu=qnn", "--allow-fallback").code == 0


def test_a_device_without_a_part_ends_the_command(cli: Any, tmp_path: Path) -> None:
    folder = folder_of_parts(tmp_path / "parts", PLAIN)
    ended = cli("placement", folder, "--device", "gpu=qnn")
    assert ended.code == 2
    assert "no part is on device 'gpu'; the parts are on cpu, npu" in ended.last_line


def test_the_folder_may_name_its_providers_and_somebody_must(cli: Any, tmp_path: Path) -> None:
    folder = folder_of_parts(tmp_path / "parts", PLAIN)
    ended = cli("placement", folder)
    assert ended.code == 2
    assert "made for no provider; name one, for example --device npu=qnn" in ended.last_line
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "devices": {"npu": "qnn"}}), encoding="utf-8")
    assert "qnn" in cli("placement", folder).out


# --- what was compiled is kept ------------------------------------------------------------------------------------


def session(proto: ModelProto, place_: Path, name: str = "part 'head'", **options: str) -> Session:
    return Session(proto, name=name, device=DeviceChoice("qnn", {"context": str(place_), **options}), optimise=True)


def test_the_compiled_model_is_kept_and_used_next_time(tmp_path: Path) -> None:
    first = session(PLAIN, tmp_path / "cache").run({"x": IMAGE})["y"]
    (kept,) = (tmp_path / "cache").iterdir()
    assert [node.op_type for node in onnx.load(kept).graph.node] == ["EPContext"]
    stamp = kept.stat().st_mtime_ns
    second = session(PLAIN, tmp_path / "cache").run({"x": IMAGE})["y"]
    assert np.array_equal(first, second)
    assert kept.stat().st_mtime_ns == stamp
    assert list((tmp_path / "cache").iterdir()) == [kept]


def test_another_model_or_chip_is_compiled_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    other = ModelProto()
    other.CopyFrom(PLAIN)
    other.graph.initializer[1].CopyFrom(numpy_helper.from_array(2 * WEIGHTS["w1"], "w1"))
    plain = session(PLAIN, cache).run({"x": IMAGE})["y"]
    assert sqnr(2 * plain, session(other, cache).run({"x": IMAGE})["y"]) > 50
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    session(other, cache, soc_model="43")
    assert kept.stat().st_mtime_ns != stamp


def test_a_compiled_model_that_can_not_be_used_is_compiled_anew(tmp_path: Path) -> None:
    session(PLAIN, tmp_path)
    (kept,) = tmp_path.iterdir()
    proto = onnx.load(kept)
    blob = next(attribute for attribute in proto.graph.node[0].attribute if attribute.name == "ep_cache_context")
    blob.s = b"not what it was"
    onnx.save(proto, kept)
    assert sqnr(on_cpu(PLAIN), session(PLAIN, tmp_path).run({"x": IMAGE})["y"]) > 50
    assert kept.stat().st_size > 1000


def test_a_file_keeps_one_part(tmp_path: Path) -> None:
    file = tmp_path / "head.onnx"
    session(PLAIN, file)
    session(PLAIN, file)
    with pytest.raises(
        InputError, match=r"part 'tail': context=.* keeps what part 'head' was compiled to; give a folder"
    ):
        session(PLAIN, file, name="part 'tail'")


def test_the_quantized_parts_of_the_embedded_detector_run_there_whole_and_have_an_ap(
    cli: Cli, shapes: Applied, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools")
    out = tmp_path / "parts"
    applied = cli(
        *("apply", "shapes", "--model-io", shapes.model_io, "--out", out, "--variant", "htp"),
        # two images say that it works, not what it costs: `apply shapes --variant htp` takes 100
        *("--set", "evaluate={samples: 2}", "--set", "variants.htp.max_ap_drop=0.3"),
    )
    assert applied.code == 0, applied.err  # and each session refuses to fall back
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["evaluation"]["ap"]["bbox"]["htp"] > 0.6
    assert run["latency"]["htp"]["parts"].keys() == run["latency"]["parts"]["parts"].keys()
    placed = cli("placement", out / "htp", "--json", tmp_path / "placement.json")
    assert placed.code == 0, placed.err
    parts = {part["part"]: part for part in json.loads((tmp_path / "placement.json").read_text())["parts"]}
    for name in ("backbone_rpn", "box_head", "mask_head"):
        assert parts[name]["provider"] == "qnn"
        assert parts[name]["node_share"] == 1
        assert parts[name]["multiply_add_share"] == 1


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    onnx.save(PLAIN, file)
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"context=.*mine.onnx is another file"):
        session(PLAIN, file)
    assert file.read_bytes() == before


def test_nothing_is_kept_of_what_falls_back(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="qnn leaves 3 of 3 nodes to the CPU"):
        session(DYNAMIC, tmp_path)
    assert list(tmp_path.iterdir()) == []
    choice = DeviceChoice("qnn", {"context": str(tmp_path)})
    Session(DYNAMIC, device=choice, allow_fallback=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "clusters"), [(50, 16), (70, 23)])
def test_the_rows_of_a_frozen_nms_are_those_of_the_cpu(count: int, clusters: int) -> None:
    """The accelerator chooses boxes, the host takes away what it adds; 50 as they are, 70 filled up to 384."""
    head = f"g (float[1,{count},4] b, float[1,1,{count}] s) => (int64[n,3] r)"
    body = "<int64 m = {40}, float i = {0.5}, float t = {0.3}> { r = NonMaxSuppression (b, s, m, i, t) }"
    plain = parse(f"{HEAD} {head} {body}")
    frozen = apply_pass(FreezeNms(multiple=64, least=384), Model(plain)).model.proto
    accelerator, host = (ModelProto.FromString(frozen.SerializeToString()) for _ in range(2))
    written = [node.output[0] for node in frozen.graph.node]
    end = written.index("r_box")
    for index in reversed(range(len(written))):
        if index > end:
            del accelerator.graph.node[index]
        elif not written[index].endswith("scores"):
            del host.graph.node[index]
    box = onnx.helper.make_tensor_value_info("r_box", onnx.TensorProto.INT64, [40, 1])
    del accelerator.graph.output[:]
    accelerator.graph.output.append(box)
    host.graph.input.append(box)
    # boxes and scores that float16 holds, so that no order hangs on its rounding
    draw = np.random.default_rng(count)
    place, shift = draw.integers(0, clusters, count), draw.integers(0, 2, (count, 2))
    corners = np.stack([place % 8 * 32, place // 8 * 32], 1) + shift
    boxes, scores = np.concatenate([corners, corners + 16], 1), (draw.permutation(1024)[:count] + 1) / 1024
    given = {"b": boxes[None].astype(np.float32), "s": scores[None, None].astype(np.float32)}
    chosen = Session(accelerator, device=QNN).run(given)["r_box"]
    expected = Session(plain).run(given)["r"]
    assert 0 < len(expected) < 40
    assert np.array_equal(Session(host).run({**given, "r_box": chosen})["r"], expected)
