"""onnxsim in a process of its own, so that a crash of its native code is an error message and not the end of the run.

    onnxsim_process.simplify(model, seconds=600, memory_mb=8000)  ->  ModelProto

`python -m graphsurgery.processes.onnxsim_process` is the other end: it imports onnxsim once (0.5 s, 0.12 GB).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import EncodeError
from onnx import ModelProto

from graphsurgery.devices.operator_sets import why_unknown
from graphsurgery.errors import PassError
from graphsurgery.processes import worker
from graphsurgery.processes.worker import Running, Worker

# onnxsim 0.8.1 moves a nested If's branch in front of what it reads, and then refuses its own result.
_OFTEN_AT_FAULT = "eliminate_if_with_const_cond"


@dataclass(frozen=True)
class Simplified:
    """What onnxsim made of a model, None where it can't, and a note: why not, or what it had to leave out."""

    model: ModelProto | None
    note: str | None


def simplify(
    model: ModelProto, *, seconds: float, memory_mb: int, largest_mb: float = 16, skip: Sequence[str] = ()
) -> Simplified:
    """Return `model` as onnxsim simplifies it; `skip` names optimizers of onnxsim that are left out.

    `seconds` limits the time of this call (starting the process not counted), `memory_mb` the resident memory of the
    process, which is 120 MB before it does anything; an Expand, Tile or ConstantOfShape that writes more than
    `largest_mb` is not evaluated. MB are 10^6 bytes. Raises PassError when onnxsim crashes, fails, or goes
    over a limit, MissingTool when it can't be imported.
    """
    with running.use() as process:
        before, after = process.folder / "before.onnx", process.folder / "after.onnx"
        try:
            before.write_bytes(model.SerializeToString())
        except (ValueError, EncodeError) as error:
            raise PassError(
                "pass 'simplify': the model is above the 2 GB that protobuf can hold; simplify it in parts"
            ) from error
        request = {
            "before": str(before),
            "after": str(after),
            "largest": f"{largest_mb:g}MB",
            "skip": list(skip),
            "opsets": [[entry.domain, entry.version] for entry in model.opset_import],
            "ir_version": model.ir_version,
        }
        reply = process.ask(request, seconds, memory_mb)
        before.unlink()
        if "error" in reply:
            raise PassError(f"pass 'simplify': onnxsim failed: {reply['error']}; leave the pass out of the recipe")
        if not reply["done"]:
            return Simplified(None, reply["note"])
        simplified = ModelProto()
        simplified.ParseFromString(after.read_bytes())
        after.unlink()
        return Simplified(simplified, reply["note"])


running = Running(lambda: Worker("graphsurgery.processes.onnxsim_process", "pass 'simplify': onnxsim"))


# --- the other end ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer the requests on stdin until it closes."""
    worker.serve(_load, _answer)


def _load() -> None:
    # onnxsim imports torch where it is, for a quantizer that is not used here: 1.2 s and 0.5 GB
    sys.modules["torch"] = None  # type: ignore[assignment]  # it counts as not installed
    try:
        import onnxsim
    except ImportError as error:
        raise ImportError(f"{error}; pip install onnxsim") from error
    onnxsim.import_onnx_schemas()  # what its own ONNX lacks; it would look through all of them for each model


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    reason = why_unknown(request["opsets"], request["ir_version"])
    if reason is not None:
        return {"done": False, "note": reason}
    failure = _run(request, request["skip"])
    if failure is None:
        return {"done": True, "note": None}
    if _OFTEN_AT_FAULT not in request["skip"] and _run(request, [*request["skip"], _OFTEN_AT_FAULT]) is None:
        return {"done": True, "note": f"onnxsim's optimizer {_OFTEN_AT_FAULT} was left out: with it, {failure}"}
    return {"error": failure}


def _run(request: dict[str, Any], skip: list[str]) -> str | None:
    """Simplify one file into another; return what onnxsim said where it failed."""
    import onnxsim

    try:
        simplified, _ = onnxsim.simplify(
            request["before"],
            check_n=0,
            skipped_optimizers=list(skip),
            tensor_size_threshold=request["largest"],
            import_custom_schemas=False,
        )
        Path(request["after"]).write_bytes(simplified.SerializeToString())
    except Exception as error:  # whatever it is, the parent reports it and this process goes on
        text = str(error).strip() or type(error).__name__
        return text.splitlines()[0][:300]
    return None


if __name__ == "__main__":
    serve()
