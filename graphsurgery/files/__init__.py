"""Files: what is read of those that others made, and what is written whole or not at all, whatever ends the process.

door        what is read: regular files of a size, JSON of a depth, names that are no paths
locks       who is writing: a lock that says who holds it, and ends with its owner
lines       lines added one by one to a file that a killed run leaves readable
temporary   names that nobody else makes; what a killed run left under them is removed
commit      many files of a folder replaced at one point: before it none, after it all; and read between two such points
"""

from graphsurgery.files.door import (
    DEVICE_NAME,
    LONGEST_NAME,
    MB,
    first_fault,
    is_plain_name,
    read_bytes,
    read_json,
    reason,
    require_regular,
)
from graphsurgery.files.temporary import written_whole

__all__ = [
    "DEVICE_NAME",
    "LONGEST_NAME",
    "MB",
    "first_fault",
    "is_plain_name",
    "read_bytes",
    "read_json",
    "reason",
    "require_regular",
    "written_whole",
]
