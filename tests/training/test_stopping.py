"""What ends a run early: signals that save it, a launcher that is gone, ranks that agree."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import dump
from semipose.training import stopping
from semipose.training.run import main
from semipose.training.settings import RunSettings
from semipose.training.stopping import StopRequest, end_with_launcher, missing_processes

ROOT = Path(__file__).resolve().parents[2]
MakeRun = Callable[..., RunSettings]
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no"}

# As `accelerate launch` starts a script: the child runs on when this process is ended.
LAUNCHER = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()"


def request(world_size: int = 1) -> StopRequest:
    return StopRequest(step=0, world_size=world_size, device=torch.device("cpu"))


def wait_until(is_so: Callable[[], Any], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_the_run_and_the_same_command_goes_on(
    number: signal.Signals, tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(dump(tiny_run("supervised", "steps=500", "checkpoint_every=1000")))

    def interrupt() -> None:
        wait_until((folder / "metrics.jsonl").exists)
        wait_until(lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > 2)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    if number == signal.SIGINT:
        with pytest.raises(SystemExit) as left:
            main([str(recipe)])
        assert left.value.code == 130
    else:
        main([str(recipe)])
    assert signal.getsignal(number) == before
    (saved,) = (folder / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step-"))
    out, err = capsys.readouterr()
    assert f"stopped by {number.name}, saved at step {step}: the same command continues" in out
    assert err == ""
    (folder / "recipe.yaml").write_text(
        (folder / "recipe.yaml").read_text().replace("steps: 500", f"steps: {step}")
    )
    main([str(recipe), f"steps={step}"])
    assert f"resumed from {saved}" in capsys.readouterr().out


def test_what_was_ignored_stays_ignored() -> None:
    """Under nohup a terminal that closes does not end the run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with request() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.agreed(1) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with request() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(
            os.getpid(), signal.SIGINT
        )  # of the launcher, which hands on what the terminal has sent already
        assert stop.agreed(1) == signal.SIGINT
        monkeypatch.setattr(stopping, "SAME_SIGNAL_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("seconds_a_step", "most_steps"), [(0.01, 300), (0.7, 4), (10.0, 1)])
def test_ranks_agree_within_seconds(
    seconds_a_step: float, most_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However seldom the run reports. The other rank is asked at step 1000; its steps take twice as long."""
    now, asked_at = 0.0, []

    def all_reduce(told: torch.Tensor, _: Any) -> None:
        asked_at.append(step)
        told.copy_(torch.maximum(told, torch.tensor([15.0 if step >= 1000 else 0.0, seconds_a_step])))

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    stop = request(world_size=2)
    for step in range(1, 2000):
        now += seconds_a_step / 2
        if stop.agreed(step):
            break
    gaps = [after - before for before, after in itertools.pairwise(asked_at)]
    assert 1000 <= step < 1000 + most_steps + 1
    assert max(gaps) == most_steps


@pytest.mark.slow
def test_a_run_ends_with_its_launcher(tiny_run: MakeRun, tmp_path: Path) -> None:
    """`kill -9` of the launcher: nothing is handed on, and the run saves all the same."""
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(dump(tiny_run("supervised", "steps=1000000", "checkpoint_every=1000000")))
    words = [sys.executable, "-c", LAUNCHER, str(ROOT / "training" / "run.py"), str(recipe)]
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        launcher = subprocess.Popen(
            words, env=os.environ | LAUNCHED, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until((folder / "metrics.jsonl").exists)
        launcher.kill()
        launcher.wait()
        wait_until(lambda: "stopped by SIGTERM, saved at step" in log.read_text(), seconds=30)
        assert list(folder.glob("checkpoints/step-????????"))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)


def test_only_a_launched_run_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that started the run may end; and a launcher that ended during the imports is noticed."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(stopping.ctypes, "CDLL", lambda _: pytest.fail("the kernel was asked"))
    monkeypatch.setattr(stopping.os, "kill", lambda *words: killed.append(words))
    end_with_launcher(parent=os.getppid())
    asked: list[Any] = []
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(
        stopping.ctypes, "CDLL", lambda _: type("C", (), {"prctl": lambda *words: asked.append(words)})
    )
    end_with_launcher(parent=os.getppid())
    assert (asked, killed) == ([(1, signal.SIGTERM)], [])
    end_with_launcher(parent=os.getppid() + 1)
    assert killed == [(os.getpid(), signal.SIGTERM)]


def test_processes_that_the_launcher_did_not_start_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert missing_processes(1) == []
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert missing_processes(1) == []
    monkeypatch.setenv("MASTER_PORT", "29500")  # as accelerate does for several processes
    (said,) = missing_processes(1)
    assert "asked for several processes" in said
    assert missing_processes(2) == []
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun started as many as it was asked for
    assert missing_processes(1) == []
