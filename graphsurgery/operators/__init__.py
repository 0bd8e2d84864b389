"""What the passes ask of operators: axes, windows, slices, channels, shapes, ranges of values."""
