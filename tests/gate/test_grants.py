"""A grant belongs to the pass that it was given to: recipes are drawn, and one wrong exact pass is put at any place.

Whatever stands before it, and wherever (on the whole graph, on a part, in a variant), the run must stop at that pass;
without it nothing may be reported. GRANT_CASES in the environment says how many recipes are drawn.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from graphsurgery.capture.samples import Sample
from graphsurgery.detections.postprocessing import Postprocessing
from graphsurgery.detections.row_groups import Group
from graphsurgery.errors import Difference, PassError
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph import is_op
from graphsurgery.images.canvas import Canvas, CanvasImage
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.named_parts import extract_parts
from graphsurgery.parts.folder import OutputFolder
from graphsurgery.parts.part import Part
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.replace_silu import ReplaceSilu
from graphsurgery.passes.widen_maxpool import WidenMaxpool
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.pipeline import whole_run
from graphsurgery.pipeline.run import Run
from graphsurgery.recipe.load import CapturePlan, PartitionPlan, PassUse, Recipe, Variant
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite import Editor, GraphPass, Pass, apply_pass
from graphsurgery.sources import SourceSpec
from graphsurgery.testing import parse

CASES = int(os.environ.get("GRANT_CASES", "150"))
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


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def captured(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("model_io")
    samples = []
    for seed in range(2):
        image = image_of(seed)
        (folder / str(seed)).mkdir()
        for name, value in tiny.computed(image).items():
            np.save(folder / str(seed) / f"{name}.npy", value)
        samples.append(Sample(str(seed), folder / str(seed), None, 8, 8))
    return samples


def play(tiny: Tiny, captured: Sequence[Sample], recipe: Recipe, out: Path) -> Record:
    """Make the parts and the variants of a recipe, with a gate of its own."""
    samples = [replace(sample, computed={}) for sample in captured]
    record = Record({})
    run = Run(recipe, tiny, samples, Gate(samples, recipe.tolerances, recipe.grants), record)
    with OutputFolder(out) as output:
        whole_run.make_parts(run, recipe.variants, output, required=True)
    return record


@pytest.mark.parametrize("cut", [True, False], ids=["parts", "whole"])
def test_a_wrong_exact_pass_is_caught_wherever_it_stands_and_nothing_else_is(
    tiny: Tiny, captured: list[Sample], tmp_path: Path, cut: bool
) -> None:
    missed: list[str] = []
    for seed in range(CASES if cut else CASES // 4):
        drawn = draw(random.Random(seed), cut)
        sound = {
            place: tuple(pass_ for pass_ in passes if pass_.name != drawn.wrong)
            for place, passes in drawn.places.items()
        }
        story = f"seed {seed}: " + "; ".join(
            f"{place}: {', '.join(pass_.name for pass_ in passes)}" for place, passes in drawn.places.items() if passes
        )
        try:
            play(tiny, captured, Drawn(sound, None).recipe(cut), tmp_path / "parts")
        except (Difference, PassError) as error:
            missed.append(f"{story}\n  without the wrong pass: {error}")
        try:
            play(tiny, captured, drawn.recipe(cut), tmp_path / "parts")
        except (Difference, PassError) as error:
            if f"pass '{drawn.wrong}'" not in str(error):
                missed.append(f"{story}\n  another is blamed: {error}")
        else:
            missed.append(f"{story}\n  not caught")
    assert not missed, "\n".join(missed[:5])


# --- one by one -----------------------------------------------------------------------------------------------------


def outcome(tiny: Tiny, captured: Sequence[Sample], out: Path, **places: Sequence[Pass]) -> Record:
    """Play passes at places: whole, net, post, and variant_post for the part of the variant."""
    return play(
        tiny, captured, Drawn({k.replace("_", " "): tuple(v) for k, v in places.items()}, None).recipe(True), out
    )


@pytest.mark.parametrize("place", ["whole", "net"])
def test_behind_a_grant_an_exact_pass_is_held_against_the_graph_before_it(
    tiny: Tiny, captured: list[Sample], tmp_path: Path, place: str
) -> None:
    with pytest.raises(Difference, match=r"pass 'wrong-shift'.* differs from the graph before it: .* where 0\.00"):
        outcome(tiny, captured, tmp_path / "parts", **{place: [WidenMaxpool(), Shift()]})


def test_an_approximate_pass_that_changes_nothing_is_granted_nothing(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(Difference, match="pass 'wrong-shift' differs from the original model"):
        outcome(tiny, captured, tmp_path / "parts", whole=[ReplaceSilu(), Shift()])


def test_what_one_part_was_granted_loosens_no_variant_of_another(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    with pytest.raises(Difference, match="pass 'wrong-shift' on part 'post' differs from the original model"):
        outcome(tiny, captured, tmp_path / "parts", net=[WidenMaxpool()], variant_post=[Shift()])


def test_a_variant_goes_on_with_what_its_own_part_was_granted(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    record = outcome(tiny, captured, tmp_path / "parts", net=[WidenMaxpool()], variant_net=[Rescale()])
    step = record.variants[0].passes[0]
    assert (step.verdict, step.before is not None) == ("passed", True)
    with pytest.raises(Difference, match="pass 'wrong-shift' on part 'net' differs from the graph before it"):
        outcome(tiny, captured, tmp_path / "parts", net=[WidenMaxpool()], variant_net=[Shift()])


def in_variants(**grants: Mapping[str, Tolerances]) -> Recipe:
    """Return a recipe with `drift`, granted too little for it, in a variant for each of `grants`."""
    bare = Drawn({"variant net": (Drift(),)}, None).recipe(True)
    variants = tuple(replace(bare.variants[0], name=name, grants=grant) for name, grant in grants.items())
    return replace(bare, variants=variants, grants={"drift": Tolerances.parse({"*": 0.1})})


def test_what_a_variant_grants_loosens_no_other_and_stands_for_what_the_recipe_grants(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    enough = {"drift": Tolerances.parse({"*": 0.3})}
    record = play(tiny, captured, in_variants(wide=enough), tmp_path / "parts")
    assert [step.verdict for step in record.variants[0].passes] == ["passed"]
    for grants in ({"wide": enough, "plain": {}}, {"wide": enough, "other": {"widen-maxpool": ANYTHING}}):
        with pytest.raises(Difference, match=f"variant '{list(grants)[1]}': pass 'drift' on part 'net'"):
            play(tiny, captured, in_variants(**grants), tmp_path / "parts")
    granted = replace(in_variants(narrow={"drift": Tolerances.parse({"*": 0.1})}), grants=enough)
    with pytest.raises(Difference, match="variant 'narrow': pass 'drift' on part 'net'"):
        play(tiny, captured, granted, tmp_path / "parts")


def test_what_a_variant_grants_loosens_no_part(tiny: Tiny, captured: list[Sample], tmp_path: Path) -> None:
    recipe = in_variants(wide={"drift": ANYTHING})
    recipe = replace(recipe, part_passes={"net": uses([Drift()])})
    with pytest.raises(Difference, match=r"^pass 'drift' on part 'net' differs"):
        play(tiny, captured, recipe, tmp_path / "parts")


def test_a_variant_whose_first_pass_changes_nothing_has_the_verdict_of_its_part(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    record = outcome(tiny, captured, tmp_path / "parts", variant_net=[DropIdentity(), Rescale()])
    assert [step.verdict for step in record.variants[0].passes] == ["passed", "passed"]


def test_rounding_behind_a_grant_that_is_used_up_is_no_fault(
    tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    places = {"whole": (Drift(), Rescale())}
    recipe = replace(Drawn(places, None).recipe(True), grants={"drift": Tolerances.parse({"*": 0.2 + 1e-6})})
    assert [step.verdict for step in play(tiny, captured, recipe, tmp_path / "parts").passes] == ["passed", "passed"]


@pytest.mark.parametrize("pass_", [Rescale(), DropIdentity(), WidenMaxpool()], ids=lambda pass_: pass_.name)
def test_what_the_cut_gets_wrong_on_one_image_is_the_fault_of_no_pass(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, captured: list[Sample], tmp_path: Path, pass_: Pass
) -> None:
    def wrong(cut: Cut, devices: Mapping[str, str]) -> list[Part]:
        parts = extract_parts(cut, devices)
        return [replace(each, model=apply_pass(CutOff(), each.model).model) for each in parts[:1]] + parts[1:]

    monkeypatch.setattr(pipeline, "extract_parts", wrong)
    with pytest.raises(Difference, match=r"^part 'net', as it was cut, differs from the original model"):
        outcome(tiny, captured, tmp_path / "parts", net=[pass_])


def test_a_part_that_passes_follow_is_judged_on_one_image_as_it_was_cut(
    monkeypatch: pytest.MonkeyPatch, tiny: Tiny, captured: list[Sample], tmp_path: Path
) -> None:
    played: list[tuple[str, int]] = []
    play_part = Gate.play_part

    def counted(gate: Gate, part: Part, samples: Sequence[Sample] | None = None) -> Iterator[dict[str, np.ndarray]]:
        played.append((part.name, len(gate.samples if samples is None else samples)))
        yield from play_part(gate, part, samples)

    monkeypatch.setattr(Gate, "play_part", counted)
    outcome(tiny, captured, tmp_path / "parts", net=[Rescale()])
    assert played == [("net", 1), ("post", 2), ("net", 2)]


def test_run_json_has_both_judgements(tiny: Tiny, captured: list[Sample], tmp_path: Path) -> None:
    record = outcome(tiny, captured, tmp_path / "parts", whole=[Rescale(), WidenMaxpool(), NegByMul()])
    exact, approximate, behind_it = (step.to_json() for step in record.passes)
    assert "before" not in exact
    assert "before" not in approximate
    assert behind_it["before"]["verdict"] == "passed"
    assert behind_it["worst"]["allowed"] > 1000 > 1 > behind_it["worst_before"]["allowed"]
