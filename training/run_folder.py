"""The folder of a run: it is locked while the run trains, and its content decides where a run starts."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.models.files import (
    CARD_NAME,
    METRICS_NAME,
    PAGE_NAME,
    PEOPLE_NAME,
    RECIPE_NAME,
    SCORES_NAME,
    TRACKERS_NAME,
)
from semipose.sharding.store.files import names_in, refuse_strangers
from semipose.training import checkpoint
from semipose.training.resume import Resumed, compare_settings
from semipose.training.run_files import is_finished, other_settings, own_recipe, read_settings
from semipose.training.settings import RunSettings

LOCK_NAME = "run.lock"
SWEEP_LOCK_NAME = "sweep.lock"
LOG_NAME = "log.txt"
"""What a sweep writes into the folder of a run before it begins."""
_WRITTEN = (CARD_NAME, METRICS_NAME, PAGE_NAME, PEOPLE_NAME, RECIPE_NAME, SCORES_NAME, TRACKERS_NAME)
_HALF_WRITTEN = re.compile(
    rf"(({'|'.join(map(re.escape, _WRITTEN))})"
    r"|model(\.former)?|index/.+|pictures/(views|predictions)-\d+\.png)\.\d+\.tmp"
)
_PATIENCE_S = 1.0  # a sweep holds the lock for a moment when it looks whether the folder is free


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock `folder` against other runs; it is created if it is missing.

    Half-written files of a killed run are removed. Raises InputError if another run is training there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{folder}: another run is training in this folder: wait until it ends, or choose another output="
        ) from error
    try:
        _sweep(folder)
        yield
    finally:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [LOCK_NAME]:  # nothing was written
                (folder / LOCK_NAME).unlink()
                folder.rmdir()
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a run is training in `folder`."""
    if not (folder / LOCK_NAME).exists():  # looking must leave no lock, which is the mark of a run
        return False
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            return False
    except Timeout:
        return True


def begun_recipe(folder: Path) -> Path:
    """The recipe of the run to continue in `folder`. Raises InputError where no run has begun.

    A run that was killed before its first checkpoint has begun; a recipe alone is none.
    """
    recipe = own_recipe(folder)
    if not any((folder / name).exists() for name in (LOCK_NAME, CARD_NAME, checkpoint.FOLDER)):
        raise InputError(
            f"{folder}: no run has begun in this folder, so there is none to continue: start one with "
            f"`semipose train {shlex.quote(str(recipe))} output=FOLDER`, without --resume"
        )
    return recipe


def _sweep(folder: Path) -> None:
    """Remove temporary files of a run, except those of evaluations, which may still be running."""
    checkpoint.sweep(folder / checkpoint.FOLDER)
    for path in list(folder.rglob("*.tmp")):
        if _HALF_WRITTEN.fullmatch(path.relative_to(folder).as_posix()):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def is_complete(cfg: RunSettings) -> bool:
    """Whether the run of `cfg` is complete: its last step is scored and its network is intact."""
    folder = Path(cfg.output)
    last = checkpoint.step_folder(folder, cfg.steps)
    return is_finished(folder, cfg.steps) and (not last.exists() or checkpoint.damage(last) is None)


def find_start(cfg: RunSettings, *, is_changed: bool, say: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint in the folder of `cfg`, from which the run continues; None: from step 0.

    If no checkpoint is intact, the damaged ones are moved aside.

    Args:
        cfg: the settings of the run.
        is_changed: whether they are changes to the recipe in the folder; if not, they must equal it.
        say: takes a sentence about a damaged checkpoint.

    Raises InputError if the folder holds checkpoints of a run with other settings.
    """
    folder = Path(cfg.output)
    if checkpoint.kept_steps(folder):
        if not is_changed:
            refuse_other_settings(cfg)
        newest = checkpoint.latest(folder, warn=say)
        if newest is not None:
            return newest
        moved = ", ".join(path.name for path in checkpoint.set_damaged_aside(folder))
        say(
            f"{folder}: no checkpoint is intact, so the run starts from step 0; the damaged ones are now "
            f"called {moved}"
        )
    elif is_changed:
        say(f"{folder}: there is no checkpoint, so the run starts from step 0")
    (folder / SCORES_NAME).unlink(missing_ok=True)  # of a network that is gone
    return None


def refuse_other_settings(cfg: RunSettings) -> None:
    """Raise InputError if the run in the folder of `cfg` was started with other settings."""
    folder = Path(cfg.output)
    try:
        has = read_settings(folder)
    except InputError as error:
        raise InputError(
            f"{folder} holds checkpoints of an unknown run: put its {RECIPE_NAME} back, or choose another "
            f"output= ({error})"
        ) from None
    different = other_settings(has, plain(cfg))
    if different:
        has_steps_left = cfg.steps > has["steps"] or not is_finished(folder, has["steps"])
        can_continue = has_steps_left and not compare_settings(has, plain(cfg)).refused
        raise InputError(
            f"{folder} holds a run with other settings ({different}): choose another output="
            + (
                f", or continue that run with `semipose train --resume {shlex.quote(cfg.output)}`, followed "
                "by the settings to change as key=value"
                if can_continue
                else ""
            )
        )


def refuse_changes(cfg: RunSettings) -> None:
    """Raise InputError if `cfg` changes settings of the finished run in its folder, which has no step left
    for them."""
    folder = Path(cfg.output)
    changes = Resumed(cfg, read_settings(folder)).changes.recorded
    names = [change.setting for change in changes if change.setting != "published"]
    if names:
        raise InputError(
            f"{folder}: all {cfg.steps:,} steps are trained, so a change of {', '.join(names)} has no "
            "effect: leave it out, or continue the run with more steps="
        )


def refuse_odd_folder(folder: Path) -> None:
    """Raise InputError if a run would write its files among those of somebody else, or into the current
    folder or a parent of it."""
    if _holds_run(folder):
        return
    if Path.cwd().is_relative_to(folder.resolve()):
        raise InputError(
            f"output: {folder} is the current folder or contains it: choose a folder for this run alone, "
            "such as output=runs/mine"
        )
    refuse_strangers(folder, [name for name in names_in(folder) if name not in (SWEEP_LOCK_NAME, LOG_NAME)])


def _holds_run(folder: Path) -> bool:
    """Whether a run wrote into `folder`: it has the lock, checkpoints, or both recipe and card of one."""
    if (folder / LOCK_NAME).is_file() or checkpoint.kept_steps(folder):
        return True
    with suppress(InputError):
        return own_recipe(folder).with_name(CARD_NAME).is_file()
    return False
