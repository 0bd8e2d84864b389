"""What a recipe grants to a pass, one case at a time: to that pass, in its place, and no more than it uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gate.drawn_recipes import ANYTHING, CutOff, Drawn, Drift, NegByMul, Rescale, Shift, Tiny, play, uses
from graphsurgery.capture.samples import Sample
from graphsurgery.errors import Difference
from graphsurgery.gate.gate import Gate
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.partition.boundaries import Cut
from graphsurgery.partition.named_parts import extract_parts
from graphsurgery.parts.part import Part
from graphsurgery.passes.drop_identity import DropIdentity
from graphsurgery.passes.replace_silu import ReplaceSilu
from graphsurgery.passes.widen_maxpool import WidenMaxpool
from graphsurgery.pipeline import apply as pipeline
from graphsurgery.recipe.load import Recipe
from graphsurgery.report.run_record import Record
from graphsurgery.rewrite import Pass, apply_pass


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
