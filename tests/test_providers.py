"""Device names of a manifest, mapped to ONNX Runtime's execution providers."""

from __future__ import annotations

import onnxruntime
import pytest

from graphsurgery.errors import InputError, MissingTool
from graphsurgery.providers import PROVIDERS, ort_providers, parse_devices


def available(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


def test_options_become_a_mapping() -> None:
    assert parse_devices([]) == {}
    assert parse_devices(["npu=vitisai", "gpu=cuda"]) == {"npu": "vitisai", "gpu": "cuda"}


@pytest.mark.parametrize("choice", ["npu", "=cpu", ""])
def test_what_is_no_device_and_provider_is_quoted(choice: str) -> None:
    with pytest.raises(InputError, match=f"--device {choice}: write it as DEVICE=PROVIDER, for example npu=vitisai"):
        parse_devices([choice])


@pytest.mark.parametrize("choice", ["npu=", "npu=tpu", "npu=CPU", "npu=cpu=qnn"])
def test_an_unknown_provider_is_refused_with_those_there_are(choice: str) -> None:
    with pytest.raises(InputError, match=f"--device {choice}: unknown provider .*; there are cpu, cuda, dml, openvino"):
        parse_devices([choice])


def test_a_device_nobody_chose_for_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, "CPUExecutionProvider", "QNNExecutionProvider")
    assert ort_providers("npu", {}) == ["CPUExecutionProvider"]
    assert ort_providers("cpu", {"npu": "qnn"}) == ["CPUExecutionProvider"]
    assert ort_providers("npu", {"npu": "cpu"}) == ["CPUExecutionProvider"]


def test_what_a_provider_does_not_take_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, "CPUExecutionProvider", "QNNExecutionProvider")
    assert ort_providers("npu", {"npu": "qnn"}) == ["QNNExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_provider_that_is_not_here_says_what_brings_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, "CPUExecutionProvider")
    with pytest.raises(MissingTool) as caught:
        ort_providers("npu", {"npu": name})
    assert str(caught.value) == (
        f"device npu={name}: this ONNX Runtime has no {PROVIDERS[name].ort_name}; {PROVIDERS[name].install}"
    )
    assert caught.value.exit_code == 3


def test_a_provider_that_nobody_knows_is_refused_from_python_too() -> None:
    with pytest.raises(InputError, match="device npu=tpu: unknown provider; there are cpu, cuda"):
        ort_providers("npu", {"npu": "tpu"})


def test_onnxruntime_knows_the_names() -> None:
    known = onnxruntime.get_all_providers()
    assert [provider.ort_name for provider in PROVIDERS.values() if provider.ort_name not in known] == []
