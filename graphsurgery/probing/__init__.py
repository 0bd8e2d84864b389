"""Holds the lines of a target against what the vendor's compiler and simulator really do with one-node models."""
