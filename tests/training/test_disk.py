"""Disks that are full or fail, and paths that lead nowhere: one sentence with a cure, no strays."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from semipose.configs.load import dump
from semipose.training import checkpoint, compare, evaluate
from semipose.training import run as run_module
from semipose.training.experiments.sweep_plan import SweepSettings
from semipose.training.settings import RunSettings
from semipose.training.sweep import sweep

MakeRun = Callable[..., RunSettings]
SHORT = ("steps=2", "checkpoint_every=1", "evaluate_every=1", "keep_checkpoints=1")


def said_by(main: Callable[[list[str]], object], words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert line.startswith("error: ")
    return line


def test_a_run_on_a_failing_disk_says_so_and_goes_on_when_there_is_room(
    tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fails at a later and later moment, and each time the same command is started again."""
    folder, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised", *SHORT)))
    real, left = os.fsync, 0

    def fail_in_time(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_in_time)
    failures = 0
    while True:
        left = 1 + 3 * failures
        try:
            run_module.main([str(recipe)])
            break
        except SystemExit:
            failures += 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {folder}: it cannot be written (No space left on device): make room on that" in line
        assert not list(folder.rglob("*.tmp"))
        if (folder / "scores.json").exists():  # which comes after the network
            scored = json.loads((folder / "scores.json").read_text())["last"]["step"]
            assert scored in checkpoint.kept_steps(folder)
    assert checkpoint.kept_steps(folder)[-1] == 2
    assert failures > 4, "few moments were tried"


def test_a_path_under_a_file_is_one_sentence(
    tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised", *SHORT)))
    run_module.main([str(recipe)])
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "run" / "evaluation").touch()
    run = str(tmp_path / "run")
    said = [
        said_by(run_module.main, [str(recipe), f"output={file}/run"], capsys),
        said_by(evaluate.main, [run], capsys),
        said_by(compare.main, [run, f"output={file}"], capsys),
    ]
    assert all("it cannot be written (" in line and "choose another folder, then" in line for line in said)
    said_of_file = said_by(run_module.main, [str(recipe), f"output={file}"], capsys)
    assert "file: this is a file: choose a folder with output=" in said_of_file
    cfg = SweepSettings(output=f"{file}/sweep", protocols=(str(recipe),), seeds=(0,))
    with pytest.raises(ValueError, match="it cannot be written"):
        sweep(cfg)


def test_a_disk_that_fails_under_torch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says of a file that it could not write that it is at an unexpected place."""

    def save(state: object, file: object) -> None:
        try:
            raise OSError(errno.EIO, "Input/output error")
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.save(tmp_path, 1, shared={}, rank_state={})
    assert list((tmp_path / checkpoint.FOLDER).iterdir()) == []
