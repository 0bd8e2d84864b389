"""YAML files that people write: each mistake is told with file and line.

`positions` reads a file, `validate` holds its pieces against types.
"""
