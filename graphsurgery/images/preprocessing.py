"""What a network wants of an image: how it lies on the canvas, and in what form its pixels are read. Data, no code.

The presets go by the names that the field gives these ways; each says which code it is read from. A size is never part
of them: that is the canvas, which the graph has been exported for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from graphsurgery.errors import InputError

Array = npt.NDArray[Any]

Resize = Literal["fit", "stretch", "none"]
Rounding = Literal["down", "half_up", "half_even", "down_then_half_up"]
Interpolation = Literal["bilinear", "nearest", "cv2_bilinear", "pil_bilinear", "pil_bicubic"]
Place = Literal["top_left", "centre"]
Channels = Literal["RGB", "BGR"]
Layout = Literal["NCHW", "NHWC"]
DType = Literal["float32", "float16", "uint8"]
Numbers = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes what a network reads.

    `resize` is fit (aspect kept), stretch, or none. Where it fits, sizes are rounded as `rounding` says, the shorter
    edge grows to `shortest` pixels at most and the longer one to `longest`. `pad` is what surrounds the image, 0..255,
    one number or one for each channel in the network's order; None stands for the mean, if any. `range` is the largest
    value of a pixel, 1 or 255; `mean` and `std` are in it, in the network's order of `channels`. Raises InputError for
    values that contradict each other.
    """

    resize: Resize = "fit"
    rounding: Rounding = "down"
    shortest: int | None = None
    longest: int | None = None
    interpolation: Interpolation = "bilinear"
    place: Place = "top_left"
    pad: float | Numbers | None = None
    range: Literal[1, 255] = 1
    mean: Numbers | None = None
    std: Numbers | None = None
    channels: Channels = "RGB"
    layout: Layout = "NCHW"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                listed = ", ".join(map(str, get_args(kind)))
                raise InputError(f"image.{name} is {str(getattr(self, name))[:40]!r}; it is one of {listed}")
        for name in ("pad", "mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        for name in ("shortest", "longest"):
            size = getattr(self, name)
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 2**16):
                raise InputError(f"image.{name} is {str(size)[:40]}; give a whole number of pixels, 1 or more")
            if size is not None and self.resize != "fit":
                raise InputError(
                    f"image.{name} says how far an image that fits grows; it does not go with {self.resize}"
                )
        if self.std is not None and not all(value > 0 for value in self.std):
            raise InputError(f"image.std is {self.std}; every value must be above 0")
        if self.dtype == "uint8" and (self.range != 255 or self.mean is not None or self.std is not None):
            raise InputError("image.dtype uint8 holds 0..255 as they are: write range: 255, and neither mean nor std")

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON has it; `from_json` reads it."""
        own = asdict(self)
        return {
            field.name: list(own[field.name]) if isinstance(own[field.name], tuple) else own[field.name]
            for field in fields(self)
            if own[field.name] != field.default
        }

    @classmethod
    def from_json(cls, value: object) -> Preprocessing:
        """Read what `to_json` gave. Raises InputError for anything else."""
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not set(value) <= known:
            raise InputError(f"image: expected some of {', '.join(sorted(known))}, got {str(value)[:60]}")
        own: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}
        try:
            return cls(**own)
        except TypeError as error:
            raise InputError(f"image: {str(value)[:60]} is not what an image is made ready by") from error

    def placement(self, size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return height, width, top and left, in canvas pixels, of an image of `size` (height, width).

        Down, as torchvision rounds (`_resize_image_and_masks`, in double precision), half up as detectron2 does
        (`ResizeShortestEdge`), half to even as ultralytics does (`LetterBox`); so is the centre. Down, then half up is
        for two steps: to the shorter edge, and where the result is too long, from its whole pixels to the longer one.
        Raises InputError for an image that is not resized and larger than the canvas.
        """
        if self.resize == "none":
            if size[0] > canvas[0] or size[1] > canvas[1]:
                raise InputError(f"image: {size[0]} x {size[1]} is larger than the canvas, and image.resize is none")
            height, width = size
        elif self.resize == "stretch":
            height, width = canvas
        elif self.rounding == "down_then_half_up" and self.shortest is not None:
            height, width = (math.floor(edge * (self.shortest / min(size))) for edge in size)
            scale = min(canvas[0] / height, canvas[1] / width, (self.longest or math.inf) / max(height, width))
            if scale < 1:
                height, width = (math.floor(edge * scale + 0.5) for edge in (height, width))
        else:
            scale = min(canvas[0] / size[0], canvas[1] / size[1])
            scale = min(scale, (self.shortest or math.inf) / min(size), (self.longest or math.inf) / max(size))
            height, width = (_ROUNDED[self.rounding](edge * scale) for edge in size)
        height, width = min(max(1, height), canvas[0]), min(max(1, width), canvas[1])
        if self.place == "top_left":
            return height, width, 0, 0
        return height, width, round((canvas[0] - height) / 2 - 0.1), round((canvas[1] - width) / 2 - 0.1)

    def padding(self, mean: tuple[float, ...] | None) -> npt.NDArray[np.float32]:
        """Return what surrounds the image, float32 [3] in 0..1, red first; `mean` is that of a graph's own, if any."""
        if self.pad is not None:
            values = np.broadcast_to(np.asarray(self.pad, np.float32), 3) / np.float32(255)
        else:
            values = np.asarray(self.mean or mean or (0, 0, 0), np.float32) / np.float32(self.range)
        return values[::-1] if self.channels == "BGR" else values

    def apply(self, input: npt.NDArray[np.float32]) -> Array:
        """Return the canvas float32 [3, H, W] in 0..1, red first, as the network reads it: [3, H, W] or [H, W, 3]."""
        pixels: Array = input[::-1] if self.channels == "BGR" else input
        if self.range != 1:
            pixels = pixels * np.float32(self.range)
        for values, operation in ((self.mean, np.subtract), (self.std, np.divide)):
            if values is not None:
                pixels = operation(pixels, np.asarray(values, np.float32)[:, None, None])
        if self.layout == "NHWC":
            pixels = pixels.transpose(1, 2, 0)
        if self.dtype == "uint8":
            pixels = np.clip(np.rint(pixels), 0, 255)
        return np.ascontiguousarray(pixels, np.dtype(self.dtype))


_ROUNDED: Mapping[str, Callable[[float], int]] = {
    "down": math.floor,
    "half_up": lambda size: math.floor(size + 0.5),
    "half_even": round,
    "down_then_half_up": math.floor,  # without a shorter edge there is one step
}
_CHOICES = {
    "resize": Resize,
    "rounding": Rounding,
    "interpolation": Interpolation,
    "place": Place,
    "range": Literal[1, 255],
    "channels": Channels,
    "layout": Layout,
    "dtype": DType,
}


def is_number(value: object) -> bool:
    """Whether a value that was read from JSON or YAML is a number that a float holds."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _numbers(name: str, value: Any) -> Any:
    """Return one number or three as floats. Raises InputError for anything else."""
    if value is None:
        return None
    several = list(value) if isinstance(value, list | tuple) else [value] if name == "pad" else []
    plain = [each for each in several if is_number(each)]
    if len(plain) != len(several) or len(several) not in (1, 3) or not all(map(math.isfinite, plain)):
        raise InputError(f"image.{name} is {str(value)[:60]}; give three finite numbers, one for each channel")
    return tuple(map(float, plain)) if len(plain) == 3 else float(plain[0])


PLAIN = Preprocessing()  # pixels in 0..1, red first, aspect kept, top left: what torchvision's detectors take

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_IMAGENET_255 = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # GeneralizedRCNNTransform; mean and std are in the graph
    "torchvision": {},
    # ultralytics/data/augment.py: LetterBox, then BGR to RGB and / 255
    "ultralytics": {"rounding": "half_even", "place": "centre", "pad": 114},
    # yolox/data/data_augment.py: preproc; no normalisation since 0.1.1
    "yolox": {"pad": 114, "range": 255, "channels": "BGR"},
    # detectron2 ResizeShortestEdge with Pillow; mean and std are in the graph, and pads there are 0 behind them
    "detectron2": {
        "rounding": "half_up",
        "shortest": 800,
        "longest": 1333,
        "interpolation": "pil_bilinear",
        "pad": (103.53, 116.28, 123.675),
        "range": 255,
        "channels": "BGR",
    },
    # Ascend/ModelZoo-PyTorch 6a2804a, maskrcnn_pth_preprocess_detectron2.py: with OpenCV, in two steps. The script also
    # subtracts the mean, which is in detectron2's export, and pads with 0 behind it
    "detectron2_cv2": {
        "rounding": "down_then_half_up",
        "shortest": 800,
        "longest": 1333,
        "interpolation": "cv2_bilinear",
        "pad": (103.53, 116.28, 123.675),
        "range": 255,
        "channels": "BGR",
    },
    # onnxruntime-riscv systolic_runner/rcnn_runner: the pads are black before the mean of maskrcnn-benchmark goes off
    "onnxruntime_riscv": {
        "shortest": 800,
        "interpolation": "pil_bilinear",
        "pad": 0,
        "range": 255,
        "channels": "BGR",
        "mean": (102.9801, 115.9465, 122.7717),
    },
    # mmdet configs/_base_/datasets/coco_detection.py: Resize keep_ratio, Normalize to_rgb, Pad with 0 behind it
    "mmdet": {"rounding": "half_up", "shortest": 800, "longest": 1333, "range": 255, **_IMAGENET_255},
    # transformers DetrImageProcessor; pads are 0 behind the normalisation
    "detr": {"shortest": 800, "longest": 1333, "interpolation": "pil_bilinear", **_IMAGENET},
    # transformers RTDetrImageProcessor: neither aspect nor mean
    "rtdetr": {"resize": "stretch", "interpolation": "pil_bilinear"},
    # effdet/data/transforms.py: ResizePad with the mean's colour, PrefetchLoader's normalisation
    "effdet": {"interpolation": "pil_bilinear", "pad": (124, 116, 104), **_IMAGENET},
}
