"""Passes: what they are, how they are found, and how they are run over a model.

editor     the one object through which a pass changes a graph
apply      runs passes over a model
registry   finds passes: the built-in ones, those of other packages, plug-in files
adapters   passes made of other libraries' rewrites, one line each
"""

from graphsurgery.rewrite.apply import (
    BATCH_NOTE,
    MASKS_NOTE,
    NORMALISATION_NOTE,
    Applied,
    Editor,
    Effect,
    GraphPass,
    ModelPass,
    NodePass,
    Pass,
    Skip,
    Surroundings,
    apply_pass,
    apply_passes,
)

__all__ = [
    "BATCH_NOTE",
    "MASKS_NOTE",
    "NORMALISATION_NOTE",
    "Applied",
    "Editor",
    "Effect",
    "GraphPass",
    "ModelPass",
    "NodePass",
    "Pass",
    "Skip",
    "Surroundings",
    "apply_pass",
    "apply_passes",
]
