"""Vendors' toolchains in environments of their own: their pins rarely agree with each other, or with ours.

toolchain     one as data: NAME.yaml, and lock files of exact pins
environment   where an environment lies, what is in it, and whether it is still the one of the lock
install       makes one with pip or uv, under a temporary name
tool_worker   a script in an environment, which answers one request after another
workers/      such scripts; they import the standard library and the tool alone
"""

from graphsurgery.toolchains.environment import require
from graphsurgery.toolchains.tool_worker import ToolWorker
from graphsurgery.toolchains.toolchain import Toolchain, find_toolchain, names

__all__ = ["ToolWorker", "Toolchain", "find_toolchain", "names", "require"]
