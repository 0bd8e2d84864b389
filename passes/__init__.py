"""The rewrites, one per file: `widen_maxpool.py` holds pass `widen-maxpool`, class `WidenMaxpool`.

Adding a pass edits no list: every file here is found. `python -m graphsurgery passes` shows them.
"""
