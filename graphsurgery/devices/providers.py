"""Execution providers as data: what a device name of the manifest can be mapped to at run time.

    --device npu=qnn,soc_model=60,context=cache   ->   {"npu": DeviceChoice("qnn", {"soc_model": "60", "context": ...})}

ONNX Runtime hands options to a provider as they are, and QNN takes an unknown one, or a wrong value, without a word;
so each option is checked here, by name and by value. What isn't among them may be the simulator of a compiler.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from graphsurgery.devices.provider import Option, Provider
from graphsurgery.devices.simulators import Simulator, simulators
from graphsurgery.errors import InputError, MissingTool, did_you_mean


def _choice(name: str, help_: str, *choices: str, default: str | None = None) -> Option:
    return Option(name, help_, "choice", choices, default=default)


def _integer(name: str, help_: str, low: int = 0, high: int = 2**31 - 1) -> Option:
    return Option(name, help_, "integer", limits=(low, high))


# Names and values: ONNX Runtime's page on its CUDA provider.
_CUDA = Provider(
    "CUDAExecutionProvider",
    "pip install onnxruntime-gpu in place of onnxruntime",
    (
        _integer("device_id", "which GPU"),
        _integer("gpu_mem_limit", "bytes that its arena may take", 1, 2**63 - 1),
        _choice("cudnn_conv_algo_search", "how a convolution is chosen", "EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        _choice("use_tf32", "TensorFloat-32 in place of float32: faster, 10 bits of mantissa", "0", "1"),
    ),
)

# ONNX Runtime's page on its DirectML provider, which also says that memory patterns must be off.
_DML = Provider(
    "DmlExecutionProvider",
    "pip install onnxruntime-directml in place of onnxruntime (Windows)",
    (
        _integer("device_id", "which adapter"),
        _choice("performance_preference", "which adapter", "default", "high_performance", "minimum_power"),
        _choice("device_filter", "kinds of adapters", "gpu", "npu", "any"),
        _choice("disable_metacommands", "leave the drivers' own kernels out", "true", "false"),
    ),
    memory_pattern=False,
)

# ONNX Runtime's page on its OpenVINO provider. precision, num_of_threads and num_streams: deprecated since 1.23 there.
_OPENVINO = Provider(
    "OpenVINOExecutionProvider",
    "pip install onnxruntime-openvino in place of onnxruntime",
    (
        Option("device_type", "CPU, GPU, GPU.1, NPU, AUTO:NPU,GPU or HETERO:NPU,GPU, the comma written as +"),
        _choice("precision", "of the computation", "FP32", "FP16", "ACCURACY"),
        _integer("num_of_threads", "threads of the CPU", 1),
        _integer("num_streams", "requests at the same time", 1),
        Option("cache_dir", "where compiled models are kept", "folder"),
        Option("load_config", "a JSON file with OpenVINO properties", "file"),
        _choice("enable_qdq_optimizer", "rewrite QDQ models for the NPU", "True", "False"),
        _choice("disable_dynamic_shapes", "refuse to keep shapes dynamic", "True", "False"),
        _choice("enable_opencl_throttling", "less CPU time while a GPU works", "True", "False"),
        _choice("model_priority", "among models on one device", "LOW", "MEDIUM", "HIGH", "DEFAULT"),
    ),
    ("its NPU takes static shapes only (freeze-shapes, freeze-batch)",),
    target="openvino-npu",
)

# Options: what libonnxruntime_providers_qnn of onnxruntime-qnn 2.7 reads; numbers of chips: QnnTypes.h of Qualcomm's
# SDK. What is refused: measured on the emulator of that package.
_QNN = Provider(
    "QNNExecutionProvider",
    "pip install 'graphsurgery[qnn]' (onnxruntime-qnn; on x86-64 Linux it brings an emulator)",
    (
        _integer(
            "soc_model",
            "the chip: 36 8 Gen 1, 43 8 Gen 2, 57 8 Gen 3, 60 X Elite, 69 8 Elite, 88 X2 Elite; "
            "60 on a machine without one",
            1,
            999,
        ),
        _choice("htp_arch", "the NPU's architecture, where soc_model is not given", "68", "69", "73", "75", "79", "81"),
        _choice(
            "htp_performance_mode",
            "power against speed",
            *("burst", "balanced", "default", "high_performance", "high_power_saver", "low_balanced"),
            *("low_power_saver", "power_saver", "extreme_power_saver", "sustained_high_performance"),
        ),
        _choice("enable_htp_fp16_precision", "compute float32 models in float16", "0", "1", default="1"),
        _choice("htp_graph_finalization_optimization_mode", "compile time against speed", "0", "1", "2", "3"),
        _choice(
            "offload_graph_io_quantization",
            "leave the outermost Quantize and Dequantize to the CPU; needs --allow-fallback",
            "0",
            "1",
            default="0",
        ),
        _choice("enable_htp_spill_fill_buffer", "one spill buffer for all graphs of a context", "0", "1"),
        _choice("qnn_context_priority", "among those on the NPU", "low", "normal", "normal_high", "high"),
        _integer("vtcm_mb", "on-chip memory to use, in MB", 0, 64),
        _integer("rpc_control_latency", "microseconds"),
        _integer("device_id", "which NPU", 0, 63),
        _choice("profiling_level", "events into profiling_file_path", "off", "basic", "detailed", "optrace"),
        Option("profiling_file_path", "a .csv file", "path"),
        Option(
            "context", "folder, or .onnx file for one part, that keeps the compiled model and is used next time", "path"
        ),
    ),
    (
        "a size that is not static sends the whole part to the CPU (freeze-shapes, freeze-batch)",
        "on a chip without float16 even a MaxPool in float32 can't be compiled; quantize the part",
    ),
    target="qnn-htp",
    plugin="onnxruntime_qnn",
)

# AMD's page on AI Analyzer: "generated as .json files in the current run directory"
_ANALYZED = Option("", "", "choice", ("true", "false"), writes_here=True)

# Options: ryzenai.docs.amd.com "Model Compilation and Deployment", AMD's vaip (config_reader: 1 to 8 runners). What is
# refused: measured by onnxsim's authors on Ryzen AI 1.8, in their module vitisai_target.
_VITISAI = Provider(
    "VitisAIExecutionProvider",
    "comes with AMD's Ryzen AI installer",
    (
        Option("config_file", "JSON for the compiler; needed for BF16", "file"),
        Option("xclbin", "the NPU's configuration, for INT8", "file"),
        Option("target", "which compiler: X2, X1 (INT8), VAIML (BF16)"),
        Option("cache_dir", "where compiled models are kept", "folder"),
        Option("cacheDir", "the same, as versions before 1.4 call it", "folder"),
        Option(
            "cache_key", "subfolder of cache_dir; the part's name is added, and its fingerprint if not given", "name"
        ),
        Option("cacheKey", "the same, as versions before 1.4 call it", "name"),
        _integer("num_of_dpu_runners", "inferences at the same time", 1, 8),
        _choice("enable_cache_file_io_in_mem", "keep the compiled model in memory only", "0", "1"),
        replace(
            _ANALYZED, name="ai_analyzer_visualization", help="the graphs for AI Analyzer, into the folder you are in"
        ),
        replace(_ANALYZED, name="ai_analyzer_profiling", help="timings for AI Analyzer, into the folder you are in"),
        _choice("log_level", "of the compiler", "info", "warning", "error", "fatal"),
    ),
    (
        "it rejects bfloat16 tensors; BF16 runs from a float32 graph and a config_file",
        "it leaves a part with fewer than two Convs to the CPU",
        "it leaves Softmax, LayerNormalization, Gelu, Transpose, Reshape, Concat, Slice, Split where they stand alone",
    ),
    target="ryzen-ai",
)

PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "comes with onnxruntime"),
    "cuda": _CUDA,
    "dml": _DML,
    "openvino": _OPENVINO,
    "qnn": _QNN,
    "vitisai": _VITISAI,
}


def provider_of(name: str) -> Provider | None:
    """Return what is known of a provider, or of a compiler's simulator; None where there is neither of that name."""
    if name in PROVIDERS:
        return PROVIDERS[name]
    simulator = simulators().get(name)
    return simulator.provider if simulator is not None else None


@dataclass(frozen=True)
class DeviceChoice:
    """The provider that a device name stands for, with its options, checked.

    Raises InputError for a provider or an option that does not exist and for a value that can't be.
    """

    provider: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        provider = provider_of(self.provider)
        if provider is None:
            known = [*PROVIDERS, *simulators()]
            hint = did_you_mean(self.provider, known)
            raise InputError(f"unknown provider '{self.provider}'; there are {', '.join(known)}.{hint}")
        checked = {}
        for name, value in self.options.items():
            option = provider.option(name)
            if option is None:
                names = [each.name for each in provider.options]
                there = f"it has {', '.join(names)}" if names else "it has none"
                raise InputError(f"{self.provider} has no option '{name}'; {there}.{did_you_mean(name, names)}")
            try:
                checked[name] = option.checked(value)
            except ValueError as error:
                raise InputError(f"{self.provider}: {name}={value}: {error}") from error
        object.__setattr__(self, "options", checked)

    @property
    def details(self) -> Provider:
        """What is known of the provider."""
        provider = provider_of(self.provider)
        assert provider is not None, "__post_init__ has seen to that"
        return provider

    @property
    def simulator(self) -> type[Simulator] | None:
        """The simulator that it stands for; None for a provider of ONNX Runtime."""
        return None if self.provider in PROVIDERS else simulators()[self.provider]

    @property
    def accelerates(self) -> bool:
        """Whether it is another one than the CPU's."""
        return self.provider != "cpu"


CPU = DeviceChoice("cpu")


def refuse_unknown_devices(devices: Iterable[str], there: Iterable[str], place: str) -> None:
    """Raise InputError for a device that no part is on; `there` are those of the parts."""
    on = sorted(set(there))
    for device in devices:
        if device not in on:
            raise InputError(f"{place}: no part is on device '{device}'; the parts are on {', '.join(on)}")


def require_installed(devices: Mapping[str, DeviceChoice]) -> None:
    """Raise MissingTool, saying what to install, for a provider that this ONNX Runtime does not have."""
    for device, choice in devices.items():
        require(choice, f"device {device}={choice.provider}")


def require(choice: DeviceChoice, place: str) -> None:
    """Raise MissingTool, saying what to install, when the provider is neither built in nor there as a plug-in."""
    import onnxruntime

    if choice.simulator is not None:
        choice.simulator.require(place)
        return
    provider = choice.details
    if provider.plugin is not None and importlib.util.find_spec(provider.plugin) is not None:
        return
    if provider.ort_name not in onnxruntime.get_available_providers():
        raise MissingTool(f"{place}: this ONNX Runtime has no {provider.ort_name}; {provider.install}")


def session_options(choice: DeviceChoice, machine: str | None = None) -> dict[str, str]:
    """Return what ONNX Runtime is to hand to the provider; `machine` is this one's kind, as platform.machine() has it.

    QNN's emulator takes a chip without float16 for granted unless it is told another; a real NPU knows itself.
    """
    provider = choice.details
    defaults = {option.name: option.default for option in provider.options if option.default is not None}
    emulated = (machine or platform.machine()).lower() not in ("arm64", "aarch64")
    if choice.provider == "qnn" and emulated and not {"soc_model", "htp_arch"} & set(choice.options):
        defaults["soc_model"] = "60"
    given = {name: value for name, value in choice.options.items() if (choice.provider, name) != ("qnn", "context")}
    if choice.provider == "openvino" and "device_type" in given:
        given["device_type"] = given["device_type"].replace("+", ",")  # a comma ends an option on the command line
    return defaults | given
