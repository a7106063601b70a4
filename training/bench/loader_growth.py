"""How the cost of loading and masking a person grows, one thing varied at a time."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache, partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from semipose.configs.schema import plain
from semipose.pipelines.loader import ProcessInfo, TrainLoader, unlabelled_loader
from semipose.pipelines.loader_settings import LoaderSettings
from semipose.pipelines.source import Split, open_split
from semipose.training.bench import masking
from semipose.training.bench.loader import devices, on
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.people import cut_people
from semipose.training.bench.result import Result, Row, beside_first, make_row
from semipose.training.bench.settings import KEYPOINTS
from semipose.training.bench.settings import LoaderGrowthSettings as Settings
from semipose.training.bench.tables import finish
from semipose.training.bench.timing import NextBatch, Variant, measure

LONGEST_S = 300.0
"""A rank that is not ready by then has failed, and the others stop waiting for it."""
RANK_WARMUP = 4


def run(cfg: Settings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result."""
    source = cfg.require_photos()
    machine, annotations = describe_machine(), source.read()
    with TemporaryDirectory() as folder, ExitStack() as stack:

        @cache
        def cut(keypoints: int, shards: int) -> Split:
            made = Path(folder, f"{keypoints}-{shards}")
            size_hw = cfg.views.size_hw
            return cut_people(annotations, made, num_keypoints=keypoints, num_shards=shards, size_hw=size_hw)

        variants = [
            *loader_variants(cfg, cut, stack),
            *(variant for device in devices() for variant in mask_variants(cfg, device)),
        ]
        timed = measure(variants, rounds=cfg.rounds)
        *_, rates = track(timed, "rounds", total=cfg.rounds, console=console)
        stack.close()
        rows = [
            make_row(variant.name, rates[variant.name], group=variant.group, unit="persons/s")
            for variant in variants
        ]
        rows += [rank_row(cfg, cut(KEYPOINTS, 1).root, world) for world in cfg.ranks]
    result = Result(
        bench="loader-growth",
        machine=machine,
        settings=plain(cfg),
        data={"people": len(annotations.persons), "from": annotations.photos.location},
        rows=beside_first(rows),
    )
    return finish(result, cfg.output, console)


def loader_variants(cfg: Settings, cut: Callable[[int, int], Split], stack: ExitStack) -> Iterator[Variant]:
    """The loader on the CPU against batch, tars, and keypoints, which it carries but does not look at."""

    def variant(name: str, group: str, split: Split, batch_size: int) -> Variant:
        stream = stack.enter_context(closing(open_loader(cfg, split, batch_size)))
        return Variant(name, group, partial(next, stream), batch_size, cfg.batches, warmup=6)

    for size in cfg.batch_sizes:
        yield variant(f"loader, batch {size}", "loader by batch", cut(KEYPOINTS, 1), size)
    for count in cfg.shards_of_people:
        split = cut(KEYPOINTS, min(count, cut(KEYPOINTS, 1).num_samples))
        yield variant(f"loader, shards: {len(split.tars)}", "loader by shards", split, cfg.batch_size)
    for count in cfg.keypoints:
        yield variant(f"loader, K = {count}", "loader by keypoints", cut(count, 1), cfg.batch_size)


def open_loader(
    cfg: Settings, split: Split, batch_size: int, process: ProcessInfo | None = None
) -> TrainLoader[Any]:
    """The loader of unlabelled people."""
    return unlabelled_loader(
        split,
        cfg.views,
        batch_size=batch_size,
        seed=0,
        process=process or ProcessInfo(),
        settings=LoaderSettings(threads=cfg.threads),
    )


def mask_variants(cfg: Settings, device: torch.device) -> Iterator[Variant]:
    """Masks against the batch, counts and masks against the keypoints, masks against the paths."""

    def variant(name: str, group: str, call: NextBatch, size: int = cfg.batch_size) -> Variant:
        return Variant(on(name, device), on(group, device), call, size, cfg.batches, warmup=3)

    def step(size: int, keypoints: int) -> masking.MaskingStep:
        return masking.make_step(size, keypoints, cfg.views.size_hw, device)

    for size in cfg.batch_sizes:
        call = partial(masking.mask, step(size, KEYPOINTS))
        yield variant(f"masks, batch {size}", "masks by batch", call, size)
    for what, part in (("counts", masking.count), ("masks", masking.mask)):
        for count in cfg.keypoints:
            call = partial(part, step(cfg.batch_size, count))
            yield variant(f"{what}, K = {count}", f"{what} by keypoints", call)
    for count in cfg.paths:
        of_paths = partial(mask_paths, step(cfg.batch_size, KEYPOINTS), count)
        yield variant(f"masks, paths: {count}", "masks by paths", of_paths)


def mask_paths(step: masking.MaskingStep, paths: int) -> None:
    """Mask a copy of the strong views for each path."""
    for _ in range(paths):
        masking.mask(replace(step, images=step.images.clone()))


def rank_row(cfg: Settings, shards: str, world: int) -> Row:
    """All ranks together; on one machine they share its cores."""
    rates = measure_ranks(cfg, shards, world)
    name = f"loader, ranks together: {world}"
    return make_row(name, rates, group="loader by ranks", unit="persons/s", facts={"ranks": world})


def measure_ranks(cfg: Settings, shards: str, world: int) -> list[float]:
    """Persons per second of all ranks together, for each round: from a common start to the last one's end."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(world), context.Queue()
    ranks = [
        context.Process(target=run_rank, args=(cfg, shards, rank, world, barrier, seconds))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    by_rank = [seconds.get(timeout=2 * LONGEST_S) for _ in ranks]
    for process in ranks:
        process.join()
    if None in by_rank:
        raise RuntimeError(f"a rank of {world} failed; what it said stands above")
    return [world * cfg.batch_size * cfg.batches / max(of_round) for of_round in zip(*by_rank, strict=True)]


def run_rank(cfg: Settings, shards: str, rank: int, world: int, barrier: Barrier, seconds: Any) -> None:
    """One rank: put the seconds of its rounds into the queue, or None if it fails."""
    times: list[float] | None = None
    try:
        process = ProcessInfo(rank, world, torch.device("cpu"))
        with closing(open_loader(cfg, open_split(shards), cfg.batch_size, process)) as stream:
            measured = []
            for _ in range(cfg.rounds):
                for _ in range(RANK_WARMUP):
                    next(stream)
                barrier.wait(LONGEST_S)
                began = time.perf_counter()
                for _ in range(cfg.batches):
                    next(stream)
                measured.append(time.perf_counter() - began)
        times = measured
    finally:
        seconds.put(times)
