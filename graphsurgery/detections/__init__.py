"""What a network's outputs are, as data, and how detections are read out of them.

`postprocessing` is the section as data, `presets` the ways of libraries, `decode` reads detections by it, and `guess`
says which preset outputs look like.
"""
