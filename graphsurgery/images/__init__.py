"""Images and what is found in them: files, the canvas of a network, drawings, run lengths of masks."""
