"""Writes a recipe for a model and a target: it is searched for (`propose`), run, and says what is left to the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from graphsurgery.errors import Difference, InputError
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.pipeline.options import Options
from graphsurgery.pipeline.propose import Proposal, Proposer, item
from graphsurgery.pipeline.run import RunWatcher
from graphsurgery.pipeline.whole_run import apply_recipe
from graphsurgery.recipe.load import Recipe, load_recipe
from graphsurgery.report.recipe_text import as_yaml
from graphsurgery.report.run_record import Record
from graphsurgery.report.support_rows import left_by_reason, share
from graphsurgery.report.terminal import rounded_count
from graphsurgery.rewrite.registry import Registry
from graphsurgery.runtime.latency import synthetic_image
from graphsurgery.sources import open_source
from graphsurgery.targets.load import load_target
from graphsurgery.targets.support import Support

_MOST_TRIES = 10
_ROWS, _ROWS_OF_HOST = 12, 4  # of reasons why nodes of a part are left
_COMMENT = 116  # characters of a line
_LARGE = 2.0  # times as many multiply-adds are told


@dataclass(frozen=True)
class Made:
    """The text of a recipe that `apply` ran through, what it holds, and what was left out since it broke something."""

    text: str
    proposal: Proposal
    broken: tuple[str, ...]


def new_recipe(base: Recipe, registry: Registry, usual: str, place: Path, watcher: RunWatcher) -> Made:
    """Search for a recipe that has the sections of `base`, its source and its target among them.

    `usual` is the target whose file says what helps any accelerator, `place` the folder that the recipe is to lie in.
    Each pass is proven by running the recipe on the images that `base` captures; one that breaks something is left out.
    Raises InputError for a model that can't be cut by the target, and what apply_recipe does of anything but a pass.
    """
    assert base.target is not None
    source = open_source(base.source)
    image = source.trace(source.canvas.fit(synthetic_image(source.canvas)))
    proposer = Proposer(base.target, load_target(usual, registry), registry, watcher)
    broken: list[str] = []
    for _ in range(_MOST_TRIES):
        proposal = proposer.propose(source, image)
        failed = _failing(_text(base, proposal), registry, watcher)
        if failed is None:
            return Made(_text(base, proposal, broken, place), proposal, tuple(broken))
        part, name, reason = failed
        broken.append(f"{name}{f' on {part}' if part else ''}: {reason}")
        proposer = replace(proposer, without=proposer.without | {(part, name)})
    raise InputError(f"{_MOST_TRIES} passes in a row break something, the last of them {broken[-1]}")


def _failing(text: str, registry: Registry, watcher: RunWatcher) -> tuple[str | None, str, str] | None:
    """Run a recipe; return the part and the name of the pass that breaks something, None where none does."""
    with temporary_folder() as folder:
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        recipe = load_recipe(str(folder / "recipe.yaml"), registry=registry)
        record = Record(recipe.to_json())
        options = Options(folder / "parts", folder / "model_io", variants=())
        try:
            apply_recipe(replace(recipe, compilers=()), options, record, watcher)
        except Difference as error:
            failed = next((step for step in reversed(record.passes) if step.verdict == "failed"), None)
            if failed is None:
                raise
            return failed.part, failed.name, str(error)
    return None


def _text(base: Recipe, proposal: Proposal, broken: Sequence[str] = (), place: Path | None = None) -> str:
    """Return the recipe with what is left to the CPU, and why, in comments; `place` is the folder that it will lie in.

    Without it, files are named by their whole paths.
    """
    chosen = base.target
    assert chosen is not None
    kept = {key: _without_absent(value) for key, value in base.merged.items() if key not in ("extends", "name")}
    for section, key in (("source", "onnx"), ("target", "name")):
        if place is not None and Path(kept[section].get(key, "")).is_absolute():
            kept[section] = {**kept[section], key: _relative(kept[section][key], place)}
    part_passes = {part: [item(each) for each in passes] for part, passes in proposal.part_passes.items() if passes}
    sections: dict[str, Any] = {
        **kept,
        "passes": [item(pass_) for pass_ in proposal.passes],
        "partition": {"by": "target", "smallest": proposal.smallest, "parts": proposal.parts},
        "part_passes": part_passes,
    }
    made = (
        f"For {chosen.target.target.title}, {chosen.precision}. Made by `new-recipe` on {date.today()}: each pass "
        "helps the target, and was compared with the original model."
    )
    sources: dict[str, int] = {}
    lines = [
        *_wrapped(made),
        *(_wrapped(f"{text}.") if (text := grown(proposal)) else ()),
        as_yaml({key: value for key, value in sections.items() if value}).rstrip("\n"),
        *(line for part, found in proposal.support.items() for line in _left(part, found, proposal, sources)),
        *(line for each in broken for line in ["#", *_wrapped(f"Left out, as it breaks something: {each}")]),
    ]
    lines += ["#", *(line for source, number in sources.items() for line in _wrapped(f"[{number}] {source}"))]
    return "\n".join(lines).rstrip("#\n") + "\n"


def grown(proposal: Proposal) -> str:
    """Say what the passes added, where the graph is more than twice as large for them; empty where it isn't.

    A share of the multiply-adds doesn't tell of it.
    """
    growth = proposal.growth
    if growth.times <= _LARGE:
        return ""
    before, after = rounded_count(growth.before), rounded_count(growth.before + growth.added)
    by = ", ".join(growth.passes)
    return f"{before} multiply-adds became {after} (x {growth.times:.3g}) by {by}, so that the target takes them"


def _left(part: str, found: Support, proposal: Proposal, sources: dict[str, int]) -> Iterator[str]:
    """Yield what of a part is left to the CPU, and why; `sources` get numbers as they are met."""
    told, on_host = found.to_json(), proposal.parts[part] == "cpu"
    taken = f"{told['nodes_taken']} of {told['nodes']} nodes"
    if on_host:
        head = f"{part} is the host's; {taken} could be the target's"
    else:
        head = f"{part} is for the target, which takes {taken}, {share(told)} of the multiply-adds"
    yield from ["#", *_wrapped(head)]
    rows = left_by_reason(told["left"])
    most = _ROWS_OF_HOST if on_host else _ROWS
    for row in rows[:most]:
        helps = f"; {row.helps} may help" if row.helps and not on_host else ""
        number = sources.setdefault(row.source, len(sources) + 1)
        yield from _wrapped(f"{row.nodes}: {row.outcome}, {row.why}{helps} [{number}]", "  ")
    if len(rows) > most:
        yield from _wrapped(f"and {len(rows) - most} reasons more, which `support` shows", "  ")
    if proposal.approximate.get(part):
        yield from _wrapped(f"approximate, and so not tried: {', '.join(proposal.approximate[part])}", "  ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Return comments that hold a text, in lines of a length that can be read."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > _COMMENT - len(indent):
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return [f"# {indent}{each}" for each in [*lines, line]]


def _without_absent(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_absent(each) for key, each in value.items() if each is not None}
    return value


def _relative(path: str, folder: Path) -> str:
    """Return a path as it is seen from a folder, in the same tree; another as it is."""
    try:
        return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return Path(path).resolve().as_posix()
