"""The folder of a run: one run at a time writes into it, and what it holds decides how a run begins there."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from configs.load import InputError
from configs.schema import plain
from training import checkpoint
from training.build import RECIPE_NAME
from training.files import SCORES_NAME
from training.runs import is_finished, other_settings, read_settings
from training.settings import RunSettings

LOCK_NAME = "run.lock"
_PATIENCE_S = 1.0  # a sweep that looks whether the folder is free holds the lock for a moment


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other run out of `folder`, which is made where it is missing.

    What a killed run left half written is removed. Raises InputError where another run is training there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=_PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{folder}: another run is training in this folder: wait until it ends, or give another output="
        ) from error
    try:
        _sweep(folder)
        yield
    finally:
        with suppress(OSError):
            if [path.name for path in folder.iterdir()] == [LOCK_NAME]:  # refused before it wrote anything
                (folder / LOCK_NAME).unlink()
                folder.rmdir()
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a run is training in `folder`."""
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            return False
    except Timeout:
        return True


def _sweep(folder: Path) -> None:
    """Remove the files that are written before they get their names; evaluations may be under way."""
    for path in folder.rglob("*.tmp"):
        if path.relative_to(folder).parts[0] == "evaluation":
            continue
        if path.parent.name == checkpoint.FOLDER:
            shutil.rmtree(path, ignore_errors=True)
        elif re.search(r"\.\d+\.tmp$", path.name):
            path.unlink(missing_ok=True)


def is_complete(cfg: RunSettings) -> bool:
    """Whether nothing is left to do in the folder of `cfg`: its last step is scored, its network intact."""
    folder = Path(cfg.output)
    last = checkpoint.step_folder(folder, cfg.steps)
    return is_finished(folder, cfg.steps) and (not last.exists() or checkpoint.damage(last) is None)


def find_start(cfg: RunSettings, *, is_changed: bool, say: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint in the folder of `cfg`, from which the run goes on; None: from step 0.

    Without an intact checkpoint whatever is left of one is moved aside.

    Args:
        cfg: the settings of the run.
        is_changed: whether they were given as changes to the folder's own recipe; where not, they must be
            those that the folder's run was started with.
        say: takes a sentence about what was found to be damaged.

    Raises InputError where the folder holds the checkpoints of a run of other settings.
    """
    folder = Path(cfg.output)
    if checkpoint.kept_steps(folder):
        if not is_changed:
            refuse_other_settings(cfg)
        newest = checkpoint.latest(folder, warn=say)
        if newest is not None:
            return newest
        moved = ", ".join(path.name for path in checkpoint.set_damaged_aside(folder))
        say(f"{folder}: no checkpoint is intact, so the run starts anew; the damaged ones are now {moved}")
    (folder / SCORES_NAME).unlink(missing_ok=True)  # of a run whose network is gone
    return None


def refuse_other_settings(cfg: RunSettings) -> None:
    """Raise InputError where the run in the folder of `cfg` was started with other settings."""
    folder = Path(cfg.output)
    try:
        has = read_settings(folder)
    except InputError as error:
        raise InputError(
            f"{folder} holds checkpoints of an unknown run: put its {RECIPE_NAME} back, or give another "
            f"output= ({error})"
        ) from None
    different = other_settings(has, plain(cfg))
    if different:
        raise InputError(
            f"{folder} holds a run with other settings ({different}): give another output=, or go on with "
            f"that run by `--resume {folder}`, where settings that may change are given as key=value"
        )


def refuse_odd_folder(folder: Path) -> None:
    """Raise InputError where a new run would be spread over the folder that its user works in."""
    if Path.cwd().is_relative_to(folder.resolve()) and not (folder / RECIPE_NAME).is_file():
        raise InputError(
            f"output: {folder} is the current folder or holds it: give a folder for this run alone, such as "
            "output=runs/mine"
        )
