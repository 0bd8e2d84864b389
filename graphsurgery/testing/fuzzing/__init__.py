"""Property tests for passes: random graphs in which a pass may fire, and what must hold of each of them.

    @fuzz(DropIdentity())
    def test_any_identity_can_go(build: Builder) -> list[str]:
        x = build.input(build.shape(rank=(0, 4)))
        return [build.node("Identity", [x])]

The function draws the pattern; the rest is drawn around it: inner tensors become outputs or gain readers, weights
become inputs that a caller may override, dimensions become symbolic, and wrong sizes are written down behind them,
everything moves into an If or a Loop, and tensors get the very names that the pass would give to new ones. The pass
must leave a valid model, change nothing in a second run and, if it is exact, not change what is computed. Needs
hypothesis (extra `dev`).
"""

from graphsurgery.testing.fuzzing.builder import OPSETS, Builder, Case
from graphsurgery.testing.fuzzing.properties import Fuzzed, Tally, check_case, fuzz

__all__ = ["OPSETS", "Builder", "Case", "Fuzzed", "Tally", "check_case", "fuzz"]
