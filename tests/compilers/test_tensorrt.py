import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphsurgery.compilers.tensorrt import TensorRt
from graphsurgery.errors import InputError

from .parts import job

NET = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 3, 4, 6] x) => (float[1, 3, 4, 6] y) { y = Neg (x) }'
OPEN = NET.replace("float[1, ", "float[N, ")
# typed by hand from NVIDIA's page on moving to trtexec of TensorRT 10
AS_THEY_CALL_IT = """
    trtexec --onnx=network.onnx --saveEngine=network.engine --fp16 --int8
    --minShapes=x:1x3x4x6 --optShapes=x:2x3x4x6 --maxShapes=x:8x3x4x6 --memPoolSize=workspace:1024
    --builderOptimizationLevel=3 --profilingVerbosity=detailed --exportLayerInfo=layers.json --skipInference
"""


def written(folder: Path) -> list[str]:
    script = (folder / "trtexec.sh").read_text()
    return shlex.split(script[script.index("trtexec ") :].replace("\\\n", " "))


def test_trtexec_is_called_as_the_vendor_calls_it(tmp_path: Path) -> None:
    sizes: Any = {"x": {"min": (1, 3, 4, 6), "opt": (2, 3, 4, 6), "max": (8, 3, 4, 6)}}
    made = TensorRt(precision=("float16", "int8"), dim_range=sizes, workspace=1024)
    made.write(job(OPEN, tmp_path))
    assert written(tmp_path) == shlex.split(AS_THEY_CALL_IT)
    assert made.command(job(OPEN, tmp_path)) is None


def test_fixed_shapes_need_no_profile(tmp_path: Path) -> None:
    TensorRt(strongly_typed=True, level=5, timing_cache="cache").write(job(NET, tmp_path))
    assert not [word for word in written(tmp_path) if "Shapes" in word or word == "--fp16"]
    assert {"--stronglyTyped", "--builderOptimizationLevel=5", "--timingCacheFile=cache"} <= set(written(tmp_path))


def test_a_part_that_trtexec_can_not_be_told_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the shape of 'x' is \['N', 3, 4, 6\]"):
        TensorRt().write(job(OPEN, tmp_path))
    named = job(NET, tmp_path)
    named.model.proto.graph.input[0].name = "a:0"
    entry = named.entry.model_copy(update={"inputs": {"a:0": named.entry.inputs["x"]}})
    with pytest.raises(InputError, match="input 'a:0' has a : or ,"):
        TensorRt().write(type(named)(entry, named.model, named.canvas, None, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace": 0}, "1 or more MiB"),
        ({"strongly_typed": True, "precision": ("int8",)}, "leave precision out"),
        ({"dim_range": {"x": {"min": (2, 3), "max": (1, 3)}}}, "give min and max"),
        ({"dim_range": {"x": {"max": (1, 3)}}}, "give min and max"),
        ({"dim_range": {"x": {"min": (1, 3), "opt": (9, 3), "max": (2, 3)}}}, "isn't between min and max"),
        ({"dim_range": {"x": {"min": (1, 3), "opt": (1,), "max": (2, 3)}}}, "isn't between min and max"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorRt(**options)
