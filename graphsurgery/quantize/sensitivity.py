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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from graphsurgery.errors import InputError, PassError
from graphsurgery.quantize import Calibration
from graphsurgery.quantize.calibration import Feeds, Run
from graphsurgery.quantize.switches import Switchable
from graphsurgery.session import Session

__all__ = ["Excluded", "LayerLoss", "exclude_until", "layer_losses", "output_sqnr"]

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Quantize = Callable[[tuple[str, ...]], ModelProto]

# A ranking needs no more: each holds thousands of values of every tensor, and the next images say the same.
RANKING_RUNS = 4
# Elements converted to float64 at a time
_CHUNK = 1 << 18


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


def silent(done: int, total: int) -> None:
    """Tell nobody how far the work is."""


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


def output_sqnr(model: ModelProto, reference: ModelProto, calibration: Calibration) -> dict[str, float]:
    """Return the SQNR of each output of `model`, in dB, over all runs; one at a time is in memory."""
    return _sqnr(model, reference, _runs(calibration))


def _sqnr(model: ModelProto, reference: ModelProto, runs: Iterable[Run]) -> dict[str, float]:
    one, other = Session(reference, name="the float model"), Session(model, name="the quantized model")
    noise = _Noise()
    for inputs, rows in runs:
        wanted, computed = one.run(inputs), other.run(inputs)
        lost = next((name for name in wanted if name not in computed), None)
        if lost is not None:
            raise PassError(f"the quantized model has no output '{lost}', which the float one has")
        noise.add(wanted, computed, rows)
    return noise.decibels()


def _runs(calibration: Calibration) -> Iterator[Run]:
    """Yield the inputs of each run, with the number of rows in it that are data."""
    if isinstance(calibration, Feeds):
        yield from calibration.runs()
    else:
        yield from (Run(dict(inputs), None) for inputs in calibration)


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
    """Run the float model once per run and layer, with the layer's rounding switched on."""
    session = Session(switchable.model, name="the model with switches")
    names = [output.name for output in reference.graph.output]
    noises = [_Noise() for _ in switchable.layers]
    done, total = 0, min(len(calibration), RANKING_RUNS) * len(noises)
    for inputs, rows in islice(_runs(calibration), RANKING_RUNS):
        wanted = dict(zip(names, session.run(inputs).values(), strict=True))
        for layer, noise in zip(switchable.layers, noises, strict=True):
            switched = {**inputs, **{switch: np.array(True) for switch in layer.switches}}
            noise.add(wanted, dict(zip(names, session.run(switched).values(), strict=True)), rows)
            done += 1
            progress(done, total)
    return [(layer.name, layer.op, noise.decibels()) for layer, noise in zip(switchable.layers, noises, strict=True)]


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
        measured.append((layer, op, _sqnr(model, reference, islice(_runs(calibration), RANKING_RUNS))))
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


@dataclass
class _Noise:
    """The power of each output and of what it is off by, summed up over the runs."""

    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)

    def add(self, reference: Mapping[str, Array], computed: Mapping[str, Array], rows: int | None) -> None:
        """Add the outputs of a run, the first `rows` rows of them; None for all."""
        for name, wanted in reference.items():
            if not isinstance(wanted, np.ndarray) or wanted.dtype.kind not in "fiub":
                continue
            got = computed[name]
            if wanted.shape != got.shape:
                raise PassError(f"output '{name}' is {got.shape} when quantized, and {wanted.shape} in float")
            signal, noise = _powers(wanted[:rows], got[:rows]) if rows is not None else _powers(wanted, got)
            self.signal[name] = self.signal.get(name, 0.0) + signal
            self.noise[name] = self.noise.get(name, 0.0) + noise

    def decibels(self) -> dict[str, float]:
        if not self.signal:
            raise InputError("there is nothing to run the model on, or it has no output of numbers; capture samples")
        return {name: _ratio(signal, self.noise[name]) for name, signal in self.signal.items()}


def _powers(reference: Array, computed: Array) -> tuple[float, float]:
    signal = noise = 0.0
    one, other = reference.reshape(-1), computed.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, one.size, _CHUNK):
            wanted = one[start : start + _CHUNK].astype(np.float64)
            off = wanted - other[start : start + _CHUNK]
            power = float(np.square(wanted).sum()), float(np.square(off).sum())
            if not all(map(math.isfinite, power)):
                # what is not finite in the original measures nothing; what has become so is infinitely wrong
                known = np.isfinite(wanted)
                wanted, off = wanted[known], off[known]
                power = float(np.square(wanted).sum()), float(np.square(off).sum())
                if math.isnan(power[1]):
                    power = power[0], math.inf
            signal, noise = signal + power[0], noise + power[1]
    return signal, noise


def _ratio(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal and noise < math.inf else -math.inf


def _worst(decibels: Mapping[str, float]) -> float:
    return min(decibels.values())
