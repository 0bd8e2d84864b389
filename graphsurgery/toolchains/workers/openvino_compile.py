"""Converts one part to OpenVINO's form, compiles it for a device that is here, and runs it on what was captured.

It stands in a job's folder as compile.py and needs nothing of graphsurgery there: openvino, numpy.

    job.json                  what to do; PART.onnx, and where there are samples calibration/J.npy
    PART.xml, PART.bin        the part for OpenVINO
    computed/J.npy            what the device computes of all runs
    report.json               what the device takes, and in which types it computes
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

_MISSING = 3  # the exit code for a device that isn't here
_NO_LAYERS = ("Parameter", "Result", "Constant", "Input", "Output", "Const")


def main() -> None:
    import openvino as ov

    job = json.loads(Path("job.json").read_text(encoding="utf-8"))
    core = ov.Core()
    kind = job["device"].partition(".")[0]
    if kind not in {each.partition(".")[0] for each in core.available_devices}:
        print(f"OpenVINO {ov.__version__} sees no {job['device']} here, only {', '.join(core.available_devices)}")
        sys.exit(_MISSING)
    model = core.read_model(job["file"])
    name = job["name"]
    ov.save_model(model, f"{name}.xml", compress_to_fp16=job["compress"])
    model = core.read_model(f"{name}.xml")
    taken = core.query_model(model, job["device"])
    layers = [each for each in model.get_ops() if each.get_type_name() not in _NO_LAYERS]
    left = [each for each in layers if each.get_friendly_name() not in taken]
    compiled = core.compile_model(model, job["device"], job["properties"])
    types = Counter(_type_of(each) for each in compiled.get_runtime_model().get_ops())
    run(compiled, job)
    report = {
        "accelerated": len(layers) - len(left),
        "left": [{"operator": each.get_type_name(), "name": each.get_friendly_name()} for each in left],
        "figures": {
            "device": core.get_property(job["device"], "FULL_DEVICE_NAME"),
            "OpenVINO": ov.__version__,
            **{f"layers in {each}": count for each, count in sorted(types.items()) if each},
        },
    }
    Path("report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _type_of(node: Any) -> str:
    """Return the type in which the device computes a layer; nothing for what is no layer."""
    about = node.get_rt_info()
    if "layerType" in about and str(about["layerType"].astype(str)) in _NO_LAYERS:
        return ""
    return str(about["runtimePrecision"].astype(str)) if "runtimePrecision" in about else ""


def run(compiled: Any, job: dict[str, Any]) -> None:
    """Write what the device computes of each run."""
    import numpy as np

    shutil.rmtree("computed", ignore_errors=True)
    if not Path("calibration").is_dir():
        return
    Path("computed").mkdir()
    runs = [np.load(f"calibration/{index}.npy", mmap_mode="r") for index in range(len(job["inputs"]))]
    written: list[Any] = []
    for number in range(len(runs[0])):
        found = compiled([np.ascontiguousarray(each[number]) for each in runs])
        for index in range(job["outputs"]):
            values = found[index]
            if not number:
                shape = (len(runs[0]), *values.shape)
                written.append(np.lib.format.open_memmap(f"computed/{index}.npy", "w+", values.dtype, shape))
            written[index][number] = values


if __name__ == "__main__":
    main()
