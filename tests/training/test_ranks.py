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
from configs.load import load
from training.run import run
from training.settings import RunSettings

job = run(load(RunSettings, sys.argv[1]), resume="resume" in sys.argv)
digest = hashlib.sha256()
for value in job.method.parameters():
    digest.update(value.detach().contiguous().numpy().tobytes())
found = {"steps": job.step, "weights": digest.hexdigest(), "people": job.val.num_samples,
         "draws": job.method.rank_state()["device"].sum().item()}
Path(sys.argv[2], f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
"""


def launch(recipe: Path, folder: Path, *words: str) -> list[dict[str, object]]:
    worker = folder / "worker.py"
    worker.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(worker), str(recipe), str(folder), *words], check=True, env=environment, timeout=300
    )
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_ranks_agree_share_the_work_and_resume_exactly(
    tiny_run: Callable[..., RunSettings], tmp_path: Path
) -> None:
    recipe = tmp_path / "two.yaml"
    cfg = tiny_run("everything", "steps=4", "checkpoint_every=2")
    recipe.write_text(dump(cfg))
    ranks = launch(recipe, tmp_path)
    assert [rank["steps"] for rank in ranks] == [4, 4]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["draws"] != ranks[1]["draws"]
    assert [rank["people"] for rank in ranks] == [6, 6]
    folder = Path(cfg.output)
    assert json.loads((folder / "card.json").read_text())["processes"] == 2
    scores = (folder / "scores.json").read_text()
    assert {"AP", "PCK"} <= set(json.loads(scores)["last"]["scores"]["network"])
    files = {path.name for path in (folder / "checkpoints" / "step-00000002").iterdir()}
    assert files == {"shared.pt", "rank-0.pt", "rank-1.pt", "checksums.json"}

    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "scores.json").unlink()
    assert launch(recipe, tmp_path, "resume") == ranks
    assert (folder / "scores.json").read_text() == scores
