"""The embedded detectors: a shapes data set, a tiny Mask R-CNN and one of a single stage, and their checkpoints.

`shapes` draws the images (numpy and Pillow), `network` builds the Mask R-CNN and `yolo` the other, which learns by
`yolo_loss`; `train` reproduces the checkpoints (torch). Importing this package imports none of them.
"""
