"""Execution providers as data: what a device name of the manifest can be mapped to at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphsurgery.errors import InputError, MissingTool


@dataclass(frozen=True)
class Provider:
    """An ONNX Runtime execution provider: its own name there, and what brings it."""

    ort_name: str
    install: str


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "comes with onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", "pip install onnxruntime-gpu in place of onnxruntime"),
    "dml": Provider("DmlExecutionProvider", "pip install onnxruntime-directml in place of onnxruntime (Windows)"),
    "openvino": Provider("OpenVINOExecutionProvider", "pip install onnxruntime-openvino in place of onnxruntime"),
    "qnn": Provider("QNNExecutionProvider", "a plug-in, onnxruntime-qnn, which graphsurgery does not register yet"),
    "vitisai": Provider("VitisAIExecutionProvider", "comes with AMD's Ryzen AI installer"),
}


def parse_devices(choices: list[str]) -> dict[str, str]:
    """Read `--device npu=vitisai` options. Raises InputError for what is no `device=provider`."""
    devices = {}
    for choice in choices:
        device, separator, provider = choice.partition("=")
        if not separator or not device:
            raise InputError(f"--device {choice}: write it as DEVICE=PROVIDER, for example npu=vitisai")
        if provider not in PROVIDERS:
            raise InputError(f"--device {choice}: unknown provider '{provider}'; there are {', '.join(PROVIDERS)}")
        devices[device] = provider
    return devices


def ort_providers(device: str, devices: Mapping[str, str]) -> list[str]:
    """Return ONNX Runtime's provider names for a part on `device`; cpu where `devices` says nothing of it.

    Raises InputError for a provider that is not in PROVIDERS, MissingTool, saying what to install, for one that this
    ONNX Runtime does not have.
    """
    import onnxruntime

    choice = devices.get(device, "cpu")
    if choice not in PROVIDERS:
        raise InputError(f"device {device}={choice}: unknown provider; there are {', '.join(PROVIDERS)}")
    provider = PROVIDERS[choice]
    if provider.ort_name not in onnxruntime.get_available_providers():
        raise MissingTool(f"device {device}={choice}: this ONNX Runtime has no {provider.ort_name}; {provider.install}")
    return [provider.ort_name] if choice == "cpu" else [provider.ort_name, PROVIDERS["cpu"].ort_name]
