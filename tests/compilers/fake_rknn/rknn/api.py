"""Stands for rknn-toolkit2: ONNX Runtime plays, the table has a line for each node, FAKE_RKNN says what goes wrong."""

import os
import sys
import time
from pathlib import Path

import onnx
import onnxruntime

HEAD = "ID   OpType  DataType Target InputShape  OutputShape  Cycles(DDR/NPU/Total)  RW(KB)  FullName"


class RKNN:
    def __init__(self, verbose: bool) -> None:
        self.path = Path()
        self.kept: dict[str, str] = {}

    def config(self, **options: object) -> int:
        print("I config", sorted(options))
        return 0

    def load_onnx(self, model: str) -> int:
        self.path = Path(model)
        return 0

    def build(self, do_quantization: bool, dataset: str | None) -> int:
        wrong = os.environ.get("FAKE_RKNN", "")
        Path("check0_base_optimize.onnx").write_text("left where it stands")
        if wrong == "refuse":
            raise ValueError(
                'Traceback (most recent call last):\n  File "rknn/a.py", line 1\nKeyError: unknown op Foo\n'
            )
        if wrong == "crash":
            print("E assertion failed: layer.h", flush=True)
            os.abort()
        if wrong == "hang":
            time.sleep(60)
        if dataset is not None:
            lines = Path(dataset).read_text().splitlines()
            missing = [f for line in lines for f in line.split() if not (Path(dataset).parent / f).is_file()]
            if missing or not lines:
                raise FileNotFoundError(missing)
        graph = onnx.load(self.path).graph
        rows = [("InputOperator", "CPU", "InputOperator:x")]
        for node in graph.node:
            rows.append((node.op_type, "CPU" if node.op_type == wrong else "NPU", f"{node.op_type}:{node.name}"))
        kind = "INT8" if do_quantization else "FLOAT16"
        lines = ["Network Layer Information Table", "---", HEAD, "---"]
        lines += [
            f"{number}  {op}  {kind} {target}  (1,3,8,12),...  (1)  0/0/0  3  {name}"
            for number, (op, target, name) in enumerate(rows)
        ]
        for line in [*lines, "---"]:
            print(f"D RKNN: [19:30:02.411] {line}")
        sys.stdout.flush()
        return 1 if wrong == "code" else 0

    def export_rknn(self, path: str) -> int:
        Path(path).write_bytes(b"RKNN")
        return 0

    def init_runtime(self) -> int:
        return 0

    def inference(self, inputs: list, data_format: list) -> list:
        dies = os.environ.get("FAKE_RKNN_DIES")
        if dies and Path(dies).exists():
            Path(dies).unlink()
            os.abort()
        session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        return session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))

    def release(self) -> None: ...
