"""Tasks done on a dask.distributed cluster, whose workers find the parts and the images at the same paths.

Bits are the same as on one machine where the processors are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.evaluation.tasks import Found, Task
from graphsurgery.evaluation.workers import Done, InProcess, do
from graphsurgery.processes import cluster


class OnCluster(InProcess):
    """Does tasks on the cluster of `scheduler`, tcp://host:port, and judges columns here, where what was found lies."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """As Runner. Raises as `processes.cluster.on_cluster`."""
        return cluster.on_cluster(tasks, _WORK, self._scheduler)


def what_is_wrong(tasks: Sequence[Task]) -> str | None:
    """Say, on a worker, why it can't do such tasks; None if it can."""
    for task in tasks:
        try:
            task.column.check()
            if not task.picture.path.is_file():
                return f"there is no image {task.picture.path}"
        except GraphSurgeryError as error:
            return str(error)
    return None


def _one_of_each_column(tasks: Sequence[Task]) -> list[Task]:
    return list({task.column.name: task for task in reversed(tasks)}.values())


_WORK: cluster.Work[Task, Found] = cluster.Work(
    do,
    what_is_wrong,
    _one_of_each_column,
    lambda task: task.called,
    files="Parts and images must lie at the same paths there",
    kept="What was found so far is kept",
)
