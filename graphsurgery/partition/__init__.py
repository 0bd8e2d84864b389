"""Cuts a graph into parts, by its structure, and gives the tensors between them their names."""
