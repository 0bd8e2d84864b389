"""Tensors as ONNX's backend tests have them: test_data_set_K/input_J.pb and output_J.pb, a TensorProto each.

Source: onnx 1.23, docs/OnnxBackendTest.md and onnx/backend/test/loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from graphsurgery import files
from graphsurgery.errors import InputError

Arrays = Mapping[str, npt.NDArray[Any]]

_MOST_BYTES = 2**31  # of one tensor; a protobuf holds no more


def write_test_data(folder: Path, number: int, inputs: Arrays, outputs: Arrays) -> None:
    """Write what a model reads and computes into test_data_set_NUMBER in `folder`, in their order. Raises OSError."""
    place = place_of(folder, number)
    place.mkdir(parents=True)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for index, (name, values) in enumerate(tensors.items()):
            content = numpy_helper.from_array(np.ascontiguousarray(values), name).SerializeToString()
            (place / f"{kind}_{index}.pb").write_bytes(content)


def place_of(folder: Path, number: int) -> Path:
    """Return the folder of one set of test data."""
    return folder / f"test_data_set_{number}"


def files_in(folder: Path, name: str = "") -> list[str]:
    """Return the files of all sets of test data in `folder`, or in the folder `name` in it, as paths from `folder`."""
    found = (folder / name).glob("test_data_set_*/*put_*.pb")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def read_tensor(path: Path) -> tuple[str, npt.NDArray[Any]]:
    """Return the name and the values of a tensor in a .pb file. Raises InputError for what is none."""
    tensor = TensorProto()
    try:
        tensor.ParseFromString(files.read_bytes(path, _MOST_BYTES))
        return tensor.name, numpy_helper.to_array(tensor)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({files.reason(error)})") from error
    except (DecodeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: holds no tensor; give a file that a runner of ONNX wrote") from error
