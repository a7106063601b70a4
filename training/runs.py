"""Finished runs: read from their folders, grouped by recipe and protocol, their scores over seeds."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from configs import yaml12
from configs.load import InputError, dump, load
from training import checkpoint
from training.build import RECIPE_NAME
from training.files import CARD_NAME, METRICS_NAME, SCORES_NAME, read_json
from training.resume import differences, in_words
from training.settings import RunSettings

WITHOUT_EFFECT = (
    *("output", "published", "seed"),
    *("report_every", "checkpoint_every", "keep_checkpoints", "collapse"),
)
LOADER_WITHOUT_EFFECT = ("threads", "prefetch", "hw_decoder_load")
CURE = "put it back, train the run again or leave it out"
IN_CAPTION = r"-(?:seed|labelled|steps)=?\d+"  # parts of a folder's name that the row need not repeat


@dataclass(frozen=True)
class Protocol:
    """What two runs must share to stand in one table."""

    name: str
    labelled: int
    labelled_ids: str
    val: int
    val_ids: str
    steps: int
    people_a_step: int
    """Labelled people in a step, over all processes."""

    @property
    def caption(self) -> str:
        """The protocol in words, its hashes shortened."""
        return (
            f"{self.name}: {self.labelled:,} labelled (ids {self.labelled_ids[:12]}), {self.val:,} scored "
            f"(ids {self.val_ids[:12]}), {self.steps:,} steps of {self.people_a_step} labelled people"
        )


@dataclass(frozen=True)
class Run:
    """One finished run.

    `settings` lacks the seed and what cannot change a score; `last` and `best` are {network: scores in 0..1},
    `history` such scores by the step of each scoring, `changes` in words which settings were others before
    the run was resumed; mostly none.
    """

    folder: Path
    seed: int
    settings: dict[str, Any]
    protocol: Protocol
    metric: str
    networks: int
    ensembles: tuple[str, ...]
    last: dict[str, dict[str, float]]
    best: dict[str, dict[str, float]]
    history: dict[int, dict[str, dict[str, float]]]
    trained_parameters: int | None
    """Of all networks and heads that the optimiser moves; None for a card of an older version."""
    changes: str = ""
    published: str = ""
    """Published scores of the recipe under this protocol, in percent."""

    @property
    def product(self) -> str:
        """The network that the run is for."""
        return next(iter(self.last))


@dataclass(frozen=True)
class Group:
    """Runs of one recipe under one protocol, by seed; `name` tells it from the others of its protocol."""

    name: str
    runs: dict[int, Run]

    @property
    def any(self) -> Run:
        """One of the runs, for what they share."""
        return next(iter(self.runs.values()))


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders that `paths` are or hold, each once, by name; InputError where a folder holds none.

    Files are passed over: a shell's `runs/*` names the table that an earlier comparison left there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            continue
        here = sorted(_runs_under(path))
        if not here:
            raise InputError(f"{path}: no run here: name run folders, or folders that hold some")
        found |= dict.fromkeys(here)
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no run folder among these")
    return list(found)


def _runs_under(path: Path) -> Iterator[Path]:
    for folder, inner, files in os.walk(path):
        if RECIPE_NAME in files:
            inner.clear()
            yield Path(folder)


def read_run(folder: Path) -> Run | None:
    """The run in `folder`; None while its last step is not scored. Raises InputError for damaged files."""
    settings, scores = read_settings(folder), read_scores(folder)
    if not is_finished(folder, settings["steps"]):
        return None
    card = read_json(folder / CARD_NAME, cure=CURE)
    try:
        protocol = Protocol(
            card["protocol"],
            card["labelled"]["people"],
            card["labelled"]["ids_sha256"],
            card["val"]["people"],
            card["val"]["ids_sha256"],
            settings["steps"],
            settings["labelled_batch"] * card["processes"],
        )
        return Run(
            folder,
            settings["seed"],
            identity(settings),
            protocol,
            scores["metric"],
            card["networks"],
            tuple(card["ensembles"]),
            scores["last"]["scores"],
            scores["best"]["scores"],
            {row["step"]: row["scores"] for row in scores["history"]},
            card.get("trained_parameters"),
            in_words([each for each in card.get("changes", ()) if has_effect(each["setting"])]),
            settings.get("published", {}).get(card["protocol"], ""),
        )
    except KeyError as error:
        raise InputError(
            f"{folder / CARD_NAME}: there is no {error}: it is of an older version, train the run again"
        ) from None
    except TypeError as error:
        raise _unlike_a_run(folder / CARD_NAME, error) from None


def own_recipe(folder: Path) -> Path:
    """The recipe in a run's folder. Raises InputError where there is none, or no recipe of a run."""
    recipe = folder / RECIPE_NAME
    if not recipe.is_file():
        raise InputError(f"{folder}: the folder holds no {RECIPE_NAME}, so it is no run")
    settings = _read_yaml(recipe)
    if not isinstance(settings, dict) or not {"data", "base"} & set(settings):
        raise _unlike_a_run(recipe, "it does not hold the settings of a run")
    return recipe


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of a run as plain values, defaults filled in where today's settings still read them.

    Raises InputError where the recipe is missing or damaged.
    """
    recipe = own_recipe(folder)
    try:
        settings = yaml12.parse(dump(load(RunSettings, recipe)), str(recipe)).value
    except InputError:  # of an older version
        settings = _read_yaml(recipe)
    if not {"seed", "steps", "labelled_batch"} <= set(settings):
        raise _unlike_a_run(recipe, "it does not hold all settings of a run")
    return dict(settings)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml12.parse(path.read_text(), str(path)).value
    except (OSError, UnicodeDecodeError) as error:
        raise _unlike_a_run(path, error) from None


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
        raise _unlike_a_run(path, error) from None
    if not is_whole:
        raise _unlike_a_run(path, "a step or its scores are missing")
    return scores


def read_losses(folder: Path) -> dict[int, float]:
    """The loss of a run by step, of every line of its metrics that has one. Raises InputError."""
    path = folder / METRICS_NAME
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): train the run again or leave it out") from None
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


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


def _unlike_a_run(path: Path, why: Exception | str) -> InputError:
    """The sentence about a file that is not as a run writes it."""
    return InputError(f"{path}: cannot be read ({why}): {CURE}")


def has_effect(setting: str) -> bool:
    """Whether a setting, by its dotted name, can change a score of runs with one seed."""
    group, _, inner = setting.partition(".")
    return group not in WITHOUT_EFFECT and not (group == "loader" and inner in LOADER_WITHOUT_EFFECT)


def identity(settings: dict[str, Any]) -> dict[str, Any]:
    """What of a run's settings can change its scores, except the seed."""
    kept = {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT}
    loader = {key: value for key, value in kept.get("loader", {}).items() if key not in LOADER_WITHOUT_EFFECT}
    return {**kept, "loader": loader}


def group_runs(runs: Iterable[Run]) -> tuple[dict[Protocol, list[Group]], list[Run]]:
    """Runs by protocol and recipe, and those that repeat the seed of another run of their recipe."""
    by_recipe: dict[tuple[Protocol, str], dict[int, Run]] = {}
    repeated = []
    for run in runs:
        recipe = json.dumps([run.settings, run.changes], sort_keys=True)
        seeds = by_recipe.setdefault((run.protocol, recipe), {})
        if run.seed in seeds:
            repeated.append(run)
        else:
            seeds[run.seed] = run
    tables: dict[Protocol, list[dict[int, Run]]] = {}
    for (protocol, _), seeds in by_recipe.items():
        tables.setdefault(protocol, []).append(dict(sorted(seeds.items())))
    return {protocol: name_groups(groups) for protocol, groups in tables.items()}, repeated


def name_groups(groups: list[dict[int, Run]]) -> list[Group]:
    """Each group by its folder's name without the seed; where two share it, with the settings that differ.

    Runs that were resumed with other settings say so in any case.
    """
    stems = [_stem(next(iter(seeds.values()))) for seeds in groups]
    flat = [dict(leaves(next(iter(seeds.values())).settings)) for seeds in groups]
    named = []
    for stem, own, seeds in zip(stems, flat, groups, strict=True):
        rivals = [other for name, other in zip(stems, flat, strict=True) if name == stem]
        keys = [key for key in own if any(rival.get(key, "") != own[key] for rival in rivals)]
        changes = next(iter(seeds.values())).changes
        changed = [f"(changed {changes})"] if changes else []
        named.append(Group(" ".join([stem, *(f"{key}={own[key]}" for key in keys), *changed]), seeds))
    return named


def _stem(run: Run) -> str:
    """`adaptive` for `.../adaptive-labelled=100-seed0`, `.../adaptive/seed0`, and `.../adaptive-PROTOCOL`."""
    path = run.folder.resolve()
    name = path.parent.name if re.fullmatch(r"seed=?\d+", path.name) else path.name
    return re.sub(rf"({IN_CAPTION}|-{re.escape(run.protocol.name)})(?=-|$)", "", name) or name


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The plain values in a tree, each with its `key.0.key` and as JSON."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) over seeds; None for the latter with a single one."""
    return mean(values), stdev(values) if len(values) > 1 else None
