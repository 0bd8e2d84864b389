"""What quantizing cost: the outputs of the quantized model against those of the float one, in dB.

Both run with optimisation off: quantized layers are then computed as the model says, in float between the steps. ONNX
Runtime's integer kernels, which the runtime uses, saturate on a CPU without VNNI, and the figure would belong to the
machine that measured it rather than to the model. What they cost shows in AP. Rows that fill up a batch do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from graphsurgery.devices.session import Session
from graphsurgery.errors import InputError, PassError
from graphsurgery.progress import Progress, silent
from graphsurgery.quantize import Calibration
from graphsurgery.quantize.calibration import Feed, Feeds

__all__ = ["Noise", "output_sqnr", "runs", "sqnr_over"]

Array = npt.NDArray[Any]

# Elements converted to float64 at a time
_CHUNK = 1 << 18


def output_sqnr(
    model: ModelProto, reference: ModelProto, calibration: Calibration, progress: Progress = silent
) -> dict[str, float]:
    """Return the SQNR of each output of `model`, in dB, over all runs; one at a time is in memory.

    10 log10(sum reference^2 / sum difference^2); infinite for equal outputs. Raises PassError for a model with other
    outputs than the reference, InputError where there is nothing to run.
    """
    return sqnr_over(model, reference, runs(calibration), lambda done: progress(done, len(calibration)))


def sqnr_over(
    model: ModelProto, reference: ModelProto, given: Iterable[Feed], done: Callable[[int], None] = lambda count: None
) -> dict[str, float]:
    """Return what `output_sqnr` does, over the `given` runs; `done` is told how many are through."""
    one, other = Session(reference, name="the float model"), Session(model, name="the quantized model")
    noise = Noise()
    for count, (inputs, rows) in enumerate(given, start=1):
        wanted, computed = one.run(inputs), other.run(inputs)
        lost = next((name for name in wanted if name not in computed), None)
        if lost is not None:
            raise PassError(f"the quantized model has no output '{lost}', which the float one has")
        noise.add(wanted, computed, rows)
        done(count)
    return noise.decibels()


def runs(calibration: Calibration) -> Iterator[Feed]:
    """Yield the inputs of each run, with the number of rows in it that are data."""
    if isinstance(calibration, Feeds):
        yield from calibration.runs()
    else:
        yield from (Feed(dict(inputs), None) for inputs in calibration)


@dataclass
class Noise:
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
        """Return the ratio of each output. Raises InputError where nothing was added."""
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
