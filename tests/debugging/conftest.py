"""What was captured, for `check A B`."""

from __future__ import annotations

from pathlib import Path

import pytest

from debugging.compared import tensors_of, write_capture


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "io", {"a": tensors_of(3), "b": tensors_of(7, 1), "none": tensors_of(0)})
