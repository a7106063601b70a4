"""Benchmarks are run as commands; a result, half a result and none at all are each reported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import load
from semipose.training.bench.gpu_check.benches import BENCHES, run_benches
from semipose.training.bench.gpu_check.markdown import to_markdown
from semipose.training.bench.settings import LoaderBenchSettings, StepBenchSettings
from semipose.training.bench.steps import all_steps

RESULT = {
    "bench": "loader",
    "machine": {},
    "settings": {},
    "data": {},
    "rows": [
        {"name": "classic", "group": "g", "unit": "persons/s", "median": 480.0, "iqr": [470.0, 490.0]}
        | {"rounds": [480.0], "base": None, "times_base": None, "facts": {}},
        {
            "name": "loader | GPU",
            "group": "g",
            "unit": "persons/s",
            "median": 12000.0,
            "iqr": [11000.0, 12500.0],
        }
        | {"rounds": [12000.0], "base": "classic", "times_base": 25.0, "facts": {"wait_share": 0.01}},
    ],
    "skipped": {"kornia": "kornia is not installed"},
    "facts": {"copy_gb_per_s": 50.0},
    "targets": [{"what": "whole loader", "asked": "3x", "measured": "25.00x", "is_met": True}],
}


def writes(text: str, *, code: int = 0) -> tuple[str, ...]:
    """A command that writes `text` to its `output=...`."""
    return ("-c", f"import sys; open(sys.argv[1][7:], 'w').write({text!r}); raise SystemExit({code})")


def run(folder: Path, **benches: tuple[str, ...]) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return list(run_benches(folder, seconds=60, benches=benches))[-1]


def test_results_are_read_and_shown(tmp_path: Path) -> None:
    found = run(tmp_path, loader=writes(json.dumps(RESULT)))
    assert found["problems"] == []
    machine = dict.fromkeys(("gpu", "date", "cpu", "cores", "python", "cuda", "commit"), "x") | {
        "versions": {}
    }
    part = {"state": "done", "seconds": 3.0, **found}
    result = {"machine": machine, "command": "c", "seconds": 3.0, "is_ok": True, "parts": {"bench": part}}
    text = to_markdown(result)
    assert "| bench: loader | loader \\| GPU | 12,000 persons/s (11,000 to 12,500) | 25.00x classic, " in text
    assert "wait share 1.00%" in text
    assert "kornia is not installed" in text
    assert "copy GB/s | 50" in text
    assert "asked: 3x; met" in text
    columns = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert columns == {5}


def test_commands_are_known_settings_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    load(LoaderBenchSettings, None, [word for word in BENCHES["loader"] if "=" in word])
    cfg = load(StepBenchSettings, None, [word for word in BENCHES["steps"] if "=" in word])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    known = {step.name for step in all_steps(cfg, "shards", Path("folder"))}
    assert set(cfg.only) <= known


def test_a_failed_benchmark_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        half=writes('{"rows": '),
        none=("-c", "raise SystemExit('out of memory')"),
        late=writes(json.dumps(RESULT), code=1),
        good=writes(json.dumps(RESULT)),
    )
    half, none, late = found["problems"]
    assert "half" in half
    assert "out of memory" in none
    assert "exit code 1" in late
    assert list(found["results"]) == ["late", "good"]


def test_an_older_result_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(RESULT))
    found = run(tmp_path, old=("-c", "pass"))
    assert found["results"] == {}
    assert "old" in found["problems"][0]
