"""Draws what each pass does, before and after, from the first test that shows it, into passes/before_after.json.

    python scripts/draw_passes.py            writes the file
    python scripts/draw_passes.py --check    ends with 1 where it is not what the tests say
    python scripts/draw_passes.py --check drop-identity lower-neg    looks at these alone

`passes NAME` and docs/passes.md show it. A test is left as soon as it has told its first pair of graphs.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from graphsurgery import testing  # noqa: E402
from graphsurgery.graph.model import Model  # noqa: E402
from graphsurgery.graph.outline import Outline  # noqa: E402
from graphsurgery.picture.text import before_after  # noqa: E402

TARGET = ROOT / "passes" / "before_after.json"
TESTS = ROOT / "tests" / "passes"
Drawn = dict[str, dict[str, list[str]]]


class Recorder:
    """Takes the place of assert_rewrites: notes for each pass the first graphs that it changes, and skips the rest."""

    def __init__(self) -> None:
        self.drawn: Drawn = {}

    def assert_rewrites(self, pass_: Any, before: Any, after: Any, *rest: Any, **more: Any) -> None:
        if pass_.name not in self.drawn:
            protos = [testing.parse(each) if isinstance(each, str) else each for each in (before, after)]
            lines = before_after(*(Outline(Model(proto)) for proto in protos))
            if lines[0] != lines[1]:  # types or shapes alone, which the lines don't tell
                self.drawn[pass_.name] = {"before": lines[0], "after": lines[1]}
        pytest.skip("drawn")

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests that call it, in the order in which they stand in their file."""
        items[:] = [item for item in items if "assert_rewrites(" in inspect.getsource(item.function)]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if name_of(item.path) in self.drawn:
            pytest.skip("drawn")


def name_of(file: Path) -> str:
    """Return the name of the pass that a file of tests is of."""
    return file.stem.removeprefix("test_").replace("_", "-")


def draw(names: Sequence[str] = ()) -> Drawn:
    """Return what the first tests of passes show, of all if no names are given."""
    recorder = Recorder()
    testing.assert_rewrites = recorder.assert_rewrites  # type: ignore[assignment]
    files = [file for file in sorted(TESTS.glob("test_*.py")) if not names or name_of(file) in names]
    pytest.main(["-q", "-p", "no:cacheprovider", "--no-summary", *map(str, files)], [recorder])
    return {name: recorder.drawn[name] for name in map(name_of, files) if name in recorder.drawn}


def main() -> int:
    """Write the file, or tell whether it is right."""
    check, names = "--check" in sys.argv, [each for each in sys.argv[1:] if each != "--check"]
    drawn = draw(names)
    if not check:
        TARGET.write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")
        return 0
    there = json.loads(TARGET.read_text(encoding="utf-8"))
    return int(drawn != (there if not names else {name: there[name] for name in names if name in there}))


if __name__ == "__main__":
    sys.exit(main())
