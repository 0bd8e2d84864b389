"""What a detector is worth: COCO average precision of the original, of its parts, and of their variants.

dataset -> columns -> tasks -> store, workers, cluster -> measure
coco           detections as COCO has them, and their average precision by pycocotools
dataset        the images and annotations, looked at before the work begins
columns        what is evaluated: the original, the parts, one variant after another
tasks          one image of one column, the unit of work
store          what was found so far, on disk, so that an interrupted run goes on
workers        tasks in this process or in several; beside: in one while this does something else; cluster: on dask's
measure        all of it together
"""
