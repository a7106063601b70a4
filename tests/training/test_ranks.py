"""Two processes on the CPU (gloo), as a launcher starts them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from configs.load import dump
from training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import hashlib, json, os, sys
from pathlib import Path
import torch.distributed
from accelerate.state import AcceleratorState
from configs.load import load
from training.run import run
from training.settings import RunSettings

def digest(tensors):
    found = hashlib.sha256()
    for value in tensors:
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()

# a second process group of one launch would wait for ever: all runs take the first
torch.distributed.destroy_process_group = lambda *_, **__: None
recipes, folder = sys.argv[1].split(","), Path(sys.argv[2])
found = []
for recipe in recipes:
    job = run(load(RunSettings, recipe), resume="resume" in sys.argv)
    found.append({"steps": job.step, "weights": digest(job.method.parameters()),
                  "statistics": digest(job.method.buffers()), "people": job.val.num_samples,
                  "draws": [state.sum().item() for state in job.method.rank_state().values()]})
    AcceleratorState._reset_state()
(folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
"""


def launch(recipes: list[Path], folder: Path, *words: str) -> list[list[dict[str, object]]]:
    """What each of two ranks finds after it has trained by each recipe, one after the other."""
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(worker), ",".join(map(str, recipes)), str(folder), *words],
        check=True,
        env=environment,
        timeout=300,
    )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


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
    found = launch(recipes, tmp_path)
    for one, other in zip(*found, strict=True):
        assert [one["steps"], other["steps"]] == [4, 4]
        assert one["weights"] == other["weights"]
        assert one["statistics"] == other["statistics"]  # those of the first rank, which are scored and saved
    ranks = [each[0] for each in found]
    assert ranks[0]["draws"] != ranks[1]["draws"]
    assert [rank["people"] for rank in ranks] == [6, 6]
    folder = Path(settings[0].output)
    assert json.loads((folder / "card.json").read_text())["processes"] == 2
    scores = (folder / "scores.json").read_text()
    assert {"AP", "PCK"} <= set(json.loads(scores)["last"]["scores"]["network"])
    files = {path.name for path in (folder / "checkpoints" / "step-00000002").iterdir()}
    assert files == {"shared.pt", "rank-0.pt", "rank-1.pt", "checksums.json"}

    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "scores.json").unlink()
    assert [each[0] for each in launch(recipes[:1], tmp_path, "resume")] == ranks
    assert (folder / "scores.json").read_text() == scores
