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


def decode_counts(text: str) -> npt.NDArray[np.int64]:
    """Return the lengths of runs in the text of a compressed RLE. Raises ValueError for what is none."""
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its run lengths are no compressed RLE")
    starts = np.concatenate([[0], np.flatnonzero(codes & 32 == 0) + 1])
    digit = np.arange(codes.size) - np.repeat(starts[:-1], np.diff(starts))
    if digit.max() > 6:  # 7 digits of 5 bits hold what a run of 32 bits takes
        raise ValueError("its run lengths are no compressed RLE")
    counts: npt.NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * digit), starts[:-1])
    counts -= (codes[starts[1:] - 1] >> 4 & 1) << (5 * np.diff(starts))  # the sign is the topmost bit of the last digit
    for first in (1, 2):
        counts[first::2] = np.cumsum(counts[first::2])
    if counts.min() < 0:
        raise ValueError("a run length is below 0")
    return counts


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
