"""Whole runs on a GPU, some of them on a CPU too: resumed to the bit, and in mixed precision."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import dump
from semipose.training.run import run
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
MakeRun = Callable[..., RunSettings]
Metrics = Callable[[Path], dict[int, dict[str, Any]]]


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("cache", ["none", "device"])
def test_a_resumed_deterministic_run_is_the_uninterrupted_one(
    cache: str, device: str, tiny_run: MakeRun, metrics: Metrics, tmp_path: Path
) -> None:
    """`deterministic: true` is all that a recipe needs; in processes of their own, as cuBLAS must be told
    before it begins."""
    cfg = tiny_run("everything", "deterministic=true", f"data.cache={cache}")
    recipe, folder, again = tmp_path / "run.yaml", Path(cfg.output), tmp_path / "again"
    recipe.write_text(dump(cfg))
    train(device, str(recipe))
    shutil.copytree(folder, again)
    shutil.rmtree(again / "checkpoints" / "step-00000006")
    (again / "scores.json").unlink()
    train(device, "--resume", str(again), f"output={again}")
    assert metrics(again) == metrics(folder)
    assert json.loads((again / "scores.json").read_text()) == json.loads((folder / "scores.json").read_text())


def train(device: str, *words: str) -> None:
    """Run the training command on a device."""
    env = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    env |= {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [sys.executable, str(ROOT / "training" / "run.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_the_loss(
    precision: str, tiny_run: MakeRun, metrics: Metrics, fresh_accelerate: Callable[[], None], tmp_path: Path
) -> None:
    """Six steps from the same weights; on a CPU test_run has bf16."""
    found = []
    for each in ("no", precision):
        cfg = tiny_run("everything", "optim.lr=1e-4", f"precision={each}", f"output={tmp_path / each}")
        job = run(cfg, resume=False)
        rows = metrics(job.folder)
        found.append([rows[step]["loss"] for step in sorted(rows)])
        assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in job.method.parameters())
        fresh_accelerate()
    assert found[1] == pytest.approx(found[0], rel=0.03)
