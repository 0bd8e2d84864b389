"""The outputs of libraries and families of models, as data; each says which code it is read from.

Classes are never part of them: two networks of a family know other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Preset = Mapping[str, Any]

_ULTRALYTICS: Preset = {
    "boxes": {"axis": 1, "columns": [0, 4], "form": "cxcywh"},
    "scores": {"axis": 1, "columns": [4]},
    "multi_label": True,
    "score": 0.001,
    "nms": {"iou": 0.7},
}
_YOLOX: Preset = {
    "boxes": {"columns": [0, 4], "form": "yolox"},
    "objectness": {"columns": 4},
    "scores": {"columns": [5]},
    "points": {"strides": [8, 16, 32], "offset": 0},
    "score": 0.01,
    "nms": {"iou": 0.65},
}
_QUERIES: Preset = {
    "scores": {"tensor": 0, "activation": "sigmoid"},
    "boxes": {"tensor": 1, "form": "cxcywh", "unit": "relative"},
    "multi_label": True,
}
_TORCHVISION: Preset = {"boxes": {"tensor": "boxes"}, "scores": {"tensor": "scores"}, "labels": {"tensor": "labels"}}
_DETECTRON2: Preset = {"boxes": {"tensor": 0}, "labels": {"tensor": 1}, "scores": {"tensor": 2}}
_MMDET: Preset = {
    "boxes": {"tensor": 0, "columns": [0, 4]},
    "scores": {"tensor": 0, "columns": 4},
    "labels": {"tensor": 1},
}
_END_TO_END: Preset = {"boxes": {"columns": [0, 4]}, "scores": {"columns": 4}, "labels": {"columns": 5}}
# effdet/anchors.py, _generate_anchor_configs: three octaves by three aspects, 4 strides large
_EFFDET_SIZES = [
    [4 * 2 ** (octave / 3) * x, 4 * 2 ** (octave / 3) * y]
    for octave in range(3)
    for x, y in ((1, 1), (1.4, 0.7), (0.7, 1.4))
]

PRESETS: Mapping[str, Preset] = {
    # torchvision/models/detection: what roi_heads.py, postprocess_detections, puts into its dictionaries
    "torchvision": _TORCHVISION,
    "torchvision_mask": {**_TORCHVISION, "masks": {"tensor": "masks", "form": "pasted"}},
    "torchvision_keypoint": {**_TORCHVISION, "keypoints": {"tensor": "keypoints"}},
    # ultralytics/utils/nms.py, non_max_suppression as `val` calls it: multi_label, conf 0.001, iou 0.7; YOLOv8, 11, 12
    "ultralytics": _ULTRALYTICS,
    # ultralytics/nn/modules/head.py, Detect.postprocess: YOLOv10, 26, and what is exported with nms=True
    "ultralytics_end2end": _END_TO_END,
    # ultralytics/utils/ops.py, process_mask: 32 coefficients behind the classes, prototypes in the second output
    "ultralytics_seg": {
        **_ULTRALYTICS,
        "scores": {"axis": 1, "columns": [4, -32]},
        "masks": {
            "tensor": 1,
            "form": "prototypes",
            "activation": "sigmoid",
            "coefficients": {"axis": 1, "columns": [-32]},
        },
    },
    # ultralytics/nn/modules/head.py, Pose: one class, 17 keypoints decoded in pixels, their visibility a probability
    "ultralytics_pose": {
        **_ULTRALYTICS,
        "scores": {"axis": 1, "columns": [4, 5]},
        "keypoints": {"axis": 1, "columns": [5]},
    },
    # yolov5/models/yolo.py, Detect: objectness in the fifth column; thresholds of val.py
    "yolov5": {
        "boxes": {"columns": [0, 4], "form": "cxcywh"},
        "objectness": {"columns": 4},
        "scores": {"columns": [5]},
        "multi_label": True,
        "score": 0.001,
        "nms": {"iou": 0.6},
    },
    # yolox/models/yolo_head.py, decode_outputs, which tools/export_onnx.py leaves out; thresholds of exp/yolox_base.py
    "yolox": _YOLOX,
    # the same with --decode_in_inference
    "yolox_decoded": {
        **{name: each for name, each in _YOLOX.items() if name != "points"},
        "boxes": {"columns": [0, 4], "form": "cxcywh"},
    },
    # transformers DetrImageProcessor.post_process_object_detection; YOLOS, Conditional DETR's kin with "no object" last
    "detr": {
        "scores": {"tensor": 0, "activation": "softmax"},
        "boxes": {"tensor": 1, "form": "cxcywh", "unit": "relative"},
        "background": "last",
    },
    # transformers RTDetrImageProcessor.post_process_object_detection, with which D-FINE comes too
    "rtdetr": _QUERIES,
    "dfine": _QUERIES,
    # rfdetr/deploy/export.py: dets, then labels; the best are taken as in RT-DETR
    "rfdetr": {
        **_QUERIES,
        "scores": {"tensor": 1, "activation": "sigmoid"},
        "boxes": {**_QUERIES["boxes"], "tensor": 0},
    },
    # effdet/bench.py, _post_process and anchors.py, generate_detections; label k there is k - 1 here
    "effdet": {
        "scores": {"tensor": [0, 1, 2, 3, 4], "axis": 1, "per_cell": 9, "activation": "sigmoid"},
        "boxes": {"tensor": [5, 6, 7, 8, 9], "axis": 1, "per_cell": 9, "form": "deltas", "order": "yx"},
        "anchors": {
            "levels": [
                {"stride": stride, "sizes": [[stride * x, stride * y] for x, y in _EFFDET_SIZES]}
                for stride in (8, 16, 32, 64, 128)
            ]
        },
        "multi_label": True,
        "maximum": 100,
        "nms": {"iou": 0.5, "candidates": 5000},
    },
    # pytorch-ssd, vision/ssd/ssd.py with is_test and predictor.py: scores behind softmax, class 0 the background
    "ssd": {
        "scores": {"tensor": 0},
        "boxes": {"tensor": 1, "unit": "relative"},
        "background": "first",
        "multi_label": True,
        "score": 0.01,
        "nms": {"iou": 0.45},
    },
    # detectron2/export/flatten.py: the fields of Instances by alphabet, then the size of the image
    "detectron2": _DETECTRON2,
    "detectron2_mask": {**_DETECTRON2, "masks": {"tensor": 2}, "scores": {"tensor": 3}},
    # maskrcnn_benchmark, and with it the Mask R-CNN of ONNX's model zoo: boxes, labels, scores, masks
    "maskrcnn_benchmark": {**_DETECTRON2, "masks": {"tensor": 3}},
    # mmdet/core/export and mmdeploy's mmdet codebase: dets with the score last, labels, masks as large as the canvas
    "mmdet": _MMDET,
    "mmdet_mask": {**_MMDET, "masks": {"tensor": 2, "form": "pasted"}},
    # detectron2's mask2former/maskformer_model.py, instance_inference; transformers exports the same two outputs
    "mask2former": {
        "scores": {"tensor": 0, "activation": "softmax"},
        "background": "last",
        "multi_label": True,
        "maximum": 100,
        "masks": {"tensor": 1, "form": "per_query", "activation": "sigmoid", "rescore": True},
    },
}


def laid_under(preset: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `over` with what it leaves out taken from `preset`, mappings key by key; None takes a key away."""
    merged = {name: each for name, each in preset.items() if name not in over}
    for name, each in over.items():
        below = preset.get(name)
        both = isinstance(each, Mapping) and isinstance(below, Mapping) and name != "categories"
        if each is not None:
            merged[name] = laid_under(below, each) if both else each  # type: ignore[arg-type]
    return merged
