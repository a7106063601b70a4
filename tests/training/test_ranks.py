"""Two processes on the CPU (gloo), as a launcher starts them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from semipose.configs.load import dump
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]

# Two launches by the launcher of torchrun, which forks the ranks here, because a new process takes seconds to
# import what a run needs. argv: a folder, then recipes. The second launch goes on with the first one's run.
LAUNCHER = """
import hashlib, json, shutil, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # a forked child cannot share the work among torch's threads
import cv2, nvidia.dali, pycocotools.cocoeval, torch.utils.tensorboard
from accelerate.state import AcceleratorState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from semipose.configs.load import load
from semipose.training import checkpoint
from semipose.training.run import run
from semipose.training.settings import RunSettings

def digest(tensors):
    found = hashlib.sha256()
    for value in tensors:
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()

def train(recipes, resume):
    # a second process group of one launch would wait for ever: all runs take the first
    torch.distributed.destroy_process_group = lambda *_, **__: None
    found = []
    for recipe in recipes:
        job = run(load(RunSettings, recipe), resume=resume)
        found.append({"steps": job.step, "weights": digest(job.method.parameters()),
                      "statistics": digest(job.method.buffers()), "people": job.val.num_samples,
                      "draws": [state.sum().item() for state in job.method.rank_state().values()]})
        AcceleratorState._reset_state()
    return found

def launch(recipes, resume):
    config = LaunchConfig(1, 1, nproc_per_node=2, run_id=str(resume), rdzv_backend="c10d",
                          rdzv_endpoint="localhost:0", max_restarts=0, start_method="fork")
    found = elastic_launch(config, train)(recipes, resume)
    return [found[rank] for rank in (0, 1)]

folder, recipes = Path(sys.argv[1]), sys.argv[2:]
first = launch(recipes, False)
output = Path(load(RunSettings, recipes[0]).output)
shutil.copytree(output, folder / "before")
shutil.rmtree(checkpoint.step_folder(output, 4))
(output / "scores.json").unlink()
(folder / "found.json").write_text(json.dumps([first, launch(recipes[:1], True)]))
"""


@pytest.mark.slow
def test_two_ranks_agree_share_the_work_and_resume_exactly(
    tiny_run: Callable[..., RunSettings], tmp_path: Path
) -> None:
    """Also where a step leaves parameters out: with pseudo labels one network rests, and the projection of
    DoubleMatch waits for the end of the burn-in."""
    others = {"pseudo": "{name: pseudo_label}", "match": "{name: double_match, burn_in: 0.5}"}
    settings = [tiny_run("everything", "steps=4", "checkpoint_every=2")]
    for name, method in others.items():
        words = ("steps=4", f"output={tmp_path / name}")
        settings.append(tiny_run("supervised", f"method={method}", *words))
    recipes = [tmp_path / f"recipe-{number}.yaml" for number in range(len(settings))]
    for recipe, cfg in zip(recipes, settings, strict=True):
        recipe.write_text(dump(cfg))
    subprocess.run(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), *map(str, recipes)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )

    # What each of two ranks finds after it has trained by each recipe, one after the other.
    first, second = json.loads((tmp_path / "found.json").read_text())
    for one, other in zip(*first, strict=True):
        assert [one["steps"], other["steps"]] == [4, 4]
        assert one["weights"] == other["weights"]
        assert one["statistics"] == other["statistics"]  # those of the first rank, which are scored and saved
    ranks = [each[0] for each in first]
    assert ranks[0]["draws"] != ranks[1]["draws"]
    assert [rank["people"] for rank in ranks] == [6, 6]
    before = tmp_path / "before"
    assert json.loads((before / "card.json").read_text())["processes"] == 2
    scores = (before / "scores.json").read_text()
    assert {"AP", "PCK"} <= set(json.loads(scores)["last"]["scores"]["network"])
    files = {path.name for path in (before / "checkpoints" / "step-00000002").iterdir()}
    assert files == {"shared.pt", "rank-0.pt", "rank-1.pt", "checksums.json"}

    assert [each[0] for each in second] == ranks
    assert (Path(settings[0].output) / "scores.json").read_text() == scores
