from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.ops import box_iou

from graphsurgery.demo.network import CHECKPOINT, shapes_maskrcnn
from graphsurgery.demo.shapes import (
    CATEGORIES,
    HEIGHT,
    TRAIN_SEED,
    VAL_SEED,
    WIDTH,
    ShapeImage,
    draw,
    embedded_images,
    generate,
    write_dataset,
)
from graphsurgery.demo.shapes import main as shapes_main
from graphsurgery.demo.train import average_precision
from graphsurgery.demo.train import main as train_main
from graphsurgery.errors import InputError
from graphsurgery.images.run_lengths import encode_rle


@pytest.fixture(scope="module")
def trained() -> MaskRCNN:
    return shapes_maskrcnn(CHECKPOINT).eval()


def assert_same(one: ShapeImage, other: ShapeImage) -> None:
    assert one.image_id == other.image_id
    for name in ("image", "boxes", "labels", "masks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def detect(model: MaskRCNN, shown: ShapeImage) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        found: dict[str, torch.Tensor] = model([torch.from_numpy(shown.image).permute(2, 0, 1) / 255])[0]
    return found


# --- the images


def test_draws_the_same_image_for_the_same_seed_and_index() -> None:
    assert_same(draw(VAL_SEED, 7), draw(VAL_SEED, 7))


def test_draws_an_image_that_does_not_depend_on_how_many_are_drawn() -> None:
    for few, many in zip(generate(3, VAL_SEED), generate(6, VAL_SEED), strict=False):
        assert_same(few, many)


def test_draws_the_bytes_that_the_checkpoint_was_trained_on() -> None:
    shown = draw(TRAIN_SEED, 0)
    assert shown.labels.tolist() == [3, 1]
    assert shown.boxes.tolist() == [[144.0, 0.0, 192.0, 52.0], [64.0, 74.0, 155.0, 165.0]]
    assert int(shown.image.astype(np.int64).sum()) == 33307489


def test_draws_other_images_for_training_than_for_validation() -> None:
    training = {shown.image.tobytes() for shown in generate(20, TRAIN_SEED)}
    validation = {shown.image.tobytes() for shown in generate(20, VAL_SEED)}
    assert len(training) == len(validation) == 20
    assert not training & validation


def test_draws_zero_to_six_objects_of_all_categories() -> None:
    series = list(generate(100, VAL_SEED))
    assert {len(shown.labels) for shown in series} == set(range(7))
    assert {label for shown in series for label in shown.labels.tolist()} == set(CATEGORIES)
    assert all(shown.image.shape == (HEIGHT, WIDTH, 3) for shown in series)


def test_gives_boxes_that_are_the_extents_of_the_visible_masks() -> None:
    for shown in generate(20, VAL_SEED):
        for (x0, y0, x1, y1), mask in zip(shown.boxes.astype(int).tolist(), shown.masks, strict=True):
            rows, columns = np.nonzero(mask)
            assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_gives_each_pixel_to_one_object_at_most() -> None:
    assert all(shown.masks.sum(axis=0).max(initial=0) <= 1 for shown in generate(20, VAL_SEED))


def test_leaves_no_object_almost_hidden() -> None:
    areas = [int(mask.sum()) for shown in generate(100, VAL_SEED) for mask in shown.masks]
    assert min(areas) > 75


def test_paints_each_object_in_one_colour_apart_from_noise() -> None:
    for shown in generate(10, VAL_SEED):
        for mask in shown.masks:
            assert np.ptp(shown.image[mask].astype(int), axis=0).max() <= 28


def test_embeds_an_empty_image_and_one_of_another_size() -> None:
    images = embedded_images(4)
    assert [shown.image_id for shown in images] == [1, 2, 3, 4]
    assert [len(shown.labels) == 0 for shown in images] == [False, False, True, False]
    assert images[2].masks.shape == (0, HEIGHT, WIDTH)
    assert images[2].boxes.shape == (0, 4)
    sizes = [shown.image.shape[:2] for shown in images]
    assert sizes == [(HEIGHT, WIDTH), (300, 200), (HEIGHT, WIDTH), (HEIGHT, WIDTH)]


def test_refuses_to_embed_no_image() -> None:
    with pytest.raises(InputError, match="ask for at least 1"):
        embedded_images(0)


# --- the COCO files


@pytest.mark.parametrize("corner", [False, True])
def test_encodes_masks_that_pycocotools_reads_back(corner: bool) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((13, 17)) < 0.4
    mask[0, 0] = mask[-1, -1] = corner
    encoded = encode_rle(mask)
    decoded = coco_mask.decode(coco_mask.frPyObjects(encoded, *mask.shape))
    np.testing.assert_array_equal(decoded.astype(bool), mask)


@pytest.mark.parametrize("value", [False, True])
def test_encodes_masks_of_one_value(value: bool) -> None:
    assert encode_rle(np.full((3, 5), value))["counts"] == ([0, 15] if value else [15])


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_writes_a_data_set_that_pycocotools_loads(tmp_path: Path, suffix: str) -> None:
    path = write_dataset(tmp_path, 6, VAL_SEED, suffix)
    assert {each.suffix for each in (tmp_path / "images").iterdir()} == {suffix}
    coco = COCO(str(path))
    assert {entry["id"]: entry["name"] for entry in coco.loadCats(coco.getCatIds())} == CATEGORIES
    for shown in generate(6, VAL_SEED):
        entry = coco.loadImgs([shown.image_id])[0]
        with Image.open(tmp_path / "images" / entry["file_name"]) as opened:
            np.testing.assert_array_equal(np.asarray(opened), shown.image)
        objects = coco.loadAnns(coco.getAnnIds(imgIds=[shown.image_id]))
        assert [o["category_id"] for o in objects] == shown.labels.tolist()
        for described, box, mask in zip(objects, shown.boxes, shown.masks, strict=True):
            np.testing.assert_array_equal(coco.annToMask(described).astype(bool), mask)
            assert described["bbox"] == [*box[:2], *(box[2:] - box[:2])]
            assert described["area"] == mask.sum()


def test_leaves_no_half_written_files_behind(tmp_path: Path) -> None:
    write_dataset(tmp_path, 2, VAL_SEED)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["images/000001.png", "images/000002.png", "instances.json"]


def test_writes_no_annotations_when_an_image_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "images" / "000002.png").mkdir(parents=True)
    with pytest.raises((IsADirectoryError, PermissionError)):
        write_dataset(tmp_path, 2, VAL_SEED)
    assert not (tmp_path / "instances.json").exists()


def test_writes_training_and_validation_sets_from_the_command_line(tmp_path: Path) -> None:
    shapes_main([str(tmp_path), "--train", "2", "--val", "1"])
    sizes = {
        part: len(json.loads((tmp_path / part / "instances.json").read_text(encoding="utf-8"))["images"])
        for part in ("train", "val")
    }
    assert sizes == {"train": 2, "val": 1}


def test_draws_without_importing_torch() -> None:
    code = "import sys, graphsurgery.demo.shapes; print('torch' in sys.modules, 'pycocotools' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


# --- the network


def test_has_the_modules_of_the_full_network_at_the_same_paths() -> None:
    def modules(model: MaskRCNN) -> dict[str, str]:
        later_block = re.compile(r"backbone\.body\.layer\d\.[1-9]")
        return {
            path: f"{type(module).__module__}.{type(module).__name__}"
            for path, module in model.named_modules()
            if not later_block.match(path)
        }

    with torch.device("meta"):
        full = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    small = modules(shapes_maskrcnn())
    assert small == modules(full)
    assert small["roi_heads.box_head.0"].startswith("torchvision.")


def test_keeps_the_inference_settings_of_the_full_network() -> None:
    with torch.device("meta"):
        full = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    small = shapes_maskrcnn()
    for model in (full, small):
        model.eval()
    assert small.rpn.pre_nms_top_n() == full.rpn.pre_nms_top_n()
    assert small.rpn.post_nms_top_n() == full.rpn.post_nms_top_n()
    assert small.rpn.nms_thresh == full.rpn.nms_thresh
    for name in ("score_thresh", "nms_thresh", "detections_per_img"):
        assert getattr(small.roi_heads, name) == getattr(full.roi_heads, name)
    assert (small.transform.image_mean, small.transform.image_std) == (
        full.transform.image_mean,
        full.transform.image_std,
    )


def test_does_not_resize_an_ordinary_image(trained: MaskRCNN) -> None:
    batch, _ = trained.transform([torch.zeros(3, HEIGHT, WIDTH)])
    assert batch.image_sizes == [(HEIGHT, WIDTH)]
    assert batch.tensors.shape == (1, 3, HEIGHT, WIDTH)


def test_keeps_the_checkpoint_below_four_megabytes() -> None:
    assert CHECKPOINT.stat().st_size <= 4_000_000
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(CHECKPOINT).values())


def test_refuses_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        shapes_maskrcnn(tmp_path / "none.safetensors")


def test_refuses_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"pickle")
    with pytest.raises(InputError, match="not a safetensors file"):
        shapes_maskrcnn(path)


def test_refuses_the_checkpoint_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="are not those of shapes_maskrcnn"):
        shapes_maskrcnn(path)


# --- the trained checkpoint


def test_finds_the_shapes_of_five_validation_images(trained: MaskRCNN) -> None:
    for shown in islice(generate(5, VAL_SEED), 5):
        found = detect(trained, shown)
        sure = found["scores"] > 0.5
        overlap = box_iou(torch.from_numpy(shown.boxes), found["boxes"][sure])
        same = torch.from_numpy(shown.labels)[:, None] == found["labels"][sure][None]
        missed = (overlap * same).amax(dim=1) < 0.5
        assert not missed.any(), f"image {shown.image_id}: missed {shown.boxes[missed.numpy()].tolist()}"


def test_finds_nothing_it_is_sure_of_in_the_empty_image(trained: MaskRCNN) -> None:
    assert not (detect(trained, embedded_images(3)[2])["scores"] > 0.5).any()


def test_reaches_the_average_precision_it_claims(trained: MaskRCNN) -> None:
    precision = average_precision(trained, generate(12, VAL_SEED))
    assert precision["bbox"] >= 0.75
    assert precision["segm"] >= 0.75


def test_gives_no_precision_to_an_untrained_network() -> None:
    torch.manual_seed(0)
    precision = average_precision(shapes_maskrcnn(), generate(2, VAL_SEED))
    assert precision["bbox"] < 0.05
    assert precision["segm"] < 0.05


def test_training_writes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    threads = torch.get_num_threads()
    train_main(["--out", str(out), "--steps", "2", "--batch", "2", "--val", "1", "--threads", str(threads)])
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert shapes_maskrcnn(out).rpn.head.cls_logits.weight.abs().sum() > 0
