"""Plug-ins that break an output of YOLO are caught, roundings pass, and so do all exact passes over every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from every_pass import FIRST, EveryPass, steps_of
from onnx import ModelProto, numpy_helper
from PIL import Image

from graphsurgery.capture.samples import InputImage
from graphsurgery.errors import Difference
from graphsurgery.rewrite import Editor, ModelPass, Pass
from zoo import networks
from zoo.one_stage import ZOO, written
from zoo.photos import shown


def at_the_end(model: ModelProto, kind: str, value: Any, **attributes: Any) -> ModelProto:
    """Let a node with a constant stand behind the first output."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
        node.input[:] = ["before" if each == name else each for each in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "fault"))
    model.graph.node.append(onnx.helper.make_node(kind, ["before", "fault"], [name], **attributes))
    return model


def columns(model: ModelProto, boxes: tuple[float, ...], score: float, label: float = 0) -> np.ndarray:
    """Return what is added to each column: of [1, 7, N] or of [1, N, 6]."""
    raw = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 7
    values = np.array([*boxes, *([score] * networks.CLASSES if raw else [score, label])], np.float32)
    return values[None, :, None] if raw else values[None, None]


@dataclass(frozen=True)
class Fault(ModelPass):
    """Something that a wrong rewrite does to the output."""

    name = "fault"
    effect = "exact"

    what: str = ""

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        changed = ModelProto()
        changed.CopyFrom(model)
        return FAULTS[self.what](changed)


def shift_classes(model: ModelProto) -> ModelProto:
    if columns(model, (0,) * 4, 0).shape[1] == 7:
        return at_the_end(model, "Gather", np.array([0, 1, 2, 3, 6, 4, 5]), axis=1)
    return at_the_end(model, "Add", columns(model, (0,) * 4, 0, 1))


def lose_row(model: ModelProto) -> ModelProto:
    """The row of the raw output that is the first of the first square; of those that are chosen, the second."""
    if columns(model, (0,) * 4, 0).shape[1] == 7:
        _, row, column = shown(1)[0]
        kept = np.ones((1, 1, len(networks.cells())), np.float32)
        kept[..., row * networks.WIDTH // 8 + column] = 0
        return at_the_end(model, "Mul", kept)
    most = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return at_the_end(model, "Gather", np.array([0, *range(2, most), most - 1]), axis=1)


FAULTS: dict[str, Callable[[ModelProto], ModelProto]] = {
    "score off by 0.05": lambda model: at_the_end(model, "Add", columns(model, (0,) * 4, 0.05)),
    "one class shifted": shift_classes,
    "one row lost": lose_row,
    "boxes off by 2 px": lambda model: at_the_end(model, "Add", columns(model, (2, 0, 0, 0), 0)),
}


@dataclass(frozen=True)
class LastBits(ModelPass):
    """Every weight one bit up or down, or as it is, as another exporter or another machine leaves it."""

    name = "last-bits"
    effect = "exact"

    seed: int = 0

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        changed = ModelProto()
        changed.CopyFrom(model)
        random = np.random.default_rng(self.seed)
        for weight in changed.graph.initializer:
            value = numpy_helper.to_array(weight)
            if value.dtype == np.float32 and value.ndim == 4:
                towards = random.choice(np.array([-np.inf, 0, np.inf], np.float32), value.shape)
                moved = np.where(towards == 0, value, np.nextafter(value, towards, dtype=np.float32))
                weight.CopyFrom(numpy_helper.from_array(moved, weight.name))
        return changed


def judged(
    root: Path, name: str, passes: str, *registered: type[Pass], more: Sequence[str] = ()
) -> list[tuple[str, str | None]]:
    """Return the verdict on each of some passes on the whole graph of a file, in its recipe's tolerances.

    `more` overrides the recipe besides.
    """
    file = written(root, name)
    images = [InputImage(str(k), np.asarray(Image.open(root / "photos" / f"{k}.png"))) for k in (1, 6)]
    overrides = [f"source.onnx={file}", f"passes=[{passes}]", "partition=", "variants=", *more]
    steps = steps_of(ZOO[name][0], images, root / "judged" / name, overrides, registered)
    return [(step.name, step.verdict) for step in steps]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("name", ["yolo", "yolo10"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_plugin_that_breaks_something_is_caught(files: Path, name: str, what: str) -> None:
    with pytest.raises(Difference, match="fault"):
        judged(files, name, f"{{fault: {{what: {what}}}}}", Fault)


@pytest.mark.parametrize("name", ["yolo", "yolo10"])
def test_exports_that_differ_in_their_last_bits_pass(files: Path, name: str) -> None:
    for seed in range(10):
        assert judged(files, name, f"{{last-bits: {{seed: {seed}}}}}", LastBits) == [("last-bits", "passed")], seed


@pytest.mark.parametrize("name", ZOO)
def test_a_file_stays_equal_through_all_exact_passes(files: Path, name: str) -> None:
    passes = ["freeze-shapes: {batch: 1}", "drop-preprocessing", "simplify", "every-pass"]
    steps = judged(files, name, ", ".join(f"{{{each}}}" if ":" in each else each for each in passes), EveryPass)
    assert steps == [(each, "passed") for each in (*FIRST, "every-pass")]


@pytest.mark.parametrize("name", ["yolo", "yolo_seg"])
def test_boxes_and_scores_become_outputs_of_their_own(files: Path, name: str) -> None:
    assert judged(files, name, "simplify, split-detection-output")[-1] == ("split-detection-output", "passed")


@dataclass(frozen=True)
class Nudge(ModelPass):
    """Every box a little to the right; the first output is the boxes."""

    name = "nudge"
    effect = "exact"

    pixels: float = 0.0

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        return at_the_end(model, "Add", np.array([self.pixels, 0, 0, 0], np.float32)[None, :, None])


@pytest.mark.parametrize(
    ("before", "than"),
    [("simplify", "the original model"), ("simplify, replace-silu", "the graph before it")],
    ids=["exact", "granted"],
)
def test_behind_the_split_the_output_is_still_judged_by_the_roles_of_its_columns(
    files: Path, before: str, than: str
) -> None:
    """What a tensor without a role may be off is more than the recipe allows boxes here."""
    settings = ("check.tolerance.boxes=0.005", "check.grant.replace-silu={'*': 1000, unmatched: 99}")
    passes = f"{before}, split-detection-output"
    steps = judged(files, "yolo", f"{passes}, {{nudge: {{pixels: 0.002}}}}", Nudge, more=settings)
    assert steps[-1] == ("nudge", "passed")
    wanted = rf"pass 'nudge' differs from {than}: output0 of sample \d \(boxes, .*\): .* where 0\.005 is allowed"
    with pytest.raises(Difference, match=wanted) as caught:
        judged(files, "yolo", f"{passes}, {{nudge: {{pixels: 0.01}}}}", Nudge, more=settings)
    assert "more failed" not in str(caught.value)
