"""Small drawn people in shards, and a run on them that takes seconds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from rich.console import Console

from semipose.configs.load import load
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.build import BuildSettings, build
from semipose.training.settings import RunSettings

TINY = """
views: {size_hw: [64, 48]}
net:
  backbone: {name: light, stem_channels: 8, channels: [8, 12, 16], blocks: [1, 1, 1]}
  head: {name: pyramid, width: 8, convolutions: 1}
data: {labelled: 10}
labelled_batch: 4
unlabelled_batch: 4
loader: {threads: 1, shuffle_buffer: 16}
steps: 6
report_every: 1
evaluate_every: 100
checkpoint_every: 3
keep_checkpoints: 9
report: false
"""
EVERYTHING = """
method:
  name: single
  teacher: {name: ema, momentum: 0.9}
  paths: [[{name: adaptive_masks}]]
  mixup: {layers: [input, backbone.layer3]}
  burn_in: 0.17
  ramp_up: 0.34
"""


@pytest.fixture(scope="session")
def drawn_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards `train` (24 people) and `val` (12 others), from COCO files beside them."""
    folder = tmp_path_factory.mktemp("drawn")
    for split, people, seed in (("train", 24, 1), ("val", 12, 2)):
        source = DrawnFormat(folder=folder / f"{split}-coco", people=people, seed=seed)
        settings = BuildSettings(source=source, output=folder / split, samples_per_shard=9)
        build(settings, console=Console(quiet=True))
    return folder


@pytest.fixture
def tiny_run(drawn_shards: Path, tmp_path: Path) -> Callable[..., RunSettings]:
    """`tiny_run("everything", "steps=3")`: settings of a run into `tmp_path/run`; or `"supervised"`."""

    def make(method: str, *overrides: str) -> RunSettings:
        recipe = tmp_path / f"{method}.yaml"
        recipe.write_text(TINY + (EVERYTHING if method == "everything" else "method: {name: supervised}\n"))
        shards = (f"data.train={drawn_shards / 'train'}", f"data.val={drawn_shards / 'val'}")
        return load(RunSettings, recipe, [f"output={tmp_path / 'run'}", *shards, *overrides])

    return make


@pytest.fixture
def fresh_accelerate() -> Iterator[Callable[[], None]]:
    """Accelerate holds the precision of a process's first run: a clean slate around a test."""

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    reset()
    yield reset
    reset()


@pytest.fixture
def metrics() -> Callable[[Path], dict[int, dict[str, Any]]]:
    """Read the loss terms of every step of a run folder; what depends on the clock is left out."""

    def read(folder: Path) -> dict[int, dict[str, Any]]:
        rows: dict[int, dict[str, Any]] = {}
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            clock = {"samples_per_s", "data_wait_share", "seconds_per_step", "peak_memory_gib"}
            rows.setdefault(row["step"], {}).update({k: v for k, v in row.items() if k not in clock})
        return rows

    return read
