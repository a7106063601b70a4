"""The benchmark of sharding: a build and a plain loop, timed in turns from the same rows.

Beside their photos per second: where the time of one process goes, the peak memory of a build for the rows
once and many times over, and the bytes of the shards.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import semipose.sharding.build
import semipose.sharding.samples.person
import semipose.sharding.samples.worker
from semipose.configs.schema import plain
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.record import Person
from semipose.sharding.samples.crop import PersonCrop
from semipose.sharding.samples.plan import photo_tasks
from semipose.sharding.settings import BuildSettings
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.result import Result, compare, make_row
from semipose.training.bench.rivals.plain_shards import plain_loop
from semipose.training.bench.settings import ShardBenchSettings as Settings
from semipose.training.bench.tables import finish

QUIET = Console(quiet=True)


def run(cfg: Settings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result."""
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        persons = CocoFormat(annotations=cfg.annotations, images=cfg.images).read().persons
        photos = cfg.repeats * len({person.image_id for person in persons})
        plain_s, build_s = time_both(cfg, folder)
        paired = statistics.median(a / b for a, b in zip(plain_s, build_s, strict=True))
        rates = {
            "plain loop": [photos / seconds for seconds in plain_s],
            "build": [photos / seconds for seconds in build_s],
        }
        facts: dict[str, dict[str, float]] = {
            "plain loop": {},
            "build": {"times_plain_loop_per_round": paired, **time_shares(cfg, folder)},
        }
        rows = [
            make_row(way, rates[way], group="sharding", unit="photos/s", facts=facts[way]) for way in rates
        ]
        result = Result(
            bench="shards",
            machine=machine,
            settings=plain(cfg),
            data={"photos": photos, "from": str(cfg.annotations)},
            rows=tuple(compare(row, rows[0]) for row in rows),
            facts={**stored_bytes(cfg, folder, persons), **peak_memory(cfg, folder)},
        )
    return finish(result, cfg.output, console)


def time_both(cfg: Settings, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of each round of the plain loop, and of a build, both with their annotations read."""
    annotations = folder / "repeated.json"
    repeat_rows(cfg.annotations, cfg.repeats, annotations)
    output = folder / "out"

    def plain_one() -> None:
        made = build_settings(cfg, annotations, output, workers=1)
        people = made.source.read()
        assert isinstance(made.crop, PersonCrop)
        plain_loop(photo_tasks(made, people), people, made.crop, output, cfg.samples_per_shard)

    def build() -> None:
        semipose.sharding.build.build(build_settings(cfg, annotations, output, cfg.workers), console=QUIET)

    def timed(run: Callable[[], None]) -> float:
        shutil.rmtree(output, ignore_errors=True)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    rounds = [(timed(plain_one), timed(build)) for _ in range(cfg.rounds)]
    return [plain_s for plain_s, _ in rounds], [build_s for _, build_s in rounds]


def build_settings(cfg: Settings, annotations: Path, output: Path, workers: int) -> BuildSettings:
    """The build that is measured."""
    return BuildSettings(
        source=CocoFormat(annotations=annotations, images=cfg.images),
        output=output,
        samples_per_shard=cfg.samples_per_shard,
        workers=workers,
    )


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


def time_shares(cfg: Settings, folder: Path) -> dict[str, float]:
    """The shares of decoding and encoding in the work of one process, start-up left out."""
    spent = {"decode_share": 0.0, "encode_share": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - start

        return run

    places = (
        (semipose.sharding.samples.worker, "decode_photo", "decode_share"),
        (semipose.sharding.samples.person, "encode_jpeg", "encode_share"),
    )
    real = [getattr(module, function) for module, function, _ in places]
    try:
        for module, function, name in places:
            setattr(module, function, timed(name, getattr(module, function)))
        start = time.perf_counter()
        semipose.sharding.build.build(
            build_settings(cfg, cfg.annotations, folder / "shares", workers=1), console=QUIET
        )
        total = time.perf_counter() - start
    finally:
        for (module, function, _), original in zip(places, real, strict=True):
            setattr(module, function, original)
    return {name: seconds / total for name, seconds in spent.items()}


def stored_bytes(cfg: Settings, folder: Path, persons: Sequence[Person]) -> dict[str, float]:
    """Bytes of the shards that `time_shares` has built, and of the photos that they were cut from."""
    made = build_settings(cfg, cfg.annotations, folder / "shares", workers=1)
    manifest = semipose.sharding.build.build(made, console=QUIET)
    photos = {person.file_name for person in persons}
    return {
        "persons": manifest.num_samples,
        "shards_mb": manifest.num_bytes / 1e6,
        "photos_mb": sum((cfg.images / photo).stat().st_size for photo in photos) / 1e6,
    }


def peak_memory(cfg: Settings, folder: Path) -> dict[str, float]:
    """Peak memory of the largest process of a whole build, for the rows as often as asked."""
    # A small process between: the peak of a child begins with that of the process that starts it.
    measure = "import resource, subprocess, sys; subprocess.check_call(sys.argv[1:], stdout=sys.stderr);"
    measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    recipe = folder / "recipe.yaml"
    recipe.write_text("source: {name: coco}\n")
    facts: dict[str, float] = {}
    for times in cfg.memory_repeats:
        annotations, output = folder / f"{times}.json", folder / f"memory-{times}"
        repeat_rows(cfg.annotations, times, annotations)
        words = ["source.name=coco", f"source.annotations={annotations}", f"source.images={cfg.images}"]
        words += [f"output={output}", f"workers={cfg.workers}"]
        script = str(Path(semipose.sharding.build.__file__))
        shown = subprocess.check_output(
            [sys.executable, "-c", measure, sys.executable, script, str(recipe), *words],
            stderr=subprocess.DEVNULL,
            text=True,
        )
        shutil.rmtree(output)
        facts[f"rows_{times}_times_annotations_mb"] = annotations.stat().st_size / 1e6
        facts[f"rows_{times}_times_peak_mib"] = int(shown) / 1024
    return facts
