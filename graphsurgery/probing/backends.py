"""Which backend compiles and plays models for a target: a provider of ONNX Runtime, or the tool of its compiler."""

from __future__ import annotations

import json

from graphsurgery.compiling.registry import discover
from graphsurgery.devices.providers import PROVIDERS, DeviceChoice
from graphsurgery.errors import InputError
from graphsurgery.probing.backend import Backend, ProviderBackend
from graphsurgery.probing.compiled import CompilerBackend
from graphsurgery.recipe.plugin_options import make_plugin, options_of
from graphsurgery.targets.load import Named


def backend_of(named: Named) -> Backend:
    """Return what compiles for a target: the provider that stands for it, or its compiler, where that plays models.

    Raises InputError for a target that has neither.
    """
    for name, provider in PROVIDERS.items():
        if provider.target == named.name:
            return ProviderBackend(DeviceChoice(name))
    for name, usual in named.target.compiler.items():
        kind = discover().get(name)
        if kind.trials is not None:
            options = [f"{key}={json.dumps(value)}" for key, value in usual.items()]
            return CompilerBackend(kind.trials(make_plugin(kind, f"compiler '{name}'", *options_of(options))))
    there = sorted(provider.target for provider in PROVIDERS.values() if provider.target is not None)
    raise InputError(
        f"nothing compiles and plays models for target '{named.name}' here: no provider stands for it, and no compiler "
        f"that its file names has trials; there are {', '.join(there)}, and targets with a compiler such as rknn"
    )
