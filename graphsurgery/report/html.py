"""report.html: what a run did, in one file that needs nothing else: no network, no script, no font.

`render` takes run.json and manifest.json as they lie in the folder of parts, so a report can be made again at any time.
Sections without data are left out; whatever the run quotes (names, reasons, the recipe) is escaped.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from graphsurgery.picture import page
from graphsurgery.picture.page import TOLD
from graphsurgery.report import charts, numbers, sections
from graphsurgery.report.diagram import boxes
from graphsurgery.report.graphs import Pictures, more_kinds
from graphsurgery.report.headline import headline
from graphsurgery.report.pictures import Picture
from graphsurgery.report.recipe_text import as_yaml

__all__ = ["Picture", "render"]

Data = Mapping[str, Any]


def render(run: Data, manifest: Data | None, pictures: Sequence[Picture] = ()) -> str:
    """Return the page for the content of run.json, of manifest.json where there is one, and samples as drawn.

    Each is what a run has, or what run_file.read_run() and Manifest.read() let in.
    """
    recipe, parts = run["recipe"], run.get("parts") or ()
    drawn = boxes(parts, manifest, run.get("support"))
    graphs = Pictures()
    first = run.get("first_difference")
    first_drawn = graphs.of(first) if first else None

    def step(content: Data) -> dict[str, Any]:
        pictures_of_step = graphs.of_step(content)
        return {
            **sections.step(content),
            "graphs": pictures_of_step,
            "more_kinds": more_kinds(content),
            "no_node": bool(content.get("changes")) and not pictures_of_step,
        }

    passes = [step(each) for each in run.get("passes") or ()]
    variants = [
        {**sections.variant(name, variant), "passes": [step(each) for each in variant.get("passes") or ()]}
        for name, variant in (run.get("variants") or {}).items()
    ]
    return _template().render(
        name=recipe.get("name") or "run",
        headline=headline(run),
        source=_source(run.get("source") or {}),
        facts=list(_facts(run)),
        boxes=drawn,
        connectors=charts.connectors([box.accelerator for box in drawn]),
        first=first_drawn,
        passes=passes,
        variants=variants,
        no_graphs=graphs.missing,
        told=TOLD,
        checks=[step(each) for each in run.get("checks") or ()],
        support=sections.support(run),
        operators=[sections.operators(part) for part in parts],
        boundary=sections.boundary_sqnr(run),
        layers=sections.layer_sqnr(run),
        accuracy=sections.precision(run.get("evaluation"), recipe),
        latency=sections.latency(run.get("latency") or {}),
        pictures=[_picture(picture) for picture in pictures],
        recipe=as_yaml(recipe),
        about=list(_about(run, manifest)),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(
        css=_file("report.css") + page.css(), axis=charts.axis, legend=charts.legend, point=charts.point
    )
    environment.filters.update(
        milliseconds=numbers.milliseconds, seconds=numbers.seconds, decibel=numbers.decibel, precision=numbers.precision
    )
    return environment.from_string(_file("report.html.jinja"))


def _file(name: str) -> str:
    return resources.files("graphsurgery.report").joinpath(name).read_text(encoding="utf-8")


def _source(source: Data) -> str:
    size = source.get("size")
    said = [
        " ".join(str(source[key]) for key in ("kind", "name") if source.get(key)),
        str(source.get("weights") or ""),
        f"canvas {size[0]} \N{MULTIPLICATION SIGN} {size[1]}" if size else "",
        f"opset {source['opset']}" if source.get("opset") else "",
    ]
    return ", ".join(filter(None, said))


def _facts(run: Data) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield the figures of the headline: what it is, the figure, and what stands beside it in small print."""
    for kind, row in ((run.get("evaluation") or {}).get("ap") or {}).items():
        first = "parts" if "parts" in row else next(iter(row))
        others = [f"{column} {numbers.precision(ap)}" for column, ap in row.items() if column != first]
        yield f"{sections.KINDS.get(kind, kind)}, {first}", numbers.precision(row[first]), others
    totals = {column: times["total"]["mean_ms"] for column, times in (run.get("latency") or {}).items()}
    if totals:
        first, *rest = totals
        others = [f"{column} {numbers.milliseconds(totals[column])} ms" for column in rest]
        yield f"Latency, {first}", f"{numbers.milliseconds(totals[first])} ms", others
    steps = [*(run.get("checks") or ()), *(run.get("passes") or ())]
    shares = [sections.share_of_allowed(step["worst"]) for step in steps if step.get("worst")]
    if shares and max(shares) <= 1:
        yield "Largest error", f"{100 * max(shares):.0f} %", ["of what the recipe allows"]
    parts = run.get("parts") or ()
    if parts:
        after = f"{sum(part['nodes'] for part in parts):,}"
        devices = Counter(part["device"] for part in parts)
        placed = [f"{number} on {device}" for device, number in devices.items()]
        nodes = f"{steps[0]['nodes_before']:,} → {after}" if steps else after
        yield "Nodes", nodes, [sections.count(len(parts), "part"), *placed]


def _picture(picture: Picture) -> dict[str, Any]:
    sides = []
    for who, data, found in zip(
        ("Original model", "Parts"), (picture.original, picture.parts), picture.found or (None, None), strict=True
    ):
        kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
        caption = who if found is None else f"{who}: {sections.count(found, 'detection')}"
        sides.append((caption, f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"))
    return {"title": picture.title, "sides": sides}


def _about(run: Data, manifest: Data | None) -> Iterator[tuple[str, str]]:
    """Yield what is known of how the run was made: its command, its time, the machine, the versions."""
    if run.get("command"):
        yield "Command", str(run["command"])
    spent = {what: numbers.duration(value) for what, value in (run.get("seconds") or {}).items()}
    total = spent.pop("total", None)
    if total or spent:
        by_step = ", ".join(f"{what} {time}" for what, time in spent.items())
        yield "Time", f"{total} ({by_step})" if total and by_step else total or by_step
    if run.get("peak_rss_mb"):
        yield "Peak memory", f"{run['peak_rss_mb']:,.0f} MB"
    environment = dict(run.get("environment") or {})
    packages = dict(environment.pop("packages", {}))
    yield from ((key.capitalize(), str(value)) for key, value in environment.items() if value)
    if manifest and manifest.get("graphsurgery"):
        packages.setdefault("graphsurgery", manifest["graphsurgery"])
    if packages:
        yield "Versions", ", ".join(f"{package} {version}" for package, version in packages.items())
    digest = (run.get("source") or {}).get("weights_sha256")
    if digest:
        yield "Weights (SHA-256)", str(digest)
