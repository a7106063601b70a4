"""Checkpoints: complete or absent at any moment, equal bit for bit, honest about damage."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semipose.configs.load import InputError
from semipose.training import checkpoint

# Kills a saver before each of its file operations in turn, and looks at what it left; prints one JSON line.
KILLER = """
import json, os, signal, sys
from pathlib import Path
import torch
from tests.killing import run_and_die
from semipose.training import checkpoint

run = Path(sys.argv[1])
def state(step):  # small: a forked child cannot share the work among torch's threads
    return {"weights": torch.full((1000,), float(step)), "step": step}

def save(step):
    checkpoint.save(run, step, shared=state(step), rank_state={"step": step}, keep=2)

save(1)
save(2)
done, torn, kills = 2, 0, 0
while run_and_die(lambda: save(done + 1), kills) == -signal.SIGKILL:
    kills += 1
    torn += any((run / "checkpoints").glob("*.tmp"))
    warned = []
    loaded = checkpoint.load(checkpoint.latest(run, warn=warned.append))
    assert not warned, warned
    assert done <= loaded.step <= done + 1, (done, loaded.step)
    assert torch.equal(loaded.shared["weights"], state(loaded.step)["weights"])
    assert loaded.rank_state["step"] == loaded.step
    done = loaded.step
left_over = sorted(os.listdir(run / "checkpoints"))
print(json.dumps({"kills": kills, "torn": torn, "steps": done, "left": left_over}))
"""


def save(folder: Path, step: int, *, keep: int = 2, spare: int | None = None) -> Path:
    shared = {"weights": torch.full((8,), float(step)), "history": [{"AP": 0.5}], "note": None}
    return checkpoint.save(folder, step, shared=shared, rank_state={"place": step}, keep=keep, spare=spare)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / checkpoint.FOLDER).iterdir())


@pytest.mark.slow
def test_kill_before_any_file_operation_leaves_the_last_good_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] > outcome["torn"] > 5, "few kills hit a save: the test proves little"
    assert outcome["left"] == [f"step-{outcome['steps'] + i:08d}" for i in (0, 1)]


def test_state_comes_back_bit_for_bit(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    net(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    schedule.step()
    shared = {
        "method": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "numbers": (1, 0.1, True, None, "text", float("inf")),
        "half": torch.randn(5).bfloat16(),
    }
    rank_state = {"rng": checkpoint.capture_rng(), "reader": bytes(range(256))}
    path = checkpoint.save(tmp_path, 7, shared=shared, rank_state=rank_state)
    loaded = checkpoint.load(path)
    assert loaded.step == 7
    assert loaded.shared["numbers"] == shared["numbers"]
    assert loaded.shared["schedule"] == shared["schedule"]
    assert loaded.rank_state["reader"] == rank_state["reader"]
    assert torch.equal(loaded.shared["half"], shared["half"])
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.shared["method"][name], value)
    moments = loaded.shared["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state_dict()["state"][0]["exp_avg"])


def test_random_states_go_on_where_they_were(tmp_path):
    def draw() -> tuple:
        return random.random(), random.gauss(0, 1), np.random.normal(size=3).tolist(), torch.rand(3).tolist()

    random.gauss(0, 1)  # leaves its second half behind, which is part of the state
    np.random.normal()
    path = checkpoint.save(tmp_path, 1, shared={}, rank_state={"rng": checkpoint.capture_rng()})
    expected = draw()
    assert draw() != expected
    checkpoint.restore_rng(checkpoint.load(path).rank_state["rng"])
    assert draw() == expected


@pytest.mark.gpu
def test_random_state_of_the_gpu_goes_on(tmp_path):
    path = checkpoint.save(tmp_path, 1, shared={}, rank_state={"rng": checkpoint.capture_rng()})
    expected = torch.rand(3, device="cuda")
    checkpoint.restore_rng(checkpoint.load(path).rank_state["rng"])
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_last_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 99_999_999, 100_000_000):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-100000000", "step-99999999"]
    assert checkpoint.latest(tmp_path) == checkpoint.step_folder(tmp_path, 100_000_000)


def test_a_spared_checkpoint_stays_beside_the_last_ones(tmp_path):
    kept = []
    for step, spare in ((1, None), (2, None), (3, 2), (4, 2), (5, 2), (6, 6), (7, 6)):
        save(tmp_path, step, spare=spare)
        kept.append(checkpoint.kept_steps(tmp_path))
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6], [6, 7]]


def test_older_checkpoint_goes_only_after_the_new_one_is_complete(tmp_path, monkeypatch):
    save(tmp_path, 1, keep=1)

    def disk_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", disk_full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, keep=1)
    assert checkpoint.load(checkpoint.latest(tmp_path)).step == 1
    monkeypatch.undo()
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == ["step-00000003"]


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    with pytest.raises(InputError, match="no complete checkpoint"):
        checkpoint.load(tmp_path / "checkpoints/step-00000001")


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "shared.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "shared.pt").write_bytes(data)


DAMAGES = {
    "checksum": flip_a_byte,
    "bytes instead of": lambda path: (path / "rank-0.pt").write_bytes(b"PK"),
    "rank-0.pt is missing": lambda path: (path / "rank-0.pt").unlink(),
    "checksums.json cannot be read": lambda path: (path / "checksums.json").write_text('{"files": '),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_checkpoint_is_passed_over_by_name(tmp_path, reason):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    DAMAGES[reason](newest)
    with pytest.warns(UserWarning, match=rf"step-00000002.*{reason}"):
        assert checkpoint.latest(tmp_path) == checkpoint.step_folder(tmp_path, 1)


def test_a_checkpoint_that_goes_while_it_is_read_has_a_newer_one(tmp_path, monkeypatch):
    """The run that is training there, and keeps one, saves meanwhile."""
    save(tmp_path, 1)
    real = checkpoint.damage

    def damage(path: Path) -> str | None:
        if path.name == "step-00000001":
            save(tmp_path, 2, keep=1)
        return real(path)

    monkeypatch.setattr(checkpoint, "damage", damage)
    newest = checkpoint.latest(tmp_path, warn=pytest.fail)
    assert newest == checkpoint.step_folder(tmp_path, 2)


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    path = save(tmp_path, 7)
    for name in ("step-7", "step-000000007", "step-00000009.tmp", "damaged-step-00000008", "step-00000009x"):
        path.with_name(name).mkdir()
    path.with_name("step-00000010").touch()
    assert checkpoint.kept_steps(tmp_path) == [7]


def test_damaged_checkpoint_of_the_same_step_is_replaced_and_an_intact_one_kept(tmp_path):
    path = save(tmp_path, 2)
    flip_a_byte(path)
    save(tmp_path, 2)
    assert checkpoint.damage(path) is None
    before = (path / "shared.pt").stat().st_mtime_ns
    save(tmp_path, 2)
    assert (path / "shared.pt").stat().st_mtime_ns == before
    assert names(tmp_path) == ["step-00000002"]


def test_file_that_is_no_state_is_one_sentence(tmp_path):
    path = save(tmp_path, 1)
    (path / "shared.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"shared\.pt cannot be read"):
        checkpoint.load(path)


def test_code_in_a_checkpoint_is_named_and_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = save(tmp_path, 1)
    torch.save({"network": Malicious()}, path / "shared.pt")
    with pytest.raises(InputError, match=r"shared\.pt cannot be read \(it holds code \(\w+\.mkdir\), which"):
        checkpoint.load(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("value", "where"),
    [(np.zeros(2), r"shared\.pt\['a'\]\[1\] is a ndarray"), (np.float64(1), "float64"), ({1, 2}, "set")],
)
def test_state_that_could_not_be_loaded_is_not_saved(tmp_path, value, where):
    with pytest.raises(TypeError, match=where):
        checkpoint.save(tmp_path, 1, shared={"a": [0, value]}, rank_state={})
    assert checkpoint.latest(tmp_path) is None


def test_two_ranks_share_one_folder(tmp_path):
    gate = threading.Barrier(2)

    def one(rank: int) -> None:
        for step in (1, 2, 3):
            shared = {"step": step} if rank == 0 else {"must not": "be written"}
            states = {"rank": rank, "step": step}
            checkpoint.save(
                tmp_path,
                step,
                shared=shared,
                rank_state=states,
                rank=rank,
                world_size=2,
                barrier=gate.wait,
                keep=1,
            )

    ranks = [threading.Thread(target=one, args=(rank,)) for rank in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(timeout=30)
    assert names(tmp_path) == ["step-00000003"]
    path = checkpoint.latest(tmp_path)
    for rank in (0, 1):
        loaded = checkpoint.load(path, rank=rank, world_size=2)
        assert loaded.rank_state == {"rank": rank, "step": 3}
        assert loaded.shared == {"step": 3}
    with pytest.raises(InputError, match=r"written by 2 process\(es\) and cannot be resumed by 1"):
        checkpoint.load(path)


def test_weights_of_another_architecture_are_one_sentence():
    small = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    large = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(5, 5))
    before = {name: value.clone() for name, value in large.state_dict().items()}
    with pytest.raises(InputError) as caught:
        checkpoint.load_weights(large, small.state_dict(), "runs/a")
    text = str(caught.value)
    assert "runs/a belongs to another architecture" in text
    assert "2 missing (2.weight, 2.bias)" in text
    assert "1.weight (4, 3) instead of (5, 3)" in text
    assert "\n" not in text
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())
    with pytest.raises(InputError, match=r"2 unexpected \(2\.weight, 2\.bias\)"):
        checkpoint.load_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)), large.state_dict(), "x")


def test_weights_load():
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    checkpoint.load_weights(other, one.state_dict(), "x")
    assert torch.equal(one.weight, other.weight)
    with pytest.raises(InputError, match="and 1 more"):
        checkpoint.load_weights(nn.Linear(1, 1, bias=False), dict.fromkeys("abcd", 0), "x")
