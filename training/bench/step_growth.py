"""How the time of a training step grows, one thing varied at a time."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.training.bench.machine import describe_machine
from semipose.training.bench.people import cut_people
from semipose.training.bench.result import Result, beside_first, make_row
from semipose.training.bench.settings import KEYPOINTS, StepSpec
from semipose.training.bench.settings import StepGrowthSettings as Settings
from semipose.training.bench.steps import make_spec, measure_steps, views_of
from semipose.training.bench.tables import finish

PATH = "[{name: adaptive_masks}]"


def run(cfg: Settings, console: Console) -> Result:
    """Measure, write the result file and the plot, print the tables; returns the result."""
    source = cfg.require_photos()
    machine, annotations = describe_machine(), source.read()
    skipped: dict[str, str] = {}
    with TemporaryDirectory() as name:
        folder, size_hw = Path(name), views_of(cfg).size_hw
        shards = {
            count: cut_people(annotations, folder / str(count), num_keypoints=count, size_hw=size_hw).root
            for count in {KEYPOINTS, *cfg.keypoints}
        }
        specs = list(all_steps(cfg, shards, folder))
        *_, measured = {}, *measure_steps(cfg, specs, skipped, console)
    rows = [
        make_row(
            spec.name,
            [
                spec.batch_size * spec.processes * rate
                for once in measured[spec.name]
                if once.times
                for rate in once.times.steps_per_s
            ],
            group=spec.group,
            unit="unlabelled persons/s",
        )
        for spec in specs
        if spec.name in measured
    ]
    if not rows:
        raise InputError(f"no step could be measured: {skipped}")
    result = Result(
        bench="step-growth",
        machine=machine,
        settings=plain(cfg),
        data={"people": len(annotations.persons), "from": annotations.photos.location},
        rows=beside_first(rows),
        skipped=skipped,
    )
    return finish(result, cfg.output, console)


def all_steps(cfg: Settings, shards: dict[int, str], folder: Path) -> Iterator[StepSpec]:
    """Every row, group by group; `shards` by the number of keypoints."""

    def spec(
        name: str, *, batch_size: int = cfg.batch_size, keypoints: int = KEYPOINTS, **way: Any
    ) -> StepSpec:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return make_spec(
            cfg,
            shards[keypoints],
            folder,
            name=name,
            step="semi",
            batch_size=batch_size,
            device=device,
            **way,
        )

    for size in cfg.batch_sizes or ():
        yield spec(f"step, batch {size}", group="step by batch", batch_size=size)
    for count in cfg.keypoints:
        yield spec(f"step, K = {count}", group="step by keypoints", keypoints=count)
    for count in cfg.paths:
        paths = f"method.paths=[{', '.join([PATH] * count)}]"
        yield spec(f"step, paths: {count}", group="step by paths", changes=(paths,))
    for world in cfg.ranks:
        yield spec(f"step, ranks together: {world}", group="step by ranks", processes=world)
