"""Commands that hang, crash or leave children behind: each ends, and is told."""

import time
from pathlib import Path

import pytest

from training.gpu.commands import Ended, run_all, run_one

HANGS = "import time; print('begun', flush=True); time.sleep(600)"
HANGS_HARD = "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n" + HANGS
LEAVES_A_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid)
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs (a dead one may wait for its parent to notice)."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split(")")[1].split()[0] != "Z"


def test_what_ends_well_has_no_problem_and_finds_the_project(tmp_path: Path) -> None:
    ended = run_one(["-c", "import training.files; print('yes')"], tmp_path / "a.log", seconds=60)
    assert (ended.code, ended.hit_limit, ended.problem) == (0, False, None)
    assert ended.log.read_text() == "yes\n"


def test_what_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    ended = run_one(["-c", "print('so far'); raise SystemExit(3)"], tmp_path / "a.log", seconds=60)
    assert ended.problem
    assert all(word in ended.problem for word in ("exit code 3", "a.log", "so far"))


@pytest.mark.parametrize("code", [HANGS, HANGS_HARD])
def test_what_hangs_is_stopped_at_its_limit(code: str, tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_one(["-c", code], tmp_path / "a.log", seconds=3, grace_s=1)
    assert time.monotonic() - began < 5
    assert ended.hit_limit
    assert "limit" in str(ended.problem)
    assert "begun" in ended.log.read_text()


def test_children_left_behind_are_ended(tmp_path: Path) -> None:
    ended = run_one(["-c", LEAVES_A_CHILD], tmp_path / "a.log", seconds=60)
    assert ended.code == 0
    pid = int(ended.log.read_text())
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_side_by_side_and_what_there_is_no_time_for_is_not_begun(tmp_path: Path) -> None:
    commands = {
        "quick": ["-c", "print(1)"],
        "slow": ["-c", HANGS],
        "third": ["-c", "print(3)"],
        "fourth": ["-c", HANGS],
        "late": ["-c", "print(5)"],
    }
    ended: dict[str, Ended] = dict(run_all(commands, tmp_path, seconds=4, at_once=2, grace_s=1))
    assert [ended[name].hit_limit for name in ("quick", "slow", "third", "fourth")] == [
        False,
        True,
        False,
        True,
    ]
    assert "late" not in ended


def test_leaving_early_ends_what_runs(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    commands = {"long": ["-c", code], "short": ["-c", "import time; time.sleep(1)"]}
    runs = run_all(commands, tmp_path, seconds=60, at_once=2)
    assert next(runs)[0] == "short"
    runs.close()
    pid = int((tmp_path / "long.log").read_text())
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)
