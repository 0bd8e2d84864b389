"""The table of layers in the verbose log of RKNN-Toolkit2: what runs on the NPU and what is left to the CPU.

    D RKNN: [19:30:02.411] ID   OpType    DataType Target InputShape       OutputShape  ...  FullName
    D RKNN: [19:30:02.411] 11   Reshape   INT8     CPU    (250,4,1,1),(2)  (250,4)      ...  Reshape:/cls/Gemm_2rs

A layer may be several nodes, as ConvAddRelu is, and goes by the name of one of them. Versions write other columns, so
those that are read are found by their heads. Source: the log of rknn-toolkit2 2.5.0.
"""

from __future__ import annotations

import re

from graphsurgery.compiling.placed import Layer

_TITLE = "Network Layer Information Table"
_PREFIX = re.compile(r"^D RKNN: \[[\d:.]+\] ")
# where a model begins and ends, which the NPU has no part in
_ENDS = ("InputOperator", "OutputOperator")


def layers_in(log: str) -> list[Layer] | None:
    """Return the layers of the last table in a log, None where there is no table that can be read."""
    _, title, rest = log.rpartition(_TITLE)
    if not title:
        return None
    lines = [_PREFIX.sub("", line) for line in rest.splitlines()[1:]]
    heads: dict[str, int] = {}
    found: list[Layer] = []
    for line in lines:
        words = line.split()
        if not heads:
            if "OpType" in words and "Target" in words and "FullName" in words:
                heads = {word: words.index(word) for word in ("OpType", "Target")}
            elif not line.startswith("---"):
                return None
        elif line.startswith("---"):
            if found:
                return [layer for layer in found if layer.op not in _ENDS]
        elif words and words[0].isdigit() and len(words) > max(heads.values()):
            target, (op, _, name) = words[heads["Target"]], words[-1].partition(":")
            found.append(Layer(words[heads["OpType"]], name or op, target.upper() == "NPU"))
    return None
