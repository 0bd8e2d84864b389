"""The keys of the section `image`: types and words for `graphsurgery.images.preprocessing`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from graphsurgery.images.preprocessing import (
    PRESETS,
    Channels,
    DType,
    Interpolation,
    Layout,
    Place,
    Resize,
    Rounding,
)
from graphsurgery.recipe.section import Section

Numbers = tuple[float, float, float]


class ImageKeys(Section):
    """What an ONNX file wants of an image. The size is that of the source; a preset is laid under the other keys."""

    preset: Literal[*PRESETS] | None = Field(  # type: ignore[valid-type]
        None, description="the way of a library or a family of models", examples=["ultralytics"]
    )
    resize: Resize = Field(
        "fit",
        description="fit (aspect kept), stretch, or none: it may be no larger than the canvas",
        examples=["stretch"],
    )
    rounding: Rounding = Field(
        "down",
        description="of the sizes of an image that fits; half_up and half_even to the nearest. down_then_half_up goes "
        "to `shortest` first, and where that is longer than `longest`, from there to it",
        examples=["half_up"],
    )
    shortest: PositiveInt | None = Field(
        None, description="to how many pixels the shorter edge of an image that fits grows at most", examples=[800]
    )
    longest: PositiveInt | None = Field(None, description="the same of the longer edge", examples=[1333])
    interpolation: Interpolation = Field(
        "bilinear",
        description="bilinear (torch's and OpenCV's: nothing is smoothed), cv2_bilinear (the same in whole levels of 8 "
        "bits), nearest, pil_bilinear or pil_bicubic (Pillow's, which smooth where they shrink)",
        examples=["pil_bilinear"],
    )
    place: Place = Field("top_left", description="where the image lies on the canvas", examples=["centre"])
    pad: float | Numbers | None = Field(
        None,
        description="what surrounds it, 0 to 255, one number or one for each channel; without it the mean, 0 where "
        "none is given here",
        examples=[114, [124, 116, 104]],
    )
    range: Literal[1, 255] = Field(1, description="largest value of a pixel", examples=[255])
    mean: Numbers | None = Field(
        None, description="subtracted, per channel, in `range`", examples=[[0.485, 0.456, 0.406]]
    )
    std: Numbers | None = Field(
        None, description="divided by, per channel, in `range`", examples=[[0.229, 0.224, 0.225]]
    )
    channels: Channels = Field("RGB", description="their order", examples=["BGR"])
    layout: Layout = Field("NCHW", description="of the input; without N where its rank is 3", examples=["NHWC"])
    dtype: DType = Field("float32", description="of the input; uint8 needs range: 255", examples=["float16"])
