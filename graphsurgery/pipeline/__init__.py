"""The whole way of a run.

apply             from a recipe to a folder of parts, each step checked
captured_samples  what a run compares with, captured where it isn't there
references        what a tensor is compared with that the capture has no name for
variants          the same detector for other devices
precision         what is left of AP, begun beside the rest of the run
options           what the command line says beside a recipe
whole_run         all of these, latency and report: what the command `apply` does
"""
