"""Cuts a graph into parts, by its structure, and gives the tensors between them their names.

cut              where to cut, and the parts
boundary_names   the names of the captured tensors, found by value
static           whether every shape in a part is known
"""
