"""Files and folders that are written whole or not at all, whatever ends the process that writes them.

locks       who is writing: a lock that says who holds it, and ends with its owner
temporary   names that nobody else makes; what a killed run left under them is removed
commit      many files of a folder replaced at one point: before it none, after it all; and read between two such points
"""

from graphsurgery.files.temporary import written_whole

__all__ = ["written_whole"]
