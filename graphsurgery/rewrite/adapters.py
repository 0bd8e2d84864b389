"""Passes made of other libraries' rewrites, one line each.

    FoldShapes = onnx_ir_pass("dedupe-constants", "exact", lambda: DeduplicateInitializersPass())
    FuseGelu = onnxscript_rules("fuse-gelu", "exact", lambda: [gelu_rule])
    DropCasts = graph_function("drop-casts", "exact", my_function_on_a_gs_graph)
    Convert = model_function("convert-opset", "exact", my_function_on_a_model_proto)

The rules are made anew at each use, so that state kept on a rule object can't leak from one model to the next. The
libraries are imported when the pass runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_graphsurgeon as gs
from onnx import ModelProto

from graphsurgery.errors import missing_extra
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


P = TypeVar("P", bound=Pass)


def _declare(
    base: type[P], name: str, effect: Effect, rewrite: Callable[..., Any], source: Callable[..., Any]
) -> type[P]:
    caller = sys._getframe(2).f_globals["__name__"]  # the pass belongs to the file that declares it
    body = {"__module__": caller, "__doc__": source.__doc__, "name": name, "effect": effect, "rewrite": rewrite}
    class_name = "".join(word.capitalize() for word in name.split("-"))
    return dataclass(frozen=True)(type(class_name, (base,), body))
