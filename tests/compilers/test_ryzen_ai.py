import ast
import json
from pathlib import Path

import pytest

from graphsurgery.compilers.ryzen_ai import RyzenAi
from graphsurgery.errors import InputError, MissingTool

from .parts import job

CONV = "Conv <strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], kernel_shape = [1, 1], group = 1>"
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
NET = f"""
    {HEAD} g (float[1, 1, 4, 6] x) => (float[1, 1, 4, 6] y)
    <float[1, 1, 1, 1] w = {{2}}, float s = {{0.5}}, int8 z = {{0}}>
    {{ q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) a = {CONV} (d, w) y = {CONV} (a, w) }}"""
FLOAT = NET.replace("q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)", "d = Identity (x)")


def test_integers_need_no_config_and_each_part_has_a_key_of_its_own(tmp_path: Path) -> None:
    made = job(NET, tmp_path / "a")
    RyzenAi(compiler="X2", xclbin="C:/AMD/x.xclbin").write(made)
    options = json.loads((tmp_path / "a" / "options.json").read_text())
    key = f"network_{made.model.fingerprint[:16]}"
    assert options == {"cache_dir": "cache", "cache_key": key, "target": "X2", "xclbin": "C:/AMD/x.xclbin"}
    assert not (tmp_path / "a" / "config.json").exists()


def test_bf16_is_computed_of_a_float_part_by_a_config_file(tmp_path: Path) -> None:
    RyzenAi(precision="bf16", optimize_level=2).write(job(FLOAT, tmp_path))
    assert json.loads((tmp_path / "options.json").read_text())["config_file"] == "config.json"
    config = json.loads((tmp_path / "config.json").read_text())
    assert [each["plugin"] for each in config["passes"]] == ["vaip-pass_init", "vaip-pass_vaiml_partition"]
    assert config["passes"][1]["vaiml_config"] == {"optimize_level": 2}
    assert config["targets"] == [{"name": "VAIML", "pass": [each["name"] for each in config["passes"]]}]


def test_the_script_is_python_and_says_how_many_nodes_there_are(tmp_path: Path) -> None:
    RyzenAi().write(job(NET, tmp_path))
    script = (tmp_path / "session.py").read_text()
    ast.parse(script)
    assert '"network.onnx", settings' in script
    assert '"accelerated": 4,' in script


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (FLOAT, {}, "it is float; compile a variant that {quantize: {backend: quark, config: XINT8}} wrote"),
        (FLOAT, {"precision": "a8w8"}, "config: A8W8"),
        (NET, {"precision": "bf16"}, "it is in integers, and bf16 is computed of a float32 part"),
        (NET.replace(", group = 1>", ">", 1), {}, "VitisAI aborts at a Conv that leaves group to the default"),
        (NET.replace(f"y = {CONV} (a, w)", "y = Neg (a)"), {}, "it has 1 Conv"),
        (NET.replace("float[1, 1, 4, 6]", "float[N, 1, 4, 6]"), {}, "freeze-batch"),
    ],
)
def test_what_would_end_the_process_there_is_refused(
    tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as error:
        RyzenAi(**options).write(job(text, tmp_path))  # type: ignore[arg-type]
    assert message in str(error.value)


def test_options_of_int8_say_nothing_of_bf16(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave compiler and xclbin out"):
        RyzenAi(precision="bf16", compiler="X1")
    with pytest.raises(ValueError, match="samples must be 1 or more"):
        RyzenAi(samples=0)


def test_a_machine_without_the_provider_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match="this ONNX Runtime has no VitisAIExecutionProvider"):
        RyzenAi().run(job(NET, tmp_path))
