"""The real thing in short: draw people, shard them, train the demo's two recipes on the GPU, score."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semipose.models.files import METRICS_NAME, SCORES_NAME
from semipose.training.bench.processes import GRACE_S, ROOT, Ended, run_command

SHARDS: Mapping[str, tuple[str, ...]] = {"train": ("source.people=800",), "val": ("source.people=200",)}
METHODS = ("supervised", "adaptive_mixup")
ON_THE_GPU = (
    *("precision=bf16", "data.cache=device", "loader.threads=8"),
    *("steps=200", "evaluate_every=200", "checkpoint_every=200"),
)
DRAWING_SHARE = 0.45
"""Of the time: after it people must be drawn and cut."""
SPEED = ("seconds_per_step", "samples_per_s", "data_wait_share", "peak_memory_gib")


def run_short(
    work: Path,
    *,
    seconds: float,
    shards: Mapping[str, Sequence[str]] = SHARDS,
    methods: Sequence[str] = METHODS,
    settings: Sequence[str] = ON_THE_GPU,
) -> Iterator[dict[str, Any]]:
    """Draw, cut and train by each method of the demo; what is known so far, after each.

    `shards` has settings of configs/shards/drawn.yaml and drawn_val.yaml, `settings` those of both runs.
    """
    deadline = time.monotonic() + seconds
    runs: dict[str, Any] = {}
    for split, changes in shards.items():
        left_s = DRAWING_SHARE * seconds - (seconds - (deadline - time.monotonic()))
        log = work / f"draw-{split}.log"
        ended = run_command(drawing(split, work, changes), log, seconds=left_s, grace_s=GRACE_S, folder=ROOT)
        if ended.problem:
            yield {"runs": runs, "problems": [f"drawing people for {split}: {ended.problem}"]}
            return
    problems: list[str] = []
    for done, name in enumerate(methods):
        share_s = (deadline - time.monotonic()) / (len(methods) - done)
        # The second has three passes where the first has one; both take most of their time to start.
        share_s *= 1.0 if done else 0.9
        folder = work / f"{name}-{time.strftime('%H%M%S')}"
        log, words = work / f"{name}.log", training(name, work, folder, settings)
        ended = run_command(words, log, seconds=share_s, grace_s=GRACE_S, folder=ROOT)
        runs[name] = read_run(folder, ended)
        problems += [f"{name}: {ended.problem}"] if ended.problem else []
        problems += [] if runs[name]["scores"] or ended.problem else [f"{name}: left no scores"]
        yield {"runs": dict(runs), "problems": list(problems)}


def drawing(split: str, work: Path, changes: Sequence[str]) -> list[str]:
    """The command that draws people and cuts them into shards."""
    recipe = {"train": "drawn", "val": "drawn_val"}[split]
    places = (f"source.folder={work / 'drawn' / split}", f"output={work / 'shards' / split}")
    return ["sharding/build.py", f"configs/shards/{recipe}.yaml", *places, *changes]


def training(method: str, work: Path, folder: Path, settings: Sequence[str]) -> list[str]:
    """The command that trains by a method of the demo."""
    people = (f"data.train={work / 'shards' / 'train'}", f"data.val={work / 'shards' / 'val'}")
    recipes = ("configs/protocols/demo.yaml", f"configs/methods/{method}.yaml")
    return ["training/run.py", *recipes, f"output={folder}", *people, *settings]


def read_run(folder: Path, ended: Ended) -> dict[str, Any]:
    """Scores and speed of a run, as far as it got."""
    rows = read_lines(folder / METRICS_NAME)
    speed = [row for row in rows if "seconds_per_step" in row]
    last = speed[-1]["step"] if speed else 0
    # What is compiled, tuned and read into the cache comes in the first half.
    settled = [row for row in speed if row["step"] > last / 2]
    found = {name: statistics.median(row[name] for row in settled) for name in SPEED if settled}
    return {
        "folder": str(folder),
        "seconds": ended.seconds,
        "steps": last,
        "scores": last_scores(folder / SCORES_NAME),
        "loss": speed[-1].get("loss") if speed else None,
        **found,
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object per line; a line that was cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def last_scores(path: Path) -> dict[str, dict[str, float]]:
    """The last scores of each network, those of single joints left out; none where nothing was scored."""
    try:
        networks = json.loads(path.read_text())["last"]["scores"]
    except (OSError, ValueError, KeyError):
        return {}
    return {
        network: {name: value for name, value in scores.items() if "/" not in name}
        for network, scores in networks.items()
    }
