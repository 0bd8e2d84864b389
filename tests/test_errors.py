"""Whatever is wrong with what a user gives: the right exit code, one clear line, no traceback, no changed file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DETECTOR, Applied, Cli, Outcome, Snapshot
from PIL import Image

from graphsurgery.devices.providers import PROVIDERS


@pytest.fixture
def place(detector: Applied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recipe, its ONNX file, a model_io folder, parts of an earlier run, and an image."""
    for file in ("detector.yaml", "detector.onnx"):
        shutil.copy(detector.folder.parent / file, tmp_path)
    shutil.copytree(detector.folder, tmp_path / "parts")
    shutil.copytree(detector.model_io, tmp_path / "model_io")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_one_line(outcome: Outcome, code: int, *said: str) -> None:
    """The last line on standard error is the only complaint, and it says what was seen and what to do."""
    assert outcome.code == code, outcome.err
    assert outcome.last_line.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    for piece in said:
        assert piece in outcome.last_line


def apply_to(cli: Cli, *arguments: object, recipe: str = "detector.yaml") -> Outcome:
    return cli("apply", recipe, "--out", "parts", "--model-io", "model_io", *arguments)


# --- recipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DETECTOR.replace("[replace-unit-maxpool]", "[fuse-bn]"), "mine.yaml:6: unknown pass 'fuse-bn'"),
        (DETECTOR.replace("replace-unit-maxpool", "replace-unit-maxpol"), "Did you mean 'replace-unit-maxpool'?"),
        (DETECTOR.replace("size: 1000", "sise: 1000"), "mine.yaml:7: "),
        (DETECTOR.replace("size: 1000", "sise: 1000"), "Did you mean 'size'?"),
        (DETECTOR.replace("size: 1000", "size: many"), "mine.yaml:7: "),
        (DETECTOR.replace("size: 1000", "size: 10.5"), "size"),
        (DETECTOR.replace("scores: 1.0e-4", "scores: 1e-4"), "1.0e-4"),
        (DETECTOR + "check: {}\n", "mine.yaml:11: "),
        (DETECTOR.replace("passes:", "passses:"), "mine.yaml:5: "),
        (DETECTOR.replace("RoiAlign", "RoiAlign\n  at: Conv"), "'at'"),
        (DETECTOR.replace("detector.onnx", "missing.onnx"), "missing.onnx"),
        ("extends: nobody\n", "mine.yaml:1: "),
        ("", "mine.yaml:1: the file holds nothing"),
        ("- a\n- b\n", "mine.yaml:1: a recipe is a mapping"),
        ("source: [\n", "mine.yaml:"),
    ],
)
def test_a_wrong_recipe_is_one_line(cli: Cli, snapshot: Snapshot, place: Path, text: str, said: str) -> None:
    (place / "mine.yaml").write_text(text, encoding="utf-8")
    before = snapshot(place)
    assert_one_line(apply_to(cli, recipe="mine.yaml"), 2, said)
    assert snapshot(place) == before


def test_a_binary_recipe_is_one_line(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    (place / "mine.yaml").write_bytes(bytes(range(256)) * 4)
    before = snapshot(place)
    assert_one_line(apply_to(cli, recipe="mine.yaml"), 2, "mine.yaml")
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "check.tolerance.scores"), "--set check.tolerance.scores"),
        (("--set", "=3"), "--set =3"),
        (("--set", "check.tolerance.scores=1e-4"), "1.0e-4"),
        (("--set", "check.tolerance.scores=-1"), "--set check.tolerance.scores=-1"),
        (("--set", "passes=[no-such-pass]"), "unknown pass 'no-such-pass'"),
        (("--set", "passes=simplify"), "should be a list"),
        (("--set", "source.size=[1,2,3]"), "source.size"),
        (("--set", "source.size=[64,64]"), "works on"),
        (("--set", "part_passes.nowhere=[simplify]"), "nowhere"),
        (("--set", "check.grant.simplify={boxes: 1}"), "'simplify' is exact"),
        (("--set", "partition.at=Softmin"), "Softmin"),
        (("--set", "partition.parts={one: npu}"), "parts"),
        (("--max-samples", "0"), "--max-samples"),
        (("--max-samples", "few"), "--max-samples"),
        (("--no-such-option",), "--no-such-option"),
        (("--plugin", "missing.py"), "missing.py"),
        (("--plugin", "detector.yaml"), "detector.yaml"),
        (("--images", "missing"), "missing: no such image or folder of images"),
        (("--json", "missing/run.json"), "--json missing/run.json"),
    ],
)
def test_a_wrong_option_is_one_line(
    cli: Cli, snapshot: Snapshot, place: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = snapshot(place)
    assert_one_line(apply_to(cli, *arguments), 2, said)
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('no')\n", "fails on import: RuntimeError: no"),
        ("x = 1\n", "defines no NodePass, GraphPass, ModelPass or CustomOperator"),
        ("def (:\n", "fails on import: SyntaxError"),
    ],
)
def test_a_wrong_plugin_is_one_line(cli: Cli, snapshot: Snapshot, place: Path, text: str, said: str) -> None:
    (place / "mine.py").write_text(text, encoding="utf-8")
    before = snapshot(place)
    assert_one_line(apply_to(cli, "--plugin", "mine.py"), 2, "mine.py", said)
    assert {k: v for k, v in snapshot(place).items() if "__pycache__" not in k} == before


def test_a_pass_that_crashes_is_named(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    (place / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from graphsurgery.rewrite import NodePass\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Crash(NodePass):\n"
        "    name = 'crash'\n"
        "    effect = 'exact'\n\n"
        "    def rewrite(self, node, edit):\n"
        "        if node.op == 'Relu':\n"
        "            raise KeyError('oops')\n",
        encoding="utf-8",
    )
    before = snapshot(place)
    assert_one_line(apply_to(cli, "--plugin", "mine.py", "--set", "passes=[crash]"), 2, "pass 'crash'", "oops", "Relu")
    assert {k: v for k, v in snapshot(place).items() if "__pycache__" not in k} == before


def test_an_unknown_recipe_is_answered_with_the_known(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    before = snapshot(place)
    assert_one_line(apply_to(cli, recipe="shape"), 2, "Did you mean 'shapes'?", "maskrcnn")
    assert snapshot(place) == before


# --- models -----------------------------------------------------------------------------------------------------


def test_a_truncated_model_is_one_line(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    content = (place / "detector.onnx").read_bytes()
    (place / "detector.onnx").write_bytes(content[: len(content) // 2])
    before = snapshot(place)
    for outcome in (apply_to(cli), cli("inspect", "detector.onnx"), cli("check", "detector.onnx", "detector.onnx")):
        assert_one_line(outcome, 2, "detector.onnx", "truncated")
    assert snapshot(place) == before


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 500, b"not a model\n"], ids=["empty", "binary", "text"])
def test_a_file_that_is_no_model_is_one_line(cli: Cli, snapshot: Snapshot, place: Path, content: bytes) -> None:
    (place / "detector.onnx").write_bytes(content)
    before = snapshot(place)
    for outcome in (apply_to(cli), cli("inspect", "detector.onnx")):
        assert_one_line(outcome, 2, "detector.onnx")
    assert snapshot(place) == before


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "missing.bin"])
def test_weights_outside_the_models_folder_are_not_read(
    cli: Cli, snapshot: Snapshot, place: Path, location: str
) -> None:
    model = onnx.load(place / "detector.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    (place / "models").mkdir()
    (place / "models" / "m.onnx").write_bytes(model.SerializeToString())
    (place / "outside.bin").write_bytes(bytes(1 << 20))
    before = snapshot(place)
    for outcome in (apply_to(cli, "--set", "source.onnx=models/m.onnx"), cli("inspect", "models/m.onnx")):
        assert_one_line(outcome, 2, "m.onnx", location, "is missing" if "missing" in location else "outside")
    assert snapshot(place) == before


def test_a_missing_model_is_one_line(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    before = snapshot(place)
    for outcome in (
        cli("inspect", "missing.onnx"),
        cli("check", "missing.onnx", "parts"),
        cli("run", "missing", "--image", "image.png"),
    ):
        assert_one_line(outcome, 2, "missing")
    assert snapshot(place) == before


# --- captured tensors -------------------------------------------------------------------------------------------


def test_tensors_of_another_model_are_refused(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    (place / "detector.onnx").rename(place / "other.onnx")
    (place / "detector.yaml").write_text(DETECTOR.replace("detector.onnx", "other.onnx"), encoding="utf-8")
    before = snapshot(place)
    assert_one_line(apply_to(cli), 2, "model_io: captured of another model (name 'detector.onnx', not", "capture again")
    assert_one_line(cli("capture", "detector.yaml", "--model-io", "model_io"), 2, "captured of another model")
    assert snapshot(place) == before


def test_a_capture_of_the_model_as_it_was_is_only_replaced_by_hand_when_asked(
    cli: Cli, snapshot: Snapshot, place: Path
) -> None:
    model = onnx.load(place / "detector.onnx")
    model.doc_string = "a later export"
    onnx.save(model, place / "detector.onnx")
    before = snapshot(place)
    said = "model_io: captured of another model (weights_sha256"
    assert_one_line(cli("capture", "detector.yaml", "--model-io", "model_io"), 2, said, "overwrite")
    assert snapshot(place) == before


def test_pickled_objects_are_not_loaded(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    bomb = np.array([Bomb(str(place / "exploded"))], dtype=object)
    # only writes the hostile file; loading must refuse it
    np.save(place / "model_io" / "1" / "boxes.npy", bomb, allow_pickle=True)
    before = snapshot(place)
    for outcome in (apply_to(cli), cli("check", "model_io", "parts"), cli("check", "model_io", "model_io")):
        assert_one_line(outcome, 2, "boxes.npy", "can't be read as a plain array")
    assert snapshot(place) == before


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_broken_index_of_samples_is_one_line(cli: Cli, snapshot: Snapshot, place: Path, text: str) -> None:
    (place / "model_io" / "capture.json").write_text(text, encoding="utf-8")
    before = snapshot(place)
    assert_one_line(apply_to(cli), 2, "capture.json", "capture again")
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "missing"), "missing: no such image or folder of images"),
        (("--images", "empty"), "empty: no image in this folder"),
        (("--images", "detector.yaml"), "detector.yaml: can't be read as an image"),
        (("--images", ".", "--annotations", "missing.json"), "missing.json: can't be read"),
        (("--images", ".", "--annotations", "detector.yaml"), "detector.yaml: can't be read as JSON"),
        (("--images", ".", "--annotations", "none.json"), "none.json: no images; give"),
        (("--images", ".", "--annotations", "outside.json"), "lies outside"),
        (("--annotations", "none.json"), "--annotations none.json"),
        (("--max-samples", "0", "--images", "."), "--max-samples"),
    ],
)
def test_wrong_images_to_capture_are_one_line(
    cli: Cli, snapshot: Snapshot, place: Path, arguments: tuple[str, ...], said: str
) -> None:
    (place / "empty").mkdir()
    (place / "none.json").write_text('{"images": []}', encoding="utf-8")
    outside = {"images": [{"id": 1, "file_name": "../image.png"}]}
    (place / "outside.json").write_text(json.dumps(outside), encoding="utf-8")
    before = snapshot(place)
    assert_one_line(cli("capture", "detector.yaml", "--model-io", "new", *arguments), 2, said)
    shutil.rmtree(place / "new", ignore_errors=True)  # a folder without samples may be there
    assert snapshot(place) == before


# --- run and check ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--image", "missing.png"), 2, "missing.png"),
        (("--image", "detector.yaml"), 2, "detector.yaml: can't be read as an image"),
        (("--image", "image.png", "--device", "gpu=cuda"), 2, "no part is on device 'gpu'"),
        (("--image", "image.png", "--device", "npu=abacus"), 2, "unknown provider 'abacus'"),
        (("--image", "image.png", "--device", "npu"), 2, "DEVICE=PROVIDER"),
        (("--image", "image.png", "--score", "2"), 2, "--score"),
        (("--image", "image.png", "--out", "missing/x.png"), 2, "missing"),
        (("--image", "image.png", "--json", "missing/x.json"), 2, "missing"),
    ],
)
def test_a_wrong_run_is_one_line(
    cli: Cli, snapshot: Snapshot, place: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    before = snapshot(place)
    assert_one_line(cli("run", "parts", *arguments), code, said)
    assert snapshot(place) == before


@pytest.mark.usefixtures("cpu_alone")
def test_a_provider_that_is_not_here_is_a_missing_tool(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    before = snapshot(place)
    outcome = cli("run", "parts", "--image", "image.png", "--device", "npu=vitisai")
    assert_one_line(outcome, 3, "npu=vitisai", PROVIDERS["vitisai"].install)
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("parts", "model_io", "--inputs", "model_io"), "leave --inputs out"),
        (("model_io", "empty"), "holds neither manifest.json nor capture.json"),
        (("model_io", "parts", "--tolerance", "boxes"), "--tolerance boxes"),
        (("model_io", "parts", "--tolerance", "boxes=-1"), "--tolerance"),
        (("model_io",), "Missing argument"),
    ],
)
def test_a_wrong_check_is_one_line(
    cli: Cli, snapshot: Snapshot, place: Path, arguments: tuple[str, ...], said: str
) -> None:
    (place / "empty").mkdir()
    before = snapshot(place)
    assert_one_line(cli("check", *arguments), 2, said)
    assert snapshot(place) == before


def test_an_unknown_pass_to_show_is_one_line(cli: Cli) -> None:
    assert_one_line(cli("passes", "widen-maxpol"), 2, "unknown pass 'widen-maxpol'", "'widen-maxpool'")


# --- where the output goes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["detector.yaml", "detector.yaml/parts", "model_io"])
def test_an_output_folder_that_is_something_else_is_refused(
    cli: Cli, snapshot: Snapshot, place: Path, out: str
) -> None:
    before = snapshot(place)
    outcome = cli("apply", "detector.yaml", "--out", out, "--model-io", "model_io")
    assert_one_line(outcome, 2, "--out")
    assert snapshot(place) == before


def test_an_output_folder_without_permission_is_refused(
    cli: Cli, snapshot: Snapshot, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(place)
    allowed = os.access
    # the tests may run as root, whom no permission stops
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))
    assert_one_line(apply_to(cli), 2, "parts: can't be written (no permission to write)", "--out")
    assert snapshot(place) == before


def test_a_run_that_fails_early_leaves_no_empty_folders(cli: Cli, snapshot: Snapshot, place: Path) -> None:
    before = snapshot(place)
    outcome = cli("apply", "detector.yaml", "--out", "a/b/c", "--model-io", "model_io", "--set", "partition.at=Softmin")
    assert_one_line(outcome, 2)
    assert snapshot(place) == before


# --- what is not installed, or not there ------------------------------------------------------------------------

BLOCKER = """\
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""


def without(blocked: set[str], folder: Path, *arguments: str) -> Outcome:
    """Run the command line where some packages are not installed."""
    (folder / "sitecustomize.py").write_text(BLOCKER.format(blocked=blocked), encoding="utf-8")
    paths = [str(folder), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "graphsurgery", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("blocked", "extra"),
    [({"torch", "torchvision"}, "torch"), ({"torchvision"}, "torch"), ({"pycocotools"}, "coco")],
)
def test_a_missing_extra_is_named(
    snapshot: Snapshot, place: Path, tmp_path_factory: pytest.TempPathFactory, blocked: set[str], extra: str
) -> None:
    folder = tmp_path_factory.mktemp("blocked")
    before = snapshot(place)
    outcome = without(blocked, folder, "apply", "shapes", "--out", "parts", "--model-io", "model_io")
    assert_one_line(outcome, 3, f"pip install 'graphsurgery[{extra}]'")
    assert snapshot(place) == before


def test_parts_are_played_and_taken_apart_without_any_extra(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("blocked")
    blocked = {"torch", "torchvision", "safetensors", "pycocotools", "onnx_ir", "onnxscript"}
    played = without(blocked, folder, "run", "parts", "--image", "image.png")
    assert played.code == 0, played.err
    checked = without(blocked, folder, "check", "model_io", "parts", "--tolerance", "*=rel:1e-3")
    assert checked.code == 0, checked.err
    applied = without(blocked, folder, "apply", "detector.yaml", "--out", "parts", "--model-io", "model_io")
    assert applied.code == 0, applied.err


def test_weights_that_cannot_be_downloaded_name_the_other_ways(
    cli: Cli, snapshot: Snapshot, place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # it has read the environment earlier
    before = snapshot(place)
    outcome = cli("apply", "maskrcnn", "--weights", "COCO_V1", "--out", "parts", "--model-io", "model_io")
    assert_one_line(outcome, 3, "COCO_V1", "can't be downloaded", ".safetensors file", "random:<seed>")
    assert snapshot(place) == before


@pytest.mark.parametrize(
    "weights", ["nonsense", "missing.pth", "missing.safetensors", "random:", "random:x", "image.png"]
)
def test_weights_that_are_none_are_one_line(cli: Cli, snapshot: Snapshot, place: Path, weights: str) -> None:
    pytest.importorskip("torch")
    before = snapshot(place)
    outcome = cli(
        "apply", "shapes", "--weights", weights, "--out", "parts", "--model-io", "model_io", "--set", "evaluate="
    )
    assert_one_line(outcome, 2, "weights", weights)
    assert re.search(r"random:|\.safetensors", outcome.last_line)
    assert snapshot(place) == before
