"""What passes changed, and where a failed run begins to differ, as pictures for the page.

A run notes them as data. Without the extra `picture` the page says how to get them; one that can't be laid out in a few
seconds is told in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.picture.page import draw, figure_of
from graphsurgery.picture.places import Place
from graphsurgery.processes.graphviz_process import is_installed

_SECONDS = 10.0
_MOST_FAILED = 2  # then no more are tried: a page must not take minutes

Panels = list[tuple[str, Markup]]


@dataclass
class Pictures:
    """Draws the places of one page; `missing` is whether there would be some with the extra."""

    installed: bool = field(default_factory=is_installed)
    missing: bool = False
    _failed: int = 0

    def of(self, place: Mapping[str, Any]) -> tuple[str, Panels]:
        """Return a place's title and its drawings, none where they can't be drawn."""
        figure = figure_of(Place.from_json(place))
        if not self.installed:
            self.missing = True
            return figure.title, []
        if self._failed >= _MOST_FAILED:
            return figure.title, []
        try:
            return figure.title, draw(figure, _SECONDS).html()
        except GraphSurgeryError:
            self._failed += 1
            return figure.title, []

    def of_step(self, step: Mapping[str, Any]) -> list[tuple[str, Panels]]:
        """Return the places that a step changed."""
        return [self.of(place) for place in (step.get("changes") or {}).get("places", ())]


def more_kinds(step: Mapping[str, Any]) -> int:
    """Return how many kinds of places a step changed beside those that it tells."""
    changes = step.get("changes") or {}
    return max(0, int(changes.get("kinds", 0)) - len(changes.get("places", ())))
