"""Where the commands print: tables to standard output, progress and errors to standard error, JSON to a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from graphsurgery.errors import InputError
from graphsurgery.files import written_whole
from graphsurgery.report import terminal

if TYPE_CHECKING:
    from graphsurgery.report.run_record import Step

out = terminal.console()
err = terminal.console(stderr=True)


class Display:
    """Draws progress on standard error while a run goes on.

    Where that is no terminal, with `line_each` there is a line after so many seconds.
    """

    def __init__(self, line_each: float | None = None) -> None:
        self._line_each = None if err.is_terminal else line_each
        self._said, self._what = time.monotonic(), ""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=err, transient=True, disable=not err.is_terminal
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, what: str) -> None:
        self._what = what
        self._progress.reset(self._task, description=what, total=None, visible=True)

    def advance(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
        if self._line_each is not None and time.monotonic() - self._said >= self._line_each:
            self._said = time.monotonic()
            err.print(f"{self._what}: {done} of {total}", markup=False, highlight=False, soft_wrap=True)

    def finished(self, step: Step) -> None:
        where = f" ({step.part})" if step.part else ""
        self._progress.update(self._task, description=f"{step.name}{where}: {step.verdict}")


def screen_for(json_: str | None) -> terminal.Screen:
    """Where tables go: standard output, unless that is to hold the JSON and nothing else.

    Raises InputError for a JSON file that can't be written, before the work and not after it.
    """
    if json_ == "-":
        return err
    if json_ is not None and (Path(json_).is_dir() or not Path(json_).parent.is_dir()):
        raise InputError(f"--json {json_}: no file can be written there; name a file in a folder that exists, or -")
    return out


def warn_of_joined_ranges(joined: Iterable[Mapping[str, Any]], place: str = "") -> None:
    """Name on standard error the tensors that hold values of ranges too far apart for one scale."""
    for each in joined:
        said = f"warning: {place}{each['explanation']}"
        err.print(said, style="yellow", highlight=False, markup=False, soft_wrap=True)


def write_json(target: str | None, content: Mapping[str, Any] | list[Any]) -> None:
    """Write `content` to the file that --json names, or to standard output for -."""
    if target is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    if target == "-":
        write_out(text)
        return
    save(Path(target), lambda path: path.write_text(text, encoding="utf-8"))


def write_out(text: str) -> None:
    """Write to standard output as it is, without the terminal's line breaks."""
    try:
        out.file.write(text)
        out.file.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


def save(target: Path, write: Any) -> None:
    """Write to a temporary name, then rename."""
    try:
        with written_whole(target) as temporary:
            write(temporary)
    except OSError as error:
        raise InputError(f"{target}: can't be written ({error.strerror or error})") from error
