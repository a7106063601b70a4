"""The benchmark of steps, top to bottom: people, processes in turns, result file, plot, tables."""

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from configs.load import InputError, command, load
from configs.schema import plain
from pipelines.bench.measure import describe_machine
from pipelines.bench.plot import plot
from pipelines.bench.result import Result, Row, compare, make_row, read_result, write_result
from pipelines.bench.settings import open_people
from pipelines.views import ViewSettings
from training.bench.rows import NO_PHOTOS, PUBLISHED_PEOPLE, all_steps, base_of
from training.bench.settings import Measured, TrainingBenchSettings
from training.bench.targets import targets, targets_table
from training.bench.watch import Watched, run_measured
from training.settings import RunSettings

HOUR_S = 3600
KINDS = ("labelled", "weak", "strong", "mixed")
"""Of images that pass a network."""


def run(cfg: TrainingBenchSettings, console: Console) -> Result:
    """Measure; write the result after every process, so that an interrupted run leaves what it has."""
    machine = describe_machine()
    found: dict[str, list[Watched]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        people = open_people(cfg, size_of_views(cfg), folder, console)
        steps, skipped = choose(cfg, all_steps(cfg, people.crops.root, folder), has_photos=cfg.shards is None)
        described = people.describe()
        for number in range(cfg.rounds):
            turn = number % max(len(steps), 1)
            for spec in (*steps[turn:], *steps[:turn]):
                if spec.name in skipped:
                    continue
                console.print(f"round {number + 1} of {cfg.rounds}: {spec.name}", highlight=False)
                watched = run_measured(spec, longest_s=cfg.longest_s)
                if watched.problem:
                    skipped[spec.name] = watched.problem
                else:
                    found.setdefault(spec.name, []).append(watched)
                rows = make_rows(steps, found)
                result = Result(
                    bench="training",
                    machine=machine,
                    settings=plain(cfg),
                    data=described,
                    rows=rows,
                    skipped=skipped,
                )
                write_result(cfg.output, result)
    if not found:
        raise InputError(f"no step could be measured: {skipped}")
    return finish(cfg, result, console)


def size_of_views(cfg: TrainingBenchSettings) -> ViewSettings:
    """The views of the recipe that the people are cut for."""
    return load(RunSettings, cfg.semi, ["output=none", "net.pretrained=false", *cfg.changes]).views


def choose(
    cfg: TrainingBenchSettings, steps: list[Measured], *, has_photos: bool
) -> tuple[list[Measured], dict[str, str]]:
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


def finish(cfg: TrainingBenchSettings, result: Result, console: Console) -> Result:
    """Add the targets, write file and plot, print both tables."""
    pipelines = read_result(cfg.pipelines) if cfg.pipelines.exists() else None
    if pipelines and pipelines.machine["commit"] != result.machine["commit"]:
        console.print(f"{cfg.pipelines} is of another commit: not compared", highlight=False)
        pipelines = None
    result = Result(**{**vars(result), "targets": targets(pipelines, result)})
    write_result(cfg.output, result)
    plot(result, cfg.output.with_suffix(".png"))
    console.print(*tables(result), targets_table(result.targets))
    console.print(f"written to {cfg.output}, plot beside it", highlight=False)
    return result


def make_rows(steps: list[Measured], found: dict[str, list[Watched]]) -> tuple[Row, ...]:
    """A row for each step that was measured, compared with the classic one of its kind."""
    rows = {spec.name: make_step_row(spec, found[spec.name]) for spec in steps if spec.name in found}
    return tuple(compare(row, rows.get(base_of(name, set(rows)) or "")) for name, row in rows.items())


def make_step_row(spec: Measured, rounds: list[Watched]) -> Row:
    """The row of all rounds of one step, with what was measured beside its speed."""
    times = [watched.times for watched in rounds if watched.times]
    rates = [rate for each in times for rate in each.steps_per_s]
    images = times[0].images
    rate = float(np.median(rates))
    facts = {f"{name}_images_per_s": rate * count for name, count in images.items()}
    facts["images_per_s"] = rate * sum(images.values())
    facts["data_wait_share"] = float(np.median([share for each in times for share in each.data_wait_share]))
    facts["peak_memory_mib"] = max(watched.peak_mib for watched in rounds)
    gpu = {
        "gpu_busy_share": [each.gpu_busy_share for each in times if each.gpu_busy_share is not None],
        "gpu_peak_memory_gib": [each.gpu_peak_gib for each in times if each.gpu_peak_gib is not None],
    }
    facts |= {name: float(np.median(values)) for name, values in gpu.items() if values}
    if images["weak"]:
        facts["published_1k_hours"] = PUBLISHED_PEOPLE / (rate * images["weak"]) / HOUR_S
    group = f"{spec.step}, batch {spec.batch_size}"
    return make_row(spec.name, rates, group=group, unit="steps/s", facts=facts)


def tables(result: Result) -> list[Table]:
    """The rows as people read them: speed, then images of each kind; what was left out ends the first."""
    speed = right("row", "steps/s", "quartiles", "x base", "data wait", "MiB", title="training steps")
    for row in result.rows:
        times = "" if row.times_base is None else f"{row.times_base:.2f}"
        quartiles = f"{row.iqr[0]:.3g} to {row.iqr[1]:.3g}"
        wait, mib = f"{row.facts['data_wait_share']:.1%}", f"{row.facts['peak_memory_mib']:,.0f}"
        speed.add_row(row.name, f"{row.median:.3g}", quartiles, times, wait, mib)
    for name, reason in result.skipped.items():
        speed.add_row(name, "", reason)
    images = right("row", *KINDS, "GPU busy", "1K hours", title="images a second, of each kind")
    for row in result.rows:
        counts = (f"{row.facts[f'{name}_images_per_s']:,.1f}" for name in KINDS)
        busy = f"{row.facts['gpu_busy_share']:.1%}" if "gpu_busy_share" in row.facts else ""
        hours = f"{row.facts['published_1k_hours']:,.2f}" if "published_1k_hours" in row.facts else ""
        images.add_row(row.name, *counts, busy, hours)
    return [speed, images]


def right(*titles: str, title: str) -> Table:
    """An empty table, all but its first column at the right."""
    shown = Table(titles[0], title=title, title_justify="left")
    for each in titles[1:]:
        shown.add_column(each, justify="right")
    return shown


def main() -> None:
    """Measure with tables on the terminal."""
    command(
        TrainingBenchSettings,
        lambda cfg: run(cfg, Console()),
        description="Speed, data wait and memory of training steps, with our loader and the classic one.",
    )
