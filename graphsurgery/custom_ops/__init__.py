"""Custom operators of exporters and vendors, one per file; docs/custom-operators.md shows how one is written.

Each is found by itself: nothing lists them, and nothing imports one by name. What several share stands in files whose
names begin with an underscore.
"""
