"""Tables that fit 80 columns. Nothing here prints; the command line does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from graphsurgery.record import Step

_COLOURS = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "unchecked": "yellow"}


def steps_table(title: str, steps: Iterable[Step]) -> Table:
    """Passes or checks: what each did to the number of nodes, how long it took, and what the gate found."""
    table = _table(title, "step", "part", "nodes", "time", "verdict", "off / allowed")
    for step in steps:
        changed = step.nodes_before != step.nodes_after
        nodes = f"{step.nodes_before} > {step.nodes_after}" if changed else str(step.nodes_after)
        name = Text(step.name)
        if step.effect == "approximate":
            name.append(" ~", style="yellow")
        table.add_row(
            name,
            step.part or "",
            nodes,
            f"{step.seconds:.2f} s" if step.effect else "",
            Text(step.verdict, style=_COLOURS[step.verdict]),
            _worst(step),
        )
    if any(step.effect == "approximate" for step in steps if isinstance(steps, Sequence)):
        table.caption = "~ approximate: judged by what the recipe grants it"
    return table


def parts_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    """The parts: device, nodes, and the operators that most of them are."""
    table = _table("Parts", "part", "device", "nodes", "operators")
    for part in parts:
        ops = list(part["ops"].items())
        text = ", ".join(f"{op} {count}" for op, count in ops[:5]) + (", ..." if len(ops) > 5 else "")
        table.add_row(part["name"], part["device"], str(part["nodes"]), text)
    return table


def precision_table(evaluation: Mapping[str, Any]) -> Table:
    """AP of the original model and of the parts, side by side."""
    table = _table(f"Average precision on {evaluation['samples']} images", "what", "original", "parts", "difference")
    for kind, row in evaluation["ap"].items():
        table.add_row(
            f"{kind} AP", f"{row['original']:.4f}", f"{row['parts']:.4f}", f"{row['parts'] - row['original']:+.4f}"
        )
    return table


def comparison_table(title: str, comparison: Any) -> Table:
    """Every compared tensor: largest error, what is allowed, the smallest tolerance that would pass."""
    table = _table(title, "tensor", "verdict", "max abs", "allowed", "SQNR", "would pass")
    for report in comparison.tensors:
        sqnr = (
            ""
            if report.sqnr_db is None
            else ("equal" if report.sqnr_db == float("inf") else f"{report.sqnr_db:.0f} dB")
        )
        table.add_row(
            report.name,
            Text(report.verdict, style=_COLOURS[report.verdict]),
            _number(report.max_abs),
            _number(report.allowed),
            sqnr,
            _number(report.needed),
        )
    return table


def plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text."""
    table = _table(title, *columns)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", header_style="dim")
    return table


def _worst(step: Step) -> str:
    worst = step.comparison.worst if step.comparison else None
    if worst is None:
        return "unchanged" if step.verdict == "passed" else ""
    if worst.max_abs is None:
        return worst.name
    return f"{worst.name} {_number(worst.max_abs)} / {_number(worst.allowed)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.2g}"
