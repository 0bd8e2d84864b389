"""Cuts a graph into parts, by its structure, and gives the tensors between them their names.

cut              the cut as a whole: from the graph to the parts
stages           where partition.at cuts, and how many cuts stand before a node
weights          which nodes hold weights of the network, which of its decode
islands          what an accelerator part holds, and what no accelerator runs
boundaries       what the host runs where, and the tensors that cross
named_parts      the parts, under the names that the recipe gives them
operator_names   what a recipe means by the name of an operator
boundary_names   the names of the captured tensors, found by value
static           whether every shape in a part is known
"""
