"""The whole way of a run.

apply       from a recipe to a folder of parts, each step checked
references  what a tensor is compared with that the capture has no name for
variants    the same detector for other devices
precision   what is left of AP, begun beside the rest of the run
whole_run   capture, apply, variants, evaluation, latency, report: what the command `apply` does
"""
