"""A tiny network, and recipes that are drawn for it of passes that are sound, costly or wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.row_groups import Group
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph import is_op
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.replace_silu import ReplaceSilu
from graphsurgery.passes.widen_maxpool import WidenMaxpool
from graphsurgery.pipeline import whole_run
from graphsurgery.pipeline.certify import Certifier
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import CapturePlan, PartitionPlan, PassUse, Recipe, Variant
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite import Editor, GraphPass, Pass
from graphsurgery.sources import SourceSpec
from graphsurgery.testing import parse

PARTS = {"net": "npu", "post": "cpu"}
ANYTHING = Tolerances.parse({"*": 1000, "unmatched": 50})
NOISE = Tolerances.parse({"*": {"sqnr": 3}})
NETWORK = """
    <ir_version: 8, opset_import: ["": 17]>
    tiny (float[1, 3, 8, 8] image) => (float[1, 4, 4, 3] scores, float[1, 4, 4, 4] raw) <int64[1] k = {3}> {
        wide = Conv <pads = [1, 1, 1, 1]> (image, w1)
        pooled = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (wide)
        raw = Conv (pooled, w2)
        top, places = TopK (raw, k)
        scores = Neg (top)
    }"""


# --- passes: some change nothing, some round, some cost what they are granted, some are wrong -----------------------


def first(graph: gs.Graph, *ops: str) -> gs.Node | None:
    return next((node for node in graph.nodes if is_op(node, *ops)), None)


def behind(edit: Editor, tensor: gs.Tensor, op: str, value: float) -> None:
    """Let the tensor be what it was, `op` `value`."""
    writer = tensor.inputs[0]
    before = gs.Variable(edit.fresh("before"), dtype=tensor.dtype)
    position = next(index for index, out in enumerate(writer.outputs) if out is tensor)
    edit.emit(op, [before, edit.constant("value", np.float32(value))], hint="changed", writes=tensor)
    writer.outputs[position] = before


@dataclass(frozen=True)
class Rescale(GraphPass):
    """Exact but for rounding: a weight times 3, what it gives by 3."""

    name = "rescale"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Conv")
        if node is not None:
            edit.set_input(node, 1, edit.constant("scaled", node.inputs[1].values * np.float32(3)))
            behind(edit, node.outputs[0], "Div", 3.0)


@dataclass(frozen=True)
class NegByMul(GraphPass):
    name = "neg-by-mul"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Neg")
        if node is not None:
            edit.replace(node, "Mul", [node.inputs[0], edit.constant("minus", np.float32(-1))])


@dataclass(frozen=True)
class Disturb(GraphPass):
    """Approximate: every weight is off by up to a tenth."""

    name = "disturb"
    effect = "approximate"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        noise = np.random.default_rng(len(graph.nodes)).uniform(0.9, 1.1, 10_000).astype(np.float32)
        for node in graph.nodes:
            if is_op(node, "Conv"):
                weight = node.inputs[1].values
                edit.set_input(node, 1, edit.constant("noisy", weight * noise[: weight.size].reshape(weight.shape)))


@dataclass(frozen=True)
class Drift(GraphPass):
    """Approximate: every output is a little higher."""

    name = "drift"
    effect = "approximate"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        for tensor in graph.outputs:
            behind(edit, tensor, "Add", 0.2)


@dataclass(frozen=True)
class Shift(GraphPass):
    """Wrong: one output is higher by a hundredth."""

    name = "wrong-shift"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        behind(edit, graph.outputs[-1], "Add", 0.01)


@dataclass(frozen=True)
class ScaleWeight(GraphPass):
    """Wrong: a weight is off by a hundredth; where there is none, an output is."""

    name = "wrong-weight"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        node = first(graph, "Conv")
        if node is None:
            return behind(edit, graph.outputs[0], "Mul", 1.01)
        edit.set_input(node, 1, edit.constant("off", node.inputs[1].values * np.float32(1.01)))


@dataclass(frozen=True)
class LoseSign(GraphPass):
    """Wrong: the sign of an output is lost."""

    name = "wrong-sign"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        behind(edit, graph.outputs[0], "Mul", -1.0)


@dataclass(frozen=True)
class CutOff(GraphPass):
    """Wrong on the second image alone, whose values go further: what is beyond those of the first is cut off."""

    name = "wrong-at-times"
    effect = "exact"

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        most = 1.2 * float(np.abs(Tiny().computed(image_of(0))["raw"]).max())
        behind(edit, graph.outputs[-1], "Min", most)
        behind(edit, graph.outputs[-1], "Max", -most)


@dataclass(frozen=True)
class RenameAndShift(GraphPass):
    """Wrong, and hidden behind a new name of the output."""

    name = "wrong-outputs"
    effect = "exact"
    keeps_outputs = False

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        behind(edit, graph.outputs[-1], "Mul", 1.05)
        graph.outputs[-1].name = edit.fresh("other")
        edit.edits += 1


@dataclass(frozen=True)
class Rename(GraphPass):
    """Exact: the last output gets another name."""

    name = "rename"
    effect = "exact"
    keeps_outputs = False

    def rewrite(self, graph: gs.Graph, edit: Editor) -> None:
        graph.outputs[-1].name = edit.fresh("other")
        edit.edits += 1


NOTHING: tuple[Pass, ...] = (DropIdentity(), ReplaceSilu())
SOUND: tuple[Pass, ...] = (Rescale(), NegByMul())
COSTLY: tuple[Pass, ...] = (WidenMaxpool(), Disturb(), Drift())
WRONG: tuple[Pass, ...] = (Shift(), ScaleWeight(), LoseSign(), CutOff())
OUTPUTS = (Rename(),)  # of the whole graph only: what a part writes is read further on
GRANTS = {
    "widen-maxpool": ANYTHING,
    "disturb": NOISE.widened(ANYTHING),
    "drift": ANYTHING,
    "replace-silu": ANYTHING,
}


# --- recipes --------------------------------------------------------------------------------------------------------


@dataclass
class Tiny:
    """The network as a source; everything but its image and its outputs is unnamed."""

    name = "tiny"
    classes: list[str] | None = None
    canvas: Canvas = field(default_factory=lambda: Canvas(8, 8))
    batch: int | None = None
    folder: Path | None = None
    row_groups: tuple[Group, ...] = ()
    detections: Postprocessing | None = None
    output_names: tuple[str, ...] = ("scores", "raw")

    def __post_init__(self) -> None:
        self.proto = parse(NETWORK)
        draw = np.random.default_rng(0).standard_normal
        for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (4, 8, 1, 1))):
            self.proto.graph.initializer.append(onnx.numpy_helper.from_array(draw(shape).astype(np.float32), name))

    def describe(self) -> Mapping[str, object]:
        return {"onnx": "tiny"}

    def export(self) -> onnx.ModelProto:
        return self.proto

    def computed(self, image: np.ndarray) -> dict[str, np.ndarray]:
        from graphsurgery.devices import session

        return session.run(self.proto, {"image": image}) | {"image": image}

    def trace(self, placed: CanvasImage) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def detect(self, placed: CanvasImage) -> dict[str, np.ndarray]:
        raise NotImplementedError


def uses(passes: Sequence[Pass]) -> tuple[PassUse, ...]:
    return tuple(PassUse(pass_, pass_.name, "drawn", None) for pass_ in passes)


@dataclass(frozen=True)
class Drawn:
    """A recipe: passes on the whole graph, on its parts, and on the parts of a variant; `wrong` is among them."""

    places: Mapping[str, tuple[Pass, ...]]
    wrong: str | None

    def recipe(self, cut: bool) -> Recipe:
        part_passes, variant_passes = (
            {name: uses(self.places.get(f"{kind}{name}", ())) for name in PARTS} for kind in ("", "variant ")
        )
        return Recipe(
            name="tiny",
            file=Path("tiny.yaml"),
            source=SourceSpec("onnx", "tiny.onnx"),
            capture=CapturePlan(),
            passes=uses(self.places.get("whole", ())),
            partition=PartitionPlan(at="RoiAlign", parts=PARTS) if cut else None,
            part_passes=part_passes if cut else {},
            variants=(Variant("again", variant_passes, {}, {}, None, False),) if cut else (),
            tolerances=Tolerances.parse({"*": {"relative": 1e-4}}),
            checked_samples=None,
            grants=GRANTS,
            evaluate=None,
            merged={},
        )


def draw(source: random.Random, cut: bool) -> Drawn:
    """Draw up to four passes for each place, in any order, and one wrong pass."""
    places: dict[str, tuple[Pass, ...]] = {}
    names = ["whole", *PARTS, *(f"variant {name}" for name in PARTS)] if cut else ["whole"]
    for place in names:
        sound = (*SOUND, *OUTPUTS) if place == "whole" else SOUND
        kinds = source.choices((NOTHING, sound, COSTLY), k=source.randint(0, 4))
        places[place] = tuple(source.choice(kind) for kind in kinds)
    place = source.choice(names)
    wrong = source.choice((*WRONG, RenameAndShift()) if place == "whole" else WRONG)
    at = source.randint(0, len(places[place]))
    places[place] = (*places[place][:at], wrong, *places[place][at:])
    return Drawn(places, wrong.name)


def image_of(seed: int) -> np.ndarray:
    """Return an image whose values go three times as far for seed 1."""
    return np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32) * np.float32(1 + 2 * seed)


def play(tiny: Tiny, captured: Sequence[Sample], recipe: Recipe, out: Path) -> Record:
    """Make the parts and the variants of a recipe, with a gate of its own."""
    samples = [replace(sample, computed={}) for sample in captured]
    record = Record({})
    gate = Gate(samples, recipe.tolerances, recipe.grants)
    run = Run(recipe, tiny, samples, gate, record, certifier=Certifier(recipe.target))
    with OutputFolder(out) as output:
        whole_run.make_parts(run, recipe.variants, output, required=True)
    return record
