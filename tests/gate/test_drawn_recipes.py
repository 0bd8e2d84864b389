"""A grant belongs to the pass that it was given to: recipes are drawn, and one wrong exact pass is put at any place.

Whatever stands before it, and wherever (on the whole graph, on a part, in a variant), the run must stop at that pass;
without it nothing may be reported. GRANT_CASES in the environment says how many recipes are drawn.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from gate.drawn_recipes import Drawn, Tiny, draw, play
from graphsurgery.capture.samples import Sample
from graphsurgery.errors import Difference, PassError

CASES = int(os.environ.get("GRANT_CASES", "150"))


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
