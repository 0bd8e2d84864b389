"""docs/measured.md: what was measured of targets, and where it contradicts what their files or documents say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from graphsurgery.targets.load import Named
from graphsurgery.targets.measured import Measured, Measurements

_HEAD = """# Measured

What `python -m graphsurgery probe` found of the lines of targets, each case a model of one node: inside, at or beyond a
limit, through the vendor's compiler and its simulator, and compared with ONNX Runtime. A simulator is not a chip.
`scripts/probe-all` writes this page and the files that it is made of, graphsurgery/targets/measured/.

A case contradicts a target's file where that says another outcome; `support` shows both. A line that was corrected by a
measurement has what the document says beside it.
"""


def measured_page(targets: Iterable[Named]) -> str:
    """Return the page, in Markdown."""
    parts = [_HEAD]
    for named in targets:
        if named.measurements is not None:
            parts.append("\n".join(_section(named, named.measurements)))
    return "\n".join(parts)


def _section(named: Named, found: Measurements) -> Iterator[str]:
    outcomes = Counter(case.found.outcome for case in found.cases)
    told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    yield f"## {named.name}\n"
    beside = f", {found.tool.beside}" if found.tool.beside else ""
    yield f"{found.tool}{beside}, {found.date}: {len(found.cases)} cases, {told}.\n"
    corrected = [
        (op, against)
        for op in named.target.operators
        for rule in named.target.rules(op)
        if isinstance(against := rule.against, str)
    ]
    if corrected:
        yield "Lines that a measurement corrected, and what the document says:\n"
        yield from _table(("operator", "document"), [(op, against) for op, against in dict.fromkeys(corrected)])
    if found.contradictions:
        yield f"\nCases that the file says otherwise of, {len(found.contradictions)}:\n"
        yield from _table(("line", "precision", "case", "file", "measured"), map(_row, found.contradictions))
    left = {(each["op"], each.get("limit") or "-", each["reason"]) for each in found.not_measured}
    if left:
        yield "\nNot measured:\n"
        yield from _table(("operator", "limit", "why"), sorted(left))
    yield ""


def _row(case: Measured) -> tuple[str, ...]:
    line = case.op if case.line == 0 else f"{case.op} #{case.line + 1}"
    return line, case.precision, case.what, case.said, case.found.told


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        yield f"| {' | '.join(cells)} |"
