"""What the original model computes on sample images: the reference that every pass is held against.

samples   captured tensors, read from disk when asked for
take      captures them from a source
"""
