"""What the folder of a run holds, read back: its recipe, scores and losses, and whether it is finished."""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

from semipose.configs import yaml12
from semipose.configs.load import InputError, dump, load
from semipose.models.files import CONFIG_NAME, METRICS_NAME, RECIPE_NAME, SCORES_NAME, read_json
from semipose.training import checkpoint
from semipose.training.resume import differences
from semipose.training.settings import RunSettings

WITHOUT_EFFECT = (
    *("output", "published", "seed"),
    *("report_every", "checkpoint_every", "keep_checkpoints", "trackers", "collapse", "report"),
    "probe_photos",
)
LOADER_WITHOUT_EFFECT = ("threads", "prefetch", "hw_decoder_load")
BINS = 100
"""A curve shows the mean of a term in each of so many parts of a run: single steps are noise."""
CURE = "put it back, train the run again or leave it out"


def own_recipe(folder: Path) -> Path:
    """The recipe in a run's folder. Raises InputError where there is none, or no recipe of a run, and for a
    model folder, which holds the recipe of its run."""
    recipe = folder / RECIPE_NAME
    if (folder / CONFIG_NAME).is_file() and not (folder / checkpoint.FOLDER).exists():
        parent = parent_of(folder)
        is_inside = (parent / RECIPE_NAME).is_file()
        cure = f"give the folder of its run, {parent}" if is_inside else "give the folder of the run"
        raise InputError(f"{folder}: this is a model folder and not a run: {cure}")
    if not recipe.is_file():
        raise InputError(f"{folder}: the folder holds no {RECIPE_NAME}, so it is no run")
    settings = _read_yaml(recipe)
    if not isinstance(settings, dict) or not {"data", "base"} & set(settings):
        raise unlike_a_run(recipe, "it does not hold the settings of a run")
    return recipe


def parent_of(folder: Path) -> Path:
    """The folder that holds `folder`, also for a folder such as `.`, whose name does not say it."""
    return folder.parent if folder.name not in ("", "..") else folder.resolve().parent


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run as plain values, defaults filled in where today's settings still read them.

    Raises InputError where the recipe is missing or damaged.
    """
    recipe = own_recipe(folder)
    try:
        settings = yaml12.parse(dump(load(RunSettings, recipe)), str(recipe)).value
    except InputError:  # of an older version
        settings = _read_yaml(recipe)
    if not {"seed", "steps", "labelled_batch"} <= set(settings) or not isinstance(
        settings.get("data", {}), dict
    ):
        raise unlike_a_run(recipe, "it does not hold all settings of a run")
    return dict(settings)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml12.parse(path.read_text(), str(path)).value
    except (OSError, UnicodeDecodeError) as error:
        raise unlike_a_run(path, error) from None


def read_scores(folder: Path) -> dict[str, Any]:
    """The content of scores.json; empty where there is none yet. Raises InputError where it is damaged."""
    path = folder / SCORES_NAME
    if not path.is_file():
        return {}
    scores = read_json(path, cure=CURE)
    is_whole = True
    try:
        for row in (scores["last"], scores["best"], *scores["history"]):
            is_whole &= isinstance(row["step"], int) and bool(dict(next(iter(row["scores"].values()))))
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise unlike_a_run(path, error) from None
    if not is_whole:
        raise unlike_a_run(path, "a step or its scores are missing")
    return scores


def read_losses(folder: Path) -> dict[int, float]:
    """The loss of a run by step, of every line of its metrics that has a finite one. Raises InputError."""
    return {row["step"]: row["loss"] for row in read_metrics(folder) if row.get("loss") is not None}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics: `step` and terms, null where a term was not finite. Raises InputError."""
    path = folder / METRICS_NAME
    cure = "train the run again or leave it out"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}): {cure}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: cannot be read (a line of it holds no mapping): {cure}")
    return rows


def binned(values: dict[int, float], total_steps: int) -> dict[int, float]:
    """The mean of a quantity {step: value} in each of `BINS` parts of a run, at the part's last step."""
    length = -(-total_steps // BINS)
    parts: dict[int, list[float]] = {}
    for step, value in values.items():
        parts.setdefault(min(-(-step // length) * length, total_steps), []).append(value)
    return {step: mean(of_part) for step, of_part in sorted(parts.items())}


def is_finished(folder: Path, steps: int) -> bool:
    """Whether the last of `steps` is scored and its network was kept.

    A run whose checkpoints were all removed since, to make room, stays finished.
    """
    try:
        scores = read_scores(folder)
    except InputError:  # the run writes it again when it goes on
        return False
    if not scores or scores["last"]["step"] != steps:
        return False
    checkpoints = folder / checkpoint.FOLDER
    are_removed = not checkpoints.is_dir() or not any(checkpoints.iterdir())
    return are_removed or steps in checkpoint.kept_steps(folder)


def other_settings(has: dict[str, Any], wants: dict[str, Any]) -> str:
    """`optim.lr=0.1 instead of 0.2, ...`: what a run has and what it should have, both as plain values, of
    the settings that can change its scores; empty where they are equal."""
    return ", ".join(
        f"{each.setting}={json.dumps(each.was)} instead of {json.dumps(each.now)}"
        for each in differences(has, wants)
        if each.setting == "seed" or has_effect(each.setting)
    )


def unlike_a_run(path: Path, why: Exception | str) -> InputError:
    """The sentence about a file that is not as a run writes it."""
    return InputError(f"{path}: cannot be read ({why}): {CURE}")


def has_effect(setting: str) -> bool:
    """Whether a setting, by its dotted name, can change a score of runs with one seed."""
    group, _, inner = setting.partition(".")
    return group not in WITHOUT_EFFECT and not (group == "loader" and inner in LOADER_WITHOUT_EFFECT)


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """What of a run's settings can change its scores, except the seed and the draw of labelled people.

    Runs that start from those of their own seeds are of one recipe, as far as folders are named by them.
    """
    kept = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
    data = {key: value for key, value in kept.get("data", {}).items() if key not in ("subset_seed", "fold")}
    loader = {key: value for key, value in kept.get("loader", {}).items() if key not in LOADER_WITHOUT_EFFECT}
    text = json.dumps({**kept, "data": data, "loader": loader})
    own_start = rf'("start_from": "[^"]*seed=?){settings["seed"]}(?!\d)'
    of_any_seed: dict[str, Any] = json.loads(re.sub(own_start, r"\1{seed}", text))
    return of_any_seed
