"""What is compared: a fingerprint for each column, and the original found again from what the manifest says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from bars import change, write_parts

from graphsurgery.errors import InputError, ModelError
from graphsurgery.evaluation.columns import Loaded, OriginalColumn, PartsColumn, variants
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.parts.manifest import Manifest

PLACED = CanvasImage(np.zeros((3, 8, 12), np.float32), 8, 12, (8, 12))


def test_a_fingerprint_is_that_of_the_parts_and_of_their_devices(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    first = PartsColumn.of("parts", folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert PartsColumn.of("other", tmp_path / "copy").fingerprint == first.fingerprint
    assert PartsColumn.of("parts", folder, {"npu": "cpu"}).fingerprint == first.fingerprint
    assert PartsColumn.of("parts", folder, {"npu": "qnn"}).fingerprint != first.fingerprint
    assert PartsColumn.of("parts", write_parts(tmp_path / "x", high=3)).fingerprint != first.fingerprint
    assert PartsColumn.of("parts", folder, allow_fallback=True).fingerprint != first.fingerprint


def test_weights_in_a_file_of_their_own_count(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    model = onnx.load(folder / "all.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "unused"))
    onnx.save(model, folder / "all.onnx", save_as_external_data=True, location="all.data", size_threshold=0)
    first = PartsColumn.of("parts", folder).fingerprint
    (folder / "all.data").write_bytes(b"\1" * (folder / "all.data").stat().st_size)
    assert PartsColumn.of("parts", folder).fingerprint != first


def test_the_manifests_devices_are_taken_unless_others_are_given(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    change(folder / "manifest.json", devices={"npu": "qnn,soc_model=60"})
    said, given = PartsColumn.of("parts", folder), PartsColumn.of("parts", folder, {"npu": "cpu"})
    assert said.fingerprint != given.fingerprint
    assert (said.devices, given.devices) == ((), (("npu", "cpu"),))
    assert not said.on_cpu
    assert given.on_cpu


def test_what_a_manifest_says_stays_in_its_folder(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    change(folder / "manifest.json", devices={"npu": f"qnn,context={tmp_path / 'elsewhere'}"})
    with pytest.raises(InputError, match="context leads out of"):
        PartsColumn.of("parts", folder).open(1)


def test_a_device_that_no_part_is_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part is on device 'gpu'; the parts are on npu"):
        PartsColumn.of("parts", write_parts(tmp_path), {"gpu": "cuda"})


def test_parts_that_changed_since_are_refused(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    column = PartsColumn.of("parts", folder)
    assert len(column.open(1).detect(PLACED, Path())["boxes"]) == 0
    write_parts(folder, high=2)
    with pytest.raises(InputError, match="holds other parts than when this began"):
        column.open(1)
    (folder / "all.onnx").unlink()
    with pytest.raises(ModelError, match=r"all\.onnx"):
        column.check()


def test_variants_are_those_that_the_manifest_lists_and_then_the_rest(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    for name in ("a", "int8", "z"):
        write_parts(folder / name)
    (folder / "notes").mkdir()
    change(folder / "manifest.json", variants=["z", "int8"])
    assert variants(folder, Manifest.read(folder)) == ["z", "int8", "a"]
    write_parts(folder / "original")
    with pytest.raises(InputError, match="'original' names a column of its own; rename"):
        variants(folder, Manifest.read(folder))


def test_the_original_is_found_in_the_places_named(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    manifest = Manifest.read(folder)
    column = OriginalColumn.of(manifest, [tmp_path, folder])
    canvas, detect = column.open(1)
    assert canvas == Canvas(8, 12)
    assert len(detect(PLACED, Path())["boxes"]) == 0
    with pytest.raises(InputError, match=r"'all\.onnx' is in none of .*; name it with --weights, or .*--no-original"):
        OriginalColumn.of(manifest, [tmp_path])


def test_the_original_may_lie_in_the_file_that_is_named(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    manifest = Manifest.read(folder)
    moved = (folder / "all.onnx").rename(tmp_path / "moved.onnx")
    column = OriginalColumn.of(manifest, [folder], str(moved))
    assert len(column.open(1).detect(PLACED, Path())["boxes"]) == 0
    write_parts(folder, high=2)
    with pytest.raises(InputError, match=r"all\.onnx has weights_sha256 .*, the parts were made of one with"):
        OriginalColumn.of(manifest, [folder], str(folder / "all.onnx")).open(1)


def test_another_model_under_the_originals_name_is_refused(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    column = OriginalColumn.of(Manifest.read(folder), [folder])
    write_parts(folder, high=2)
    with pytest.raises(InputError, match=r"all\.onnx has weights_sha256 .*, the parts were made of one with"):
        column.open(1)
    (folder / "all.onnx").unlink()
    with pytest.raises(InputError, match=r"there is no .*all\.onnx"):
        column.check()


def test_the_demo_is_built_again_from_its_manifest(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from graphsurgery.sources import SourceSpec, open_source

    folder = write_parts(tmp_path / "parts")
    spec = SourceSpec("demo", "shapes", size=(64, 96))
    source = open_source(spec)
    change(folder / "manifest.json", source=dict(source.describe()))
    column = OriginalColumn.of(Manifest.read(folder), [folder])
    assert column.spec == spec
    image = CanvasImage(np.random.default_rng(0).random((3, 64, 96), np.float32), 64, 96, (64, 96))
    found = column.open(1).detect(image, Path())
    assert {name: array.shape for name, array in found.items()} == {
        name: array.shape for name, array in source.detect(image).items()
    }


def test_a_manifest_without_a_source_has_no_original(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts")
    change(folder / "manifest.json", source={})
    with pytest.raises(InputError, match="the manifest doesn't say where the model came from"):
        OriginalColumn.of(Manifest.read(folder), [folder])


def test_what_is_open_already_is_used_as_it_is() -> None:
    column = Loaded("original", Canvas(8, 12), lambda placed, _: {"boxes": placed.input})
    column.check()
    assert column.open(3).detect(PLACED, Path())["boxes"] is PLACED.input
