"""Compute the layers in integers of 8 or 16 bits, which is what an NPU is fast at; calibrated from captured tensors.

    x -> Conv(W, b) -> Relu -> y   ->   x -> Q -> DQ -> Conv(DQ(W'), DQ(b')) -> Q -> DQ -> y      format: qdq
    x -> Conv(W, b) -> Relu -> y   ->   x -> Q -> QLinearConv(W', b') -> DQ -> y                  format: qoperator
    x -> Conv(W, b) -> Relu -> y   ->   x -> Q -> QLinearConv(W', b') -> QLinearRelu -> DQ -> y   style: systolic

Q is QuantizeLinear, DQ DequantizeLinear. In the first form, which NPU compilers read, each layer stays an operator of
its own between a DQ and a Q; what the model computes is defined in float, and a compiler fuses the three. Inputs and
outputs stay float. The range of each tensor comes from the captured samples of the model's own inputs: a part's in
part_passes, the whole graph's in passes. A frozen batch is filled as the runtime does it, but with real rows
(`quantize.calibration`).

After it the report shows the SQNR of each output over the samples, 10 log10(signal / noise): about 30 dB and more is
usual for 8 bits, and below 15 something is wrong. Rows that fill up a batch do not count. A tensor that joins ranges
too far apart for one scale, boxes and scores say, is named (`quantize.joined_ranges`).

It leaves the model alone when
1. it is quantized already, in whole or in part
2. it has no Conv, ConvTranspose, Gemm or MatMul, or all that could be quantized is excluded
3. an initializer is also an input: a caller may put another weight in its place, with another range
4. such a layer stands in a model-local function, out of sight (inline-functions)

It raises PassError when
1. there are no captured samples
2. a pattern of `exclude` fits no node: what it was to keep float would be quantized without a word
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from onnx import ModelProto

from graphsurgery import graph as graphs
from graphsurgery import quantize as quantizers
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import walk_protos
from graphsurgery.operators.functions import hidden_layers
from graphsurgery.operators.operands import LAYERS
from graphsurgery.quantize import Number, Settings
from graphsurgery.quantize.calibration import Feeds
from graphsurgery.quantize.joined_ranges import measured
from graphsurgery.quantize.sqnr import output_sqnr
from graphsurgery.rewrite import Editor, ModelPass, Refuse

NOTHING_LEFT = -999.0  # dB
FEW = 8  # samples show whether ranges are of one order of magnitude
# of ONNX and of ONNX Runtime; ExtendedQuantizeLinear and the like of AMD hold the first name
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "QGemm", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class Quantize(ModelPass):
    """`backend` is onnxruntime, quark (Ryzen AI) or vai_q_onnx; `config` one of its presets: qnn of onnxruntime, XINT8
    and others of quark. What is not given, the preset or the backend chooses.

    `method` finds ranges. `style: systolic` writes what ONNX Runtime on RISC-V reads: qoperator in int8 around 0, one
    scale per tensor, QLinearRelu and QLinearConvTranspose (`graphsurgery.quantize.systolic` says what stays float).
    `exclude` names nodes that stay float, * standing for anything, `exclude_ops` operators; `exclude: auto` drops the
    layers that lose most until every output has `sqnr_goal` dB. `samples` limits how many are used. `explain` ranks the
    layers by the SQNR that they lose. `seconds` limits each call of the quantizer, to 600 for onnxruntime and 7200 for
    the others if not given.
    """

    name = "quantize"
    effect = "approximate"
    needs_samples = True

    backend: str = "onnxruntime"
    config: str | None = None
    format: Literal["qdq", "qoperator"] | None = None
    per_channel: bool | None = None
    method: Literal["minmax", "entropy", "percentile", "min_mse"] | None = None
    activations: Number | None = None
    weights: Number | None = None
    symmetric_activations: bool | None = None
    symmetric_weights: bool | None = None
    style: Literal["systolic"] | None = None
    exclude: tuple[str, ...] | Literal["auto"] = ()
    exclude_ops: tuple[str, ...] = ()
    sqnr_goal: float | None = None
    samples: int | None = None
    explain: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        quantizers.backend(self.backend).check(self._settings)
        if self.seconds is not None and self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, not {self.seconds}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples must be 1 or more, not {self.samples}")
        if self.exclude == "auto" and self.sqnr_goal is None:
            raise ValueError("exclude: auto needs sqnr_goal, the dB that every output shall have")
        if self.sqnr_goal is not None and self.exclude != "auto":
            raise ValueError("sqnr_goal is for exclude: auto, which it needs")
        if self.sqnr_goal is not None and not 0 < self.sqnr_goal < math.inf:
            raise ValueError(f"sqnr_goal must be a number of dB above 0, not {self.sqnr_goal}")

    @property
    def _settings(self) -> Settings:
        shared = {field.name: getattr(self, field.name) for field in fields(Settings)}
        return Settings(**{**shared, "exclude": self._patterns})

    @property
    def _patterns(self) -> tuple[str, ...]:
        return () if self.exclude == "auto" else self.exclude

    def rewrite(self, model: ModelProto, edit: Editor) -> ModelProto:
        _require_plain(model)
        if not edit.context.samples:
            raise edit.fail("there are no captured samples to calibrate with; run it in apply, on one image or more")
        plain = ModelProto()
        plain.CopyFrom(Model(model, edit.folder).with_values_inside(f"pass '{self.name}'").proto)
        quantizers.name_nodes(plain)
        excluded = self._excluded(plain, edit)
        feeds = Feeds(plain, edit.context.samples, self.samples)
        phase = _phases(edit.context.progress, 2 + (self.exclude == "auto") + self.explain)
        prepared = quantizers.prepare(self.backend, plain, feeds, self._settings, phase())

        def quantize_but(names: tuple[str, ...]) -> ModelProto:
            return prepared((*self._patterns, *names))

        if self.sqnr_goal is not None:
            from graphsurgery.quantize.sensitivity import exclude_until

            found = exclude_until(quantize_but, plain, feeds, self.sqnr_goal, phase())
            quantized, excluded = found.model, [*excluded, *found.excluded]
        else:
            quantized = quantize_but(())
        if not _is_quantized(quantized):
            raise Refuse("all of it that could be quantized is excluded")
        edit.details |= {"backend": self.backend, "feeds": len(feeds), "excluded": excluded}
        found_db = output_sqnr(quantized, plain, feeds, phase())
        edit.details["sqnr_db"] = {name: _in_json(decibels) for name, decibels in found_db.items()}
        joined = measured(plain, Feeds(plain, edit.context.samples, min(self.samples or FEW, FEW)))
        if joined:
            edit.details["joined"] = [each.to_json(edit.context.outputs_apart) for each in joined]
        if self.explain:
            from graphsurgery.quantize.sensitivity import layer_losses

            edit.details["layers"] = [
                {"name": loss.name, "op": loss.op, "sqnr_db": _in_json(loss.sqnr_db)}
                for loss in layer_losses(quantize_but, plain, feeds, phase())
            ]
        return quantized

    def _excluded(self, model: ModelProto, edit: Editor) -> list[str]:
        """Return the names of the nodes that stay float because the user says so."""
        nodes = model.graph.node
        for pattern in self._patterns:
            if not any(quantizers.is_excluded(node, Settings(exclude=(pattern,))) for node in nodes):
                some = ", ".join(node.name for node in nodes if node.op_type in LAYERS)
                raise edit.fail(f"exclude: no node is called like '{pattern}'; there are {_shortened(some)}")
        return [node.name for node in nodes if quantizers.is_excluded(node, self._settings)]


def _in_json(decibels: float) -> float | None:
    """Return what JSON can hold; None for outputs that are equal, NOTHING_LEFT for one without any signal."""
    return None if decibels == math.inf else round(max(decibels, NOTHING_LEFT), 2)


def _require_plain(model: ModelProto) -> None:
    """Raise Refuse where there is nothing to quantize, or a weight that may be another one."""
    if _is_quantized(model):
        raise Refuse("it is quantized already")
    hidden = hidden_layers(model)
    if hidden is not None:
        raise Refuse(hidden)
    if not any(node.op_type in LAYERS and node.domain in graphs.STANDARD_DOMAINS for node in model.graph.node):
        raise Refuse(f"it has no {', '.join(LAYERS[:-1])} or {LAYERS[-1]} to quantize")
    inputs = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in inputs:
            overridable = f"initializer '{tensor.name}' is also an input, which a caller may override"
            raise Refuse(f"{overridable}; put drop-initializer-inputs before it")


def _is_quantized(model: ModelProto) -> bool:
    return any(mark in node.op_type for node in walk_protos(model.graph) for mark in QUANTIZED)


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _phases(progress: Callable[[int, int], None], count: int) -> Callable[[], Callable[[int, int], None]]:
    """Return what begins the next of `count` phases: it makes their shares of the bar equal."""
    begun = 0

    def begin() -> Callable[[int, int], None]:
        nonlocal begun
        before, begun = begun, begun + 1
        return lambda done, total: progress(before * total + done, count * total)

    return begin
