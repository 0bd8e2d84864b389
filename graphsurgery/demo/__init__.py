"""The embedded default: a shapes data set, a tiny Mask R-CNN, and its trained checkpoint.

`shapes` draws the images (numpy and Pillow), `network` builds the model and `train` reproduces the checkpoint
(torch). Importing this package imports none of them.
"""
