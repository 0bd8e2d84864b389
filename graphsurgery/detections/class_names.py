"""The class names of COCO, in the three ways that networks number them."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO80 = tuple(_NAMES.split(","))
_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of the ids 1 to 90, those that COCO has no object of
COCO_IDS = tuple(each for each in range(1, 91) if each not in _ABSENT)
_NAME_OF = dict(zip(COCO_IDS, COCO80, strict=True))

# by the word for them: 80 in a row; 90, where the label is the category's id less 1; 91, where it is the id
CLASSES: Mapping[str, tuple[str, ...]] = {
    "coco80": COCO80,
    "coco90": tuple(_NAME_OF.get(each, "N/A") for each in range(1, 91)),
    "coco91": ("background", *(_NAME_OF.get(each, "N/A") for each in range(1, 91))),
}
