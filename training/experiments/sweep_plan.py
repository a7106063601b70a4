"""What a sweep runs: every method by every protocol, value and seed, each in a folder of its own."""

import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from semipose.configs.load import CONFIGS, InputError
from semipose.configs.schema import plain
from semipose.configs.settings import settings
from semipose.models.files import RECIPE_NAME
from semipose.training.experiments.tables import Plot
from semipose.training.run_files import is_finished, other_settings, read_settings
from semipose.training.settings import RunSettings, load_run


@settings
class SweepSettings:
    """A queue of runs."""

    output: str
    """Folder of the run folders, and of their table."""
    protocols: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of files under configs/protocols, or paths of recipes of your own."""
    methods: tuple[str, ...] = ()
    """Names of files under configs/methods, or paths of recipes of your own. Each is run by every protocol;
    without any, the protocols are whole recipes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each run."""
    labelled_by_seed: bool = False
    """Whether every seed also draws labelled people of its own: it is the `data.subset_seed` of its runs, or
    their `data.fold` where a share of the photos is labelled."""
    vary: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values to try, by `key.path` of the recipes; with several keys, every combination."""
    set: dict[str, Any] = field(default_factory=dict)
    """Values for all runs, by `key.path` of the recipes; `{seed}` in a text is the seed, so that
    `net.start_from: runs/supervised-seed{seed}` lets every run start from the one of its own seed."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """When to stop: no run is started later, and the one under way saves."""
    baseline: str | None = None
    """The row of the table that the others are compared with."""
    plot: Plot = "labels"
    """The picture beside the table: labels, curves or parameters, as training/compare.py draws them."""


@dataclass(frozen=True)
class Item:
    """One run of the queue: its folder, how it is started, and what it is to be."""

    folder: Path
    words: tuple[str, ...]
    cfg: RunSettings

    @property
    def is_done(self) -> bool:
        """Whether its last step is scored and its network kept."""
        return is_finished(self.folder, self.cfg.steps)


def plan(cfg: SweepSettings) -> list[Item]:
    """The queue, all of one seed before the next. Raises InputError with every problem of every run."""
    items: list[Item] = []
    problems: dict[str, None] = {}  # as a set that keeps its order: seeds repeat each other's
    names = short_names(list(cfg.vary))
    combinations = list(itertools.product(*cfg.vary.values()))
    for seed, values, files in itertools.product(cfg.seeds, combinations, recipes(cfg)):
        varied = dict(zip(cfg.vary, values, strict=True))
        parts = [f"{names[key]}={as_name(value)}" for key, value in varied.items()]
        has_folders = cfg.methods and len(cfg.protocols) > 1
        folder = Path(cfg.output) / (files[0].stem if has_folders else "")
        folder /= "-".join([files[-1].stem, *parts, f"seed{seed}"])
        shared = json.loads(json.dumps(cfg.set).replace("{seed}", str(seed)))
        changes = {**shared, **varied, "seed": seed, "output": str(folder)}
        try:
            if cfg.labelled_by_seed:
                key = draw_setting(load_run(files, as_words(changes)))
                if key in changes:
                    raise InputError(f"labelled_by_seed: set or vary has {key} too: remove one of the two")
                changes[key] = seed
            words = as_words(changes)
            items.append(Item(folder, (*map(str, files), *words), load_run(files, words)))
        except InputError as error:
            problems[str(error)] = None
    if len({item.folder for item in items}) < len(items):
        problems[
            "protocols, methods, seeds, vary: two runs have the same folder: remove the repeated one"
        ] = None
    if problems:
        raise InputError("\n".join(problems))
    return items


def as_words(changes: dict[str, Any]) -> tuple[str, ...]:
    """Changes of settings as the command line takes them."""
    return tuple(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items())


def draw_setting(cfg: RunSettings) -> str:
    """The setting that says which random choice of labelled people a run takes. Raises InputError."""
    if cfg.data.labelled_share is not None:
        return "data.fold"
    if cfg.data.labelled == "all":
        raise InputError(
            f"labelled_by_seed: protocol '{cfg.protocol}' labels all people of {cfg.data.train}, so there is "
            "nothing to draw: set data.labelled to a number"
        )
    return "data.subset_seed"


def recipes(cfg: SweepSettings) -> list[tuple[Path, ...]]:
    """The files of each run, protocol and method: by name under configs/, or as the path that was given."""

    def file(kind: str, name: str) -> Path:
        return Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / kind / f"{name}.yaml"

    protocols = [file("protocols", name) for name in cfg.protocols]
    methods = [file("methods", name) for name in cfg.methods]
    if not methods:
        return [(protocol,) for protocol in protocols]
    return [(protocol, method) for method in methods for protocol in protocols]


def short_names(keys: list[str]) -> dict[str, str]:
    """The shortest end of each key that no other has: `method.paths.0.0.max_masks` becomes `max_masks`."""
    names = {}
    for key in keys:
        steps = key.split(".")
        ends = [".".join(steps[i:]) for i in range(len(steps) - 1, -1, -1) if not steps[i].isdecimal()]
        others = [other for other in keys if other != key]
        names[key] = next((end for end in ends if not any(o.endswith(f".{end}") for o in others)), key)
    return names


def as_name(value: Any) -> str:
    """A value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "empty"


def refuse_other_runs(items: list[Item]) -> None:
    """Raise InputError where a run folder was trained by other settings than the sweep asks for."""
    problems = []
    for item in items:
        if (item.folder / RECIPE_NAME).is_file():
            different = other_settings(read_settings(item.folder), plain(item.cfg))
            if different:
                problems.append(f"{item.folder}: was run with {different}: remove it, or give another output")
    if problems:
        raise InputError("\n".join(problems))
