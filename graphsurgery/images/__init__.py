"""Images and what is found in them.

files          reads images and lists of them
annotations    COCO annotation files, and what must hold in a mask before pycocotools sees it
preprocessing  how a network wants an image, as data, with presets
canvas         an image as the network wants it, and what is found there back on the image
resizing       scales an image, as the libraries around networks do
pasting        masks of boxes in a picture
placement      where an image lies on the canvas
other_inputs   inputs besides the image: what they are for an image
batches        one image for a network that takes several at once
drawing        detections drawn on an image
run_lengths    masks as run lengths, as COCO has them
"""
