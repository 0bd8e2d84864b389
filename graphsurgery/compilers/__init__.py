"""What vendors' toolchains want of parts, one file each; docs/compilers.md shows how one is written.

Each is found by itself: nothing lists them, and nothing imports one by name.
"""
