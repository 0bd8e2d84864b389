"""What every section of a recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping of a recipe whose keys are the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
