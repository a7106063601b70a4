"""Where jobs run: in this process, in processes of this machine, or on a Dask cluster."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import cv2

from configs.load import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

ANSWER_TIMEOUT_S = 10
"""How long a Dask scheduler may take to answer."""
AHEAD = 6
"""Jobs under way or waiting for each worker: it bounds the memory, and keeps workers busy while a shard goes
to the disk."""


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, executor: str, workers: int
) -> Generator[Result, None, None]:
    """`map(function, items)` on an executor: results in order, at most `AHEAD` jobs a worker in memory.

    executor: `local` or `dask://HOST:PORT`. Raises InputError where the cluster cannot be reached or a worker
    dies.
    """
    if executor == "local" and workers == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with _open(executor, workers) as (pool, width):
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD * width:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process died, perhaps for want of memory: start the same command again, it goes on "
                "where it stood; workers=... takes fewer"
            ) from error
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _open(executor: str, workers: int) -> Iterator[tuple[Executor, int]]:
    """An executor and how many jobs it does at a time."""
    if executor == "local":
        # A forked worker would inherit locks and threads of this process.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
            yield pool, workers
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(f"{executor}: Dask is not installed: pip install distributed") from error
    try:
        client = Client(executor.replace("dask://", "tcp://"), timeout=ANSWER_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        raise InputError(
            f"{executor}: no Dask scheduler answers ({error}): start one or correct the address"
        ) from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise InputError(f"{executor}: the cluster has no workers: start some")
        yield client.get_executor(pure=False), threads


def _begin_worker() -> None:
    """One thread a worker; and a worker whose build is killed must not outlive it."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
