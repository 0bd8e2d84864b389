"""Adds an accelerator to the options of a session, and registers it first where it is a plug-in."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsurgery.devices.provider import Provider
from graphsurgery.devices.providers import DeviceChoice, session_options
from graphsurgery.devices.vitisai import vitisai_options
from graphsurgery.errors import MissingTool
from graphsurgery.graph.model import Model

if TYPE_CHECKING:
    import onnxruntime as ort


_lock = threading.Lock()


def attach(options: ort.SessionOptions, choice: DeviceChoice, model: Model, name: str) -> None:
    """Add the provider to a session's options; it is registered first where it is a plug-in.

    Raises MissingTool when the plug-in finds nothing to run on.
    """
    provider = choice.details
    options.enable_mem_pattern = options.enable_mem_pattern and provider.memory_pattern
    if choice.provider == "vitisai":
        options.add_provider(provider.ort_name, vitisai_options(choice, name, model.fingerprint))
    elif provider.plugin is not None and importlib.util.find_spec(provider.plugin) is not None:
        devices, backend = _plugin(provider, name)
        options.add_provider_for_devices(devices, {**backend, **session_options(choice)})
    else:
        built_in = {"backend_type": "htp"} if choice.provider == "qnn" else {}
        options.add_provider(provider.ort_name, {**built_in, **session_options(choice)})


def _plugin(provider: Provider, name: str) -> tuple[list[Any], dict[str, str]]:
    """Return the device of a plug-in provider, the NPU if there is one, and the options that its package knows."""
    import onnxruntime as ort

    assert provider.plugin is not None
    plugin = importlib.import_module(provider.plugin)
    backend, library = Path(plugin.get_qnn_htp_path()), Path(plugin.get_library_path())
    absent = [path.name for path in (backend, library) if not path.is_file()]
    if absent:
        raise MissingTool(f"{name}: {provider.plugin} has no {absent[0]} for this machine; {provider.install}")
    with _lock:
        if not _devices(provider):
            with _quiet_output():
                ctypes.CDLL(str(backend))
            ort.register_execution_provider_library(provider.ort_name, str(library))
        devices = _devices(provider)
    if not devices:
        raise MissingTool(f"{name}: {provider.plugin} finds no device on this machine that it can use")
    npus = [device for device in devices if device.device.type == ort.OrtHardwareDeviceType.NPU]
    return (npus or devices)[:1], {"backend_path": str(backend)}


def _devices(provider: Provider) -> list[Any]:
    import onnxruntime as ort

    return [device for device in ort.get_ep_devices() if device.ep_name == provider.ort_name]


@contextlib.contextmanager
def _quiet_output() -> Iterator[None]:
    """Swallow what a library writes to standard output while it is loaded: JSON may be on its way there.

    Qualcomm's emulator writes a line on thread-local storage.
    """
    if sys.platform != "linux":  # the emulator is nowhere else
        yield
        return
    try:
        kept = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    libc, nothing = ctypes.CDLL(None), os.open(os.devnull, os.O_WRONLY)
    libc.fflush(None)
    try:
        os.dup2(nothing, 1)
        yield
        libc.fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(nothing)
        os.close(kept)
