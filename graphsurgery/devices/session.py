"""ONNX Runtime sessions: the only place that makes them.

A session that judges a pass runs with graph optimisation off, so that it does not repair what the pass broke.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError
from onnx import ModelProto

from graphsurgery.devices.loadable import Loadable
from graphsurgery.devices.time_limit import run_limited
from graphsurgery.errors import InputError, ModelError, first_line
from graphsurgery.graph.expansion import expanded, unknown_operator
from graphsurgery.graph.light import read_light
from graphsurgery.graph.loops import has_unbounded_loop
from graphsurgery.graph.model import Model
from graphsurgery.graph.protos import name_outputs, unnamed_outputs

if TYPE_CHECKING:
    from graphsurgery.devices.providers import DeviceChoice


THREADS = "GRAPHSURGERY_THREADS"  # an environment variable, so that it holds in every process
_MOST_THREADS = 1024
_MOST_ADDED = 8 << 20  # bytes


def usual_threads() -> int:
    """Return how many threads a session takes that isn't told; 0 leaves it to ONNX Runtime, which takes every core.

    That is right for one job on one machine: of several each waits for the threads of the others. Raises InputError
    where the variable is no such number.
    """
    text = os.environ.get(THREADS, "") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= _MOST_THREADS):
        raise InputError(f"{THREADS}={text}: write a number of threads up to {_MOST_THREADS}, or 0 for all cores")
    return int(text)


class Session:
    """A model that can be run again and again.

    `device` says which provider runs it and with what options, None for the CPU; a node that this provider leaves to
    the CPU is an error unless `allow_fallback`. `threads` 0 takes as many as `usual_threads`; without `spin` a
    thread that has nothing to do sleeps at once. With `one_arena` it takes memory on the CPU from what all such
    sessions have in common: those that run one after another then need as much as the largest of them, which the
    process keeps. Raises ModelError when the model can't be loaded, InputError when a node falls back, MissingTool when
    the provider is not here.
    """

    def __init__(
        self,
        model: ModelProto | Path,
        *,
        name: str = "model",
        optimise: bool = False,
        threads: int = 0,
        device: DeviceChoice | None = None,
        allow_fallback: bool = False,
        spin: bool = True,
        one_arena: bool = False,
    ) -> None:
        import onnxruntime as ort

        threads = threads or usual_threads()
        ort.set_default_logger_severity(4)  # what is logged before there is a session would go to standard error

        def options() -> ort.SessionOptions:
            made, level = ort.SessionOptions(), ort.GraphOptimizationLevel
            made.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
            made.intra_op_num_threads = threads
            if not spin:
                made.add_session_config_entry("session.intra_op.allow_spinning", "0")
            made.log_severity_level = 4  # failures come back as exceptions; the rest is noise to a user
            return made

        self.name = name
        light = _light(model)
        self._loops = has_unbounded_loop(light)
        model = _as_onnx_runtime_takes_it(model, light, name)
        if device is not None and device.accelerates:
            from graphsurgery.devices.accelerated_session import open_session

            self._session = open_session(model, options, device, name=name, allow_fallback=allow_fallback)
        else:
            try:
                given = Loadable.of(model, name)
                on_cpu = given.options(options())
                if one_arena:
                    _make_arena()
                    on_cpu.add_session_config_entry("session.use_env_allocators", "1")
                self._session = ort.InferenceSession(
                    given.source, on_cpu, providers=["CPUExecutionProvider"], enable_fallback=0
                )
            except ModelError:
                raise
            except Exception as error:  # onnxruntime raises a dozen unrelated classes; none may reach the user raw
                said = unknown_operator(light) or f"ONNX Runtime can't load it: {first_line(error)}"
                raise ModelError(f"{name}: {said}") from error
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]
        self._defaults = [item.name for item in self._session.get_overridable_initializers()]

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs (all when None). Raises InputError for missing or ill-shaped inputs, and for time.

        An initializer that is an input as well takes the given value where there is one. Nothing is copied on the CPU:
        a contiguous input is read where it lies, and an output is the memory that ONNX Runtime wrote.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"{self.name}: input '{missing[0]}' is not given")
        wanted = list(outputs) if outputs is not None else self.outputs
        if not wanted:  # ONNX Runtime would take that for all of them
            return {}
        try:
            given = {name: inputs[name] for name in (*self.inputs, *self._defaults) if name in inputs}
            values = run_limited(self._session, wanted, given, loops=self._loops)
        except Exception as error:  # as above
            raise InputError(f"{self.name}: ONNX Runtime can't run it: {first_line(error)}") from error
        return dict(zip(wanted, values, strict=True))


@cache
def _make_arena() -> None:
    """Make the one memory that sessions with `session.use_env_allocators` share."""
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # else each addition is twice the one before it, and a pipeline that needs a little more takes 40 MB at once
    additions = ort.OrtArenaCfg({"max_power_of_two_extend_bytes": _MOST_ADDED})
    ort.create_and_register_allocator(memory, additions)


def _light(model: ModelProto | Path) -> ModelProto:
    """Return `model`, of a file without its large weights; nothing where that is no model: ONNX Runtime says so."""
    if isinstance(model, Path):
        try:
            return read_light(model)
        except (OSError, DecodeError):
            return ModelProto()
    return model


def _as_onnx_runtime_takes_it(model: ModelProto | Path, light: ModelProto, name: str) -> ModelProto | Path:
    """Return `model` with standard nodes in the place of custom operators, and names for outputs that need one.

    The path of a file that has neither is returned as it is.
    """
    try:
        if expanded(light) is light and not unnamed_outputs(light):
            return model
        given = Model.load(model).bound().proto if isinstance(model, Path) else model
        made = expanded(given)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    if unnamed_outputs(made):
        if made is given:
            made = ModelProto()
            made.CopyFrom(given)
        name_outputs(made)
    return made


def run(
    model: ModelProto | Path, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None, name: str = "model"
) -> dict[str, np.ndarray]:
    """Run `model` once with optimisation off and return its outputs by name."""
    return Session(model, name=name).run(inputs, outputs)
