"""Reads the weights of the embedded networks."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from graphsurgery.errors import InputError

CHECKPOINTS = {name: Path(__file__).with_name(f"{name}.safetensors") for name in ("shapes", "shapes_yolo")}


def load(model: nn.Module, weights: Path, name: str) -> None:
    """Load a safetensors file into `model`, which `name` built. Raises InputError if it isn't a checkpoint of it."""
    if not weights.is_file():
        raise InputError(f"{weights}: no such checkpoint; python -m graphsurgery.demo.train --out FILE makes one")
    try:
        model.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise InputError(f"{weights}: not a safetensors file ({error}); give one that demo.train wrote") from error
    except RuntimeError as error:
        raise InputError(
            f"{weights}: the tensors are not those of {name}; give a file that demo.train wrote"
        ) from error
