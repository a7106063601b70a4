"""Finished runs: read from their folders, grouped by recipe and protocol, their scores over seeds."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from semipose.configs.load import InputError
from semipose.models.files import CARD_NAME, RECIPE_NAME, read_json
from semipose.training.resume import in_words
from semipose.training.run_files import (
    CURE,
    has_effect,
    identity,
    is_finished,
    read_scores,
    read_settings,
    unlike_a_run,
)

IN_CAPTION = r"-(?:seed|labelled|steps|subset_seed|fold)=?\d+"  # of a folder's name, not repeated in a row


@dataclass(frozen=True)
class Protocol:
    """What two runs must share to stand in one table."""

    name: str
    labelled: int
    labelled_ids: str | None
    """A hash of the labelled people; None where they are drawn at random, so that another draw may differ."""
    val: int
    val_ids: str
    steps: int
    people_a_step: int
    """Labelled people in a step, over all processes."""

    @property
    def caption(self) -> str:
        """The protocol in words, its hashes shortened."""
        which = f"(ids {self.labelled_ids[:12]})" if self.labelled_ids is not None else "at random"
        return (
            f"{self.name}: {self.labelled:,} labelled {which}, {self.val:,} scored "
            f"(ids {self.val_ids[:12]}), {self.steps:,} steps of {self.people_a_step} labelled people"
        )


class Replicate(NamedTuple):
    """What tells the runs of one row apart, and pairs them with those of another."""

    seed: int
    draw: int | None
    """Which random choice of the labelled people (`data.subset_seed`, or `data.fold` of a share of photos);
    None where the protocol says which they are."""

    def __str__(self) -> str:
        return str(self.seed) if self.draw is None else f"{self.seed}/{self.draw}"

    @property
    def words(self) -> str:
        """It in words."""
        return f"seed {self.seed}" if self.draw is None else f"seed {self.seed}, draw {self.draw}"


@dataclass(frozen=True)
class Run:
    """One finished run.

    `settings` lacks the replicate and what cannot change a score; `last` and `best` are
    {network: scores in 0..1}, `history` such scores by the step of each scoring, `changes` in words which
    settings were others before the run was resumed; mostly none.
    """

    folder: Path
    replicate: Replicate
    labelled_ids: str
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
    """Runs of one recipe under one protocol; `name` tells it from the others of its protocol."""

    name: str
    runs: dict[Replicate, Run]

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
    draw = _draw(settings.get("data", {}))
    try:
        labelled_ids = card["labelled"]["ids_sha256"]
        protocol = Protocol(
            card["protocol"],
            card["labelled"]["people"],
            labelled_ids if draw is None else None,
            card["val"]["people"],
            card["val"]["ids_sha256"],
            settings["steps"],
            settings["labelled_batch"] * card["processes"],
        )
        return Run(
            folder,
            Replicate(settings["seed"], draw),
            labelled_ids,
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
        raise unlike_a_run(folder / CARD_NAME, error) from None


def _draw(data: dict[str, Any]) -> int | None:
    """Which random choice of the labelled people it is, by the settings `data` of a run.

    Those of an older version may lack some.
    """
    if data.get("labelled_share") is not None:
        return int(data.get("fold", 0))
    drawn = data.get("subset_seed")
    return None if drawn is None or data.get("labelled", "all") == "all" else int(drawn)


def group_runs(runs: Iterable[Run]) -> tuple[dict[Protocol, list[Group]], list[Run]]:
    """Runs by protocol and recipe, and those that repeat seed and draw of another run of their recipe."""
    by_recipe: dict[tuple[Protocol, str], dict[Replicate, Run]] = {}
    repeated = []
    for run in runs:
        recipe = json.dumps([run.settings, run.changes], sort_keys=True)
        seeds = by_recipe.setdefault((run.protocol, recipe), {})
        if run.replicate in seeds:
            repeated.append(run)
        else:
            seeds[run.replicate] = run
    tables: dict[Protocol, list[dict[Replicate, Run]]] = {}
    for (protocol, _), seeds in by_recipe.items():
        tables.setdefault(protocol, []).append(dict(sorted(seeds.items())))
    return {protocol: name_groups(groups) for protocol, groups in tables.items()}, repeated


def name_groups(groups: list[dict[Replicate, Run]]) -> list[Group]:
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
