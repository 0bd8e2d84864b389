"""What the passes ask of operators: patterns of them, axes, windows, slices, channels, shapes, ranges of values.

pattern          chains of operators as text, for passes that fuse them
"""
