"""What quantizing cost: the outputs of the quantized model against those of the float one, in dB."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

from graphsurgery.quantize import Progress
from graphsurgery.quantize.calibration import Feeds
from graphsurgery.session import Session


def sqnr(reference: ModelProto, quantized: ModelProto, feeds: Feeds, progress: Progress) -> dict[str, float | None]:
    """Return 10 log10(sum reference^2 / sum difference^2) of each float output over all runs.

    None where that is no finite number: the outputs are equal, or the reference is 0 everywhere. Rows that fill up a
    batch do not count.

    Both run with optimisation off: quantized layers are then computed as the model says, in float between the steps.
    ONNX Runtime's integer kernels, which the runtime uses, saturate on a CPU without VNNI, and the figure would belong
    to the machine that measured it rather than to the model. What they cost shows in AP.
    """
    sessions = Session(reference, name="the float model"), Session(quantized, name="the quantized model")
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for index, run in enumerate(feeds.runs()):
        expected, got = (session.run(run.inputs) for session in sessions)
        for name, value in expected.items():
            if value.dtype.kind != "f":
                continue
            rows = ... if run.rows is None else slice(run.rows)
            wanted = value[rows].astype(np.float64)
            signal[name] = signal.get(name, 0.0) + float(np.sum(wanted**2))
            noise[name] = noise.get(name, 0.0) + float(np.sum((wanted - got[name][rows]) ** 2))
        progress(index + 1, len(feeds))
    return {name: _in_db(signal[name], noise[name]) for name in signal}


def _in_db(signal: float, noise: float) -> float | None:
    if signal <= 0 or noise <= 0 or not math.isfinite(signal + noise):
        return None
    return round(10 * math.log10(signal / noise), 2)
