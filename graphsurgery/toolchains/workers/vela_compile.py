"""Compiles one part for Arm's Ethos-U: ONNX by onnx2tf to TFLite in integers, and that by Vela.

It stands in a job's folder as compile.py and needs nothing of graphsurgery there: ethos-u-vela, onnx2tf, TensorFlow.

    job.json                  what to do; PART.onnx, calibration/J.npy [runs, shape of input J], first/J.npy: what ONNX
                              Runtime computes of the first run
    PART.tflite               in integers, before Vela
    PART_vela.tflite          for the device, PART_summary.csv Vela's estimate
    tensors.json              each input and output of both: index, type, scale, zero point, order of its axes
    computed/J.npy            what PART.tflite computes of all runs, by TensorFlow's kernels, in float
    report.json               what runs where, and Vela's figures
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
_FIGURES = {
    "accelerator_configuration": "accelerator",
    "system_config": "system",
    "memory_mode": "memory mode",
    "core_clock": "clock in Hz",
    "cycles_total": "cycles",
    "cycles_npu": "cycles of the NPU alone",
    "inference_time": "seconds by Vela's estimate",
    "nn_macs": "multiply-adds",
    "sram_memory_used": "SRAM in KiB",
    "dram_memory_used": "DRAM in KiB",
    "on_chip_flash_memory_used": "on-chip flash in KiB",
    "off_chip_flash_memory_used": "off-chip flash in KiB",
}


def main() -> None:
    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    name = job["name"]
    job["runs"] = count_of_runs()
    for folder in ("converted", "computed"):
        shutil.rmtree(folder, ignore_errors=True)
    convert(job, name)
    tensors = compute(job, name)
    Path("tensors.json").write_text(json.dumps(tensors, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree("converted")
    report = compiled(job, name)
    Path("report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def count_of_runs() -> int:
    import numpy as np

    try:
        return len(np.load("calibration/0.npy", mmap_mode="r"))
    except OSError:
        raise SystemExit("there is no calibration/0.npy: compile with --inputs or --images") from None


def convert(job: dict[str, Any], name: str) -> None:
    """Write NAME.tflite, and what onnx2tf writes into the folder `converted`."""
    import numpy as np
    import onnx2tf
    import onnx2tf.onnx2tf
    import tensorflow as tf

    runs = [np.load(f"calibration/{index}.npy", mmap_mode="r") for index in range(len(job["inputs"]))]
    # it fetches photos from the network for a part that reads three channels; these are the part's own
    photos = next((channels_last(run[:20]) for run in runs if run.ndim == 5), None)
    if photos is not None:
        photos = np.resize(photos.reshape(-1, *photos.shape[2:]), (20, *photos.shape[2:]))
        onnx2tf.onnx2tf.download_test_image_data = lambda: photos
    onnx2tf.convert(
        input_onnx_file_path=job["file"],
        output_folder_path="converted",
        output_signaturedefs=True,
        not_use_onnxsim=True,
        non_verbose=True,
    )

    def feeds() -> Any:
        for number in range(job["runs"]):
            yield {
                each: channels_last(run[number : number + 1])[0] for each, run in zip(job["inputs"], runs, strict=True)
            }

    converter = tf.lite.TFLiteConverter.from_saved_model("converted")
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = feeds
    kinds = tf.lite.OpsSet
    wide = job["precision"] == "int16x8"
    converter.target_spec.supported_ops = [
        kinds.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8 if wide else kinds.TFLITE_BUILTINS_INT8
    ]
    converter.inference_input_type = converter.inference_output_type = tf.int16 if wide else tf.int8
    Path(f"{name}.tflite").write_bytes(converter.convert())


def channels_last(values: Any) -> Any:
    """Turn runs of N C H W into those of N H W C: onnx2tf does so with inputs of three dimensions to five."""
    import numpy as np

    return np.moveaxis(values, 2, -1) if 4 <= values.ndim <= 6 else np.asarray(values)


def compute(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Run NAME.tflite on all runs, write what it computes, and return what its inputs and outputs are."""
    import numpy as np

    first = [np.load(f"first/{index}.npy") for index in range(len(job["outputs"]))]
    runs = [np.load(f"calibration/{index}.npy", mmap_mode="r") for index in range(len(job["inputs"]))]
    floats = run_float({each: channels_last(run[:1])[0] for each, run in zip(job["inputs"], runs, strict=True)})
    orders = [order_of(each, floats[f"output_{index}"], job["outputs"][index]) for index, each in enumerate(first)]
    model = interpreter(f"{name}.tflite")
    Path("computed").mkdir()
    written = [
        np.lib.format.open_memmap(f"computed/{index}.npy", "w+", np.float32, (job["runs"], *each.shape))
        for index, each in enumerate(first)
    ]
    for number in range(job["runs"]):
        found, details = run_signature(model, job["inputs"], runs, number)
        for index, order in enumerate(orders):
            written[index][number] = found[f"output_{index}"].transpose(order)
    signature = model.get_signature_runner("serving_default")
    inputs = signature.get_input_details()
    ends = {each: described(inputs[each], runs[index].ndim - 1, None) for index, each in enumerate(job["inputs"])}
    outputs = enumerate(job["outputs"])
    return ends | {each: described(details[f"output_{index}"], 0, orders[index]) for index, each in outputs}


def run_float(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return what the converted part computes before it is quantized."""
    import tensorflow as tf

    network = tf.saved_model.load("converted").signatures["serving_default"]
    return {each: found.numpy() for each, found in network(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def interpreter(path: str) -> Any:
    import tensorflow as tf

    # the default delegate, XNNPACK, refuses some quantized operators that the kernels behind it take
    kernels = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return tf.lite.Interpreter(model_path=str(path), experimental_op_resolver_type=kernels)


def run_signature(model: Any, names: list[str], runs: list[Any], number: int) -> tuple[dict[str, Any], Any]:
    """Return what a TFLite model computes of one run, in float, and what its outputs are."""
    import numpy as np

    signature = model.get_signature_runner("serving_default")
    inputs, outputs = signature.get_input_details(), signature.get_output_details()
    given = {}
    for each, run in zip(names, runs, strict=True):
        scale, zero = inputs[each]["quantization"]
        values = channels_last(run[number : number + 1])[0]
        if scale:
            kind = np.iinfo(inputs[each]["dtype"])
            values = np.clip(np.round(values / scale) + zero, kind.min, kind.max)
        given[each] = np.ascontiguousarray(values, inputs[each]["dtype"])
    found = {}
    for each, values in signature(**given).items():
        scale, zero = outputs[each]["quantization"]
        found[each] = (values.astype(np.float32) - zero) * scale if scale else values
    return found, outputs


def order_of(wanted: Any, computed: Any, name: str) -> tuple[int, ...]:
    """Return the order of axes that gives what ONNX Runtime computes."""
    import numpy as np

    rank = computed.ndim
    orders = [tuple(range(rank)), (0, rank - 1, *range(1, rank - 1))] if rank > 2 else [tuple(range(rank))]
    fitting = [order for order in orders if computed.transpose(order).shape == wanted.shape]
    if not fitting:
        raise SystemExit(f"onnx2tf gives output {name} the shape {list(computed.shape)}, ONNX {list(wanted.shape)}")
    values = np.asarray(computed, np.float64)  # booleans can't be subtracted
    return min(fitting, key=lambda order: float(np.abs(values.transpose(order) - wanted).sum()))


def described(details: Any, rank: int, order: tuple[int, ...] | None) -> dict[str, Any]:
    """Return what a driver must know of an input or output; without an `order` it is an input of that rank."""
    scale, zero = details["quantization"]
    if order is None:
        order = (0, *range(2, rank), 1) if 3 <= rank <= 5 else tuple(range(rank))
    return {
        "index": int(details["index"]),
        "dtype": details["dtype"].__name__,
        "shape": [int(size) for size in details["shape"]],
        "scale": float(scale),
        "zero_point": int(zero),
        "axes": list(order),
    }


def compiled(job: dict[str, Any], name: str) -> dict[str, Any]:
    """Run Vela and return what it places where, with its figures."""
    command = [sys.executable, "-I", "-m", "ethosu.vela", f"{name}.tflite", "--output-dir", "vela", *job["vela"]]
    shutil.rmtree("vela", ignore_errors=True)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode("utf-8", "replace")
    print(said, flush=True)
    made, summaries = Path(f"vela/{name}_vela.tflite"), list(Path("vela").glob(f"{name}_summary_*.csv"))
    if done.returncode or not made.is_file() or not summaries:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise SystemExit(f"Vela ends with {done.returncode}: {lines[-1] if lines else 'it says nothing'}")
    with summaries[0].open(encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    made.replace(f"{name}_vela.tflite")
    summaries[0].replace(f"{name}_summary.csv")
    shutil.rmtree("vela")
    before, after = operators(f"{name}.tflite"), operators(f"{name}_vela.tflite")
    left = [each for each in after if each["operator"] != "ethos-u"]
    return {
        "accelerated": len(before) - len(left),
        "left": left,
        "figures": {shown: number(row[key]) for key, shown in _FIGURES.items() if row.get(key, "0.0") != "0.0"},
    }


def operators(path: str) -> list[dict[str, str]]:
    """Return the operators of a TFLite file, each by its type and the tensor that it writes."""
    from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
    from ethosu.vela.tflite.Model import Model

    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    model, found = Model.GetRootAs(Path(path).read_bytes(), 0), []
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for place in range(graph.OperatorsLength()):
            operator = graph.Operators(place)
            code = model.OperatorCodes(operator.OpcodeIndex())
            custom = code.CustomCode()
            kind = custom.decode() if custom else names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            writes = graph.Tensors(operator.Outputs(0)).Name().decode() if operator.OutputsLength() else ""
            found.append({"operator": kind, "name": writes})
    return found


def number(text: str) -> int | float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value


if __name__ == "__main__":
    main()
