"""How the time of a step grows: `python -m training.bench.growth [key=value ...]`; see README.md."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import Field
from rich.console import Console

from configs.load import InputError, command
from configs.schema import plain
from configs.settings import settings
from pipelines.bench.growth import beside_first, table
from pipelines.bench.measure import describe_machine
from pipelines.bench.plot import plot
from pipelines.bench.result import Result, make_row, write_result
from pipelines.bench.settings import Count
from pipelines.bench.variations import cut_people
from sharding.annotations.record import Annotations
from training.bench.rows import measured
from training.bench.run import size_of_views
from training.bench.settings import Measured, StepLimits, TrainingBenchSettings
from training.bench.watch import run_measured

K = 17
PATH = "[{name: adaptive_masks}]"


@settings
class StepGrowthSettings(TrainingBenchSettings):
    """What is varied, one thing at a time, from `batch_size`, 17 keypoints, one path, one rank.

    A step does not see in how many shards its people lie: python -m pipelines.bench.growth measures that.
    """

    output: Path = Path("runs/bench/step_growth.json")
    """The result file; the plot goes beside it."""
    batch_size: Count = 8
    """Labelled, and as many unlabelled, people in a step where that is not varied."""
    batch_sizes: tuple[Count, ...] | None = (8, 16, 32, 64)
    """People in a step."""
    keypoints: tuple[Count, ...] = (14, 17, 24, 133)
    """Keypoints of a person."""
    paths: tuple[Count, ...] = (1, 2, 3, 4)
    """Strong paths."""
    ranks: tuple[Count, ...] = (1, 2)
    """Processes that train together; on one machine they share its cores, and need a GPU each."""
    rounds: Count = 1
    """How often each step is measured, in a new process each time, in turns."""
    limits: StepLimits = Field(default_factory=lambda: StepLimits(warmup=1, steps=2, seconds=5.0))
    """How long each time."""


@dataclass(frozen=True)
class Case:
    """One row: a step, its group, and by how many processes it is made."""

    spec: Measured
    group: str
    ranks: int = 1
    rates: list[float] = field(default_factory=list)


def run(cfg: StepGrowthSettings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the table; returns the result."""
    source = cfg.chosen()
    if source is None:
        raise InputError(
            "growth cuts the people anew: give photos and annotations, or source, instead of shards"
        )
    machine, annotations = describe_machine(), source.read()
    with TemporaryDirectory() as name:
        cases = list(all_cases(cfg, cut_shards(cfg, annotations, Path(name)), Path(name)))
        skipped = measure_cases(cfg, cases, console)
    rows = [
        make_row(case.spec.name, case.rates, group=case.group, unit="unlabelled persons/s")
        for case in cases
        if case.rates
    ]
    if not rows:
        raise InputError(f"no step could be measured: {skipped}")
    result = Result(
        bench="training-growth",
        machine=machine,
        settings=plain(cfg),
        data={"people": len(annotations.persons), "from": annotations.photos.location},
        rows=beside_first(rows),
        skipped=skipped,
    )
    write_result(cfg.output, result)
    plot(result, cfg.output.with_suffix(".png"))
    console.print(table(result, "the cost of a person in a semi-supervised step"))
    console.print(f"written to {cfg.output}, plot beside it", highlight=False)
    return result


def cut_shards(cfg: StepGrowthSettings, annotations: Annotations, folder: Path) -> dict[int, str]:
    """Shards of the people by the number of their keypoints."""
    size_hw, quiet = size_of_views(cfg).size_hw, Console(quiet=True)
    return {
        number: cut_people(
            annotations,
            folder / str(number),
            num_keypoints=number,
            num_shards=1,
            size_hw=size_hw,
            console=quiet,
        ).root
        for number in {K, *cfg.keypoints}
    }


def measure_cases(cfg: StepGrowthSettings, cases: Sequence[Case], console: Console) -> dict[str, str]:
    """Add to the rates of each case, round by round; those that failed, with the reason."""
    skipped: dict[str, str] = {}
    for number in range(cfg.rounds):
        for case in cases:
            if case.spec.name in skipped:
                continue
            console.print(f"round {number + 1} of {cfg.rounds}: {case.spec.name}", highlight=False)
            found = run_measured(case.spec, longest_s=cfg.longest_s, processes=case.ranks)
            if found.times is None:
                skipped[case.spec.name] = found.problem or "it left nothing"
            else:
                people = case.spec.batch_size * case.ranks
                case.rates.extend(people * rate for rate in found.times.steps_per_s)
    return skipped


def all_cases(cfg: StepGrowthSettings, shards: dict[int, str], folder: Path) -> Iterator[Case]:
    """Every row, group by group."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def spec(
        name: str, *, batch_size: int = cfg.batch_size, keypoints: int = K, changes: str = ""
    ) -> Measured:
        made = measured(
            cfg, shards[keypoints], folder, name=name, step="semi", batch_size=batch_size, device=device
        )
        return replace(made, changes=(*made.changes, changes)) if changes else made

    for size in cfg.batch_sizes or ():
        yield Case(spec(f"step, batch {size}", batch_size=size), "step by batch")
    for number in cfg.keypoints:
        yield Case(spec(f"step, K = {number}", keypoints=number), "step by keypoints")
    for number in cfg.paths:
        paths = f"method.paths=[{', '.join([PATH] * number)}]"
        yield Case(spec(f"step, paths: {number}", changes=paths), "step by paths")
    for world in cfg.ranks:
        yield Case(spec(f"step, ranks together: {world}"), "step by ranks", world)


def main() -> None:
    """Measure with a table on the terminal."""
    command(
        StepGrowthSettings,
        lambda cfg: run(cfg, Console()),
        description="How the time of a step grows with batch, keypoints, strong paths and ranks.",
    )


if __name__ == "__main__":
    main()
