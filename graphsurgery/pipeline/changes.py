"""What a pass changed, as the report draws it: noted when it has run, while both graphs are at hand.

It is data, laid out when the report is made: run.json tells it to other tools too, and a run needs no Graphviz.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graphsurgery.debugging.divergence import Divergence
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.graph.model import Model
from graphsurgery.picture.places import Place, around_place, places
from graphsurgery.picture.plain import Subject
from graphsurgery.picture.scene import Scene

_MOST_KINDS, _MOST_NODES = 3, 30  # of one pass: its picture in the report is some tens of KB then, at most
_MOST_ABOUT = 3


def changes(before: Model, after: Model) -> Mapping[str, Any]:
    """Return where two graphs differ as run.json has it; nothing where no node does, or where it can't be told."""
    if before.fingerprint == after.fingerprint:
        return {}
    try:
        found, kinds = places(Subject.of(before), Subject.of(after), _MOST_KINDS, _MOST_NODES)
    except GraphSurgeryError:  # a broken graph is the gate's to judge
        return {}
    return {"kinds": kinds, "places": [_brief(place) for place in found]}


def first_difference(before: Model, after: Model, found: Divergence) -> Mapping[str, Any] | None:
    """Return the surroundings of the tensor where two graphs begin to differ; in a body, those in that body."""
    try:
        subjects = [Subject.of(before), Subject.of(after)]
        if found.level is not None and found.path:
            outlines = (found.level.a, found.level.b)
            subjects = [Subject(outline, each.types) for outline, each in zip(outlines, subjects, strict=True)]
        place = around_place(subjects[0], subjects[1], found.tensor, _MOST_NODES)
    except GraphSurgeryError:
        return None
    return None if place is None else {**_brief(place), "title": found.place}


def _brief(place: Place) -> Mapping[str, Any]:
    """Return a place as run.json has it, with less of what a pointer brings up."""
    brief = []
    for scene in (place.before, place.after):
        boxes = tuple(replace(box, about=tuple(line[:120] for line in box.about[:_MOST_ABOUT])) for box in scene.boxes)
        lines = tuple(replace(line, about=line.about[:120]) for line in scene.lines)
        brief.append(Scene(boxes, lines))
    return replace(place, before=brief[0], after=brief[1]).to_json()
