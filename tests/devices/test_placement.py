"""Where nodes run, as far as no accelerator is needed for it; test_qnn.py has the rest."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from graphsurgery.devices import placement
from graphsurgery.devices.placement import PlacedNode, Placement, place, shares
from graphsurgery.devices.providers import CPU, DeviceChoice
from graphsurgery.errors import InputError, MissingTool, ModelError
from graphsurgery.graph.model import Model
from graphsurgery.testing import parse

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
TEXT = f"""{HEAD} g (float[1,3,4,4] x, float[3,3,1,1] w) => (float[1,3,4,4] y) {{
    one = Constant <value = float {{1}}> ()
    [head] a = Conv (x, w)
    y = Add (a, one) }}"""


def placed(*ran: str, provider: str = "qnn", reasons: tuple[str | None, ...] = (), cost: int | None = 10) -> Placement:
    reasons = reasons or (None,) * len(ran)
    nodes = [
        PlacedNode(f"n{index}", "Conv", each, cost, reason)
        for index, (each, reason) in enumerate(zip(ran, reasons, strict=True))
    ]
    return Placement("part 'p'", provider, tuple(nodes))


def test_a_part_on_the_cpu_falls_back_from_nothing() -> None:
    found = place(Model(parse(TEXT)), CPU, name="part 'p'")
    assert [(node.label, node.ran, node.multiply_adds) for node in found.nodes] == [
        ("Constant 'one'", "folded", 0),
        ("Conv 'head'", "cpu", 3 * 16 * 3),
        ("Add 'y'", "cpu", 0),
    ]
    assert found.left == []
    assert found.taken == []


def test_shares_are_of_what_runs_at_all() -> None:
    share = shares([placed("qnn", "cpu", "folded"), placed("qnn", "qnn"), placed("cpu", provider="cpu", cost=60)])
    assert (share["nodes_taken"], share["nodes_running"], share["node_share"]) == (3, 5, 0.6)
    assert (share["multiply_adds_taken"], share["multiply_adds"], share["multiply_add_share"]) == (30, 100, 0.3)
    assert share["unknown"] == 0


def test_a_share_of_nothing_is_none_and_unknown_counts_are_counted() -> None:
    share = shares([placed("qnn", "cpu", "folded", cost=None)])
    assert (share["multiply_adds"], share["multiply_add_share"], share["unknown"]) == (0, None, 2)
    assert shares([])["node_share"] is None


def test_the_complaint_names_nodes_by_reason() -> None:
    many = placed("qnn", *["cpu"] * 5, "folded", reasons=(None, "a", "b", "a", "a", "a", None))
    assert many.complaint() == (
        "part 'p': qnn leaves 5 of 6 nodes to the CPU: Conv 'n1', Conv 'n3', Conv 'n4' and 1 more (a), Conv 'n2' (b); "
        "change them with a pass, move the cut, or accept it with --allow-fallback"
    )
    alone = placed("cpu", "qnn")
    assert "1 of 2 nodes to the CPU: Conv 'n0'; change" in alone.complaint()


def test_more_reasons_than_three_are_counted() -> None:
    assert ", for 2 more reasons others; " in placed(*["cpu"] * 5, reasons=tuple("abcde")).complaint()


LOG = """\
2026-11-21 05:58.45 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation PASSED for 1 nodes in OrtNodeUnit (Relu) :
\tOperator type: Relu Node name: gs_1_ Node index: 1
2026-11-21 05:58.45 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 3 nodes in OrtNodeUnit (Add) :
\tOperator type: DequantizeLinear Node name: gs_2_ Node index: 2
\tOperator type: Add Node name: gs_3_ Node index: 3
\tREASON : Operand shapes differ.
2026-11-21 05:58.46 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Sub) :
\tOperator type: Sub Node name: gs_4_ Node index: 4
2026-11-21 05:58.46 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Conv) :
\tOperator type: Conv Node name: gs_5_ Node index: 5
\tREASON : Cannot get shape
2026-11-21 05:58.47 [V:onnxruntime:, qnn.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Add) :
\tOperator type: Add Node name: gs_3_token_7 Node index: 3
\tREASON : another one, of the second time
"""


@pytest.mark.parametrize("log", [LOG, LOG.replace("\n", "\r\n")])
def test_reasons_are_read_from_the_log(log: str) -> None:
    assert placement.reasons_in(log) == {
        2: "Operand shapes differ",
        3: "Operand shapes differ",
        5: "a size in its shapes is not static (freeze-shapes, freeze-batch)",
    }
    assert placement.reasons_in("") == {}


def test_a_node_of_which_the_accelerator_has_a_piece_is_its() -> None:
    assigned: list[tuple[str, list[str]]] = [
        ("QNNExecutionProvider", ["gs_0_token_1", "Transpose", "gs_10_/MatMulAddFusion"]),
        ("CPUExecutionProvider", ["gs_0_", "gs_1_", "own_name"]),
    ]
    expected = {0: "QNNExecutionProvider", 10: "QNNExecutionProvider", 1: "CPUExecutionProvider"}
    assert dict(placement.marked(assigned)) == expected
    assert dict(placement.marked(assigned[::-1])) == expected


def test_a_process_that_dies_is_an_error_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, -6)

    monkeypatch.setattr(placement.subprocess, "run", dies)
    monkeypatch.setattr(placement, "require", lambda choice, place: None)
    with pytest.raises(ModelError, match=r"part 'p': openvino ends the process \(-6\) as it loads it"):
        place(Model(parse(TEXT)), DeviceChoice("openvino"), name="part 'p'")


def test_what_is_known_to_end_the_process_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "require", lambda choice, place: None)
    with pytest.raises(InputError, match="part 'p': Conv 'head': VitisAI aborts at a Conv that leaves"):
        place(Model(parse(TEXT)), DeviceChoice("vitisai"), name="part 'p'")


def test_what_the_other_process_can_not_load_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "require", lambda choice, place: None)  # the other process finds out by itself
    unknown = Model(parse(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = NoSuchOperator (x) }}"))
    with pytest.raises(ModelError, match=r"part 'p': dml can't load it: .+"):
        place(unknown, DeviceChoice("dml"), name="part 'p'")


@pytest.mark.usefixtures("cpu_alone")
def test_a_provider_that_is_not_here_is_a_missing_tool() -> None:
    with pytest.raises(
        MissingTool, match="part 'p' on dml: this ONNX Runtime has no DmlExecutionProvider; pip install"
    ):
        place(Model(parse(TEXT)), DeviceChoice("dml"), name="part 'p'")
