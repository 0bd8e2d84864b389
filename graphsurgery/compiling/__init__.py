"""What a vendor's toolchain makes of parts: a compiler is a plug-in that says what it wants, runs it and reads it back.

A compiler is a frozen dataclass whose fields are its options, in a file of its own.
"""

from graphsurgery.compiling.compiler import Compiler, Job, Sample
from graphsurgery.compiling.open_shapes import OpenShape
from graphsurgery.compiling.placed import Layer, Placed

__all__ = ["Compiler", "Job", "Layer", "OpenShape", "Placed", "Sample"]
