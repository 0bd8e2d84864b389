"""Plays the parts of a detector on images.

detector         an image in, detections on that image out
overlap          several images at a time, each in another part
unfrozen_batch   a frozen batch opened on the CPU, where that changes nothing
latency          how long all of it takes
"""
