"""The benchmark of training steps: every way to make one, in a process of its own, in turns."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from rich.console import Console

from semipose.configs.load import CONFIGS, InputError, load
from semipose.configs.schema import plain
from semipose.models.files import write_json
from semipose.pipelines.views import ViewSettings
from semipose.training.bench.loader import NO_PHOTOS
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.people import open_people
from semipose.training.bench.processes import run_command
from semipose.training.bench.result import Result, Row, compare, make_row, read_result, write_result
from semipose.training.bench.settings import PeopleSettings, StepName, StepSpec, StepTimes
from semipose.training.bench.settings import StepBenchSettings as Settings
from semipose.training.bench.tables import finish
from semipose.training.bench.targets import targets
from semipose.training.bench.timing import turns
from semipose.training.settings import RunSettings

CPU_BATCHES = (8,)
GPU_BATCHES = (32, 256)
PUBLISHED_PEOPLE = 30 * 149_813
"""Unlabelled people of the published schedule: 30 epochs of COCO's train set."""
HOUR_S = 3600
LOG_LINES = 3


@dataclass(frozen=True)
class Measured:
    """What a measured process left, and the most memory that it and its children held at once."""

    times: StepTimes | None
    peak_mib: float
    problem: str | None = None
    """Why there are no times."""


def run(cfg: Settings, console: Console) -> Result:
    """Measure; write the result after every process, so that an interrupted run leaves what it has."""
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        people = open_people(cfg, views_of(cfg), folder, console)
        steps, skipped = choose(cfg, all_steps(cfg, people.crops.root, folder), has_photos=cfg.shards is None)
        result = Result(
            bench="steps",
            machine=machine,
            settings=plain(cfg),
            data=people.describe(),
            rows=(),
            skipped=skipped,
        )
        for measured in measure_steps(cfg, steps, skipped, console):
            result = replace(result, rows=make_rows(steps, measured))
            write_result(cfg.output, result)
    if not result.rows:
        raise InputError(f"no step could be measured: {skipped}")
    loader = read_result(cfg.loader) if cfg.loader.exists() else None
    if loader and loader.machine["commit"] != machine["commit"]:
        console.print(f"{cfg.loader} is of another commit: not compared", highlight=False)
        loader = None
    return finish(replace(result, targets=targets(loader, result)), cfg.output, console)


def views_of(cfg: Settings) -> ViewSettings:
    """The views that the people are cut for."""
    return load(RunSettings, recipes(cfg, cfg.semi), ["net.pretrained=false", *cfg.changes]).views


def recipes(cfg: Settings, method: str) -> tuple[Path, Path]:
    """The protocol of the steps, and a method."""
    return CONFIGS / "protocols" / f"{cfg.protocol}.yaml", CONFIGS / "methods" / f"{method}.yaml"


def all_steps(cfg: Settings, crops: str, folder: Path) -> list[StepSpec]:
    """Every way to make a step that suits the machine; what matters most comes first."""
    ways = gpu_ways() if torch.cuda.is_available() else cpu_ways()
    sizes = cfg.batch_sizes or (GPU_BATCHES if torch.cuda.is_available() else CPU_BATCHES)
    return [
        make_spec(
            cfg,
            crops,
            folder,
            name=f"{step}, {how}, batch {size}",
            group=f"{step}, batch {size}",
            step=step,
            batch_size=size,
            **way,
        )
        for step, how, way in ways
        for size in sizes
    ]


def cpu_ways() -> Iterator[tuple[StepName, str, dict[str, Any]]]:
    """Step, words for its row, and what is special: the same step behind either loader."""
    for step in ("semi", "supervised"):
        yield step, "our loader", {}
        yield step, "classic loader", {"loader": "classic"}


def gpu_ways() -> Iterator[tuple[StepName, str, dict[str, Any]]]:
    """Step, words for its row, and what is special: precisions, the cache, and the published code's way."""
    fast: dict[str, Any] = {"device": "cuda", "precision": "bf16", "compile": True}
    yield "semi", "bf16 compiled", fast
    yield "semi", "the classic way", {"device": "cuda", "way": "classic", "loader": "classic"}
    yield "semi", "bf16 compiled, cache: device", fast | {"loader": "device"}
    yield "semi", "float32", {"device": "cuda"}
    yield "semi", "bf16", {"device": "cuda", "precision": "bf16"}
    yield "semi", "bf16 compiled, classic loader", fast | {"loader": "classic"}
    yield "supervised", "bf16 compiled", fast
    yield "supervised", "the classic way", {"device": "cuda", "way": "classic", "loader": "classic"}


def make_spec(
    cfg: Settings, crops: str, folder: Path, *, changes: tuple[str, ...] = (), **way: Any
) -> StepSpec:
    """The input of the process of one row."""
    return StepSpec(
        recipes=recipes(cfg, cfg.semi if way["step"] == "semi" else cfg.supervised),
        changes=(*cfg.changes, *changes),
        crops=crops,
        people=PeopleSettings(
            photos=cfg.photos, annotations=cfg.annotations, source=cfg.source, shards=cfg.shards
        ),
        threads=cfg.threads,
        limits=cfg.limits,
        output=folder / "step.json",
        **way,
    )


def choose(
    cfg: Settings, steps: list[StepSpec], *, has_photos: bool
) -> tuple[list[StepSpec], dict[str, str]]:
    """The rows asked for, in that order, and those that cannot be measured, with the reason.

    Raises InputError.
    """
    known = {spec.name: spec for spec in steps}
    unknown = set(cfg.only) - set(known)
    if unknown:
        names = "; ".join(known)
        raise InputError(f"only: there is no row {sorted(unknown)[0]!r} here: name some of these: {names}")
    steps = [known[name] for name in cfg.only] or steps
    classic = [spec.name for spec in steps if spec.loader == "classic"]
    return steps, {} if has_photos else dict.fromkeys(classic, NO_PHOTOS)


def measure_steps(
    cfg: Settings, steps: list[StepSpec], skipped: dict[str, str], console: Console
) -> Iterator[dict[str, list[Measured]]]:
    """Measure the steps in turns; after every process, all that was measured so far, by the step's name.

    What fails is added to `skipped`, with the reason, and is not tried again.
    """
    measured: dict[str, list[Measured]] = {}
    for number, spec in turns(steps, cfg.rounds):
        if spec.name in skipped:
            continue
        console.print(f"round {number + 1} of {cfg.rounds}: {spec.name}", highlight=False)
        once = run_measured(spec, longest_s=cfg.longest_s)
        if once.times is None:
            skipped[spec.name] = once.problem or "it left nothing"
        else:
            measured.setdefault(spec.name, []).append(once)
        yield measured


def run_measured(spec: StepSpec, *, longest_s: float) -> Measured:
    """Run `spec` in a process of its own, or as so many ranks, to its end or for `longest_s`."""
    spec.output.unlink(missing_ok=True)
    told = spec.output.with_suffix(".told.json")
    write_json(told, plain(spec))
    words, environment = ["-m", "semipose.training.bench.step_process", str(told)], {}
    if spec.processes > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // spec.processes))
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={spec.processes}", *words]
    log = spec.output.with_suffix(".log")
    ended = run_command(words, log, seconds=longest_s, environment=environment, watch_memory=True)
    if ended.hit_limit:
        return Measured(None, ended.peak_mib, f"it took longer than {longest_s:.0f} s")
    if ended.code or not spec.output.exists():
        last = " / ".join(ended.tail().splitlines()[-LOG_LINES:])
        return Measured(None, ended.peak_mib, f"it ended with code {ended.code}: {last}")
    return Measured(TypeAdapter(StepTimes).validate_json(spec.output.read_bytes()), ended.peak_mib)


def make_rows(steps: list[StepSpec], measured: dict[str, list[Measured]]) -> tuple[Row, ...]:
    """A row for each step that was measured, compared with the classic one of its kind."""
    rows = {spec.name: make_step_row(spec, measured[spec.name]) for spec in steps if spec.name in measured}
    return tuple(compare(row, rows.get(base_of(name, set(rows)) or "")) for name, row in rows.items())


def base_of(name: str, known: set[str]) -> str | None:
    """The row that another is compared with: the same step and batch with the most classic parts."""
    step, *_, batch = name.split(", ")
    for how in ("the classic way", "classic loader"):
        if (base := f"{step}, {how}, {batch}") in known:
            return base
    return None


def make_step_row(spec: StepSpec, rounds: list[Measured]) -> Row:
    """The row of all rounds of one step, with what was measured beside its speed."""
    times = [once.times for once in rounds if once.times]
    rates = [rate for once in times for rate in once.steps_per_s]
    images = times[0].images
    rate = float(np.median(rates))
    facts = {
        "data_wait_share": float(np.median([share for once in times for share in once.data_wait_share])),
        "peak_memory_mib": max(once.peak_mib for once in rounds),
    }
    gpu = {
        "gpu_busy_share": [once.gpu_busy_share for once in times if once.gpu_busy_share is not None],
        "gpu_peak_memory_gib": [once.gpu_peak_gib for once in times if once.gpu_peak_gib is not None],
    }
    facts |= {name: float(np.median(values)) for name, values in gpu.items() if values}
    if images["weak"]:
        facts["published_1k_hours"] = PUBLISHED_PEOPLE / (rate * images["weak"]) / HOUR_S
    facts["images_per_s"] = rate * sum(images.values())
    facts |= {f"{name}_images_per_s": rate * count for name, count in images.items()}
    return make_row(spec.name, rates, group=spec.group, unit="steps/s", facts=facts)
