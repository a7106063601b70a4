"""A loader in several processes at once, as the ranks of a run on one machine."""

import multiprocessing
import time
from contextlib import closing
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from pipelines.loader import LoaderSettings, ProcessInfo, unlabelled_loader
from pipelines.source import open_split
from pipelines.views import ViewSettings

LONGEST_S = 300.0
"""A rank that is not ready by then has failed, and the others stop waiting for it."""


def measure_ranks(
    shards: str, views: ViewSettings, *, world: int, batch_size: int, threads: int, batches: int, rounds: int
) -> list[float]:
    """Persons a second of all ranks together, for each round: from a common start to the last one's end."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(world), context.Queue()
    told: dict[str, Any] = {
        "batch_size": batch_size,
        "threads": threads,
        "batches": batches,
        "rounds": rounds,
    }
    ranks = [
        context.Process(target=run_rank, args=(barrier, seconds, shards, views, rank, world), kwargs=told)
        for rank in range(world)
    ]
    for each in ranks:
        each.start()
    found = [seconds.get(timeout=2 * LONGEST_S) for _ in ranks]
    for each in ranks:
        each.join()
    if None in found:
        raise RuntimeError(f"a rank of {world} failed; what it said stands above")
    return [world * batch_size * batches / max(of_round) for of_round in zip(*found, strict=True)]


def run_rank(
    barrier: Barrier,
    seconds: Any,
    shards: str,
    views: ViewSettings,
    rank: int,
    world: int,
    *,
    batch_size: int,
    threads: int,
    batches: int,
    rounds: int,
) -> None:
    """One rank: put the seconds of its rounds into the queue, or None where it fails."""
    found = None
    try:
        stream = unlabelled_loader(
            open_split(shards),
            views,
            batch_size=batch_size,
            seed=0,
            process=ProcessInfo(rank, world, torch.device("cpu")),
            settings=LoaderSettings(threads=threads),
        )
        with closing(stream):
            times = []
            for _ in range(rounds):
                for _ in range(4):
                    next(stream)
                barrier.wait(LONGEST_S)
                began = time.perf_counter()
                for _ in range(batches):
                    next(stream)
                times.append(time.perf_counter() - began)
        found = times
    finally:
        seconds.put(found)
