"""What accelerators take, as data: graphsurgery/targets/NAME.yaml.

schema     what stands in such a file: per operator the limits, what is beyond them, what helps, and the source
facts      what a limit can be about: the kernel of a Conv, the factor of a Resize, any attribute of ONNX's
load       a target by name, from the package, from other packages, or from a file, with every mistake told by its line
support    a graph held against a target: of each node whether it is taken, and if not, why
"""
