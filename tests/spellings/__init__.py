"""The embedded detector's trained weights in the graphs of other exporters, written down by torch code of our own.

Each module builds one, so that a recipe for such a file has an AP before and after it: what an export with random
weights finds says nothing.
"""
