"""The whole way of a run.

apply       from a recipe to a folder of parts, each step checked
variants    the same detector for other devices
whole_run   capture, apply, variants, evaluation, latency, report: what the command `apply` does
"""
