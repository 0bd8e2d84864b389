"""What the tests of passes read of the notes that passes leave."""

from __future__ import annotations

import json

from graphsurgery.graph.view import table
from graphsurgery.rewrite import NORMALISATION_NOTE, Applied


def normalisation(applied: Applied) -> dict[str, list[float]]:
    """Return the mean and std that are the runtime's job now."""
    found: dict[str, list[float]] = json.loads(table(applied.model.graph()).metadata[NORMALISATION_NOTE])
    return found
