"""Graphs as pictures: SVG and HTML that need no network.

scene        what is drawn: boxes, and lines between them; told apart from how
boxes        a node of a graph as a box, with its weights and what its attributes say
plain        a graph as a scene, whole, folded, or the region around a node or a tensor
folds        which nodes become one box where there are too many: by module path, repeated block, or order
difference   which nodes of two graphs are the same, and what differs
places       where two graphs differ, as scenes before and after, like places told once
text         small graphs before and after as lines of text
layout       where everything stands, by Graphviz in a process of its own (extra `picture`)
svg          a scene that is laid out as SVG
page         SVG files and HTML pages
"""
