"""What a model's float tensors hold over its calibration runs, as the range that numbers of 8 or 16 bits shall cover.

One run's tensors are in memory at a time, so memory does not grow with the number of samples:

    minmax       one walk over the runs; the model itself reduces each tensor to its minimum and maximum
    percentile   a second walk counts the values of each tensor in bins; the range leaves out one in 100,000
    entropy      the same bins; of the ranges, cut into 256 steps, the one that keeps most of what the bins tell

Bins that grow while the range is not known yet would need memory that depends on the data, and give a result that
depends on the order of the samples; hence the second walk. Entropy is the search for the least KL divergence of
S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Zeros are not counted: a step of the numbers is 0, whatever the
range, and the peak that a Relu piles up there would outweigh everything else (6.7 dB instead of 26.7 at the outputs of
the embedded network's backbone).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError
from graphsurgery.progress import Progress
from graphsurgery.quantize import Calibration

Method = Literal["minmax", "entropy", "percentile"]

_BINS = 2048
_LEVELS = 256  # of 8 bits
_CANDIDATES = 128
_KEPT = 0.99999  # share of the values that lie within the range by percentile


class Range(NamedTuple):
    """The least and the greatest value of a tensor that its numbers shall tell apart."""

    low: float
    high: float


def ranges(model: ModelProto, calibration: Calibration, method: Method, progress: Progress) -> dict[str, Range]:
    """Return the range of each float32 input and node output of the graph, those in bodies left out.

    Shapes and types must be inferred. What never holds a value has the range from 0 to 0, what becomes NaN or Inf one
    that is not finite. Raises ModelError and InputError as Session does.
    """
    names = _float_tensors(model)
    walks = 1 if method == "minmax" else 2
    total = walks * len(calibration)
    found = extremes(model, names, calibration, lambda done: progress(done, total))
    if method == "minmax":
        return found
    counted = [name for name in names if 0 < found[name].high - found[name].low < np.inf]
    bins = {name: np.zeros(_BINS, np.int64) for name in counted}
    session = Session(_with_outputs(model, counted), name="the float model")
    for index, inputs in enumerate(calibration):
        computed = session.run(inputs, [name for name in counted if name not in inputs])
        for name, counts in bins.items():
            value = computed[name] if name in computed else inputs[name]
            counts += np.histogram(value[value != 0], _BINS, range=found[name])[0]  # 0 is told exactly anyway
        progress(len(calibration) + index + 1, total)
    narrow = _by_percentile if method == "percentile" else _by_entropy
    return {name: narrow(bins[name], found[name]) if name in bins else found[name] for name in names}


def no_range(tensor: str, node: NodeProto) -> InputError:
    """Return the error for a tensor whose range isn't finite, and that `node` would read or write in integers."""
    return InputError(
        f"tensor '{tensor}' becomes NaN or Inf on the samples, which have no range; add '{node.name}', the "
        f"{node.op_type} that reads or writes it, to exclude"
    )


def _float_tensors(model: ModelProto) -> list[str]:
    graph = model.graph
    known = {info.name: info for info in (*graph.value_info, *graph.output, *graph.input)}
    constants = {tensor.name for tensor in graph.initializer}
    names = [info.name for info in graph.input] + [name for node in graph.node for name in node.output]
    return [
        name
        for name in names
        if name in known and name not in constants and known[name].type.tensor_type.elem_type == TensorProto.FLOAT
    ]


def extremes(
    model: ModelProto, names: list[str], calibration: Calibration, done: Callable[[int], None]
) -> dict[str, Range]:
    """Return the least and the greatest value of each of the float tensors `names`; `done` is told the runs so far."""
    ends = [(f"{name}/lowest", f"{name}/highest") for name in names]
    reduced = ModelProto()
    reduced.CopyFrom(model)
    for name, (lowest, highest) in zip(names, ends, strict=True):
        # with its dimensions kept, an empty tensor gives none instead of a failure
        reduced.graph.node.append(onnx.helper.make_node("ReduceMin", [name], [lowest], keepdims=1))
        reduced.graph.node.append(onnx.helper.make_node("ReduceMax", [name], [highest], keepdims=1))
    wanted = [end for pair in ends for end in pair]
    session = Session(_with_outputs(reduced, wanted), name="the float model")
    found = np.full((len(names), 2), [np.inf, -np.inf])
    for index, inputs in enumerate(calibration):
        values = session.run(inputs, wanted)
        for row, (lowest, highest) in zip(found, ends, strict=True):
            if values[lowest].size:
                row[0] = np.minimum(row[0], values[lowest].min())
                row[1] = np.maximum(row[1], values[highest].max())
        done(index + 1)
    never = found[:, 0] > found[:, 1]
    found[never] = 0
    return {name: Range(float(low), float(high)) for name, (low, high) in zip(names, found, strict=True)}


def _with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    """Return the model with `names` as its outputs; an input can't be one, and is left out."""
    inputs = {info.name for info in model.graph.input}
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in inputs)
    return changed


def _by_percentile(counts: np.ndarray, whole: Range) -> Range:
    edges = np.linspace(whole.low, whole.high, _BINS + 1)
    share = np.cumsum(counts) / counts.sum()
    cut = (1 - _KEPT) / 2
    return Range(float(edges[np.searchsorted(share, cut)]), float(edges[np.searchsorted(share, 1 - cut) + 1]))


def _by_entropy(counts: np.ndarray, whole: Range) -> Range:
    edges = np.linspace(whole.low, whole.high, _BINS + 1)
    reach = max(abs(whole.low), abs(whole.high))
    best, best_loss = whole, np.inf
    for bound in np.linspace(reach, reach / _CANDIDATES, _CANDIDATES):  # the widest first: it wins where all are equal
        first = int(np.searchsorted(edges, -bound, "right")) - 1 if -bound > whole.low else 0
        last = int(np.searchsorted(edges, bound, "left")) if bound < whole.high else _BINS
        if last - first < _LEVELS:
            break
        loss = _divergence(counts, first, last)
        if loss < best_loss:
            best, best_loss = Range(float(edges[first]), float(edges[last])), loss
    return best


def _divergence(counts: np.ndarray, first: int, last: int) -> float:
    """Return the KL divergence of what is left when bins `first` to `last` are told apart in 256 steps only.

    Values outside land in the outermost bins, as clipping has it.
    """
    inside = counts[first:last]
    clipped = inside.astype(np.float64)
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    step = np.arange(len(inside)) * _LEVELS // len(inside)
    sums = np.bincount(step, inside, _LEVELS)
    used = np.bincount(step, inside > 0, _LEVELS)
    told = np.where(inside > 0, (sums / np.maximum(used, 1))[step], 0)
    seen = clipped > 0
    if not told.any():
        return np.inf
    p = clipped[seen] / clipped.sum()
    q = np.maximum(told[seen], 1e-4) / told.sum()  # an outermost bin may have been empty before the clipping
    return float(np.sum(p * np.log(p / q)))
