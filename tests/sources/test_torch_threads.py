"""The number of threads that torch computes with."""

import pytest

torch = pytest.importorskip("torch")

from graphsurgery.sources.torch_threads import torch_threads  # noqa: E402  it imports torch


def test_torch_computes_with_so_many_threads_within_the_block_only() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(3):  # noqa: PT012
        assert torch.get_num_threads() == 3
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before
    with torch_threads(0):
        assert torch.get_num_threads() == before
