"""Run-length encoding of masks, against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphsurgery.images.run_lengths import compress_rle, decode_counts, encode_rle


def masks() -> list[Any]:
    generator = np.random.default_rng(0)
    sizes = [(1, 1), (1, 7), (7, 1), (5, 4), (48, 64), (300, 200)]
    random = [generator.random(size) < share for size in sizes for share in (0, 0.02, 0.5, 0.98, 1)]
    blob = np.zeros((1080, 1920), bool)
    blob[400:900, 3:1800] = True
    blob[500:505, 100:900] = False
    return [*random, blob]


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape}-{int(mask.sum())}")
def test_compressed_counts_are_those_of_pycocotools(mask: Any) -> None:
    cocotools = pytest.importorskip("pycocotools.mask")
    expected = cocotools.encode(np.asfortranarray(mask, dtype=np.uint8))
    got = compress_rle(encode_rle(mask))
    assert got == {"counts": expected["counts"].decode("ascii"), "size": list(mask.shape)}
    np.testing.assert_array_equal(cocotools.decode(got), mask)


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape}-{int(mask.sum())}")
def test_compressed_counts_are_read_back(mask: Any) -> None:
    encoded = encode_rle(mask)
    assert decode_counts(compress_rle(encoded)["counts"]).tolist() == encoded["counts"]


def test_runs_are_counted_column_by_column_zeros_first() -> None:
    mask = np.array([[1, 0, 0], [1, 0, 1]], bool)
    assert encode_rle(mask) == {"counts": [0, 2, 3, 1], "size": [2, 3]}
    # A run after the third is a difference: 1 - 2 = -1, five bits 11111 and a sign that ends it: 48 + 31.
    assert compress_rle(encode_rle(mask)) == {"counts": "023O", "size": [2, 3]}
