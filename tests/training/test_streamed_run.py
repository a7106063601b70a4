"""A run on shards that arrive as streams is the run on local ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.training.run import run
from semipose.training.settings import RunSettings


@pytest.mark.slow
def test_streamed_run_equals_local_run_and_resumes(
    tiny_run: Callable[..., RunSettings],
    metrics: Callable[[Path], dict[int, dict[str, Any]]],
    drawn_shards: Path,
    tmp_path: Path,
) -> None:
    """Labelled, unlabelled and scored people; from the start, and on from step 3."""
    local = run(tiny_run("everything"), resume=False)
    pipes = [f"data.{name}=pipe:cat {drawn_shards / name}/{{file}}" for name in ("train", "val")]
    streamed = run(tiny_run("everything", *pipes, f"output={tmp_path / 'streamed'}"), resume=False)
    expected, folder = metrics(local.folder), streamed.folder
    assert metrics(folder) == expected
    shutil.rmtree(folder / "checkpoints" / "step-00000006")

    resumed = run(tiny_run("everything", *pipes, f"output={folder}"), resume=True)

    assert metrics(folder) == expected
    states = zip(local.method.state_dict().items(), resumed.method.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)
    assert (folder / "scores.json").read_text() == (local.folder / "scores.json").read_text()
    cards = [json.loads((job.folder / "card.json").read_text()) for job in (local, streamed)]
    assert cards[0]["unlabelled"]["ids_sha256"] == cards[1]["unlabelled"]["ids_sha256"]
