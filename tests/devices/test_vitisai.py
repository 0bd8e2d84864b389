"""The VitisAI provider, which no CI has: its session options, and what is refused before a session is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from onnx import TensorProto, helper

from graphsurgery.devices import accelerated_session
from graphsurgery.devices.providers import DeviceChoice
from graphsurgery.devices.session import Session
from graphsurgery.devices.vitisai import refuse_what_aborts, vitisai_options
from graphsurgery.errors import InputError
from graphsurgery.graph.model import Model
from graphsurgery.passes.fill_default_attributes import FillDefaultAttributes
from graphsurgery.passes.inline_if import InlineIf
from graphsurgery.rewrite import apply_pass
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
FULL = "<kernel_shape=[1,1], strides=[1,1], pads=[0,0,0,0], dilations=[1,1], group=1>"
IMAGE = "g (float[1,3,4,4] x, float[3,3,1,1] w, float s, uint8 z, bool p) => (float[1,3,4,4] y)"
GOOD = f"{IMAGE} {{ a = Conv {FULL} (x, w)  y = Conv {FULL} (a, w) }}"


def model(text: str) -> Model:
    return Model(parse(f"{HEAD} {text}"))


def refusal(text: str, **options: bool) -> str:
    with pytest.raises(InputError) as caught:
        refuse_what_aborts(model(text), "part 'p'", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- session options ----------------------------------------------------------------------------------------------


def test_options_are_handed_over_as_documented(tmp_path: Path) -> None:
    (tmp_path / "vaip.json").write_text("{}", encoding="utf-8")
    (tmp_path / "4x4.xclbin").touch()
    given = {
        "config_file": str(tmp_path / "vaip.json"),
        "xclbin": str(tmp_path / "4x4.xclbin"),
        "target": "X2",
        "cache_dir": str(tmp_path / "cache"),
        "cache_key": "v7",
        "num_of_dpu_runners": "4",
        "ai_analyzer_visualization": "True",
        "ai_analyzer_profiling": "false",
        "enable_cache_file_io_in_mem": "0",
        "log_level": "info",
    }
    options = vitisai_options(DeviceChoice("vitisai", given), "part 'box_head'", "ab" * 32)
    assert options == given | {"cache_key": "v7_part_box_head", "ai_analyzer_visualization": "true"}


def test_a_compiled_model_is_not_taken_for_that_of_a_changed_one(tmp_path: Path) -> None:
    choice = DeviceChoice("vitisai", {"cache_dir": str(tmp_path)})
    keys = {
        vitisai_options(choice, part, fingerprint)["cache_key"]
        for part in ("box_head", "mask_head")
        for fingerprint in ("a" * 64, "b" * 64)
    }
    assert keys == {"box_head_" + "a" * 16, "box_head_" + "b" * 16, "mask_head_" + "a" * 16, "mask_head_" + "b" * 16}


def test_older_versions_have_names_of_their_own(tmp_path: Path) -> None:
    options = vitisai_options(DeviceChoice("vitisai", {"cacheDir": str(tmp_path)}), "box_head", "a" * 64)
    assert options == {"cacheDir": str(tmp_path), "cacheKey": "box_head_" + "a" * 16}


def test_nothing_is_cached_unless_there_is_a_place() -> None:
    assert vitisai_options(DeviceChoice("vitisai"), "box_head", "a" * 64) == {}


# --- what would end the process -----------------------------------------------------------------------------------


def test_a_part_that_it_can_run_is_let_through() -> None:
    refuse_what_aborts(model(GOOD), "part 'p'")


@pytest.mark.parametrize("attribute", ["strides", "pads", "dilations", "kernel_shape", "group"])
def test_a_conv_with_a_default_is_named_with_the_attribute(attribute: str) -> None:
    written = {"kernel_shape": "[1,1]", "strides": "[1,1]", "pads": "[0,0,0,0]", "dilations": "[1,1]", "group": "1"}
    rest = ", ".join(f"{name}={value}" for name, value in written.items() if name != attribute)
    text = f"{IMAGE} {{ a = Conv {FULL} (x, w)  [last] y = Conv <{rest}> (a, w) }}"
    said = refusal(text)
    assert said == (
        f"part 'p': Conv 'last': VitisAI aborts at a Conv that leaves {attribute} to the default; "
        "add the pass fill-default-attributes, after quantize if there is one"
    )


QDQ = f"""{IMAGE} {{
    q = QuantizeLinear (w, s, z)  d = DequantizeLinear (q, s, z)
    a = Conv (x, d)  y = Conv (a, d) }}"""


def test_the_conv_of_a_qdq_model_is_looked_at_too_and_the_pass_that_is_named_helps() -> None:
    assert "leaves strides, pads, dilations, kernel_shape, group to the default" in refusal(QDQ)
    refuse_what_aborts(apply_pass(FillDefaultAttributes(), model(QDQ)).model, "part 'p'")


BRANCHES = f"""{IMAGE} {{
    c = Constant <value = bool {{1}}> ()
    a = Conv {FULL} (x, w)
    b = Conv {FULL} (a, w)
    [choice] y = If (c) <then_branch = t () => (float[1,3,4,4] u) {{ u = Relu (b) }},
                         else_branch = e () => (float[1,3,4,4] v) {{ v = Neg (b) }}> }}"""


def test_an_if_is_named_and_the_pass_that_is_named_helps() -> None:
    assert refusal(BRANCHES).startswith(
        "part 'p': If 'choice': VitisAI aborts at a node with a body; the pass inline-if"
    )
    refuse_what_aborts(apply_pass(InlineIf(), model(BRANCHES)).model, "part 'p'")


def test_a_conv_inside_a_body_is_no_way_out() -> None:
    text = f"""{IMAGE} {{
        y = If (p) <then_branch = t () => (float[1,3,4,4] u) {{ u = Conv (x, w) }},
                    else_branch = e () => (float[1,3,4,4] v) {{ v = Conv (x, w) }}> }}"""
    assert "If 'y'" in refusal(text)


def test_an_lstm_is_named() -> None:
    text = """g (float[2,1,3] x, float[1,8,3] w, float[1,8,2] r) => (float[2,1,1,2] y) {
        y = LSTM <hidden_size=2> (x, w, r) }"""
    assert (
        refusal(text, allow_fallback=True)
        == "part 'p': LSTM 'y': VitisAI crashes at an LSTM; keep this part on the cpu"
    )


def test_a_loop_is_named() -> None:
    text = """g (int64 n, bool c, float[2] x) => (float[2] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] v) => (bool m, float[2] w) {
            m = Identity (k)  w = Relu (v) }> }"""
    assert "Loop 'y': VitisAI aborts at a node with a body; move the cut" in refusal(text)


@pytest.mark.parametrize(
    ("text", "tensor"),
    [
        (
            f"{IMAGE} {{ h = Cast <to=16> (x)  c = Cast <to=1> (h)  a = Conv {FULL} (c, w)  y = Conv {FULL} (a, w) }}",
            "h",
        ),
        (f"{IMAGE.replace('float s', 'bfloat16 s')} {{ a = Conv {FULL} (x, w)  y = Conv {FULL} (a, w) }}", "s"),
    ],
)
def test_a_bfloat16_tensor_is_named(text: str, tensor: str) -> None:
    assert refusal(text).startswith(f"part 'p': tensor '{tensor}': VitisAI rejects bfloat16")


def test_a_bfloat16_weight_is_named() -> None:
    proto = parse(f"{HEAD} {GOOD}")
    proto.graph.initializer.append(helper.make_tensor("half", TensorProto.BFLOAT16, [1], [1.0]))
    with pytest.raises(InputError, match="tensor 'half': VitisAI rejects bfloat16"):
        refuse_what_aborts(Model(proto), "part 'p'")


def test_fewer_than_two_convs_are_refused_unless_the_cpu_will_do() -> None:
    text = f"{IMAGE} {{ y = Conv {FULL} (x, w) }}"
    assert "it has 1 Conv, and VitisAI leaves a part with fewer than 2 to the CPU" in refusal(text)
    refuse_what_aborts(model(text), "part 'p'", allow_fallback=True)


# --- the session --------------------------------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch, made: list[Any]) -> None:
    class Options(onnxruntime.SessionOptions):
        def add_provider(self, name: str, options: dict[str, str]) -> None:
            made.append((name, options, self.get_session_config_entry("session.disable_cpu_ep_fallback")))

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(accelerated_session, "require", lambda choice, place: None)


@pytest.mark.parametrize(("allowed", "entry"), [(False, "1"), (True, "0")])
def test_the_session_is_made_with_them_and_may_not_fall_back(
    allowed: bool, entry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Any] = []
    pretend(monkeypatch, made)
    choice = DeviceChoice("vitisai", {"cache_dir": str(tmp_path)})
    good = model(GOOD)
    # nothing else takes the nodes here, so that it can only be made where it may fall back
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda source, options, **rest: _Nothing())
    Session(good.proto, name="p", device=choice, allow_fallback=allowed)
    assert made == [("VitisAIExecutionProvider", vitisai_options(choice, "p", good.fingerprint), entry)]


def test_no_session_is_made_of_what_would_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    pretend(monkeypatch, made)
    with pytest.raises(InputError, match="fill-default-attributes"):
        Session(parse(f"{HEAD} {QDQ}"), name="p", device=DeviceChoice("vitisai"))
    assert made == []


class _Nothing:
    """A session without inputs and outputs."""

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_overridable_initializers = get_inputs
