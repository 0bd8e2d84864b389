"""The whole way of a run.

apply       from a recipe to a folder of parts, each step checked
references  what a tensor is compared with that the capture has no name for
variants    the same detector for other devices
whole_run   capture, apply, variants, evaluation, latency, report: what the command `apply` does
"""
