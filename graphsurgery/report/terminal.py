"""Tables that fit 80 columns, and the console that shows what others named. The command line alone prints."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from graphsurgery.report.search_rows import front_rows, in_common, summary
from graphsurgery.report.support_rows import share
from graphsurgery.text import shortened, visible

if TYPE_CHECKING:  # every command draws tables, and most need none of these, which take twice as long as all else
    from graphsurgery.debugging.divergence import Bisection
    from graphsurgery.gate.verdicts import Comparison, TensorReport
    from graphsurgery.partition.candidates import Candidate
    from graphsurgery.report.run_record import Step, VariantRecord

_COLOURS = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "unchecked": "yellow"}


# The most characters of a line, and of a cell of a table
_LINE, _CELL = 2000, 1000


class Screen(Console):
    """A console on which nothing that a file says is obeyed by the terminal, or fills pages.

    It goes quiet when its reader stops reading, as in `... | head -1`: the command's own end counts.
    """

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does, each line of text cut to a length that can be read."""
        super().print(*(_cut(each, _LINE) if isinstance(each, str | Text) else each for each in objects), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what rich does, but for control characters that are not rich's own: they are written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # what is still in Python's buffer would raise once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def console(*, stderr: bool = False) -> Screen:
    """A console that writes no escape codes at all where NO_COLOR is set; rich would still write bold and dim."""
    return Screen(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


def steps_table(title: str, steps: Sequence[Step]) -> Table:
    """Passes or checks: what each did to the number of nodes, how long it took, and what the gate found."""
    table = _table(title, "step", "nodes", "time", "verdict", "off / allowed", wrap=("step", "off / allowed"))
    for step in steps:
        changed = step.nodes_before != step.nodes_after
        nodes = f"{step.nodes_before} > {step.nodes_after}" if changed else str(step.nodes_after)
        name = Text(f"{step.part}: {step.name}" if step.part else step.name)
        if step.effect == "approximate":
            name.append(" ~", style="yellow")
        table.add_row(
            name,
            nodes,
            f"{step.seconds:.2f} s" if step.effect else "",
            Text(step.verdict, style=_COLOURS[step.verdict]),
            Text(_worst(step)),
        )
    captions = []
    if any(step.effect == "approximate" for step in steps):
        captions.append("~ approximate: judged by what the recipe grants it")
    if any(step.before is not None for step in steps):
        captions.append("before: compared with the graph before it too, by its own tolerance alone")
    for step in steps:
        if not step.effect and step.verdict == "unchecked":
            captions += [f"{step.name}: {skip.reason}" for skip in step.skips]
    if captions:
        table.caption = "\n".join(captions)
    return table


def variant_table(variant: VariantRecord) -> Table | Text:
    """The passes of a variant, or the line that says why it was left out."""
    if variant.verdict == "skipped":
        return Text.assemble((f"Variant {variant.name}: left out. ", "yellow"), variant.reason or "")
    where = ", ".join(f"{device} on {provider}" for device, provider in variant.devices.items())
    return steps_table(f"Variant {variant.name}{f', {where}' if where else ''}", variant.passes)


def search_table(name: str, search: Mapping[str, Any]) -> Table:
    """The Pareto front of a variant's search, the cheapest setting first, and which of them was taken."""
    with_ap = any("ap_drop" in row for row in search["trials"])
    columns = ["", "SQNR", "bit operations", "in integers", "MB", *(["AP lost"] if with_ap else []), "setting"]
    table = _table(f"Search of variant {name}: the Pareto front", *columns, wrap=("setting",))
    for row in front_rows(search):
        lost = "" if row.ap_drop is None else f"{row.ap_drop:.4f}"
        table.add_row(
            "taken" if row.chosen else "",
            f"{row.sqnr_db:.1f} dB",
            f"{100 * row.cost:.2f}%",
            f"{100 * row.in_integers:.0f}%",
            f"{row.megabytes:.1f}",
            *([lost] if with_ap else []),
            Text(row.chose),
        )
    common = in_common(search)
    table.caption = summary(search) + (f"\nin all of them: {common}" if common else "")
    return table


def parts_table(parts: Iterable[Mapping[str, Any]]) -> Table:
    """The parts: device, nodes, and the operators that most of them are."""
    table = _table("Parts", "part", "device", "nodes", "operators", wrap=("part", "device", "operators"))
    for part in parts:
        ops = list(part["ops"].items())
        text = ", ".join(f"{op} {count}" for op, count in ops[:5]) + (", ..." if len(ops) > 5 else "")
        table.add_row(Text(part["name"]), Text(part["device"]), str(part["nodes"]), Text(text))
    return table


def support_table(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    """What a target takes of each part, in each of some columns such as `parts` and a variant, and what it leaves."""
    table = _table(title, "part", "nodes taken", "multiply-adds", "not taken", wrap=("part", "not taken"))
    for column, parts in columns.items():
        for part, found in parts.items():
            name = part if column == "parts" else f"{column}: {part}"
            left = Counter(f"{node['op']} ({node['outcome']})" for node in found["left"])
            listed = ", ".join(f"{count} {kind}" for kind, count in left.most_common(6))
            nodes = f"{found['nodes_taken']} of {found['nodes']}"
            table.add_row(Text(name), nodes, share(found), Text(listed or "-"))
    return table


def cut_table(found: Candidate) -> Table:
    """The parts of a candidate for a cut: what runs them, their size, and what other parts give them."""
    table = _table("Parts", "for the", "nodes", "multiply-adds", "reads", "tensors")
    for part in found.parts:
        kind = "accelerator" if part.accelerator else "host"
        given = str(len(part.reads)) if part.reads else ""
        size = _bytes(part.bytes_read) if part.reads else ""
        table.add_row(kind, str(part.nodes), rounded_count(part.multiply_adds), size, given)
    table.add_row("together", str(sum(part.nodes for part in found.parts)), "", _bytes(found.bytes_crossing), "")
    return table


def rounded_count(number: int | None) -> str:
    """Return a number of multiply-adds in three digits, as 1.25 G; "unknown" where a shape isn't static."""
    if number is None:
        return "unknown"
    units = (("G", 10**9), ("M", 10**6), ("k", 10**3))
    return next((f"{number / size:.3g} {unit}" for unit, size in units if number >= size), str(number))


def _bytes(number: int | None) -> str:
    if number is None:
        return "unknown"
    return f"{number / 1e6:,.2f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB" if number >= 1e3 else f"{number} B"


def precision_table(evaluation: Mapping[str, Any]) -> Table:
    """AP of the original model, of the parts and of each variant, side by side, and how far off the original.

    Beside them stands what the recipe says was published of the original.
    """
    columns = list(next(iter(evaluation["ap"].values()), {}))
    published: Mapping[str, Mapping[str, float]] = evaluation.get("published") or {}
    shown_columns = [*columns, "published"] if published else columns
    table = _table(f"Average precision on {evaluation['samples']} images", "what", *shown_columns)
    for kind, row in evaluation["ap"].items():
        reference = row.get("original")
        cells = []
        for column, value in row.items():
            shown = column != "original" and reference is not None
            cells.append(f"{value:.4f}" + (f"\n{value - reference:+.4f}" if shown else ""))
        figures = published.get(kind, {})
        cells += [f"{figures['AP']:.4f}" if "AP" in figures else ""] if published else []
        table.add_row(f"{kind} AP", *cells)
    return table


def comparison_table(title: str, comparison: Comparison) -> Table:
    """Every compared tensor: largest error, what is allowed, the smallest tolerance that would pass."""
    table = _table(title, "tensor", "verdict", "max abs", "allowed", "SQNR", "would pass", wrap=("tensor",))
    for report in comparison.tensors:
        sqnr = (
            ""
            if report.sqnr_db is None
            else ("equal" if report.sqnr_db == float("inf") else f"{report.sqnr_db:.0f} dB")
        )
        table.add_row(
            Text(report.name),
            Text(report.verdict, style=_COLOURS[report.verdict]),
            _at_least(report.max_abs),
            _at_most(report.allowed),
            sqnr,
            _would_pass(report),
        )
    return table


def without_numbers(comparison: Comparison) -> list[str]:
    """Why tensors failed whose row of the table can't say it: one is missing, or has another shape."""
    return [each.explain() for each in comparison.tensors if each.verdict == "failed" and each.needed is None]


def bisection_tables(found: Bisection) -> list[Table]:
    """Where two models diverge: the first tensor at length, the others in a row each, then the outputs."""
    if not found.divergences:
        return []
    first, *others = found.divergences
    between = {"nodes in A": first.between_a, "nodes in B": first.between_b}
    rows = [("tensor", first.tensor), *(("inside", step) for step in first.path)]
    rows += [("sample", found.sample), ("difference", first.report.reason)]
    rows += [(side, _listed(nodes)) for side, nodes in between.items()]
    rows += [("equal until", _listed(first.after)), ("cause", first.cause)]
    rows += [("changed", change) for change in first.changes]
    tables = [plain_table("First difference", ["what", "seen"], [row for row in rows if row[1]])]
    if others:
        shown = [[" > ".join((*other.path, other.tensor)), other.report.reason, other.cause] for other in others]
        tables.append(plain_table("Others, independent of it", ["tensor", "difference", "cause"], shown))
    if found.outputs:
        from graphsurgery.gate.verdicts import Comparison

        tables.append(comparison_table("Outputs", Comparison(found.outputs)))
    return tables


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[-6:]) + more


def detections_table(title: str, detections: Iterable[Mapping[str, Any]]) -> Table:
    """What evaluate.describe_detections() gave: class, score, box in pixels."""
    table = _table(title, "class", "score", "box (x0 y0 x1 y1)", wrap=("class", "box (x0 y0 x1 y1)"))
    for found in detections:
        score, *box = ("-" if v is None else v for v in (found["score"], *found["box"]))
        cells = [f"{score:.3f}" if score != "-" else score, " ".join(v if v == "-" else f"{v:.0f}" for v in box)]
        table.add_row(Text(found["class"]), *cells)
    return table


def plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text."""
    table = _table(title, *columns, wrap=columns)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


class _Table(Table):
    """A table whose cells are cut to a length that can be read."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        super().add_row(*(_cut(cell, _CELL) if isinstance(cell, str | Text) else cell for cell in cells), **how)


def _cut(text: str | Text, most: int) -> str | Text:
    """Return `text` with what can't be printed written out and each of its lines shortened; its style stays."""
    plain = text if isinstance(text, str) else text.plain
    shown = "\n".join(shortened(line, most) for line in visible(plain).split("\n"))
    if shown == plain:
        return text
    if isinstance(text, str):
        return shown
    cut = text.copy()
    cut.plain = shown
    return cut


def _table(title: str, *columns: str, wrap: Sequence[str] = ()) -> Table:
    """Columns in `wrap` give way where the table is too wide; a number or a verdict must stay in one piece."""
    table = _Table(title=_cut(Text(title), _CELL), title_justify="left", title_style="bold", caption_justify="left")
    table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    for column in columns:
        table.add_column(column, overflow="fold", header_style="dim", no_wrap=column not in wrap)
    return table


def _worst(step: Step) -> str:
    worst = step.comparison.worst if step.comparison else None
    if worst is None:
        return "unchanged" if step.verdict == "passed" else ""
    before = step.before.worst if step.before else None
    return _off_and_allowed(worst) + (f"\nbefore: {_off_and_allowed(before)}" if before else "")


def _off_and_allowed(worst: TensorReport) -> str:
    if worst.max_abs is None:
        return worst.name
    if worst.asked_db is not None and worst.sqnr_db is not None:
        return f"{worst.name}\n{_at_most(worst.sqnr_db)} dB / {_at_least(worst.asked_db)} dB"
    return f"{worst.name}\n{_at_least(worst.max_abs)} / {_at_most(worst.allowed)}"


def _would_pass(report: TensorReport) -> str:
    """The tolerance to write into a recipe, in the form that it has there."""
    needed = _at_least(report.needed)
    return f"rel {needed}" if report.needed and report.needed_kind == "relative" else needed


def _at_least(value: float | None) -> str:
    return _two_digits(value, ROUND_CEILING)


def _at_most(value: float | None) -> str:
    return _two_digits(value, ROUND_FLOOR)


def _two_digits(value: float | None, rounding: str) -> str:
    """Two digits, rounded so that an error is never shown as smaller, and what is allowed never as larger."""
    if value is None:
        return ""
    rounded = float(Context(prec=2, rounding=rounding).create_decimal(repr(float(value))))
    return "0" if rounded == 0 else f"{rounded:.2g}"


def sqnr_table(title: str, outputs: Mapping[str, float | None]) -> Table:
    """The SQNR of each output of a quantized model, None where it has no noise."""
    known = [db for db in outputs.values() if db is not None]
    table = _table(title, "output", "SQNR", wrap=("output",))
    for name, db in outputs.items():
        worst = len(outputs) > 1 and db is not None and db == min(known)
        table.add_row(Text(name), "no noise" if db is None else f"{db:.1f} dB{' (worst)' if worst else ''}")
    return table


def layers_table(title: str, layers: Sequence[Mapping[str, Any]], most: int = 20) -> Table:
    """The layers that lose most: what is left of the SQNR when each alone is quantized, as a number and as a bar."""
    table = _table(title, "layer", "op", "SQNR", "", wrap=("layer",))
    highest = max((layer["sqnr_db"] for layer in layers if layer["sqnr_db"] is not None), default=0.0)
    for layer in layers[:most]:
        db = layer["sqnr_db"]
        shown = "no noise" if db is None else f"{db:.1f} dB"
        share = 0.0 if db is None or highest <= 0 else max(db, 0.0) / highest
        bar = ProgressBar(total=1.0, completed=share, width=12, complete_style="cyan", finished_style="cyan")
        table.add_row(Text(layer["name"]), Text(layer["op"]), Text(shown), bar)
    if len(layers) > most:
        table.caption = f"and {len(layers) - most} that lose less"
    return table
