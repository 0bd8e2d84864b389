"""What the report's sections show, made out of run.json: rows of tables, with a chart in each where there is one.

Plain dicts and lists for the template; nothing here is HTML but the charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from graphsurgery.report import charts, numbers, search_rows
from graphsurgery.report.charts import Scale
from graphsurgery.report.diagram import stem
from graphsurgery.report.support_rows import left_by_reason, share

Data = Mapping[str, Any]

KINDS = {"bbox": "Box AP", "segm": "Mask AP", "keypoints": "Keypoint AP"}
_LINES = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "AR": "recall",
    "AR50": "recall, IoU 0.50",
    "AR75": "recall, IoU 0.75",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}
_OPERATORS_SHOWN, _NODES_NAMED = 8, 12
_LAYERS_SHOWN, _LAYERS_KEPT = 12, 200
# One column so much slower than another leaves nothing of the other's bars on a common scale
_FAR_APART = 12


class Place(NamedTuple):
    """A tensor, or a layer with its operator, of a part."""

    part: str
    name: str
    operator: str = ""


Measured = dict[Place, dict[str, float | None]]


def count(number: int, one: str, many: str = "") -> str:
    """Return 1 pass, 2 passes."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def support(run: Data) -> list[dict[str, Any]]:
    """What the recipe's target takes of each part and of those of variants, and what it leaves by reason."""
    columns = {"": run.get("support") or {}}
    columns |= {name: each.get("support") or {} for name, each in (run.get("variants") or {}).items()}
    return [
        {
            "part": f"{column}: {part}" if column else part,
            "target": f"{found['target']}, {found['precision']}",
            "nodes": f"{found['nodes_taken']:,} of {found['nodes']:,}",
            "share": share(found),
            "left": left_by_reason(found["left"]),
        }
        for column, parts in columns.items()
        for part, found in parts.items()
    ]


def step(content: Data) -> dict[str, Any]:
    """A pass or a check, with its worst tensor's error as a share of what is allowed, and its refusals by reason."""
    worst = content.get("worst")
    refusals: dict[str, list[str]] = {}
    for skip in content.get("skips", ()):
        refusals.setdefault(skip["reason"], []).append(skip["node"])
    return {
        "part": None,
        "effect": None,
        **content,
        "worst": worst,
        **_off_and_allowed(worst or {}),
        "bar": None if worst is None or worst.get("max_abs") is None else charts.bar(share_of_allowed(worst)),
        "excluded": [str(name) for name in (content.get("details") or {}).get("excluded") or ()],
        "brings": list(content.get("brings") or ()),
        "joined": [each["explanation"] for each in (content.get("details") or {}).get("joined") or ()],
        "refused": len(content.get("skips", ())),
        "refusals": [(reason, len(nodes), _named(nodes)) for reason, nodes in refusals.items()],
        "notes": [
            *((content.get("comparison") or {}).get("notes") or ()),
            *((content.get("details") or {}).get("sampled") or ()),
        ],
        "before": _against_before(content.get("worst_before")),
    }


def _against_before(worst: Data | None) -> dict[str, str] | None:
    """Return the worst tensor of the comparison with the graph before a pass and what it says; None without one."""
    if worst is None:
        return None
    seen = _off_and_allowed(worst)
    words = "{off} where {allowed} is asked" if _is_ratio(worst) else "{off} off, {allowed} allowed"
    said = str(worst["reason"]) if worst.get("max_abs") is None else words.format(**seen)
    return {"tensor": worst["tensor"], "said": said}


def _off_and_allowed(worst: Data) -> dict[str, str]:
    if _is_ratio(worst):
        return {
            "off": f"{numbers.at_most(worst['sqnr_db'])} dB",
            "allowed": f"{numbers.at_least(worst['asked_db'])} dB",
        }
    return {"off": numbers.at_least(worst.get("max_abs")), "allowed": numbers.at_most(worst.get("allowed"))}


def _is_ratio(worst: Data) -> bool:
    """Tell whether a tensor was judged by its signal-to-noise ratio: more is better then."""
    return worst.get("asked_db") is not None and worst.get("sqnr_db") is not None


def share_of_allowed(worst: Data) -> float:
    """Return how much of what is allowed an error takes; infinite where nothing is."""
    if _is_ratio(worst):
        return float(10 ** min((worst["asked_db"] - worst["sqnr_db"]) / 20, 300))
    off, allowed = worst.get("max_abs"), worst.get("allowed")
    if off is None:
        return float("inf") if worst["verdict"] == "failed" else 0.0
    if not allowed:
        return float("inf") if off else 0.0
    return float(off) / float(allowed)


def _named(nodes: Sequence[str]) -> list[str]:
    named = [node for node in nodes if node]
    more = [f"and {len(named) - _NODES_NAMED} more"] if len(named) > _NODES_NAMED else []
    return named[:_NODES_NAMED] + more


def variant(name: str, content: Data) -> dict[str, Any]:
    """A variant: its verdict, why, on which devices, and its passes."""
    devices = ", ".join(f"{device} = {provider}" for device, provider in (content.get("devices") or {}).items())
    said = "; ".join(filter(None, (devices, content.get("reason"))))
    passes = [step(each) for each in content.get("passes") or ()]
    found = content.get("search")
    return {
        "name": name,
        "verdict": content["verdict"],
        "said": said,
        "passes": passes,
        "search": search(found) if found else None,
    }


def search(found: Data) -> dict[str, Any] | None:
    """What a variant's search has tried: a plot of cost and SQNR with the Pareto front, and the front in rows."""
    tried = [row for row in found["trials"] if not row.get("failed")]
    if not tried:
        return None
    front = search_rows.front_rows(found)
    across = Scale.over([100 * row["cost"] for row in tried])
    up = Scale.over([*(row["sqnr_db"] for row in tried), found["sqnr"]])
    points = [(100 * row["cost"], row["sqnr_db"], "other") for row in tried if not row.get("front")]
    points += [(100 * row.cost, row.sqnr_db, "chosen" if row.chosen else "front") for row in front]
    steps = [(100 * row.cost, row.sqnr_db) for row in front]
    return {
        "plot": charts.scatter(across, up, points, steps, line=found["sqnr"]),
        "axis": charts.axis(across),
        "limit": f"{found['sqnr']:g} dB",
        "rows": front,
        "with_ap": any(row.ap_drop is not None for row in front),
        "others": len(tried) > len(front),
        "summary": search_rows.summary(found),
        "common": search_rows.in_common(found),
    }


def operators(part: Data) -> dict[str, Any]:
    """The operators of a part, a bar for each."""
    most = max(part["ops"].values(), default=1)
    rows = [(op, number, charts.bar(number / most)) for op, number in part["ops"].items()]
    shown, more = rows[:_OPERATORS_SHOWN], rows[_OPERATORS_SHOWN:]
    return {"name": part["name"], "nodes": part["nodes"], "rows": shown, "more": more}


def boundary_sqnr(run: Data) -> dict[str, Any] | None:
    """The SQNR of each boundary tensor that a quantized part writes, in the order of the parts and tensors."""
    found: Measured = {}
    for column, each in _quantized(run):
        tensors = each["details"].get("sqnr_db") or {}
        kinds = list(dict.fromkeys(stem(tensor)[0] for tensor in tensors))
        for tensor in sorted(tensors, key=lambda name: (kinds.index(stem(name)[0]), stem(name)[1])):
            found.setdefault(Place(each.get("part") or "", tensor), {})[column] = tensors[tensor]
    return _plot(found)


def layer_sqnr(run: Data) -> dict[str, Any] | None:
    """The SQNR of each layer that was looked at, the worst first."""
    found: Measured = {}
    for column, each in _quantized(run):
        for layer in each["details"].get("layers") or ():
            place = Place(each.get("part") or "", layer["name"], layer["op"])
            found.setdefault(place, {})[column] = layer["sqnr_db"]
    worst_first = sorted(
        found.items(), key=lambda each: min((v for v in each[1].values() if v is not None), default=1e9)
    )
    plot = _plot(dict(worst_first[:_LAYERS_KEPT]))
    left_out = max(0, len(found) - _LAYERS_KEPT)
    return plot and {
        **plot,
        "rows": plot["rows"][:_LAYERS_SHOWN],
        "more": plot["rows"][_LAYERS_SHOWN:],
        "left_out": left_out,
    }


def _quantized(run: Data) -> Iterator[tuple[str, Data]]:
    """Yield the steps that tell what they cost, each with the column that it belongs to."""
    variants = {name: each.get("passes") or () for name, each in (run.get("variants") or {}).items()}
    for column, passes in {"parts": run.get("passes") or (), **variants}.items():
        yield from ((column, each) for each in passes if each.get("details"))


def _plot(found: Measured) -> dict[str, Any] | None:
    """Return a row for each place and a marker for each column; None where there is nothing to plot."""
    if not found:
        return None
    columns = list(dict.fromkeys(column for row in found.values() for column in row))
    scale = Scale.over([value for row in found.values() for value in row.values() if value is not None])
    rows = [
        {
            "place": place,
            "dots": charts.dots(scale, [row.get(column) for column in columns]),
            "numbers": [numbers.decibel(row[column]) if column in row else "" for column in columns],
        }
        for place, row in found.items()
    ]
    return {"columns": columns, "scale": scale, "rows": rows, "parts": len({place.part for place in found}) > 1}


def precision(evaluation: Data | None, recipe: Data) -> dict[str, Any] | None:
    """AP of each column and its difference from the original's; a drop of more than the recipe allows is marked."""
    if not evaluation or not evaluation.get("ap"):
        return None
    columns = list(dict.fromkeys(column for row in evaluation["ap"].values() for column in row))
    limits = {column: _limit(recipe, column) for column in columns if column != "original"}
    published: Mapping[str, Mapping[str, float]] = evaluation.get("published") or {}
    rows = []
    for kind, row in evaluation["ap"].items():
        reference = row.get("original")
        against = [
            ("", False)
            if column == "original"
            else (numbers.difference(row.get(column), reference), _too_much(row.get(column), reference, limits[column]))
            for column in columns
        ]
        figure = (published.get(kind) or {}).get("AP")
        shown = [numbers.precision(row.get(column)) for column in columns]
        rows.append((KINDS.get(kind, kind), shown, against, None if figure is None else numbers.precision(figure)))
    beside = [*columns, "published"] if published else columns
    lines = {
        KINDS.get(kind, kind).removesuffix(" AP"): [
            (line, _over(kind, line), [numbers.precision(each.get(column, {}).get(line)) for column in beside])
            for line in dict.fromkeys(line for one in each.values() for line in one)
        ]
        for kind, found in (evaluation.get("lines") or {}).items()
        for each in [{**found, "published": published.get(kind, {})}]
    }
    return {
        "columns": columns,
        "samples": evaluation["samples"],
        "rows": rows,
        "lines": lines,
        "line_columns": beside,
        "limits": {column: limit for column, limit in limits.items() if limit is not None},
        "seconds": evaluation.get("seconds_per_image") or {},
    }


def _over(kind: str, line: str) -> str:
    """Return what a line of COCO's figures is over: a number in a recall is a limit, or for keypoints an IoU."""
    limit = line.removeprefix("AR")
    is_limit = kind != "keypoints" and line != limit and limit.isdecimal()
    return f"recall, {limit} per image" if is_limit else _LINES.get(line, "")


def _limit(recipe: Data, column: str) -> float | None:
    """Return how much AP a column may lose: what the variant of that name says, else the evaluation."""
    general = (recipe.get("evaluate") or {}).get("max_ap_drop")
    own = ((recipe.get("variants") or {}).get(column) or {}).get("max_ap_drop")
    limit: float | None = general if own is None else own
    return limit


def _too_much(ap: float | None, reference: float | None, limit: float | None) -> bool:
    return ap is not None and reference is not None and limit is not None and reference - ap > limit


def latency(measured: Data) -> dict[str, Any] | None:
    """A block of bars for each column, on one scale unless that would leave one of them without any."""
    if not measured:
        return None
    longest = {
        column: max((max(times["mean_ms"], times["p90_ms"]) for times in each["parts"].values()), default=0.0) or 1.0
        for column, each in measured.items()
    }
    common = max(longest.values()) <= _FAR_APART * min(longest.values())
    blocks = []
    for column, each in measured.items():
        most = max(longest.values()) if common else longest[column]
        rows = [
            (part, times, charts.bar(times["mean_ms"] / most, times["p90_ms"] / most))
            for part, times in each["parts"].items()
        ]
        blocks.append({"name": column, "total": each["total"], "rows": rows})
    return {"blocks": blocks, "common": common}
