"""What comes out: parts of a graph, and how they belong together.

part       a part: its graph, and where it runs
manifest   what the runtime has to know of all parts
describe   that, of parts that were just made
folder     the folder that they lie in, published whole or not at all
"""
