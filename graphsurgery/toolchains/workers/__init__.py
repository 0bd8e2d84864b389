"""Scripts that run in the environments of toolchains, where this package is not: each stands alone but for `serving`.

What they answer is in their first lines; the parent's end is graphsurgery.toolchains.tool_worker.
"""
