"""Measure the pipelines: `python -m pipelines.bench [key=value ...]`.

On COCO: `source.name=coco source.annotations=FILE source.images=FOLDER`.

Persons a second, from the same photos and in the same run: the classic loader, each stage of ours, and our
loader end to end. Rounds are interleaved, since machines drift; medians and quartiles are reported, and every
row is printed, the losing ones too.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console
from rich.progress import track
from rich.table import Table

from configs.load import command
from configs.schema import plain
from configs.settings import settings
from pipelines import graph
from pipelines.bench.classic import ClassicDataset, classic_batches
from pipelines.bench.measure import NextBatch, Row, describe_machine, measure
from pipelines.graph import Graph, Pipeline, Reading
from pipelines.loader import LoaderSettings, Place, unlabelled_loader
from pipelines.source import Split, open_split
from pipelines.views import ViewSettings
from sharding.build import BuildSettings, build
from sharding.crop import PersonCrop, WholePhoto
from sharding.formats.drawn import DrawnFormat
from sharding.formats.source import Source
from sharding.manifest import write_atomic

CLASSIC = "classic loader (cv2, whole photos)"
LOADER = "loader, CPU"
Count = Annotated[int, Field(ge=1)]


@settings
class BenchSettings:
    """What is measured, and how long."""

    source: Source = Field(
        default_factory=lambda: DrawnFormat(folder=Path("data/bench"), people=600, size_wh=(640, 480))
    )
    """Annotations and photos; all loaders see the same persons. Without it people are drawn, once."""
    output: Path = Path("runs/bench/result.json")
    """The result file."""
    views: ViewSettings = Field(default_factory=ViewSettings)
    """Size and laws of the views."""
    batch_size: Count = 32
    """Persons in a batch."""
    threads: Count = 2
    """Worker processes of the classic loader, and CPU threads of ours."""
    rounds: Count = 9
    """How often each variant is timed."""
    batches: Count = 20
    """Batches in one timing."""


@dataclass(frozen=True)
class Bench:
    """The two kinds of shards of the same persons, and how to read them."""

    cfg: BenchSettings
    crops: Split
    photos: Split

    def stage(self, graph_of_stage: Graph) -> NextBatch:
        """Return what runs a graph on the crops without handing anything to torch."""
        reading = Reading(
            tars=self.crops.tars,
            indices=self.crops.indices,
            batch_size=self.cfg.batch_size,
            seed=0,
            shuffle_buffer=self.crops.num_samples,
            threads=self.cfg.threads,
        )
        return Pipeline(graph_of_stage, reading).dali.run

    def loader(self, split: Split, device: str) -> NextBatch:
        """Return what takes batches from the unlabelled loader, as training does."""
        threads = LoaderSettings(threads=self.cfg.threads)
        where = torch.device(device)
        stream = unlabelled_loader(
            split,
            self.cfg.views,
            batch_size=self.cfg.batch_size,
            seed=0,
            place=Place(device=where),
            settings=threads,
        )
        return partial(next, stream)


def read_stage(reading: Reading) -> dict[str, graph.Node]:
    """Bytes only."""
    jpeg, pose = graph.read_person(reading)
    return {"jpeg": jpeg, "pose": pose}


def decode_stage(reading: Reading) -> dict[str, graph.Node]:
    """Bytes to pixels."""
    jpeg, _ = graph.read_person(reading)
    return {"image": graph.decode(jpeg, reading)}


def warp_stage(reading: Reading, *, views: ViewSettings) -> dict[str, graph.Node]:
    """Bytes to one view, uint8."""
    jpeg, pose = graph.read_person(reading)
    matrix, _ = graph.draw_view(pose, views.weak, views.size_hw)
    return {"weak": graph.warp(graph.decode(jpeg, reading), matrix, views.weak, views.size_hw)}


def warp_twice_stage(reading: Reading, *, views: ViewSettings) -> dict[str, graph.Node]:
    """Bytes to both views, uint8."""
    jpeg, pose = graph.read_person(reading)
    weak, _ = graph.draw_view(pose, views.weak, views.size_hw)
    strong = graph.combine(weak, graph.draw_strong(views.strong, views.size_hw))
    image = graph.decode(jpeg, reading)
    laws = {"weak": (weak, views.weak), "strong": (strong, views.strong)}
    return {name: graph.warp(image, matrix, law, views.size_hw) for name, (matrix, law) in laws.items()}


def variants(bench: Bench) -> dict[str, NextBatch]:
    """Return all that is timed, by the name of its row."""
    cfg = bench.cfg
    dataset = ClassicDataset(cfg.source.read(), cfg.views)
    classic = classic_batches(dataset, batch_size=cfg.batch_size, workers=cfg.threads)
    views = cfg.views
    found: dict[str, NextBatch] = {
        CLASSIC: partial(next, classic),
        "stage: read": bench.stage(read_stage),
        "stage: read, decode": bench.stage(decode_stage),
        "stage: read, decode, weak view": bench.stage(partial(warp_stage, views=views)),
        "stage: read, decode, both views": bench.stage(partial(warp_twice_stage, views=views)),
        LOADER: bench.loader(bench.crops, "cpu"),
        "loader, CPU, whole photos in the shards": bench.loader(bench.photos, "cpu"),
    }
    if torch.cuda.is_available():
        found["loader, GPU"] = bench.loader(bench.crops, "cuda:0")
        found["loader, GPU, whole photos in the shards"] = bench.loader(bench.photos, "cuda:0")
    return found


def make_shards(cfg: BenchSettings, folder: Path, console: Console) -> tuple[Split, Split]:
    """Build the crops that training reads, and whole photos for comparison."""
    height, width = cfg.views.size_hw
    make: Callable[..., Any] = partial(BuildSettings, source=cfg.source)
    build(make(output=folder / "crops", crop=PersonCrop(input_size_wh=(width, height))), console=console)
    build(make(output=folder / "photos", crop=WholePhoto()), console=console)
    return open_split(folder / "crops"), open_split(folder / "photos")


def run(cfg: BenchSettings, console: Console) -> dict[str, Any]:
    """Measure, write the result file and return its content."""
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(cfg, *make_shards(cfg, Path(folder), console))
        rows = measure(
            variants(bench),
            batch_size=cfg.batch_size,
            batches=cfg.batches,
            warmup=2 * cfg.threads + 4,
            rounds=track(range(cfg.rounds), "rounds", console=console),
        )
        persons = bench.crops.num_samples
    classic = next(row for row in rows if row.name == CLASSIC)
    result = {
        "machine": machine,
        "settings": plain(cfg),
        "persons": persons,
        "rows": [{**row.to_json(), "times_classic": round(row.median / classic.median, 2)} for row in rows],
    }
    cfg.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cfg.output, (json.dumps(result, indent=1) + "\n").encode())
    console.print(table(rows, classic))
    console.print(f"written to {cfg.output}")
    return result


def table(rows: list[Row], classic: Row) -> Table:
    """Return the rows as people read them."""
    shown = Table("variant", title="persons a second")
    for title in ("median", "quartiles", "x classic"):
        shown.add_column(title, justify="right")
    for row in rows:
        low, high = row.quartiles
        shown.add_row(
            row.name, f"{row.median:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{row.median / classic.median:.2f}"
        )
    return shown


def main(cfg: BenchSettings) -> None:
    """Measure with progress and table on the terminal."""
    run(cfg, Console())


if __name__ == "__main__":
    command(BenchSettings, main, description="Throughput of the pipelines against a classic loader.")
