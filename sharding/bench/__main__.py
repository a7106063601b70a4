"""Measure sharding: `python -m sharding.bench annotations=FILE images=FOLDER [key=value ...]`.

Photos a second of `build` and of a plain loop, timed in turns from the same rows; where the time of one
process goes; the peak memory of `build` for the rows once and many times over; and the bytes of the shards.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

import sharding.build
import sharding.samples.sample
import sharding.samples.worker
from configs.load import command
from configs.schema import plain
from configs.settings import settings
from sharding.annotations.formats.coco import CocoFormat
from sharding.samples.crop import PersonCrop
from sharding.samples.plan import photo_tasks
from sharding.settings import BuildSettings
from sharding.store.files import write_atomic


@settings
class BenchSettings:
    """What is measured, and how long."""

    annotations: Path
    """A COCO keypoint file."""
    images: Path
    """The folder of its photos."""
    repeats: int = Field(default=10, ge=1)
    """How often the file's rows are repeated, under new ids, for the timing: start-up then weighs little."""
    rounds: int = Field(default=5, ge=1)
    """How often each way is timed."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processes of `build`."""
    memory_repeats: tuple[int, ...] = (1, 100)
    """How often the rows are repeated for the measurement of memory."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Persons in one tar, for both ways."""
    output: Path = Path("runs/bench/sharding.json")
    """The result file."""


def repeat_rows(annotations: Path, times: int, target: Path) -> None:
    """Write a COCO file that has every row so many times, each time under ids of its own."""
    content = json.loads(annotations.read_bytes())
    images, rows = content["images"], content["annotations"]
    step_image = 1 + max(row["id"] for row in images)
    step_row = 1 + max(row["id"] for row in rows)
    with target.open("w") as file:
        file.write('{"categories": ' + json.dumps(content["categories"]) + ', "images": [')
        copies = (
            json.dumps({**row, "id": row["id"] + n * step_image}) for n in range(times) for row in images
        )
        file.write(",".join(copies) + '], "annotations": [')
        copies = (
            json.dumps({**row, "id": row["id"] + n * step_row, "image_id": row["image_id"] + n * step_image})
            for n in range(times)
            for row in rows
        )
        file.write(",".join(copies) + "]}")


def build_settings(cfg: BenchSettings, annotations: Path, output: Path, workers: int) -> BuildSettings:
    """The build that is measured."""
    return BuildSettings(
        source=CocoFormat(annotations=annotations, images=cfg.images),
        output=output,
        samples_per_shard=cfg.samples_per_shard,
        workers=workers,
    )


def time_both(cfg: BenchSettings, folder: Path) -> dict[str, list[float]]:
    """Seconds of each round of `build`, with its annotations read, and of the plain loop, likewise."""
    from sharding.bench.plain_loop import plain_loop  # brings torch, which the workers of `build` never load

    annotations = folder / "repeated.json"
    repeat_rows(cfg.annotations, cfg.repeats, annotations)
    output = folder / "out"

    def ours() -> None:
        made = build_settings(cfg, annotations, output, cfg.workers)
        sharding.build.build(made, console=Console(quiet=True))

    def plain_one() -> None:
        made = build_settings(cfg, annotations, output, 1)
        found = made.source.read()
        assert isinstance(made.crop, PersonCrop)
        plain_loop(photo_tasks(made, found), found, made.crop, output, cfg.samples_per_shard)

    seconds: dict[str, list[float]] = {"plain loop": [], "build": []}
    for _ in range(cfg.rounds):
        for name, run in (("plain loop", plain_one), ("build", ours)):
            shutil.rmtree(output, ignore_errors=True)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def time_shares(cfg: BenchSettings, folder: Path) -> dict[str, float]:
    """The shares of decoding and encoding in the work of one process, start-up left out."""
    spent = {"decode": 0.0, "encode": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    places = (
        (sharding.samples.worker, "decode_photo", "decode"),
        (sharding.samples.sample, "encode_jpeg", "encode"),
    )
    real = [getattr(module, function) for module, function, _ in places]
    try:
        for module, function, name in places:
            setattr(module, function, timed(name, getattr(module, function)))
        start = time.perf_counter()
        made = build_settings(cfg, cfg.annotations, folder / "shares", 1)
        sharding.build.build(made, console=Console(quiet=True))
        total = time.perf_counter() - start
    finally:
        for (module, function, _), original in zip(places, real, strict=True):
            setattr(module, function, original)
    return {name: seconds / total for name, seconds in spent.items()}


def peak_memory(cfg: BenchSettings, times: int, folder: Path) -> dict[str, float]:
    """Rows of the file and peak memory of the largest process of a whole build, in MiB."""
    annotations = folder / f"{times}.json"
    repeat_rows(cfg.annotations, times, annotations)
    words = ["source.name=coco", f"source.annotations={annotations}", f"source.images={cfg.images}"]
    words += [f"output={folder / f'memory-{times}'}", f"workers={cfg.workers}"]
    recipe = folder / "recipe.yaml"
    recipe.write_text("source: {name: coco}\n")
    script = str(Path(sharding.build.__file__))
    # A small process between: the peak of a child begins with that of the process that starts it.
    measure = "import resource, subprocess, sys; subprocess.check_call(sys.argv[1:], stdout=sys.stderr);"
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    shown = subprocess.check_output(
        [sys.executable, "-c", measure, sys.executable, script, str(recipe), *words],
        stderr=subprocess.DEVNULL,
        text=True,
    )
    shutil.rmtree(folder / f"memory-{times}")
    return {
        "annotation_file_mb": annotations.stat().st_size / 1e6,
        "peak_mib": int(shown) / 1024,
    }


def stored_bytes(cfg: BenchSettings, folder: Path) -> dict[str, float]:
    """Bytes of the shards of the plain file against those of the photos that they were cut from."""
    made = build_settings(cfg, cfg.annotations, folder / "shares", 1)
    tasks = photo_tasks(made, made.source.read())
    photos = sum((cfg.images / name).stat().st_size for name, _ in groupby(t.photo.file_name for t in tasks))
    manifest = sharding.build.build(made, console=Console(quiet=True))
    return {"shards_mb": manifest.num_bytes / 1e6, "photos_mb": photos / 1e6, "persons": manifest.num_samples}


def run(cfg: BenchSettings, console: Console) -> dict[str, Any]:
    """Measure all, write the result file and return its content."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = time_both(cfg, folder)
        found = CocoFormat(annotations=cfg.annotations, images=cfg.images).read()
        photos = cfg.repeats * len({person.image_id for person in found.persons})
        result = {
            "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
            "settings": plain(cfg),
            "photos": photos,
            "seconds": seconds,
            "images_per_s": {way: photos / statistics.median(each) for way, each in seconds.items()},
            "times_plain": statistics.median(
                a / b for a, b in zip(seconds["plain loop"], seconds["build"], strict=True)
            ),
            "shares": time_shares(cfg, folder),
            "bytes": stored_bytes(cfg, folder),
            "memory": {str(times): peak_memory(cfg, times, folder) for times in cfg.memory_repeats},
        }
    cfg.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cfg.output, (json.dumps(result, indent=1) + "\n").encode())
    console.print(_table(result))
    console.print(f"written to {cfg.output}")
    return result


def _table(result: dict[str, Any]) -> Table:
    table = Table("what", "measured", title="sharding")
    for way, rate in result["images_per_s"].items():
        table.add_row(f"images/s, {way}", f"{rate:,.0f}")
    table.add_row("build over plain loop", f"{result['times_plain']:.2f}")
    for name, share in result["shares"].items():
        table.add_row(f"share of JPEG {name}", f"{share:.0%}")
    for times, memory in result["memory"].items():
        file = f"{memory['annotation_file_mb']:,.1f} MB of annotations"
        table.add_row(f"peak memory, rows {times} times", f"{memory['peak_mib']:,.0f} MiB ({file})")
    sizes = result["bytes"]
    table.add_row("shards / photos", f"{sizes['shards_mb']:,.1f} / {sizes['photos_mb']:,.1f} MB")
    return table


def main(cfg: BenchSettings) -> None:
    """Measure, with a table on the terminal."""
    run(cfg, Console())


if __name__ == "__main__":
    command(BenchSettings, main, description="Sharding against a plain loop: time, memory, bytes.")
