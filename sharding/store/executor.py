"""Runs jobs in this process, in processes of this machine, or on a Dask cluster."""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import cv2

from semipose.configs.load import InputError
from semipose.sharding.stopping import held_signals

if TYPE_CHECKING:
    from distributed import Client

_RESUME = "then the same command, which continues after the last complete shard"
Item = TypeVar("Item")
Result = TypeVar("Result")

ANSWER_TIMEOUT_S = 10
"""How long a Dask scheduler may take to answer."""
LOOK_EVERY_S = 5
"""How long to wait for a job before checking the cluster."""
WORKERS_TIMEOUT_S = 120
"""How long a Dask cluster may be without workers."""
AHEAD = 6
"""Number of running or waiting jobs per worker: this limits the memory, and keeps workers busy while a shard
is written to the disk."""


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, executor: str, workers: int
) -> Generator[Result, None, None]:
    """`map(function, items)` on an executor: results in order, at most `AHEAD` jobs per worker in memory.

    executor: `local` or `dask://HOST:PORT`. Raises InputError if the cluster cannot be reached, if its
    scheduler or all its workers disappear, or if a worker process dies.
    """
    if executor == "local" and workers == 1:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    with _open(executor, workers) as (pool, width, look):
        try:
            for item in items:
                with held_signals():  # submitting starts workers
                    pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD * width:
                    yield _result(pending.popleft(), look)
            while pending:
                yield _result(pending.popleft(), look)
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process died, perhaps because memory ran out: start the same command again, with "
                "fewer workers=... if needed; it continues where it stopped"
            ) from error
        except CancelledError as error:
            raise InputError(f"{executor}: the Dask scheduler is gone: start it again, {_RESUME}") from error
        finally:
            for future in pending:
                future.cancel()


def _result(future: Future[Result], look: Callable[[float], None]) -> Result:
    """The result of a job; `look` is called with the seconds waited for it, every `LOOK_EVERY_S`."""
    start = time.monotonic()
    while not wait([future], timeout=LOOK_EVERY_S).done:
        look(time.monotonic() - start)
    return future.result()


@contextmanager
def _open(executor: str, workers: int) -> Iterator[tuple[Executor, int, Callable[[float], None]]]:
    """An executor, its number of parallel jobs, and the check to make while waiting for a job."""
    if executor == "local":
        # A forked worker would inherit locks and threads of this process.
        context = multiprocessing.get_context("spawn")
        with held_signals():
            made = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
        with made as pool:
            yield pool, workers, lambda _: None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(f"{executor}: Dask is not installed: pip install distributed") from error
    for name in ("distributed", "distributed.client", "tornado"):  # what they log becomes one sentence here
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
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
        yield client.get_executor(pure=False), threads, _Watch(client, executor).look


class _Watch:
    """Checks that a Dask cluster has workers, while waiting for a job."""

    def __init__(self, client: "Client", address: str) -> None:
        self._client = client
        self._address = address
        self._alone_since: float | None = None

    def look(self, _: float) -> None:
        """Warn if there is no worker; raise InputError if none comes back for `WORKERS_TIMEOUT_S`."""
        if self._client.nthreads():
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            sys.stderr.write(
                f"{self._address}: the cluster has no workers left: waiting {WORKERS_TIMEOUT_S} s for some\n"
            )
        elif time.monotonic() - self._alone_since > WORKERS_TIMEOUT_S:
            raise InputError(f"{self._address}: the cluster has no workers left: start some, {_RESUME}")


def _begin_worker() -> None:
    """Use one thread per worker, and end with the build if that is killed."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def die_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()
