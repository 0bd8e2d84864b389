"""Models with a place to break, and a search for the place that was broken."""

from __future__ import annotations

import numpy as np

from graphsurgery.debugging.bisect import bisect
from graphsurgery.debugging.divergence import Bisection, Divergence
from graphsurgery.gate.tolerances import Tolerances
from graphsurgery.graph.model import Model
from graphsurgery.testing import parse, random_inputs

HEAD = '<ir_version: 8, opset_import: ["": 17]>\n'

CHAIN = """
g (float[4] x) => (float[4] y) {
    a = Abs (x)
    b = Sqrt (a)
    c = Neg (b)
    y = Identity (c)
}"""

BRANCH = """
g (float[4] x, bool flag) => (float[4] y) {
    a = Abs (x)
    b = If (flag) <
        then_branch = g1 () => (float[4] r) { p = Sqrt (a)  q = Neg (p)  r = Exp (q) },
        else_branch = g2 () => (float[4] s) { t = Neg (a)  s = Exp (t) }>
    y = Neg (b)
}"""

# Adds 1, then in every iteration twice the iteration's number
LOOP = """
g (float[3] x) => (float[3] y, float[n, 3] all)
<int64 count = {5}, bool go = {1}, float two = {2}, int64 third = {2}, float extra = {0.5}> {
    start = Neg (x)
    y, all = Loop (count, go, start) <
        body = turn (int64 i, bool on, float[3] v) => (bool still, float[3] next, float[3] seen) {
            still = Identity (on)
            n = Cast <to = 1> (i)
            step = Mul (n, two)
            next = Add (v, step)
            seen = Identity (next)
        }>
}"""

SCAN = """
g (float[2] x, float[4, 2] rows) => (float[2] y, float[4, 2] sums) {
    y, sums = Scan <num_scan_inputs = 1, body = turn (float[2] sum, float[2] row) => (float[2] next, float[2] out) {
        half = Neg (row)
        next = Add (sum, half)
        out = Identity (next)
    }> (x, rows)
}"""


def model(text: str) -> Model:
    return Model(parse(HEAD + text.strip()))


def search(
    a: Model | str,
    b: Model | str,
    inputs: dict[str, np.ndarray] | None = None,
    tolerances: dict[str, float] | None = None,
) -> Bisection:
    one, other = (model(side) if isinstance(side, str) else side for side in (a, b))
    given = random_inputs(one.proto) | (inputs or {})
    return bisect(one, other, given.__getitem__, Tolerances.parse(tolerances or {}), outputs=True)


def first(a: Model | str, b: Model | str, inputs: dict[str, np.ndarray] | None = None) -> Divergence:
    found = search(a, b, inputs)
    assert found.divergences, "no difference was found"
    return found.divergences[0]


# Each Mul stands for a Conv with a BatchNormalization behind it; x is from 0 on, so that no Relu hides anything
TWO_LAYERS = """
g (float[4] x) => (float[4] y)
<float[4] w = {1, 2, 3, 4}, float[4] scale = {5, 6, 7, 8}, float[4] v = {2, 2, 3, 3}, float[4] other = {4, 3, 2, 1}> {
    conv1 = Mul (x, w)
    bn1 = Mul (conv1, scale)
    relu1 = Relu (bn1)
    conv2 = Mul (relu1, v)
    bn2 = Mul (conv2, other)
    relu2 = Relu (bn2)
    y = Neg (relu2)
}"""

# What onnxsim makes of it: the first node of each pair takes the second one in, and its output keeps its name
FOLDED = """
g (float[4] x) => (float[4] y)
<float[4] w = {5, 12, 21, 32}, float[4] v = {8, 6, 6, 3}> {
    conv1 = Mul (x, w)
    relu1 = Relu (conv1)
    conv2 = Mul (relu1, v)
    relu2 = Relu (conv2)
    y = Neg (relu2)
}"""
