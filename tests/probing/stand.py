"""A target of three lines, and what stands for the tool of its vendor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from targets.nodes import SOURCE

from graphsurgery.errors import MissingTool
from graphsurgery.probing.cases import Case
from graphsurgery.targets.measured import Found, Tool

TARGET = {
    "title": "A target",
    "sources": {"list": SOURCE},
    "source": "list",
    "others": "cpu",
    "operators": {"Conv": {"kernel": "..3"}, "Sigmoid": "taken", "Loop": "cpu"},
}


class Stand:
    """Stands for a vendor's tool that takes all but a Sigmoid, and is interrupted after `most` cases."""

    precisions = frozenset({"any"})
    unequal_sizes = False

    def __init__(self, version: str = "1.0", most: int | None = None) -> None:
        self._version, self._most = version, most
        self.asked: list[str] = []

    def tool(self) -> Tool:
        if not self._version:
            raise MissingTool("the tool isn't here; install it")
        return Tool("a-tool", self._version)

    def measure(self, cases: Sequence[Case]) -> Iterator[Found]:
        for case in cases:
            if len(self.asked) == self._most:
                raise KeyboardInterrupt
            self.asked.append(case.key)
            yield Found("cpu", reason="never") if case.line.op == "Sigmoid" else Found(case.verdict.outcome, 70.0)
