"""The short training of the check: its commands fit the recipes, and whatever a run left is read."""

import json
from pathlib import Path

import pytest

from semipose.configs.load import load
from semipose.sharding.build import BuildSettings
from semipose.training.bench.gpu_check.short_run import (
    METHODS,
    SHARDS,
    drawing,
    read_run,
    run_short,
    training,
)
from semipose.training.bench.processes import Ended
from semipose.training.settings import RunSettings

TINY = (
    *("views.size_hw=[64, 48]", "net.backbone.channels=[8, 12, 16]", "net.backbone.blocks=[1, 1, 1]"),
    *("net.head.width=8", "steps=8", "report_every=1", "data.labelled=16", "loader.threads=1"),
    *("labelled_batch=4", "unlabelled_batch=4", "loader.shuffle_buffer=16", "optim.schedule.warm_up_steps=1"),
)
FEW = {"train": ("source.people=24", "workers=1"), "val": ("source.people=12", "workers=1")}


def ended(folder: Path, code: int = 0) -> Ended:
    (folder / "a.log").write_text("words\n")
    return Ended(code, 12.0, hit_limit=False, log=folder / "a.log")


def test_commands_are_recipes_with_known_settings(tmp_path: Path) -> None:
    for split, changes in SHARDS.items():
        _, recipe, *words = drawing(split, tmp_path, changes)
        assert load(BuildSettings, recipe, words).output == tmp_path / "shards" / split
    for name in METHODS:
        _, *recipes, folder, train, val = training(name, tmp_path, tmp_path / name, ())
        cfg = load(RunSettings, recipes, [folder, train, val])
        assert (cfg.protocol, cfg.method.name) == ("demo", {"adaptive_mixup": "single"}.get(name, name))
        assert (cfg.output, cfg.data.train) == (str(tmp_path / name), str(tmp_path / "shards" / "train"))


def test_speed_is_that_of_the_second_half(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 0.1, "seconds_per_step": 1.0 if step <= 40 else 0.01, "samples_per_s": 6400.0}
        | {"data_wait_share": 0.001, "peak_memory_gib": 1.0}
        for step in range(10, 81, 10)
    ]
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 80, "network/AP": 0.5}', '{"st']))
    found = read_run(tmp_path, ended(tmp_path))
    assert (found["steps"], found["seconds_per_step"], found["scores"]) == (80, 0.01, {})


def test_a_run_that_left_nothing_is_read_too(tmp_path: Path) -> None:
    found = read_run(tmp_path / "absent", ended(tmp_path, code=1))
    assert (found["steps"], found["scores"], found["loss"]) == (0, {}, None)


def test_no_training_without_people(tmp_path: Path) -> None:
    shards = {"train": ("source.people=none",)}
    (found,) = run_short(tmp_path, seconds=60, shards=shards, methods=("supervised",))
    assert "drawing people for train" in found["problems"][0]
    assert "source.people" in found["problems"][0]
    assert found["runs"] == {}


@pytest.mark.slow
def test_short_training_on_this_machine(tmp_path: Path) -> None:
    steps = list(run_short(tmp_path, seconds=300, shards=FEW, settings=TINY))
    assert [list(step["runs"]) for step in steps] == [["supervised"], ["supervised", "adaptive_mixup"]]
    assert steps[-1]["problems"] == []
    for run in steps[-1]["runs"].values():
        assert run["steps"] == 8
        assert "AP" in next(iter(run["scores"].values()))
        assert run["samples_per_s"] > 0
