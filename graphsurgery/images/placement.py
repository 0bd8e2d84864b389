"""Where an image lies on the canvas: what everything but its pixels follows from."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How an image was laid on a canvas.

    `canvas` and `original`, the image's own size, are height and width in pixels. The image fills `height` x `width`
    pixels of the canvas from `top` and `left` on.
    """

    canvas: Size
    original: Size
    height: int
    width: int
    top: int = 0
    left: int = 0

    @staticmethod
    def whole(canvas: Size) -> Placement:
        """Return the placement of an image that is as large as the canvas."""
        return Placement(canvas, canvas, *canvas)
