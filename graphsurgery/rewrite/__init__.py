"""Passes: what they are, how they are found, and how they are run over a model.

kinds           NodePass, GraphPass, ModelPass, Refuse
editor          the one object through which a pass changes a graph; its docstring lists the verbs
  tracked_types   what it knows of types and shapes
  names           names that nothing else has
  annotations     quantization annotations, which go along
  evaluate        values, by ONNX Runtime
context         what a pass may know beside the graph
apply           runs passes over a model
registry        finds passes: the built-in ones, those of other packages, plug-in files
adapters        passes made of other libraries' rewrites, one line each
"""

from graphsurgery.graph.notes import BATCH_NOTE, CHOICES_NOTE, MASKS_NOTE, NORMALISATION_NOTE, TYPES_NOTE
from graphsurgery.rewrite.apply import Applied, apply_pass, apply_passes
from graphsurgery.rewrite.context import PassContext
from graphsurgery.rewrite.editor import Editor, Skip
from graphsurgery.rewrite.kinds import Effect, GraphPass, ModelPass, NodePass, Pass, Refuse

__all__ = [
    "BATCH_NOTE",
    "CHOICES_NOTE",
    "MASKS_NOTE",
    "NORMALISATION_NOTE",
    "TYPES_NOTE",
    "Applied",
    "Editor",
    "Effect",
    "GraphPass",
    "ModelPass",
    "NodePass",
    "Pass",
    "PassContext",
    "Refuse",
    "Skip",
    "apply_pass",
    "apply_passes",
]
