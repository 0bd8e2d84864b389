"""Cuts a graph into parts, by its structure, and gives the tensors between them their names.

cut              where to cut
named_parts      the parts, under the names that the recipe gives them
operator_names   what a recipe means by the name of an operator
boundary_names   the names of the captured tensors, found by value
static           whether every shape in a part is known
"""
