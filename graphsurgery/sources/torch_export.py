"""What all sources of torch share: the export of a traced network, its input as a tensor, a hash of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from graphsurgery.errors import InputError, first_line
from graphsurgery.files.temporary import temporary_folder
from graphsurgery.sources.quiet import quiet
from graphsurgery.sources.source import Image


def export_traced(
    model: nn.Module, given: Any, opset: int, name: str, input_name: str, output_names: Sequence[str]
) -> onnx.ModelProto:
    """Return the graph of `model`, traced on its argument `given`; raises InputError when the exporter fails."""
    with temporary_folder() as folder:
        file = folder / "model.onnx"
        try:
            with quiet(), torch.no_grad():
                torch.onnx.export(
                    model,
                    (given,),
                    file,
                    dynamo=False,
                    opset_version=opset,
                    input_names=[input_name],
                    output_names=list(output_names),
                )
        except Exception as error:  # the exporter raises any class, for the operators and opsets it lacks
            raise InputError(f"source: {name} can't be exported with opset {opset}: {first_line(error)}") from error
        return onnx.load(file)


def as_tensor(input: Image) -> Tensor:
    """Return an image as torch reads it, float32."""
    return torch.from_numpy(np.ascontiguousarray(input, np.float32))


def weights_digest(model: nn.Module) -> str:
    """Hash the weights, and FrozenBatchNorm2d's epsilon, which differs between networks of the same weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {list(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8))
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            digest.update(f"{name} {module.eps!r}\n".encode())
    return digest.hexdigest()
