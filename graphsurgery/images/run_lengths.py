"""Run-length encoding of masks as COCO has it: column by column, lengths of runs, zeros first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def encode_rle(mask: Mask) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO's uncompressed RLE: `counts` is a list of numbers."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], edges, [mask.size]])
    counts = np.diff(bounds)
    if counts[-1] == 0:
        counts = counts[:-1]
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def compress_rle(encoded: dict[str, Any]) -> dict[str, Any]:
    """Return the same mask as COCO's compressed RLE: `counts` is ASCII text, as pycocotools reads and writes it."""
    return {"counts": _as_text(encoded["counts"]), "size": encoded["size"]}


def _as_text(counts: Sequence[int]) -> str:
    """Write each run as its difference to the one before last, 5 bits to a character, lowest first.

    A character is 48 plus the bits, plus 32 where another follows; the topmost bit of the last one is the sign.
    """
    text = []
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)
