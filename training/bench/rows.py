"""Which steps are measured, under which names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipelines.bench.settings import PeopleSettings
from training.bench.settings import Measured, StepName, TrainingBenchSettings

ROOT = Path(__file__).resolve().parents[2]
CPU_BATCHES = (8,)
GPU_BATCHES = (32, 256)
PUBLISHED_PEOPLE = 30 * 149_813
"""Unlabelled people of the published schedule: 30 epochs of COCO's train set."""
NO_PHOTOS = "needs photos: the shards were given"


def name_of(step: StepName, how: str, batch_size: int) -> str:
    """The name of a row."""
    return f"{step}, {how}, batch {batch_size}"


def batch_sizes(cfg: TrainingBenchSettings) -> tuple[int, ...]:
    """Those asked for, or what suits the machine."""
    return cfg.batch_sizes or (GPU_BATCHES if torch.cuda.is_available() else CPU_BATCHES)


def all_steps(cfg: TrainingBenchSettings, crops: str, folder: Path) -> list[Measured]:
    """Every way to make a step that suits the machine; what matters most comes first."""
    ways = gpu_ways() if torch.cuda.is_available() else cpu_ways()
    return [
        measured(
            cfg, crops, folder, name=name_of(step, how, batch_size), step=step, batch_size=batch_size, **way
        )
        for step, how, way in ways
        for batch_size in batch_sizes(cfg)
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


def measured(cfg: TrainingBenchSettings, crops: str, folder: Path, *, name: str, **way: Any) -> Measured:
    """The input of the process of one row."""
    recipe = cfg.semi if way["step"] == "semi" else cfg.supervised
    return Measured(
        name=name,
        recipe=recipe if recipe.exists() else ROOT / recipe,
        changes=cfg.changes,
        crops=crops,
        people=PeopleSettings(
            photos=cfg.photos, annotations=cfg.annotations, source=cfg.source, shards=cfg.shards
        ),
        threads=cfg.threads,
        limits=cfg.limits,
        output=folder / "step.json",
        **way,
    )


def base_of(name: str, known: set[str]) -> str | None:
    """The row that another is compared with: the same step and batch with the most classic parts."""
    step, *_, batch = name.split(", ")
    for how in ("the classic way", "classic loader"):
        if (base := f"{step}, {how}, {batch}") in known:
            return base
    return None
