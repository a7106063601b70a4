"""The check goes on after what fails, writes after every step, and says by its exit code how it went."""

import json
import py_compile
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.training.bench.gpu_check import check as checking
from semipose.training.bench.gpu_check.check import GpuCheckSettings, check, keep_bytecode, main, parts_of
from semipose.training.bench.processes import ROOT

GOOD = {"files": 1, "passed": 2, "failed": 0, "skipped": 0, "skip_reasons": [], "problems": []}


def good(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    assert work.is_dir()
    assert seconds > 0
    yield GOOD


def told(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    yield GOOD | {"problems": ["test_x: 1 is not 2\nmore"]}


def breaks_off(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    yield GOOD
    raise RuntimeError("CUDA went away")


def says_nothing(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    yield from ()


def interrupted(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
    yield GOOD
    raise KeyboardInterrupt


def run(folder: Path, **parts: Callable[..., Any]) -> dict[str, Any]:
    """Check with fake parts; what is in the file in the end."""
    check(GpuCheckSettings(output=folder), parts, dict.fromkeys(parts, 1.0))
    return json.loads((folder / "result.json").read_text())


def test_all_well(tmp_path: Path) -> None:
    result = run(tmp_path, tests=good, train=good)
    assert result["is_ok"]
    assert {"gpu", "versions", "commit", "cpu"} <= set(result["machine"])
    text = (tmp_path / "result.md").read_text()
    assert "2 passed, 0 failed" in text
    assert "went wrong" not in text


@pytest.mark.parametrize(
    ("part", "word"),
    [(told, "1 is not 2"), (breaks_off, "RuntimeError: CUDA went away"), (says_nothing, "broke")],
)
def test_a_failed_part_is_reported_and_the_next_one_runs(
    part: Callable[..., Any], word: str, tmp_path: Path
) -> None:
    result = run(tmp_path, tests=part, train=good)
    assert not result["is_ok"]
    assert word in result["parts"]["tests"]["problems"][0]
    assert result["parts"]["train"]["state"] == "done"
    text = (tmp_path / "result.md").read_text()
    assert word in text
    assert "**1 problem**" in text


def test_a_part_that_broke_off_keeps_what_it_knew(tmp_path: Path) -> None:
    assert run(tmp_path, tests=breaks_off)["parts"]["tests"]["passed"] == 2


def test_an_interrupted_check_leaves_what_it_had(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tests=good, bench=interrupted, train=good)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [part["state"] for part in result["parts"].values()] == ["done", "running", "waiting"]
    assert not result["is_ok"]
    text = (tmp_path / "result.md").read_text()
    assert "**broke off**" in text
    assert "**not begun**" in text


def test_time_left_over_goes_to_the_next_part(tmp_path: Path) -> None:
    given: dict[str, float] = {}

    def note(name: str) -> Callable[..., Iterator[dict[str, Any]]]:
        def part(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
            given[name] = seconds
            yield GOOD

        return part

    parts = {name: note(name) for name in ("tests", "train", "bench")}
    shares = {"tests": 0.2, "train": 0.2, "bench": 0.6}
    check(GpuCheckSettings(output=tmp_path, seconds=100.0), parts, shares)
    assert given["tests"] == pytest.approx(20, abs=2)
    assert given["train"] == pytest.approx(25, abs=4)
    assert given["bench"] == pytest.approx(100, abs=6)


def test_time_since_the_start_is_counted(tmp_path: Path) -> None:
    given: list[float] = []

    def part(work: Path, seconds: float) -> Iterator[dict[str, Any]]:
        given.append(seconds)
        yield GOOD

    began = time.monotonic() - 40
    result = check(GpuCheckSettings(output=tmp_path, seconds=100.0), {"bench": part}, began=began)
    assert given[0] == pytest.approx(60, abs=2)
    assert result["seconds"] >= 40


def test_parts_are_chosen_by_name() -> None:
    assert list(parts_of(GpuCheckSettings(parts=("train", "tests")))) == ["train", "tests"]


@pytest.mark.parametrize(("part", "code"), [(good, 0), (told, 1)])
def test_exit_code(
    part: Callable[..., Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checking, "parts_of", lambda cfg: {"tests": part})
    monkeypatch.setattr(checking, "describe_machine", lambda: dict.fromkeys(MACHINE, "x") | {"versions": {}})
    monkeypatch.setattr(checking.signal, "signal", lambda *_: None)
    monkeypatch.setattr(checking, "keep_bytecode", lambda _: None)  # it changes the environment
    with pytest.raises(SystemExit) as stopped:
        main(GpuCheckSettings(output=tmp_path))
    assert stopped.value.code == code


MACHINE = ("gpu", "date", "cpu", "cores", "python", "cuda", "commit")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "training" / "gpu_check.py"), f"output={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no GPU here" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("installed_with_bytecode", [True, False])
def test_libraries_are_compiled_once_for_all_processes(
    installed_with_bytecode: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library.py"
    library.write_text("")
    if installed_with_bytecode:
        py_compile.compile(str(library))
    monkeypatch.setattr(torch, "__file__", str(library))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "")  # so that both are put back
    monkeypatch.delenv("PYTHONPYCACHEPREFIX")
    keep_bytecode(tmp_path / "bytecode")
    words = ["-c", "import sys; print(sys.dont_write_bytecode, sys.pycache_prefix)"]
    child = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    folder = None if installed_with_bytecode else tmp_path / "bytecode"
    assert child.stdout.split() == ["False", str(folder)]
