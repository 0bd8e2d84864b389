"""What a network left to do with its scores."""

from __future__ import annotations

import numpy as np

from graphsurgery.detections.views import Array


def activated(values: Array, activation: str) -> Array:
    """Return the float32 values behind none, sigmoid or softmax (over the last axis)."""
    if activation == "sigmoid":
        done: Array = 1 / (1 + np.exp(-values))
        return done
    return softmax(values, -1) if activation == "softmax" else values


def softmax(values: Array, axis: int) -> Array:
    """Return the shares along an axis; no value is too large."""
    powers = np.exp(values - values.max(axis, keepdims=True, initial=-np.inf))
    shares: Array = powers / powers.sum(axis, keepdims=True)
    return shares
