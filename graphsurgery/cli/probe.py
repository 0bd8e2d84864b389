"""probe: what a vendor's compiler and simulator really do with the lines of a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from graphsurgery.cli.app import app
from graphsurgery.cli.arguments import JsonFile
from graphsurgery.cli.screen import Display, err, save, screen_for, write_json
from graphsurgery.errors import InputError
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.targets.measured import Measurements

_SHOWN = 40
_SECONDS = 30.0  # between two lines that say how far it is, where there is no terminal to draw it on


@app.command("probe")
def probe_command(
    target: Annotated[str, typer.Option(metavar="NAME", help="The accelerator, such as qnn-htp.")],
    op: Annotated[list[str] | None, typer.Option("--op", help="Only this operator's lines. Repeatable.")] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Only this one; all of the target if not given. Repeatable.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many cases only, of the operators of detectors.")
    ] = None,
    forms: Annotated[
        bool, typer.Option("--forms/--no-forms", help="Also forms of an operator that no limit names.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the results go; ./NAME.measured.json if not given.")
    ] = None,
    json_: JsonFile = None,
) -> None:
    """Try each line of a target on the vendor's compiler and simulator: taken, on the NPU, and equal to ONNX Runtime.

    Of each limit one-node models are made: inside, at and beyond it. Exit 1 where the target's file says another
    outcome than what was measured. Results of other operators that are in the file already are kept. What is measured
    is written as it goes, to NAME.measured.part.json: after Ctrl-C the same command goes on there.

    Example: python -m graphsurgery probe --target qnn-htp --op Conv --op Resize
    """
    from graphsurgery.probing.backends import backend_of
    from graphsurgery.probing.kept import Kept
    from graphsurgery.probing.probe import joined, measure, plan, require_operators
    from graphsurgery.rewrite.registry import discover
    from graphsurgery.targets.load import load_target
    from graphsurgery.targets.measured import read_measurements

    screen = screen_for(json_)
    named = load_target(target, discover())
    chosen = tuple(named.precision(each) for each in precision or named.target.precisions)
    require_operators(named.target, op or (), named.name)
    backend = backend_of(named)
    tool = backend.tool()
    place = out or Path(f"{named.name}.measured.json")
    if place.is_dir() or not place.parent.is_dir():
        raise InputError(f"--out {place}: no file can be written there; name a file in a folder that exists")
    older = read_measurements(place) if place.is_file() else None
    kept = Kept(place)
    before = kept.before(named.name, tool)
    with Display(line_each=_SECONDS) as display:
        display.begin(f"making the cases of {named.name}")
        known = [each for each in chosen if each in backend.precisions]
        planned = plan(named.target, known, op or (), forms=forms, unequal=backend.unequal_sizes)
        if sample is not None:
            planned = planned.sample(sample)
        display.begin(f"{len(planned.cases)} cases on {tool}")
        try:
            found = measure(named, planned, backend, display.advance, before=before, keep=kept)
        except BaseException:
            if kept.write():
                err.print(
                    f"what is measured is in {kept.path}; the same command goes on there",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            raise
    whole = found if sample is not None and older is None else joined(older, found)
    save(place, lambda path: path.write_text(whole.text(), encoding="utf-8", newline="\n"))
    kept.drop()
    _show(screen, named.target.title, found)
    screen.print(Text(f"written to {place}"))
    write_json(json_, found.to_json())
    if found.contradictions:
        raise typer.Exit(1)


def _show(screen: terminal.Screen, title: str, found: Measurements) -> None:
    """Print how many cases of each line agree, and those that don't, with both outcomes."""
    from graphsurgery.probing.probe import by_line

    screen.print(Text(f"{title}: {len(found.cases)} cases on {found.tool}", "bold"))
    rows = []
    for op, line, cases in by_line(found):
        against = sum(case.contradicts for case in cases)
        unknown = sum("unknown" in (case.said, case.found.outcome) for case in cases)
        near = [
            case.found.decibels for case in cases if case.found.outcome == "taken" and case.found.decibels is not None
        ]
        worst = "-" if not near else "equal" if min(near) == float("inf") else f"{min(near):.0f} dB"
        rows.append([_line(op, line), str(len(cases)), str(against or "-"), str(unknown or "-"), worst])
    columns = ["line", "cases", "contradict", "not known", "least of what is taken"]
    screen.print(terminal.plain_table("", columns, rows))
    if found.contradictions:
        shown = found.contradictions[:_SHOWN]
        more = f", the first {_SHOWN} here" if len(found.contradictions) > _SHOWN else ""
        title = f"\nThe file says another outcome: {len(found.contradictions)} cases{more}"
        rows = [[_line(c.op, c.line), c.precision, c.what, c.said, c.found.told] for c in shown]
        screen.print(terminal.plain_table(title, ["line", "precision", "case", "file", "measured"], rows))
    if found.not_measured:
        rows = [[_line(e["op"], e["line"]), e.get("limit") or "-", e["reason"]] for e in _once(found)]
        screen.print(terminal.plain_table("\nNot measured", ["line", "limit", "reason"], rows))


def _once(found: Measurements) -> list[dict[str, Any]]:
    """Return what wasn't measured, each line's limit once for all precisions."""
    return list({(each["op"], each["line"], each.get("limit")): dict(each) for each in found.not_measured}.values())


def _line(op: str, number: int | str) -> str:
    return op if int(number) == 0 else f"{op} #{int(number) + 1}"
