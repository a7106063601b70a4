"""Builds that are asked to stop: one line, the exit code that a shell expects, and no process is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from semipose.sharding import stopping
from semipose.sharding.stopping import LINE, held_signals, stoppable

ROOT = Path(__file__).resolve().parents[2]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def processes_of(session: int) -> set[int]:
    """The living processes of a session, whoever their parent is by now."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            found.add(int(path.parent.name))
    return found


def wait_for(is_so: Callable[[], bool], what: str, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def stop_build(
    recipe: Path, moment: Callable[[int], bool], number: signal.Signals, *, group: bool
) -> tuple[int, str]:
    """Start a build of two workers, send a signal when `moment` has come; its exit code and stderr."""
    command = [sys.executable, str(ROOT / "sharding" / "build.py"), str(recipe)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: moment(process.pid), "the build never came so far")
        (os.killpg if group else os.kill)(process.pid, number)
        _, stderr = process.communicate(timeout=60)
    wait_for(lambda: not processes_of(process.pid), "processes are left")
    return process.returncode, stderr


@pytest.fixture
def recipe(make_set, tmp_path) -> Path:
    small = make_set(60)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"source: {{name: coco, annotations: {small.annotations}, images: {small.images}}}\n"
        f"output: {tmp_path / 'stopped' / 'small'}\nsamples_per_shard: 4\nworkers: 2\n"
    )
    return path


@pytest.mark.slow
def test_a_stopped_build_says_so_in_one_line_and_goes_on(recipe, tmp_path):
    """Each signal in its turn: to all processes, as a terminal does, or to the build alone."""
    output = tmp_path / "stopped" / "small"
    building = output.with_name(".small.building")
    journal = building / "journal.jsonl"

    def workers_start(pid: int) -> bool:
        return len(processes_of(pid)) > 2

    def has_a_shard(pid: int) -> bool:
        return journal.exists() and ".tar" in journal.read_text()

    told = [
        stop_build(recipe, caught, signal.SIGHUP, group=True),
        stop_build(recipe, workers_start, signal.SIGINT, group=True),
        stop_build(recipe, has_a_shard, signal.SIGTERM, group=False),
    ]
    assert told == [(129, LINE), (130, LINE), (143, LINE)]
    assert building.exists()
    noted = journal.read_text()  # a last shard may be written and not noted yet
    kept = [path for path in (building / "shards").iterdir() if path.with_suffix(".tar").name in noted]
    stamps = {path.name: path.stat().st_mtime_ns for path in kept}
    command = [sys.executable, str(ROOT / "sharding" / "build.py"), str(recipe), "workers=1"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert {Path(name).suffix for name in stamps} == {".tar", ".idx"}
    assert {name: (output / name).stat().st_mtime_ns for name in stamps} == stamps, "made again"
    assert [path.name for path in output.parent.iterdir()] == ["small"]


def caught(pid: int) -> bool:
    """Whether the process has begun to answer SIGHUP by itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_a_stop_becomes_on_its_way_the_exit_code_is_that_of_the_signal(capfd, number):
    before = signal.getsignal(number)

    @stoppable("stopped\n")
    def work() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            raise OSError("a worker is gone")

    with pytest.raises(SystemExit) as error:
        work()
    assert error.value.code == 128 + number
    assert capfd.readouterr().err == "stopped\n"
    assert signal.getsignal(number) is before


def test_work_that_ended_is_not_ended_again_later(monkeypatch):
    """By the clock that runs for work that does not end: its process may have other things to do."""
    left = []
    monkeypatch.setattr(stopping, "GRACE_S", 0.1)
    monkeypatch.setattr(os, "_exit", left.append)
    with pytest.raises(SystemExit), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.3)
    assert not left


def test_processes_are_started_whole_before_a_stop(capfd):
    done = []

    @stoppable()
    @held_signals()
    def start() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("started")

    with pytest.raises(SystemExit):
        start()
    assert done == ["started"]


def test_ignored_signals_stay_ignored():
    """As nohup and shells' background jobs want it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_work_that_does_not_end():
    code = (
        "import os, signal\nfrom sharding.stopping import stoppable\nwith stoppable('stopped\\n'):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGINT)\n        print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
