"""The embedded detector of one stage: its network, what it learns from, and the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torchvision.ops import box_iou

from graphsurgery.demo.checkpoint import CHECKPOINTS
from graphsurgery.demo.shapes import CATEGORIES, HEIGHT, VAL_SEED, WIDTH, ShapeImage, draw, embedded_images, generate
from graphsurgery.demo.train import average_precision
from graphsurgery.demo.train import main as train_main
from graphsurgery.demo.yolo import BINS, DETECTIONS, STRIDES, ShapesYolo, shapes_yolo
from graphsurgery.demo.yolo_loss import assign, losses
from graphsurgery.detections.decode import decode
from graphsurgery.errors import InputError
from graphsurgery.images.placement import Placement
from graphsurgery.sources.torch_threads import torch_threads

CHECKPOINT = CHECKPOINTS["shapes_yolo"]
SURE = 0.3  # a shape that another one hides in part has a score of 0.37
POINTS = sum((HEIGHT // stride) * (WIDTH // stride) for stride in STRIDES)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch compute in this thread: the layers are so small that others cost more than they bring."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def trained() -> ShapesYolo:
    return shapes_yolo(CHECKPOINT).eval()


def image(shown: ShapeImage) -> torch.Tensor:
    return torch.from_numpy(shown.image).permute(2, 0, 1).float()[None] / 255


def detect(model: ShapesYolo, shown: ShapeImage) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        found = decode(DETECTIONS, {"output0": model(image(shown)).numpy()}, Placement.whole((HEIGHT, WIDTH)))
    return {name: torch.from_numpy(value) for name, value in found.items()}


def say(model: ShapesYolo, monkeypatch: pytest.MonkeyPatch, bins: list[int], score: float = 50.0) -> None:
    """Let the network say of each point that its edges lie in these bins, and that it is of the first class."""
    edges = torch.full((1, 4, BINS, POINTS), -50.0)
    edges[0, range(4), bins] = 50.0
    classes = torch.full((1, len(CATEGORIES), POINTS), -50.0)
    classes[:, 0] = score
    monkeypatch.setattr(model, "raw", lambda images: (edges.reshape(1, 4 * BINS, POINTS), classes))


# --- the network


def test_gives_boxes_in_pixels_and_a_probability_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shapes_yolo().eval()
    say(model, monkeypatch, [1, 2, 3, 5])
    output = model(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert output.shape == (1, 4 + len(CATEGORIES), POINTS)
    # the first point is at 4, 4 and a cell is 8 large: from -4 to 28 across, from -12 to 44 down
    assert output[0, :4, 0].tolist() == pytest.approx([12, 16, 32, 56])
    # the last is at 304, 240 and a cell is 32 large: from 272 to 400, from 176 to 400
    assert output[0, :4, -1].tolist() == pytest.approx([336, 288, 128, 224])
    assert output[0, 4:, 0].tolist() == pytest.approx([1, 0, 0])


def test_works_on_another_size() -> None:
    model = shapes_yolo().eval()
    model.set_size(64, 96)
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 7, 8 * 12 + 4 * 6 + 2 * 3)


def test_keeps_the_checkpoint_below_two_megabytes() -> None:
    assert CHECKPOINT.stat().st_size <= 2_000_000
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(CHECKPOINT).values())


def test_refuses_the_checkpoint_of_the_other_network() -> None:
    with pytest.raises(InputError, match="are not those of shapes_yolo"):
        shapes_yolo(CHECKPOINTS["shapes"])


# --- what it learns from


def test_a_point_answers_for_the_object_that_it_overlaps_most() -> None:
    truth = torch.tensor([[0.0, 0, 40, 40], [20, 20, 60, 60]])
    centres = torch.tensor([[10.0, 10], [30, 30], [50, 50], [90, 90]])
    predicted = torch.tensor([[0.0, 0, 40, 40], [18, 18, 60, 60], [20, 20, 60, 50], [0, 0, 40, 40]])
    points, owners, worth = assign(centres, torch.full((4, 3), 0.5), predicted, truth, torch.tensor([0, 2]))
    assert points.tolist() == [0, 1, 2]  # the fourth is in none
    assert owners.tolist() == [0, 1, 1]  # the second is in both
    overlaps = box_iou(truth, predicted)
    assert worth[0] == pytest.approx(1.0)
    assert worth[1] == pytest.approx(float(overlaps[1, 1]))  # the best one's is the largest overlap
    assert 0 < float(worth[2]) < float(overlaps[1, 2])


def test_the_better_score_answers_where_ten_points_are_enough() -> None:
    centres = torch.stack([torch.arange(12.0) + 1, torch.full((12,), 5.0)], dim=1)
    scores = torch.linspace(0.1, 0.9, 12)[:, None]
    truth = torch.tensor([[0.0, 0, 20, 10]])
    points, _, _ = assign(centres, scores, truth.expand(12, 4), truth, torch.tensor([0]))
    assert points.tolist() == list(range(2, 12))


def test_boxes_and_edges_cost_nothing_once_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shapes_yolo()
    truth, labels = torch.tensor([[0.0, 0, 24, 24]]), torch.tensor([0])  # from the point at 12, 12: 1.5 cells each way
    images = torch.zeros(1, 3, HEIGHT, WIDTH)
    say(model, monkeypatch, [1, 1, 2, 2], score=0.0)
    near = losses(model, images, [truth], [labels])
    say(model, monkeypatch, [5, 5, 6, 6], score=0.0)
    far = losses(model, images, [truth], [labels])
    assert float(near["boxes"]) < float(far["boxes"])
    assert float(near["edges"]) < float(far["edges"])


def test_an_image_without_objects_teaches_scores_alone() -> None:
    model = shapes_yolo()
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    with torch.no_grad():
        found = losses(model, torch.zeros(1, 3, HEIGHT, WIDTH), [none[0]], [none[1]])
    assert {name: float(value) > 0 for name, value in found.items()} == {
        "classes": True,
        "boxes": False,
        "edges": False,
    }


def test_a_few_steps_on_one_image_lower_every_loss() -> None:
    torch.manual_seed(0)
    model, shown = shapes_yolo(), draw(VAL_SEED, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    boxes, labels = [torch.from_numpy(shown.boxes)], [torch.from_numpy(shown.labels) - 1]
    seen = []
    for _ in range(6):
        found = losses(model, image(shown), boxes, labels)
        seen.append({name: value.item() for name, value in found.items()})
        optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(seen[-1][name] < value for name, value in seen[0].items())


def test_training_writes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    threads = str(torch.get_num_threads())
    train_main(["shapes_yolo", "--out", str(out), "--steps", "2", "--batch", "1", "--val", "1", "--threads", threads])
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert shapes_yolo(out).box_heads[0][1].weight.abs().sum() > 0  # type: ignore[index]


# --- the trained checkpoint


def test_finds_the_shapes_of_five_validation_images(trained: ShapesYolo) -> None:
    for shown in generate(5, VAL_SEED):
        found = detect(trained, shown)
        sure = found["scores"] > SURE
        overlap = box_iou(torch.from_numpy(shown.boxes), found["boxes"][sure])
        same = torch.from_numpy(shown.labels)[:, None] == found["labels"][sure][None] + 1
        missed = (overlap * same).amax(dim=1) < 0.5
        assert not missed.any(), f"image {shown.image_id}: missed {shown.boxes[missed.numpy()].tolist()}"


def test_finds_nothing_it_is_sure_of_in_the_empty_image(trained: ShapesYolo) -> None:
    assert not (detect(trained, embedded_images(3)[2])["scores"] > SURE).any()


def test_reaches_the_average_precision_it_claims(trained: ShapesYolo) -> None:
    precision = average_precision(trained, generate(100, VAL_SEED))
    assert list(precision) == ["bbox"]
    assert precision["bbox"] >= 0.87
