"""For the tests of passes: a rewrite or a refusal as ONNX text, random graphs, and the files of a new pass.

asserts    assert_rewrites, assert_untouched and their like
fuzzing    random graphs in which a pass may fire, and what must hold of each
new_pass   what the command `new-pass` writes
"""

from graphsurgery.runtime.random_inputs import random_inputs
from graphsurgery.testing.asserts import (
    assert_rewrites,
    assert_same_outputs,
    assert_same_values,
    assert_untouched,
    parse,
)

__all__ = [
    "assert_rewrites",
    "assert_same_outputs",
    "assert_same_values",
    "assert_untouched",
    "parse",
    "random_inputs",
]
