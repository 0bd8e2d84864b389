"""Images and what is found in them.

files          reads images and lists of them
preprocessing  how a network wants an image, as data, with presets
canvas         an image as the network wants it, and what is found there back on the image
drawing        detections drawn on an image
run_lengths    masks as run lengths, as COCO has them
"""
