"""Passes made of other libraries' rewrites, one line each.

    FoldShapes = onnx_ir_pass("dedupe-constants", "exact", lambda: DeduplicateInitializersPass())
    FuseGelu = onnxscript_rules("fuse-gelu", "exact", lambda: [gelu_rule])
    SplitToSlice = shapeshifter_passes("split-to-slice-amd", "exact", lambda: {"onnx_convert_split_to_slice": {...}})
    DropCasts = graph_function("drop-casts", "exact", my_function_on_a_gs_graph)
    Convert = model_function("convert-opset", "exact", my_function_on_a_model_proto)

The rules are made anew at each use, so that state kept on a rule object can't leak from one model to the next. The
libraries are imported when the pass runs.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery.errors import missing_extra
from graphsurgery.graph.model import Model
from graphsurgery.rewrite import Editor, Effect, GraphPass, ModelPass, Pass


def onnx_ir_pass(name: str, effect: Effect, make: Callable[[], Any]) -> type[ModelPass]:
    """Return a pass that runs the onnx-ir pass which `make` builds."""

    def rewrite(self: ModelPass, model: ModelProto, edit: Editor) -> ModelProto:
        try:
            import onnx_ir
        except ImportError as error:
            raise missing_extra("onnx_ir", "ir", f"pass '{name}'") from error
        result = make()(onnx_ir.from_proto(model))
        converted: ModelProto = onnx_ir.to_proto(result.model)
        return converted

    return _declare(ModelPass, name, effect, rewrite, make)


def onnxscript_rules(name: str, effect: Effect, make: Callable[[], Sequence[Any]]) -> type[ModelPass]:
    """Return a pass that applies the onnxscript rewrite rules which `make` builds."""

    def rewrite(self: ModelPass, model: ModelProto, edit: Editor) -> ModelProto:
        try:
            from onnxscript.rewriter import rewrite as apply_rules
        except ImportError as error:
            raise missing_extra("onnxscript", "ir", f"pass '{name}'") from error
        rewritten: ModelProto = apply_rules(model, pattern_rewrite_rules=list(make()))
        return rewritten

    return _declare(ModelPass, name, effect, rewrite, make)


def shapeshifter_passes(
    name: str, effect: Effect, make: Callable[[], Mapping[str, Mapping[str, Any]]]
) -> type[ModelPass]:
    """Return a pass that runs passes of ShapeShifter, which AMD's Quark brings (0.13 and newer).

    `make` returns their names with their options, as `passes` of its own configuration has them. What they warn of
    is shown as the reasons why they left something as it is.
    """

    def rewrite(self: ModelPass, model: ModelProto, edit: Editor) -> ModelProto:
        try:
            with _muted():
                from quark.shapeshifter import RunConfig, shapeshifter
        except ImportError as error:
            raise missing_extra("quark", "quark", f"pass '{name}'") from error
        passes = {each: dict(options) for each, options in make().items()}
        with _warnings_of("quark") as warned:
            changed: ModelProto = shapeshifter(
                RunConfig(passes=passes), Model(model, edit.folder).with_values_inside(f"pass '{name}'").proto
            )
        for reason in dict.fromkeys(warned):
            edit.skip(None, reason)
        return changed

    return _declare(ModelPass, name, effect, rewrite, make)


def graph_function(name: str, effect: Effect, function: Callable[[gs.Graph], object]) -> type[GraphPass]:
    """Return a pass that calls `function` with the whole gs.Graph, to be changed in place."""

    def rewrite(self: GraphPass, graph: gs.Graph, edit: Editor) -> None:
        function(graph)

    return _declare(GraphPass, name, effect, rewrite, function)


def model_function(name: str, effect: Effect, function: Callable[[ModelProto], ModelProto]) -> type[ModelPass]:
    """Return a pass that calls `function` with the ModelProto and goes on with what it returns."""

    def rewrite(self: ModelPass, model: ModelProto, edit: Editor) -> ModelProto:
        return function(model)

    return _declare(ModelPass, name, effect, rewrite, function)


@contextmanager
def _muted() -> Iterator[None]:
    """Drop log records within the block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _warnings_of(package: str) -> Iterator[list[str]]:
    """Keep what the loggers of `package` write away from the screen; yield a list of the warnings and errors."""
    warned: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                warned.append(record.getMessage())

    named = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == package]
    before = [(logger, logger.handlers) for logger in map(logging.getLogger, named)]
    for logger, _ in before:
        logger.handlers = [Keep()]
    try:
        yield warned
    finally:
        for logger, handlers in before:
            logger.handlers = handlers


P = TypeVar("P", bound=Pass)


def _declare(
    base: type[P], name: str, effect: Effect, rewrite: Callable[..., Any], source: Callable[..., Any]
) -> type[P]:
    caller = sys._getframe(2).f_globals["__name__"]  # the pass belongs to the file that declares it
    body = {"__module__": caller, "__doc__": source.__doc__, "name": name, "effect": effect, "rewrite": rewrite}
    class_name = "".join(word.capitalize() for word in name.split("-"))
    return dataclass(frozen=True)(type(class_name, (base,), body))
