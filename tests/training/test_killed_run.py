"""A whole run that is killed before each of its file operations, and the same command again."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semipose.configs.load import dump
from semipose.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
MakeRun = Callable[..., RunSettings]

# Trains in forked children, in a folder of its own for each kill; prints one JSON line.
# argv: recipe, scratch folder, how many runs are killed of a new and of a resumed one, kills a run.
KILLER = """
import json, os, shutil, signal, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)  # a forked child cannot share the work among torch's threads
import cv2, nvidia.dali, pycocotools.cocoeval, torch.utils.tensorboard
from tests.killing import run_and_die
from semipose.training import checkpoint, run

recipe, scratch, every, kills_a_run = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
CLOCK = {"samples_per_s", "data_wait_share", "seconds_per_step", "peak_memory_gib"}

def train(folder, allowed=None):
    def work():
        log = os.open(scratch / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        try:
            run.main([recipe, f"output={folder}"])
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return run_and_die(work, allowed, within=folder)

def plain(state):
    if isinstance(state, torch.Tensor):
        return str(state.dtype), state.tolist()
    if isinstance(state, dict):  # forking seeds Python's own generator, of which nothing is drawn
        return {str(key): plain(value) for key, value in state.items() if key != "python"}
    return [plain(value) for value in state] if isinstance(state, list | tuple) else state

def outcome(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
    states = {}
    for step in checkpoint.kept_steps(folder):
        found = checkpoint.load(checkpoint.step_folder(folder, step))
        states[step] = plain(found.shared), plain(found.rank_state)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    files = sorted(name for name in names if "tensorboard" not in name)
    return {"rows": rows, "states": states, "files": files, "scores": (folder / "scores.json").read_text()}

def kill_before(operation, is_resumed):
    '{what differs}, or None where the run was not killed any more'
    folder = scratch / f"{'resumed' if is_resumed else 'new'}-{operation}"
    if is_resumed:
        shutil.copytree(whole, folder)
        shutil.rmtree(checkpoint.step_folder(folder, 2))
        (folder / "scores.json").unlink()
    code = train(folder, operation)
    if code != -signal.SIGKILL:
        return None if code == 0 else {"code": code}
    for number in range(1, kills_a_run):
        train(folder, 7 * operation * number % 50)
    if train(folder) != 0:
        return {"log": (scratch / f"{folder.name}.log").read_text().splitlines()[-1]}
    found = outcome(folder)
    shutil.rmtree(folder)
    differs = {key: "differs" for key in expected if found[key] != expected[key]}
    if "files" in differs:
        differs["files"] = sorted(set(found["files"]) ^ set(expected["files"]))
    return differs

whole = scratch / "whole"
assert train(whole) == 0, (scratch / "whole.log").read_text()
expected, wrong, kills = outcome(whole), {}, 0
for is_resumed in (False, True):
    operation = 0
    while (differs := kill_before(operation, is_resumed)) is not None:
        kills += 1
        if differs:
            wrong[f"{operation} {is_resumed}"] = differs
        operation += every
print(json.dumps({"kills": kills, "wrong": wrong}))
"""


def killed(recipe: Path, settings: RunSettings, *, every: int, kills_a_run: int = 1) -> dict[str, Any]:
    recipe.write_text(dump(settings))
    words = [str(recipe), str(recipe.parent), str(every), str(kills_a_run)]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


SHORT = ("steps=2", "checkpoint_every=1", "evaluate_every=1", "keep_checkpoints=1")


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(tiny_run: MakeRun, tmp_path: Path) -> None:
    """Metrics, scores, weights, random states and files are equal, at a sample of the moments."""
    found = killed(tmp_path / "recipe.yaml", tiny_run("supervised", *SHORT), every=31)
    assert found["wrong"] == {}
    assert found["kills"] >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "every", "kills_a_run"), [("supervised", 1, 1), ("everything", 7, 1), ("supervised", 3, 3)]
)
def test_a_run_may_be_killed_before_any_file_operation(
    method: str, every: int, kills_a_run: int, tiny_run: MakeRun, tmp_path: Path
) -> None:
    cfg = tiny_run(method, *SHORT)
    found = killed(tmp_path / "recipe.yaml", cfg, every=every, kills_a_run=kills_a_run)
    assert found["wrong"] == {}
    assert found["kills"] > 100 / every
