"""How many frames a damaged file has lost.

Two things tell, and the larger counts. What was read and gave no picture, where something was damaged: without that a
difference says nothing, since a codec may have packets without a picture of their own. And the times, at a constant
rate: a container that is damaged itself skips what it can't read, without a word. A file of varying rate has such jumps
everywhere; they count only where they are few.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_RARE = 0.05  # jumps for each frame
_OFF = 0.1  # of a step: times are rounded


@dataclass
class Losses:
    """Told of packets, pictures and times, it says how many frames are lost; `step` is a frame's time in ticks."""

    step: float | None = None
    ended: bool = False
    damaged: bool = False
    packets: int = 0
    pictures: int = 0
    unusable: int = 0
    _last: int | None = None
    _steps: int = 0
    _jumps: list[int] = field(default_factory=list)
    _uneven: int = 0

    def shown(self, ticks: int) -> None:
        """A picture of that time goes on."""
        if self._last is not None and self.step:
            steps = (ticks - self._last) / self.step
            whole = max(1, round(steps))
            self._steps += 1
            if abs(steps - whole) > _OFF * whole:
                self._uneven += 1
            elif whole > 1:
                self._jumps.append(whole - 1)
        self._last = ticks

    @property
    def count(self) -> int:
        """How many frames are lost so far."""
        silent = (
            max(self.packets - self.pictures, 0) if self.damaged and self.ended else 0
        )  # else some are on their way
        regular = len(self._jumps) + self._uneven <= max(1, _RARE * self._steps)
        return max(silent + self.unusable, sum(self._jumps) if regular else 0)
