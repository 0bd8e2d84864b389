"""Files that hold the elements of a tensor alone, as little-endian numbers: what vendors' tools read and write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError
from graphsurgery.parts.manifest import Tensor


def write_raw(path: Path, values: npt.NDArray[Any]) -> None:
    """Write the elements of `values`; the folder is made where it isn't there. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tofile(path)


def read_numbered(folder: Path, stem: str, outputs: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Return outputs out of STEM_0.bin, STEM_1.bin and so on, in their order. Raises as `read_raw`."""
    return {
        name: read_raw(folder / f"{stem}_{index}.bin", tensor, name)
        for index, (name, tensor) in enumerate(outputs.items())
    }


def read_raw(path: Path, tensor: Tensor, name: str) -> npt.NDArray[Any]:
    """Return the output `name` out of a file that holds its elements alone, as little-endian numbers.

    One dimension may be open, and follows from the size of the file. Raises InputError for a file that is missing or of
    another size.
    """
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape or [-1]]
    known = int(np.prod([size for size in shape if size >= 0], dtype=np.int64)) * dtype.itemsize
    try:
        size = path.stat().st_size
        fits = shape.count(-1) <= 1 and (size % known == 0 if -1 in shape and known else size == known)
        if not fits:
            raise InputError(f"{path}: has {size} bytes, and output '{name}' is {tensor.dtype} {tensor.shape}")
        return np.fromfile(path, dtype).reshape(shape).astype(tensor.dtype, copy=False)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); it holds output '{name}'") from error
