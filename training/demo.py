"""The main job in small: draw people, shard them, train with few labels by two methods, compare.

    python training/demo.py [kind=person|image] [seed=0]

It runs the commands that a user would, prints each, and leaves everything under runs/demo, or with kind=image
(whole photos of several people) under runs/demo-image.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(ROOT)

import json
import shutil
import subprocess
import time
from typing import Any, Literal, NamedTuple

from rich.table import Table

from semipose.configs.console import plain_console
from semipose.configs.load import command
from semipose.configs.settings import settings
from semipose.models.files import CARD_NAME, SCORES_NAME, write_json

console = plain_console()


class Recipes(NamedTuple):
    """The recipes of a demo, and where its runs are."""

    folder: Path
    shards: tuple[str, str]
    protocol: str
    methods: tuple[str, str]
    changes: tuple[str, ...] = ()
    """Words for the second method."""


DEMOS = {
    "person": Recipes(Path("runs/demo"), ("drawn", "drawn_val"), "demo", ("supervised", "adaptive_mixup")),
    "image": Recipes(
        Path("runs/demo-image"),
        ("scenes", "scenes_val"),
        "scenes",
        ("supervised", "detector_free"),
        ("method.use=both",),  # what the paper proposes
    ),
}


@settings
class DemoSettings:
    """The demo."""

    kind: Literal["person", "image"] = "person"
    """What a sample is: a person (each in a view of its own), or a whole photo with all its people."""
    seed: int = 0
    """Seed of both runs: first weights, views, masks. The drawn people are the same for every seed."""


def demo(cfg: DemoSettings) -> None:
    """Draw, shard, train both methods, print one table and write summary.json."""
    began = time.perf_counter()
    recipes = DEMOS[cfg.kind]
    for recipe in recipes.shards:
        call("sharding/build.py", f"configs/shards/{recipe}.yaml")
    rows = [train(recipes, method, cfg.seed) for method in recipes.methods]
    write_json(recipes.folder / "summary.json", {"rows": rows})
    console.print(table(rows))
    for method in recipes.methods:
        console.print(f"pictures: {recipes.folder / method / 'pictures'}")
    console.print(f"summary: {recipes.folder / 'summary.json'}   {time.perf_counter() - began:.0f} s in all")


def train(recipes: Recipes, method: str, seed: int) -> dict[str, Any]:
    """Train one method by its recipe in a fresh run folder, and return its row of the table."""
    folder = recipes.folder / method
    if folder.exists():
        shutil.rmtree(folder)
    began = time.perf_counter()
    call("training/run.py", *words(recipes, method, seed))
    seconds = time.perf_counter() - began
    card = json.loads((folder / CARD_NAME).read_text())
    scores = next(iter(json.loads((folder / SCORES_NAME).read_text())["last"]["scores"].values()))
    return {
        "method": method,
        "labelled": card["labelled"]["people"],
        "unlabelled": card["unlabelled"]["people"] if card["unlabelled"] else 0,
        "steps": card["steps"],
        **{name: round(scores[name], 4) for name in ("AP", "AP50", "AR")},
        "seconds": round(seconds, 1),
    }


def words(recipes: Recipes, method: str, seed: int) -> tuple[str, ...]:
    """What training/run.py is called with."""
    recipe_files = f"configs/protocols/{recipes.protocol}.yaml", f"configs/methods/{method}.yaml"
    changes = recipes.changes if method == recipes.methods[1] else ()
    return *recipe_files, *changes, f"output={recipes.folder / method}", f"seed={seed}"


def call(*words: str) -> None:
    """Run a Python command of the project, showing it; its failure ends the demo with its exit code."""
    console.print(f"$ python {' '.join(words)}", style="bold", highlight=False, soft_wrap=True)
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal has told the command too, which ends by itself
        process.wait()
        raise
    if code != 0:
        raise SystemExit(code)


def table(rows: list[dict[str, Any]]) -> Table:
    """One line per method, scores in percent."""
    result = Table(title="people never seen in training, last step")
    for name in ("method", "labels", "unlabelled", "steps", "AP", "AP50", "AR", "seconds"):
        result.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        scores = (f"{100 * row[name]:.1f}" for name in ("AP", "AP50", "AR"))
        counts = (str(row[name]) for name in ("labelled", "unlabelled", "steps"))
        result.add_row(row["method"], *counts, *scores, f"{row['seconds']:.0f}")
    return result


if __name__ == "__main__":
    command(DemoSettings, demo, description="Train on drawn people with few labels, and compare.")
