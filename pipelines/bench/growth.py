"""How the cost of a person grows: `python -m pipelines.bench.growth [key=value ...]`; see README.md."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field
from rich.console import Console
from rich.progress import track
from rich.table import Table

from configs.load import InputError, command
from configs.schema import plain
from configs.settings import settings
from pipelines.bench import masks
from pipelines.bench.measure import NextBatch, Variant, describe_machine, measure
from pipelines.bench.plot import plot
from pipelines.bench.ranks import measure_ranks
from pipelines.bench.result import Result, Row, compare, make_row, short, write_result
from pipelines.bench.rows import devices, on
from pipelines.bench.settings import Count, PeopleSettings, threads_here
from pipelines.bench.variations import cut_people
from pipelines.loader import LoaderSettings, unlabelled_loader
from pipelines.source import Split
from pipelines.views import ViewSettings
from sharding.annotations.record import Annotations


@settings
class GrowthSettings(PeopleSettings):
    """What is varied, one thing at a time, from `batch_size`, 17 keypoints, one shard, one path, one rank."""

    output: Path = Path("runs/bench/growth.json")
    """The result file; the plot goes beside it."""
    views: ViewSettings = Field(default_factory=ViewSettings)
    """Size of the views, and how they are drawn."""
    batch_size: Count = 32
    """Persons in a batch where that is not varied."""
    batch_sizes: tuple[Count, ...] = (8, 16, 32, 64)
    """Persons in a batch."""
    keypoints: tuple[Count, ...] = (14, 17, 24, 133)
    """Keypoints of a person."""
    paths: tuple[Count, ...] = (1, 2, 3, 4)
    """Strong paths, each masked anew."""
    shards_of_people: tuple[Count, ...] = (1, 8, 64)
    """Tars that hold the people."""
    ranks: tuple[Count, ...] = (1, 2)
    """Processes that load at the same time."""
    threads: Count = Field(default_factory=threads_here)
    """CPU threads of a loader."""
    rounds: Count = 5
    """How often each variant is timed."""
    batches: Count = 10
    """Batches in one timing, at least."""


K = 17


def run(cfg: GrowthSettings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the table; returns the result."""
    source = cfg.chosen()
    if source is None:
        raise InputError(
            "growth cuts the people anew: give photos and annotations, or source, instead of shards"
        )
    machine, annotations = describe_machine(), source.read()
    quiet = Console(quiet=True)
    with TemporaryDirectory() as name, ExitStack() as stack:
        cut = partial(cut_people, annotations, size_hw=cfg.views.size_hw, console=quiet)
        whole = cut(Path(name, "whole"), num_keypoints=K, num_shards=1)
        variants = [*batch_variants(cfg, whole, stack), *mask_variants(cfg)]
        variants += shard_variants(cfg, cut, Path(name), stack, annotations)
        variants += keypoint_variants(cfg, cut, Path(name), stack)
        rates = measure(variants, rounds=track(range(cfg.rounds), "rounds", console=console))
        stack.close()
        rows = [make_row(each.name, rates[each.name], group=each.group, unit=each.unit) for each in variants]
        rows += rank_rows(cfg, whole.root)
    result = Result(
        bench="pipelines-growth",
        machine=machine,
        settings=plain(cfg),
        data={"people": whole.num_samples, "from": annotations.photos.location},
        rows=beside_first(rows),
    )
    write_result(cfg.output, result)
    plot(result, cfg.output.with_suffix(".png"))
    console.print(table(result, "the cost of a person"))
    console.print(f"written to {cfg.output}, plot beside it", highlight=False)
    return result


def loader_of(cfg: GrowthSettings, split: Split, batch_size: int, stack: ExitStack) -> NextBatch:
    """What takes batches from a loader on the CPU."""
    threads = LoaderSettings(threads=cfg.threads)
    stream = unlabelled_loader(split, cfg.views, batch_size=batch_size, seed=0, settings=threads)
    return partial(next, stack.enter_context(closing(stream)))


def batch_variants(cfg: GrowthSettings, split: Split, stack: ExitStack) -> list[Variant]:
    """Loader and masks against the batch."""
    found = []
    for size in cfg.batch_sizes:
        next_batch = loader_of(cfg, split, size, stack)
        found.append(Variant(f"loader, batch {size}", "loader by batch", next_batch, size, cfg.batches, 6))
    for device in devices():
        for size in cfg.batch_sizes:
            step = masks.make_step(size, K, cfg.views.size_hw, device)
            name, group = on(f"masks, batch {size}", device), on("masks by batch", device)
            found.append(Variant(name, group, partial(masks.mask, step), size, cfg.batches, 3))
    return found


def mask_variants(cfg: GrowthSettings) -> list[Variant]:
    """Counts and masks against the keypoints, masks against the paths."""
    found, size = [], cfg.batch_size
    for device in devices():
        for what, call in (("counts", masks.count), ("masks", masks.mask)):
            for number in cfg.keypoints:
                step = masks.make_step(size, number, cfg.views.size_hw, device)
                name, group = on(f"{what}, K = {number}", device), on(f"{what} by keypoints", device)
                found.append(Variant(name, group, partial(call, step), size, cfg.batches, 3))
        for number in cfg.paths:
            step = masks.make_step(size, K, cfg.views.size_hw, device)
            name, group = on(f"masks, paths: {number}", device), on("masks by paths", device)
            found.append(Variant(name, group, partial(mask_paths, step, number), size, cfg.batches, 3))
    return found


def mask_paths(step: masks.Step, paths: int) -> None:
    """Mask a copy of the strong views for each path."""
    for _ in range(paths):
        masks.mask(masks.Step(**{**vars(step), "images": step.images.clone()}))


def shard_variants(
    cfg: GrowthSettings, cut: Callable[..., Split], folder: Path, stack: ExitStack, annotations: Annotations
) -> list[Variant]:
    """The loader against the number of tars."""
    found = []
    for number in cfg.shards_of_people:
        tars = min(number, len(annotations.persons))
        split = cut(folder / f"shards-{number}", num_keypoints=K, num_shards=tars)
        next_batch = loader_of(cfg, split, cfg.batch_size, stack)
        name = f"loader, shards: {len(split.tars)}"
        found.append(Variant(name, "loader by shards", next_batch, cfg.batch_size, cfg.batches, 6))
    return found


def keypoint_variants(
    cfg: GrowthSettings, cut: Callable[..., Split], folder: Path, stack: ExitStack
) -> list[Variant]:
    """The loader against the keypoints, which the unlabelled stream carries past but does not look at."""
    found = []
    for number in cfg.keypoints:
        split = cut(folder / f"keypoints-{number}", num_keypoints=number, num_shards=1)
        next_batch = loader_of(cfg, split, cfg.batch_size, stack)
        name, group = f"loader, K = {number}", "loader by keypoints"
        found.append(Variant(name, group, next_batch, cfg.batch_size, cfg.batches, 6))
    return found


def rank_rows(cfg: GrowthSettings, shards: str) -> list[Row]:
    """All ranks together; on one machine they share its cores."""
    rows = []
    for world in cfg.ranks:
        rates = measure_ranks(
            shards,
            cfg.views,
            world=world,
            batch_size=cfg.batch_size,
            threads=cfg.threads,
            batches=cfg.batches,
            rounds=cfg.rounds,
        )
        name = f"loader, ranks together: {world}"
        rows.append(make_row(name, rates, group="loader by ranks", unit="persons/s", facts={"ranks": world}))
    return rows


def beside_first(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Each row compared with the first of its group: where cost is linear, that is 1 everywhere."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.group, row)
    return tuple(compare(row, first[row.group]) for row in rows)


def table(result: Result, title: str) -> Table:
    """The rows as people read them; a cost of 1 means that it does not depend on what is varied."""
    cores = result.machine["cores"]
    shown = Table("row", title=f"{title} on {cores} cores, which ranks share", title_justify="left")
    for column in (result.rows[0].unit, "quartiles", "cost"):
        shown.add_column(column, justify="right")
    group = result.rows[0].group
    for row in result.rows:
        if row.group != group:
            group = row.group
            shown.add_section()
        quartiles = f"{short(row.iqr[0])} to {short(row.iqr[1])}"
        shown.add_row(row.name, short(row.median), quartiles, f"{1 / (row.times_base or 1):.2f}")
    return shown


def main() -> None:
    """Measure with progress and table on the terminal."""
    command(
        GrowthSettings,
        lambda cfg: run(cfg, Console()),
        description="How the cost of loading and masking grows with batch, keypoints, paths, shards, ranks.",
    )


if __name__ == "__main__":
    main()
