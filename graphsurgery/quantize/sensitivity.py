"""Which layers lose the accuracy of a quantized model, and the fewest to leave float that win it back.

One layer is quantized at a time, everything else computes in float, and what counts is what then comes out of the
model. Its measure is the signal to quantization noise ratio, of each output over all inputs that are tried:

    SQNR = 10 log10(sum reference^2 / sum (reference - quantized)^2) dB

as in `equivalence`; where a model has several outputs, that of the worst. The other way would be to run both models
once and to compare the tensors that match inside. That is quicker, but what it finds at a layer is mostly the noise of
the layers before it, and it doesn't know whether the noise ever reaches an output: what a layer costs those who read
the outputs is known only when it alone is quantized. It is quick enough without calibrating again, as the Q and DQ of
one quantized model can be switched on layer by layer (`switches`). Where a quantizer leaves none (QOperator), has
renamed the nodes, or changes weights beyond rounding (Quark's cross-layer equalization), every layer takes a
quantization with all others excluded.

Noise that two layers make hardly cancels out, so its powers add up: the losses of single layers, taken together, say
roughly what the whole loses.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto

from graphsurgery.devices.session import Session, usual_threads
from graphsurgery.errors import InputError, PassError
from graphsurgery.progress import Progress, silent
from graphsurgery.quantize import Calibration
from graphsurgery.quantize.sqnr import Noise, output_sqnr, runs, sqnr_over
from graphsurgery.quantize.switches import Layer, Switchable

__all__ = ["Excluded", "LayerLoss", "exclude_until", "layer_losses"]

Quantize = Callable[[tuple[str, ...]], ModelProto]

# A ranking needs no more: each holds thousands of values of every tensor, and the next images say the same.
RANKING_RUNS = 4


@dataclass(frozen=True)
class LayerLoss:
    """What is left at the worst output, in dB, when only this layer is quantized; infinite where nothing is lost."""

    name: str
    op: str
    sqnr_db: float


@dataclass(frozen=True)
class Excluded:
    """The quantized model that reaches the goal, the nodes that stayed float in it, and the dB of each output."""

    model: ModelProto
    excluded: tuple[str, ...]
    sqnr_db: dict[str, float]


def layer_losses(
    quantize: Quantize, reference: ModelProto, calibration: Calibration, progress: Progress = silent
) -> list[LayerLoss]:
    """Rank the layers of a model by what each alone loses at the outputs, worst first.

    `quantize` returns the model quantized with the named nodes left float. Of `calibration` the first runs are taken.
    Raises PassError where nothing is quantized, InputError where there is nothing to run.
    """
    measured = _measure(quantize, quantize(()), reference, calibration, progress)
    losses = [LayerLoss(name, op, _worst(decibels)) for name, op, decibels in measured]
    return sorted(losses, key=lambda layer: layer.sqnr_db)


def exclude_until(
    quantize: Quantize, reference: ModelProto, calibration: Calibration, goal: float, progress: Progress = silent
) -> Excluded:
    """Leave the worst layers float, as few as are needed for every output to reach `goal` dB.

    They are the beginning of a ranking in which those outputs count that miss the goal; its length is found by
    bisection, which takes about log2 of the number of layers quantizations. All runs of `calibration` are measured.
    Raises PassError when not even all layers left float reach the goal.
    """
    if not math.isfinite(goal):
        raise InputError(f"a goal of {goal} dB is none; give a number, 30 for example")
    model = quantize(())
    reached = output_sqnr(model, reference, calibration)
    best = Excluded(model, (), reached)
    missing = [name for name, db in reached.items() if db < goal]
    if not missing:
        progress(1, 1)
        return best

    measured = _measure(quantize, model, reference, calibration, lambda done, total: progress(done, 2 * total))
    measured.sort(key=lambda layer: min(layer[2][name] for name in missing))
    names = tuple(name for name, _, _ in measured)
    found: Excluded | None = None
    few, enough = 0, len(names) + 1  # so many excluded layers miss the goal, and so many reach it
    tries, expected = 0, len(names).bit_length() + 1
    while enough - few > 1:
        count = min((few + enough) // 2, len(names))
        model = quantize(names[:count])
        tried = Excluded(model, names[:count], output_sqnr(model, reference, calibration))
        if _worst(tried.sqnr_db) >= goal:
            found, enough = tried, count
        else:
            few = count
            best = max(best, tried, key=lambda each: _worst(each.sqnr_db))
        tries += 1
        progress(expected + min(tries, expected - 1), 2 * expected)  # what is left took about as long as the ranking
    progress(2 * expected, 2 * expected)
    if found is not None:
        return found
    output, db = min(best.sqnr_db.items(), key=lambda item: item[1])
    raise PassError(
        f"exclude: auto: output '{output}' reaches {db:.1f} dB at best, with {len(best.excluded)} of {len(names)} "
        f"layers left float, and the goal is {goal:g} dB; lower the goal"
    )


def _measure(
    quantize: Quantize, quantized: ModelProto, reference: ModelProto, calibration: Calibration, progress: Progress
) -> list[tuple[str, str, dict[str, float]]]:
    """Return name and operator of each layer, and what it leaves at each output when it alone is quantized."""
    switchable = Switchable.of(reference, quantized)
    if switchable.layers and not any(layer.remade for layer in switchable.layers):
        return _by_switching(switchable, reference, calibration, progress)
    layers = [(layer.name, layer.op) for layer in switchable.layers] or _replaced(quantized, reference)
    return _by_quantizing(quantize, layers, reference, calibration, progress)


def _by_switching(
    switchable: Switchable, reference: ModelProto, calibration: Calibration, progress: Progress
) -> list[tuple[str, str, dict[str, float]]]:
    """Run the float model once per run and layer, with the layer's rounding switched on.

    The layers are shared out to threads, each of which runs on its own: that keeps the cores busier than a session
    whose threads wait for each other at every node, and what comes out doesn't depend on how many there are.
    """
    session = Session(switchable.model, name="the model with switches", threads=1)
    names = [output.name for output in reference.graph.output]
    noises = [Noise() for _ in switchable.layers]
    done, total = 0, min(len(calibration), RANKING_RUNS) * len(noises)
    with ThreadPoolExecutor(usual_threads() or os.cpu_count()) as pool:
        for inputs, rows in islice(runs(calibration), RANKING_RUNS):
            wanted = dict(zip(names, session.run(inputs).values(), strict=True))
            add = partial(_add_noise, session, inputs, wanted, rows)
            for _ in pool.map(add, switchable.layers, noises):
                done += 1
                progress(done, total)
    return [(layer.name, layer.op, noise.decibels()) for layer, noise in zip(switchable.layers, noises, strict=True)]


def _add_noise(
    session: Session,
    inputs: Mapping[str, Any],
    wanted: Mapping[str, np.ndarray],
    rows: int | None,
    layer: Layer,
    noise: Noise,
) -> None:
    """Add to `noise` what the outputs are off by when only `layer` is rounded."""
    switched = {**inputs, **{switch: np.array(True) for switch in layer.switches}}
    noise.add(wanted, dict(zip(wanted, session.run(switched).values(), strict=True)), rows)


def _by_quantizing(
    quantize: Quantize,
    layers: Sequence[tuple[str, str]],
    reference: ModelProto,
    calibration: Calibration,
    progress: Progress,
) -> list[tuple[str, str, dict[str, float]]]:
    """Quantize once per layer, with all other nodes excluded."""
    names = [node.name for node in reference.graph.node if node.name]
    measured = []
    for done, (layer, op) in enumerate(layers, start=1):
        model = quantize(tuple(name for name in names if name != layer))
        measured.append((layer, op, sqnr_over(model, reference, islice(runs(calibration), RANKING_RUNS))))
        progress(done, len(layers))
    return measured


def _replaced(quantized: ModelProto, reference: ModelProto) -> list[tuple[str, str]]:
    """Return the nodes that a quantizer has made other operators of, but for activations: they go with those before."""
    left = {(node.name, node.op_type) for node in quantized.graph.node}
    nodes = [(node.name, node.op_type) for node in reference.graph.node if node.name and len(node.input) > 1]
    found = [node for node in nodes if node not in left]
    if not found:
        raise PassError(
            "nothing that has a name is quantized, so that no layer can be told from the others; "
            "name the nodes, or exclude fewer"
        )
    return found


def _worst(decibels: Mapping[str, float]) -> float:
    return min(decibels.values())
