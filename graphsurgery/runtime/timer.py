"""How long runs took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

_KEPT_TIMES = 1000


@dataclass
class Timer:
    """Adds up times in seconds; of the last 1,000 it can say more."""

    seconds: float = 0.0
    _kept: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_TIMES))

    def add(self, seconds: float) -> None:
        """Count one more run."""
        self.seconds += seconds
        self._kept.append(seconds)

    def reset(self) -> None:
        """Forget everything."""
        self.seconds = 0.0
        self._kept.clear()

    def summary(self) -> dict[str, float]:
        """Return `mean_ms`, `p50_ms` and `p90_ms` of the last runs; nothing where there was none."""
        if not self._kept:
            return {}
        times = np.array(self._kept.copy()) * 1e3  # another thread may add one meanwhile
        middle, high = np.percentile(times, (50, 90))
        return {"mean_ms": float(times.mean()), "p50_ms": float(middle), "p90_ms": float(high)}
