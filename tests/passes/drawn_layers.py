"""Layers with constant weights, drawn by chance, for the fuzz cases of passes that fold something into them."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphsurgery.testing.fuzzing import Builder


def any_window(build: Builder, spatial: int, dilated_same: bool = True) -> dict[str, Any]:
    """Draw a kernel and what goes with it; attributes are left out or written.

    Without `dilated_same` no window has both dilations and SAME, which only the reference evaluator runs.
    """
    drawn: dict[str, Any] = {"kernel_shape": [build.integer(1, 3) for _ in range(spatial)]}
    drawn["strides"] = build.choice([None, [build.integer(1, 3) for _ in range(spatial)]])
    drawn["dilations"] = build.choice([None, None, [build.integer(1, 2) for _ in range(spatial)]])
    if build.chance(3):
        if not dilated_same:
            drawn["dilations"] = None
        drawn["auto_pad"] = build.choice(["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
    else:
        drawn["pads"] = build.choice([None, [build.integer(0, 2) for _ in range(2 * spatial)]])
    return drawn


def any_conv(build: Builder, dtype: np.dtype[Any], dilated_same: bool = True) -> tuple[str, list[int], int]:
    """Draw a Conv or a ConvTranspose; return what it writes, the shape of a scale of its channels, and their number."""
    spatial, group = build.integer(1, 3), build.choice([1, 1, 2, 3])
    inputs, outputs = group * build.integer(1, 2), group * build.integer(1, 2)
    x = build.input([build.integer(1, 2), inputs, *(build.integer(3, 6) for _ in range(spatial))], dtype)
    window = any_window(build, spatial, dilated_same)
    # the reference evaluator gives the bias of the first group of a ConvTranspose to all, and only it runs other types
    op = build.choice(["Conv", "Conv", "ConvTranspose"]) if group == 1 or dtype == np.float32 else "Conv"
    sizes = [outputs, inputs // group] if op == "Conv" else [inputs, outputs // group]
    weights = [build.weight(sizes + window["kernel_shape"], dtype)]
    if build.chance(2):
        weights.append(build.weight([outputs], dtype))
    if build.chance(2):
        window["kernel_shape"] = None
    y = build.node(op, [x, *weights], group=build.choice([group, None]) if group == 1 else group, **window)
    return y, [outputs, *[1] * spatial], outputs


def any_gemm(build: Builder, dtype: np.dtype[Any]) -> tuple[str, list[int], int]:
    """Draw a Gemm; return as `any_conv`."""
    rows, depth, wide = build.integer(1, 4), build.integer(1, 4), build.integer(1, 4)
    turned, turned_weights = build.choice([None, 0, 1]), build.choice([None, 0, 1])
    x = build.input([depth, rows] if turned else [rows, depth], dtype)
    weights = [build.weight([wide, depth] if turned_weights else [depth, wide], dtype)]
    if build.opset < 11 or build.chance(2):
        weights.append(build.weight(build.choice([[wide], [], [1], [1, wide], [rows, 1], [rows, wide]]), dtype))
    factors = {"alpha": build.choice([None, 0.5, 2.0]), "beta": build.choice([None, 0.5, 2.0])}
    y = build.node("Gemm", [x, *weights], transA=turned, transB=turned_weights, **factors)
    return y, [wide], wide
