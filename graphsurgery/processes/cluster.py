"""Items worked on by a dask.distributed cluster, whose workers find files at the same paths as this machine.

    dask scheduler &  dask worker tcp://host:8786 --nthreads 1 --nworkers -1 &
    python -m graphsurgery evaluate ... --scheduler tcp://host:8786

A worker process takes one item at a time. What a worker that dies had in hand, dask gives to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import queue
import time
import traceback
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from graphsurgery.errors import GraphSurgeryError, InputError, MissingTool, first_line, missing_extra
from graphsurgery.version import __version__

# seconds: until a scheduler must have answered, until there must be a worker, between looks at the cluster
_ANSWER, _WORKER, _LOOK = 10, 30, 5
# tasks per worker that are on their way, so that none waits for the next
_AHEAD = 3


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Item, Result]):
    """What is done with an item, on a worker.

    `check` gets some items, those of `sample`, and says on a worker what it lacks for such, None if nothing; `called`
    is an item's name in messages; `files` says which files must be there, `kept` what becomes of what is done when a
    run ends early.
    """

    do: Callable[[Item], Result]
    check: Callable[[Sequence[Item]], str | None]
    sample: Callable[[Sequence[Item]], Sequence[Item]]
    called: Callable[[Item], str]
    files: str
    kept: str


def on_cluster(items: Sequence[Item], work: Work[Item, Result], scheduler: str) -> Iterator[tuple[Item, Result]]:
    """Have the items worked on by the cluster of `scheduler`, tcp://host:port; results come in any order.

    Raises MissingTool where dask.distributed is not installed, and for a scheduler that doesn't answer, has no worker
    or goes away; InputError for workers that don't find the files; and what working on an item raises.
    """
    require_distributed()
    if not items:
        return
    with _client(scheduler) as client:
        _check_workers(client, items, work, scheduler)
        yield from _done(client, items, work, scheduler)


def require_distributed() -> None:
    """Raise MissingTool without dask.distributed."""
    try:
        import distributed
    except ImportError as error:
        raise missing_extra("distributed", "dask", "--scheduler") from error
    del distributed


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """Connect; what dask would log of lost connections and versions is said in one line by the errors raised here."""
    distributed: Any = importlib.import_module("distributed")
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    client = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _require_scheduler(scheduler)
                client = distributed.Client(scheduler, timeout=_ANSWER, set_as_default=False)
            except Exception as error:  # OSError, TimeoutError, ValueError, by what is wrong with the address
                _let_go_of_client(error)
                raise MissingTool(
                    f"--scheduler {scheduler}: nobody answers ({first_line(error)}); start one: dask scheduler"
                ) from error
            yield client
    finally:
        if client is not None:
            client.close(timeout=_ANSWER)
        logger.setLevel(level)


def _require_scheduler(scheduler: str) -> None:
    """Raise, in `_ANSWER` seconds, where no scheduler answers at the address, before there is a client that fails.

    Such a client closes when it is collected, and takes dask's lock for that. Where dask holds the lock itself just
    then, since it starts or stops another client or a cluster, it waits for itself for ever; and so does one whose
    scheduler takes the connection and says nothing.
    """
    core: Any = importlib.import_module("distributed.core")
    security: Any = importlib.import_module("distributed.security")

    async def ask() -> str:
        arguments = security.Security().get_connection_args("client")
        remote = core.rpc(scheduler, timeout=_ANSWER, connection_args=arguments)
        try:
            async with asyncio.timeout(_ANSWER):
                return str((await remote.identity())["type"])
        except TimeoutError as error:
            raise TimeoutError(f"no word from it in {_ANSWER} s") from error
        finally:
            await remote.close_rpc()

    with ThreadPoolExecutor(1) as thread:  # the caller's may have a loop that runs, as in a notebook
        kind = thread.submit(asyncio.run, ask()).result()
    if kind != "Scheduler":
        raise ValueError(f"there is a {kind.lower()}")


def _let_go_of_client(error: BaseException) -> None:
    """Collect the client that failed all the same, which only the frames of `error` know, here and now."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    gc.collect()


def _check_workers(client: Any, items: Sequence[Item], work: Work[Item, Result], scheduler: str) -> None:
    """Raise unless there are workers, and each of them has the same graphsurgery and finds the files."""
    try:
        client.wait_for_workers(1, timeout=_WORKER)
    except TimeoutError as error:
        raise MissingTool(
            f"--scheduler {scheduler}: it has no worker; start some: dask worker {scheduler} --nthreads 1"
        ) from error
    try:
        seen: Mapping[str, str | None] = client.run(what_is_wrong, __version__, work.check, work.sample(items))
    except Exception as error:  # whatever importing graphsurgery there raised
        raise MissingTool(
            f"--scheduler {scheduler}: its workers can't run graphsurgery {__version__} ({first_line(error)}); "
            "install the same there"
        ) from error
    for worker, wrong in seen.items():
        if wrong is not None:
            raise InputError(f"--scheduler {scheduler}: worker {worker}: {wrong}. {work.files}")


def what_is_wrong(version: str, check: Callable[[Sequence[Item]], str | None], items: Sequence[Item]) -> str | None:
    """Say, on a worker, why it can't work on such items; None if it can."""
    if version != __version__:
        return f"it has graphsurgery {__version__}, not {version}"
    return check(items)


def _done(
    client: Any, items: Sequence[Item], work: Work[Item, Result], scheduler: str
) -> Iterator[tuple[Item, Result]]:
    run = uuid.uuid4().hex  # dask would give back what an earlier run with the same keys found
    left = deque(enumerate(items))
    flying: dict[Any, Item] = {}
    ready: queue.Queue[Any] = queue.Queue()
    workers, last_seen = _workers(client, scheduler), time.monotonic()
    try:
        while left or flying:
            while left and len(flying) < max(1, workers) * _AHEAD:
                number, item = left.popleft()
                future = client.submit(work.do, item, key=f"graphsurgery-{run}-{number}", pure=False)
                flying[future] = item
                future.add_done_callback(ready.put)
            future, found = None, None
            with contextlib.suppress(queue.Empty):
                future = ready.get(timeout=_LOOK)
                found = _result(future, flying[future], work, scheduler)
            if found is not None:
                last_seen = time.monotonic()
                yield flying.pop(future), found
                future.release()
                continue
            if future is not None:  # the worker died that had the result; dask has it found again
                future.add_done_callback(ready.put)
            workers = _workers(client, scheduler)
            if workers:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > _WORKER:  # one that died may be started again
                raise MissingTool(
                    f"--scheduler {scheduler}: all its workers are gone; start some and run again, which goes on from "
                    "here"
                )
    finally:
        client.cancel(list(flying), force=True)


def _workers(client: Any, scheduler: str) -> int:
    try:
        return len(client.nthreads())
    except Exception as error:  # any class, by how the connection broke
        raise _gone(scheduler) from error


def _result(future: Any, item: Item, work: Work[Item, Result], scheduler: str) -> Result | None:
    """Fetch a result; None where it can't be had now, because the worker died that had it."""
    import distributed

    try:
        found: Result = future.result(timeout=_ANSWER)
        return found
    except GraphSurgeryError:
        raise
    except TimeoutError:
        return None
    except distributed.KilledWorker as error:
        raise InputError(
            f"--scheduler {scheduler}: workers keep dying at {work.called(item)}, or at one near it, out of memory "
            f"perhaps. {work.kept}"
        ) from error
    except (asyncio.CancelledError, Exception) as error:  # which one says that it was cancelled is dask's own affair
        if future.status in ("cancelled", "lost"):
            raise _gone(scheduler) from error
        raise


def _gone(scheduler: str) -> MissingTool:
    return MissingTool(f"--scheduler {scheduler}: the scheduler went away; run again, which goes on from here")
