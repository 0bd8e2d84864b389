"""The rows that torchvision's two-stage detectors have, by the names that the capture gives them.

An ONNX file whose outputs are called so is compared in the same way.
"""

from __future__ import annotations

from graphsurgery.detections.row_groups import Group, Pasted, Worth

DETECTIONS = Group(
    keys=("boxes", "labels", "scores"),
    members=(
        "masks",
        "masks_pasted",
        "keypoints",
        "keypoints_scores",
        # The mask and keypoint heads run on the final boxes, one row each.
        "mask_features",
        "mask_logits",
        "keypoint_features",
        "keypoint_logits",
    ),
    noun="detections",
    pasted=Pasted("masks_pasted", "masks"),
)
ROIS = Group(
    keys=("proposals",),
    members=("box_features", "class_logits", "box_regression"),
    noun="proposals",
    worth=Worth("proposal_scores", "proposals_considered", "proposals_considered_scores"),
)
ROW_GROUPS = (DETECTIONS, ROIS)
