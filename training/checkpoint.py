"""Checkpoints that survive a kill at any moment, and the states that go into them.

A checkpoint is a folder `checkpoints/step-00001234/` with `shared.pt` (what all ranks have in common, written
by rank 0), `rank-<i>.pt` (what differs between ranks: random states, the position in the data) and
`checksums.json`. It is written under a name that ends in `.tmp` and renamed when every byte is on the disk,
so a folder without this ending is complete. With several machines, the run folder must be on a disk that all
of them share.
"""

import json
import os
import random
import re
import shutil
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from semipose.configs.errors import InputError, why_unreadable
from semipose.configs.words import some_of
from semipose.models.weight_files import differing_shapes
from semipose.sharding.store.files import file_sha256, write_atomic

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
SHARED = "shared.pt"
CONTAINERS = (dict, OrderedDict, Counter, list, tuple)
LEAVES = (torch.Tensor, nn.Parameter, bool, int, float, str, bytes, type(None))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `load` returns: the step, the state that all ranks share, and this rank's own state."""

    step: int
    shared: dict[str, Any]
    rank_state: dict[str, Any]


def save(
    run_folder: Path,
    step: int,
    *,
    shared: Mapping[str, Any],
    rank_state: Mapping[str, Any],
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
    keep: int = 2,
    spare: int | None = None,
) -> Path:
    """Write the checkpoint of `step`; every rank calls this, and all return when it is complete.

    `shared` is read on rank 0 only. States consist of what `torch.load(weights_only=True)` accepts: tensors
    and plain values (dict, list, tuple, numbers, text, bytes); anything else is a TypeError here instead of
    an error on resume. Older checkpoints beyond the last `keep`, except that of step `spare`, are removed
    once the new one is complete. An intact checkpoint of the same step is left unchanged (a resumed run would
    write the same).
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    final = step_folder(run_folder, step)
    aside = final.with_name(final.name + ".tmp")
    try:
        if rank == 0:
            sweep(final.parent)
            aside.mkdir(parents=True)
        barrier()
        write_state(aside / _rank_file(rank), rank_state)
        if rank == 0:
            write_state(aside / SHARED, shared)
        barrier()
        if rank == 0:
            _complete(aside, final, step=step, world_size=world_size)
            _prune(final, keep, spare)
        barrier()
    except BaseException:
        if rank == 0:  # which makes room on a full disk
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def latest(run_folder: Path, *, warn: Callable[[str], None] = warnings.warn) -> Path | None:
    """The newest intact checkpoint, or None; damaged ones are skipped with a warning that names them.

    Reads every byte of the files, so call it on one rank and send the result to the others. If a checkpoint
    vanishes while it is read, a run that trains there has removed it and left a newer one: the search starts
    again.
    """
    warned: set[Path] = set()
    while True:
        for path in reversed(_complete_folders(run_folder / FOLDER)):
            problem = damage(path)
            if problem is None:
                return path
            if not path.is_dir():
                break
            if path not in warned:
                warn(f"Checkpoint {path} is damaged ({problem}); looking for an older one.")
            warned.add(path)
        else:
            return None


def kept_steps(run_folder: Path) -> list[int]:
    """The steps whose checkpoints are complete, in ascending order, including damaged ones."""
    return [step_of(path) for path in _complete_folders(run_folder / FOLDER)]


def set_damaged_aside(run_folder: Path) -> list[Path]:
    """Rename every complete checkpoint of a folder in which none is intact; returns the new paths."""
    moved = []
    for path in _complete_folders(run_folder / FOLDER):
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        moved.append(path.rename(aside))
    return moved


def sweep(checkpoints: Path) -> None:
    """Remove what a killed save or a killed removal left behind."""
    for stray in checkpoints.glob("step-*.tmp"):
        shutil.rmtree(stray, ignore_errors=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files according to its checksums, in a few words; None if intact."""
    try:
        written = _manifest(path)
        for name, expected in written["files"].items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
            if file_sha256(path / name) != expected["sha256"]:
                return f"{name} does not match its checksum"
    except InputError as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, LookupError, TypeError) as error:
        return f"the files cannot be compared with {CHECKSUMS}: {type(error).__name__} {error}"
    return None


def load(path: Path, *, rank: int = 0, world_size: int = 1) -> Checkpoint:
    """Read a checkpoint for one rank of a resumed run, into main memory.

    Raises InputError if it is absent or unreadable, or was written by another number of ranks, whose data
    streams cannot be divided again.
    """
    try:
        written = _manifest(path)
    except InputError as error:
        raise InputError(f"There is no complete checkpoint at {path}: {error}.") from None
    if written["world"] != world_size:
        raise InputError(
            f"Checkpoint {path} was written by {written['world']} process(es) and cannot be resumed by "
            f"{world_size}: start {written['world']}."
        )
    return Checkpoint(
        step=written["step"],
        shared=load_shared(path),
        rank_state=read_state(path / _rank_file(rank)),
    )


def load_shared(path: Path) -> dict[str, Any]:
    """The part of a checkpoint that all ranks share, which is enough to score it."""
    return read_state(path / SHARED)


def load_weights(module: nn.Module, state: Mapping[str, Any], where: Path | str) -> None:
    """Load all of `state` into `module`. Raises InputError if the architectures differ."""
    wanted, given = (
        {name: _shape(value) for name, value in each.items()} for each in (module.state_dict(), state)
    )
    if differences := differing_shapes(wanted, given):
        raise InputError(
            f"The checkpoint {where} belongs to another architecture, with entries {differences}: "
            "use the recipe that it was trained with."
        )
    module.load_state_dict(state)


def not_finite(state: Mapping[str, Any]) -> str | None:
    """The names of some tensors in `state` that hold an infinity or a NaN; None if all are finite."""
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        return None
    are_finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    broken = [name for name, is_finite in zip(tensors, are_finite, strict=True) if not is_finite]
    return some_of(broken) if broken else None


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write one file of tensors and plain values, atomically, and flush it to the disk."""
    _refuse_unreadable(dict(state), path.name)
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # If the disk fails, torch raises its own error about the file that it could not finish.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    aside.replace(path)
    _sync_folder(path.parent)


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote, without running code from the file. Raises InputError if that fails.

    The state is read into main memory, because torch cannot map to "cpu:0", the device of one of several
    ranks.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"There is no {path}: give a run folder that holds a checkpoint.") from None
    except Exception as error:  # torch raises half a dozen types for damaged files
        raise InputError(
            f"{path} cannot be read ({why_unreadable(error)}): remove its folder to fall back on an older "
            "checkpoint."
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__} instead of a state dict.")
    return state


def capture_rng() -> dict[str, Any]:
    """The global random states of Python, NumPy and torch (CPU and this rank's GPU), for a checkpoint."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restore what `capture_rng` returned; the state of a GPU is skipped if there is none."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def step_folder(run_folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run_folder / FOLDER / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def _rank_file(rank: int) -> str:
    return f"rank-{rank}.pt"


def _complete_folders(checkpoints: Path) -> list[Path]:
    """Checkpoint folders in ascending order of steps, without those that are still being written."""
    named = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(
        (path for path in named if path == step_folder(checkpoints.parent, step_of(path)) and path.is_dir()),
        key=step_of,
    )


def _complete(aside: Path, final: Path, *, step: int, world_size: int) -> None:
    """Write the checksums and give the folder its final name."""
    names = [SHARED, *(_rank_file(rank) for rank in range(world_size))]
    absent = [name for name in names if not (aside / name).is_file()]
    if absent:
        raise InputError(
            f"{aside} lacks {some_of(absent)}: the run folder must be on a disk that all ranks share."
        )
    files = {
        name: {"bytes": (aside / name).stat().st_size, "sha256": file_sha256(aside / name)} for name in names
    }
    write_atomic(
        aside / CHECKSUMS, json.dumps({"step": step, "world": world_size, "files": files}, indent=1).encode()
    )
    _sync_folder(aside)
    if final.exists():
        _remove(aside if damage(final) is None else final)
    if aside.exists():
        aside.rename(final)
    _sync_folder(final.parent)


def _prune(newest: Path, keep: int, spare: int | None) -> None:
    """Remove checkpoints older than `newest`, except the last `keep - 1` of them and that of `spare`."""
    older = [path for path in _complete_folders(newest.parent) if step_of(path) < step_of(newest)]
    for path in older[: max(len(older) - (keep - 1), 0)]:
        if step_of(path) != spare:
            with suppress(OSError):  # a failed removal is no reason to end the run
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder in such a way that a kill leaves no partial checkpoint under a valid name."""
    doomed = path if path.suffix == ".tmp" else path.rename(path.with_name(path.name + ".old.tmp"))
    shutil.rmtree(doomed, ignore_errors=True)  # a network disk may fail here: the next save tries again


def _manifest(path: Path) -> dict[str, Any]:
    """The content of checksums.json. Raises InputError, in a few words, if it is not what `save` wrote."""
    try:
        written: dict[str, Any] = json.loads((path / CHECKSUMS).read_bytes())
        names = {SHARED, *(_rank_file(rank) for rank in range(written["world"]))}
        is_whole = set(written["files"]) == names and written["step"] == step_of(path)
    except FileNotFoundError:
        raise InputError(f"{CHECKSUMS} is missing") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{CHECKSUMS} cannot be read: {type(error).__name__} {error}") from None
    if not is_whole:
        raise InputError(f"{CHECKSUMS} cannot be used: it belongs to another checkpoint")
    return written


def _refuse_unreadable(state: Any, where: str) -> None:
    """Raise TypeError for what `torch.load(weights_only=True)` would refuse, with its path in the state."""
    if type(state) not in CONTAINERS + LEAVES:
        raise TypeError(
            f"{where} is a {type(state).__name__}: checkpoints hold only tensors and plain values"
        )
    if isinstance(state, dict):
        for key, value in state.items():
            _refuse_unreadable(key, f"a key of {where}")
            _refuse_unreadable(value, f"{where}[{key!r}]")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            _refuse_unreadable(value, f"{where}[{index}]")


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, as was done with the contents."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))
