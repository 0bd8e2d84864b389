"""How much memory this process and those that it starts may take, which a model's sizes may not tell beforehand."""

from __future__ import annotations

import sys

from graphsurgery.errors import InputError


def limit_memory(gigabytes: float) -> None:
    """Have whatever asks for more fail, in this process and in each that it starts, with an error in place of a crash.

    Counted is what is written to memory of its own (RLIMIT_DATA): not the files that are mapped, nor what an
    accelerator holds. Raises InputError on systems that have no such limit.
    """
    if sys.platform != "linux":
        raise InputError(
            "--memory-limit: only Linux has such a limit; on others use what starts the command, a container"
        )
    import resource

    wanted, (_, most) = int(gigabytes * 2**30), resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
