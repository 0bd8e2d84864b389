"""ONNX Runtime sessions: the only place that makes them.

A session that judges a pass runs with graph optimisation off, so that it does not repair what the pass broke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsurgery.errors import InputError, MissingTool, ModelError

if TYPE_CHECKING:
    from onnx import ModelProto


class Session:
    """A model that can be run again and again.

    `providers` are ONNX Runtime's provider names in order; `threads` 0 leaves the number to ONNX Runtime. Raises
    ModelError when the model can't be loaded, MissingTool when a provider is not in this build of ONNX Runtime.
    """

    def __init__(
        self,
        model: ModelProto | Path,
        *,
        name: str = "model",
        optimise: bool = False,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        import onnxruntime as ort

        absent = [provider for provider in providers if provider not in ort.get_available_providers()]
        if absent:
            here = ", ".join(ort.get_available_providers())
            raise MissingTool(f"{name}: ONNX Runtime has no {absent[0]} here (it has {here}); install its package")
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # failures come back as exceptions; the rest is noise to a user
        self.name = name
        try:
            source = str(model) if isinstance(model, Path) else model.SerializeToString()
            self._session = ort.InferenceSession(source, options, providers=list(providers))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes; none may reach the user raw
            raise ModelError(f"{name}: ONNX Runtime can't load it: {first_line(error)}") from error
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]
        self._defaults = [item.name for item in self._session.get_overridable_initializers()]

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the named outputs (all when None). Raises InputError for missing or ill-shaped inputs.

        An initializer that is an input as well takes the given value where there is one.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise InputError(f"{self.name}: input '{missing[0]}' is not given")
        wanted = list(outputs) if outputs is not None else self.outputs
        if not wanted:  # ONNX Runtime would take that for all of them
            return {}
        try:
            given = {name: inputs[name] for name in (*self.inputs, *self._defaults) if name in inputs}
            values = self._session.run(wanted, given)
        except Exception as error:  # as above
            raise InputError(f"{self.name}: ONNX Runtime can't run it: {first_line(error)}") from error
        return dict(zip(wanted, values, strict=True))


def run(
    model: ModelProto | Path, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None, name: str = "model"
) -> dict[str, np.ndarray]:
    """Run `model` once with optimisation off and return its outputs by name."""
    return Session(model, name=name).run(inputs, outputs)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
