"""Device names of a manifest, mapped to ONNX Runtime's execution providers, and what may be said of each."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnxruntime
import pytest

from graphsurgery.devices import providers
from graphsurgery.devices.choices import parse_devices
from graphsurgery.devices.providers import (
    PROVIDERS,
    DeviceChoice,
    refuse_unknown_devices,
    require,
    require_installed,
    session_options,
)
from graphsurgery.errors import InputError, MissingTool


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let ONNX Runtime have these providers and no plug-ins."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: None)


# --- the command line's --device ----------------------------------------------------------------------------------


def test_options_become_a_mapping() -> None:
    assert parse_devices([]) == {}
    assert parse_devices(["npu=vitisai", "gpu=cuda"]) == {"npu": DeviceChoice("vitisai"), "gpu": DeviceChoice("cuda")}


def test_options_of_a_provider_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (choice,) = parse_devices(["npu=qnn,soc_model=043,htp_performance_mode=BURST,context=a=b"]).values()
    assert choice.options == {"soc_model": "43", "htp_performance_mode": "burst", "context": "a=b"}
    (choice,) = parse_devices(["npu=vitisai,cache_dir=cache"]).values()
    assert choice.options == {"cache_dir": str(tmp_path / "cache")}


@pytest.mark.parametrize("choice", ["npu", "=cpu", ""])
def test_what_is_no_device_and_provider_is_quoted(choice: str) -> None:
    with pytest.raises(InputError, match=f"--device {choice}: write it as DEVICE=PROVIDER, for example npu=vitisai"):
        parse_devices([choice])


@pytest.mark.parametrize("choice", ["npu=", "npu=tpu", "npu=CPU", "npu=cpu=qnn"])
def test_an_unknown_provider_is_refused_with_those_there_are(choice: str) -> None:
    with pytest.raises(InputError, match=f"--device {choice}: unknown provider .*; there are cpu, cuda, dml, openvino"):
        parse_devices([choice])


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("npu=vitis", r"unknown provider 'vitis'; .*\. Did you mean 'vitisai'\?"),
        ("npu=qnn,soc=60", r"qnn has no option 'soc'; it has soc_model, htp_arch, .*context"),
        ("npu=qnn,soc_modl=60", r"Did you mean 'soc_model'\?"),
        ("npu=cpu,threads=2", "cpu has no option 'threads'; it has none"),
        ("npu=qnn,soc_model", "'soc_model': an option is written NAME=VALUE"),
        ("npu=qnn,", "'': an option is written NAME=VALUE"),
        ("npu=qnn,soc_model=43,soc_model=60", "'soc_model' is given twice"),
        ("npu=qnn,soc_model=x", "qnn: soc_model=x: must be an integer from 1 to 999"),
        ("npu=qnn,soc_model=0", "must be an integer from 1 to 999"),
        ("npu=qnn,soc_model=²", "must be an integer"),
        ("npu=cuda,device_id=-1", "must be an integer of at least 0"),
        ("npu=vitisai,num_of_dpu_runners=9", "must be an integer from 1 to 8"),
        ("npu=qnn,htp_performance_mode=brust", r"must be one of burst, .*\. Did you mean 'burst'\?"),
        ("npu=vitisai,config_file=none.json", "vitisai: config_file=none.json: there is no such file"),
        ("npu=vitisai,cache_dir=file.txt", "that is a file; give a folder"),
        ("npu=vitisai,target=", "must not be empty"),
    ],
)
def test_an_option_that_can_not_be_is_refused_before_anything_is_done(
    choice: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=said) as caught:
        parse_devices([choice])
    assert str(caught.value).startswith(f"--device {choice}: ")
    assert "\n" not in str(caught.value)


def test_a_device_has_one_provider() -> None:
    with pytest.raises(InputError, match="--device npu=cpu: device 'npu' has a provider already"):
        parse_devices(["npu=qnn", "npu=cpu"])


def test_a_device_that_no_part_is_on_is_refused() -> None:
    refuse_unknown_devices({"npu": DeviceChoice("qnn")}, ["npu", "cpu"], "model/x")
    with pytest.raises(InputError, match="model/x: no part is on device 'gpu'; the parts are on cpu, npu"):
        refuse_unknown_devices({"gpu": DeviceChoice("qnn")}, ["npu", "cpu", "npu"], "model/x")


def test_a_choice_made_in_python_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"^unknown provider 'tpu'; there are cpu, cuda"):
        DeviceChoice("tpu")
    with pytest.raises(InputError, match=r"^qnn has no option 'soc'"):
        DeviceChoice("qnn", {"soc": "60"})


def test_a_choice_travels_to_another_process() -> None:
    choice = DeviceChoice("qnn", {"soc_model": "43"})
    assert pickle.loads(pickle.dumps(choice)) == choice


# --- what is installed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"cpu"}))
def test_a_provider_that_is_not_here_says_what_brings_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "CPUExecutionProvider")
    with pytest.raises(MissingTool) as caught:
        require_installed({"cpu": DeviceChoice("cpu"), "npu": DeviceChoice(name)})
    assert str(caught.value) == (
        f"device npu={name}: this ONNX Runtime has no {PROVIDERS[name].ort_name}; {PROVIDERS[name].install}"
    )
    assert caught.value.exit_code == 3


def test_a_provider_may_be_built_in_or_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "CPUExecutionProvider", "QNNExecutionProvider")
    require(DeviceChoice("qnn"), "a part")
    only(monkeypatch, "CPUExecutionProvider")
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: name == "onnxruntime_qnn" or None)
    require(DeviceChoice("qnn"), "a part")


def test_onnxruntime_knows_the_names() -> None:
    known = onnxruntime.get_all_providers()
    assert [provider.ort_name for provider in PROVIDERS.values() if provider.ort_name not in known] == []


def test_every_option_is_named_once_and_explained() -> None:
    for provider in PROVIDERS.values():
        names = [option.name for option in provider.options]
        assert sorted(set(names)) == sorted(names)
        assert all(option.help and bool(option.choices) == (option.kind == "choice") for option in provider.options)


# --- what ONNX Runtime is handed ----------------------------------------------------------------------------------


def test_the_emulator_is_told_a_chip_with_float16_and_a_real_npu_nothing() -> None:
    always = {"enable_htp_fp16_precision": "1", "offload_graph_io_quantization": "0"}
    assert session_options(DeviceChoice("qnn"), "x86_64") == {"soc_model": "60", **always}
    assert session_options(DeviceChoice("qnn"), "AMD64")["soc_model"] == "60"
    assert "soc_model" not in session_options(DeviceChoice("qnn"), "ARM64")
    assert "soc_model" not in session_options(DeviceChoice("qnn", {"htp_arch": "73"}), "x86_64")


def test_what_the_user_says_goes_before_the_default() -> None:
    given = {"soc_model": "43", "enable_htp_fp16_precision": "0", "offload_graph_io_quantization": "1"}
    assert session_options(DeviceChoice("qnn", given), "x86_64") == given


def test_where_the_compiled_model_is_kept_is_no_option_of_qnn_itself() -> None:
    assert "context" not in session_options(DeviceChoice("qnn", {"context": "cache"}))


def test_a_list_of_openvino_devices_gets_its_commas_back() -> None:
    choice = DeviceChoice("openvino", {"device_type": "HETERO:NPU+GPU", "enable_qdq_optimizer": "true"})
    assert session_options(choice) == {"device_type": "HETERO:NPU,GPU", "enable_qdq_optimizer": "True"}
