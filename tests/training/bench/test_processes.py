"""Commands that hang, crash or leave children behind: each is ended and reported."""

import time
from pathlib import Path

import pytest

from semipose.training.bench import processes
from semipose.training.bench.processes import run_command

REAL_SLEEP = time.sleep
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


def dies(pid: int) -> bool:
    """Whether a process ends within seconds."""
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def test_what_ends_well_has_no_problem_and_finds_the_project(tmp_path: Path) -> None:
    ended = run_command(["-c", "import semipose.models.files; print('yes')"], tmp_path / "a.log", seconds=60)
    assert (ended.code, ended.hit_limit, ended.problem) == (0, False, None)
    assert ended.log.read_text() == "yes\n"


def test_a_failure_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    ended = run_command(["-c", "print('so far'); raise SystemExit(3)"], tmp_path / "a.log", seconds=60)
    assert ended.problem
    assert all(word in ended.problem for word in ("exit code 3", "a.log", "so far"))


@pytest.mark.parametrize("code", [HANGS, HANGS_HARD])
def test_what_hangs_is_stopped_at_its_limit(code: str, tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_command(["-c", code], tmp_path / "a.log", seconds=3, grace_s=1)
    assert time.monotonic() - began < 5
    assert ended.hit_limit
    assert "limit" in str(ended.problem)
    assert "begun" in ended.log.read_text()


def test_children_left_behind_are_ended(tmp_path: Path) -> None:
    ended = run_command(["-c", LEAVES_A_CHILD], tmp_path / "a.log", seconds=60)
    assert ended.code == 0
    pid = int(ended.log.read_text())
    assert dies(pid)


def test_leaving_early_ends_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "a.log"

    def interrupt(seconds: float) -> None:
        if log.read_text():
            raise KeyboardInterrupt
        REAL_SLEEP(seconds)

    monkeypatch.setattr(processes.time, "sleep", interrupt)
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        run_command(["-c", code], log, seconds=60)
    assert not is_alive(int(log.read_text()))


def test_memory_is_that_of_the_whole_tree_and_a_late_process_is_ended(tmp_path: Path) -> None:
    child = "import os, time; held = bytearray(64 << 20); print(os.getpid(), flush=True); time.sleep(60)"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    )
    ended = run_command(["-c", code], tmp_path / "a.log", seconds=4, watch_memory=True)
    assert ended.hit_limit
    assert 64 < ended.peak_mib < 256
    assert dies(int(ended.log.read_text().split()[0]))
