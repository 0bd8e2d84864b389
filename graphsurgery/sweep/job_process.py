"""The other end of a job: the command line, in a process that ends when the one that began it does.

    python -m graphsurgery.sweep.job_process apply shapes ...

Standard input is a pipe that nobody writes into. Where it ends, whoever began this is gone, and so is the job.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _hang_on() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_hang_on, daemon=True).start()
    sys.argv[0] = "graphsurgery"
    runpy.run_module("graphsurgery", run_name="__main__")
