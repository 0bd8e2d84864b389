"""Which operator sets ONNX Runtime knows."""

from __future__ import annotations

import onnx


def why_unknown(opsets: list[tuple[str, int]], ir_version: int) -> str | None:
    """Say why onnxsim can't evaluate constants of such a model: ONNX Runtime, which it does it with, is too old.

    onnxsim 0.8.1 then leaves marks of its own in Constant nodes, and refuses its own result.
    """
    import onnxruntime as ort

    known = [onnx.helper.make_opsetid(*entry) for entry in opsets if entry[0] in ("", "ai.onnx", "ai.onnx.ml")]
    if all(entry.domain == "ai.onnx.ml" for entry in known):
        return None  # no operator of ONNX's own in it, nothing to evaluate
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    same = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [same])
    probe = onnx.helper.make_model(graph, opset_imports=known, ir_version=ir_version)
    try:
        ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        versions = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in known)
        return (
            f"ONNX Runtime {ort.__version__}, which onnxsim evaluates constants with, does not know operator set"
            f" {versions} of IR version {ir_version}: {str(error).strip().splitlines()[0][:200]}"
        )
    return None
