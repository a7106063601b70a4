"""Timing in turns: every variant once per round, each round beginning with another one."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")
NextBatch = Callable[[], object]
"""Produces one batch; it is ready when the call returns, except for work on a CUDA stream."""
IDLE_SHARE = 0.2
"""Of one core: below it the processes of a variant count as waiting."""
LONGEST_SETTLE_S = 5.0
SHORTEST_TIMING_S = 0.5
"""A timing of fewer seconds would be one of the clock and the scheduler."""


@dataclass(frozen=True)
class Variant:
    """One way to do the work.

    group: of its row. batch_size: persons of a call. batches: calls in one timing, at least. warmup: calls
    thrown away before each timing: their batches were prefetched while others ran.
    """

    name: str
    group: str
    next_batch: NextBatch
    batch_size: int
    batches: int
    warmup: int


def turns(items: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """The round and the item, for every item once per round; each round begins with the next one."""
    for number in range(rounds):
        turn = number % max(len(items), 1)
        for item in (*items[turn:], *items[:turn]):
            yield number, item


def measure(variants: Sequence[Variant], *, rounds: int) -> Iterator[dict[str, list[float]]]:
    """Time the variants in turns; after every round, all persons per second so far, by the variant's name.

    A timing covers at least `batches` batches and SHORTEST_TIMING_S, begins when nothing that ran before is
    still prefetching, and ends when the device has finished.
    """
    rates: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _, variant in turns(variants, rounds):
        batches, seconds = _time(variant)
        rates[variant.name].append(variant.batch_size * batches / seconds)
        if len({len(timed) for timed in rates.values()}) == 1:
            yield rates


def _time(variant: Variant) -> tuple[int, float]:
    settle()
    for _ in range(variant.warmup):
        variant.next_batch()
    wait_for_gpu()
    batches, start, seconds = 0, time.perf_counter(), 0.0
    while seconds < SHORTEST_TIMING_S:
        for _ in range(variant.batches):
            variant.next_batch()
        wait_for_gpu()
        batches, seconds = batches + variant.batches, time.perf_counter() - start
    return batches, seconds


def settle() -> None:
    """Wait until this process and its children are idle: until no loader fills its queues any more."""
    pause_s, deadline = 0.02, time.perf_counter() + LONGEST_SETTLE_S
    used = _cpu_seconds()
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        time.sleep(pause_s)
        before, used = used, _cpu_seconds()
        if used - before < IDLE_SHARE * (time.perf_counter() - began):
            return


def _cpu_seconds() -> float:
    """CPU time of this process and its children since they began."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def wait_for_gpu() -> None:
    """Return when the device has done all that it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
