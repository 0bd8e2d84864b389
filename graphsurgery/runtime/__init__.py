"""Plays the parts of a detector on images.

detector         an image in, detections on that image out
player           one part in a session, and the chain of parts
timer            how long its runs took
threads          how many of them an operator takes, by part
overlap          several images at a time, each in another part
unfrozen_batch   a frozen batch opened on the CPU, where that changes nothing
winograd         its convolutions with a third of the products, where that pays
latency          how long all of it takes
side_by_side     frames one after another against several at a time
random_inputs    for what needs no image

What a part on the CPU is played with is decided in `player.Chain.open`: which graph, how many threads, whether they
spin. `devices.session.Session` turns that into the settings of ONNX Runtime.
"""
