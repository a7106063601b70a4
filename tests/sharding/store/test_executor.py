"""The same work in this process, in several, and on a Dask cluster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semipose.configs.load import InputError
from semipose.sharding.build import build
from semipose.sharding.store.executor import AHEAD, map_in_order


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def square_with_pid(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def square_with_held_signals(number: int) -> tuple[int, set[int]]:
    return number * number, set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture(scope="module")
def cluster():
    """A Dask cluster of two workers, each a process."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


def test_bytes_do_not_depend_on_the_number_of_workers(make_set, tmp_path, quiet):
    small = make_set(20)
    outputs = [tmp_path / str(workers) / "small" for workers in (1, 2, 3)]
    for workers, output in enumerate(outputs, start=1):
        build(small.settings(output, workers=workers, samples_per_shard=9), console=quiet)
    assert files_of(outputs[0]) == files_of(outputs[1]) == files_of(outputs[2])
    assert len(files_of(outputs[0])) == 2 * 5 + 2


@pytest.mark.slow
def test_dask_cluster_makes_the_same_bytes(make_set, tmp_path, quiet, cluster):
    small = make_set(40)
    build(small.settings(tmp_path / "here" / "small"), console=quiet)
    build(small.settings(tmp_path / "dask" / "small", executor=cluster), console=quiet)
    assert files_of(tmp_path / "dask" / "small") == files_of(tmp_path / "here" / "small")


def test_dask_shares_the_work_between_its_processes(cluster):
    results = list(map_in_order(square_with_pid, range(40), executor=cluster, workers=1))
    assert [square for square, _ in results] == [number**2 for number in range(40)]
    pids = {pid for _, pid in results}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_one_worker_is_this_process():
    results = list(map_in_order(square_with_pid, range(3), executor="local", workers=1))
    assert results == [(number**2, os.getpid()) for number in range(3)]


def test_few_jobs_are_taken_ahead_and_workers_never_get_ctrl_c():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_in_order(square_with_held_signals, items(), executor="local", workers=2)
    for place in range(20):
        # Ctrl-C reaches all processes of a terminal; workers leave it to their parent.
        assert next(results) == (place**2, {signal.SIGINT, signal.SIGHUP})
        assert len(taken) <= place + 1 + AHEAD * 2
    results.close()
    assert len(taken) <= 20 + AHEAD * 2


def test_dead_worker_is_one_sentence():
    with pytest.raises(InputError, match=r"a worker process died.*continues where it stopped"):
        list(map_in_order(die_at_three, range(10), executor="local", workers=2))


def test_unreachable_cluster_is_one_sentence(monkeypatch):
    monkeypatch.setattr("semipose.sharding.store.executor.ANSWER_TIMEOUT_S", 1)
    with pytest.raises(InputError, match=r"dask://127\.0\.0\.1:9: no Dask scheduler answers .*: start one"):
        list(map_in_order(square_with_pid, [1], executor="dask://127.0.0.1:9", workers=1))


def test_a_cluster_that_loses_its_workers_ends_the_build_with_a_sentence(monkeypatch, capfd):
    from distributed import LocalCluster

    monkeypatch.setattr("semipose.sharding.store.executor.LOOK_EVERY_S", 0.1)
    monkeypatch.setattr("semipose.sharding.store.executor.WORKERS_TIMEOUT_S", 0.5)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as alone:
        address = alone.scheduler_address.replace("tcp://", "dask://")
        results = map_in_order(time.sleep, [0.05] * 100, executor=address, workers=1)
        next(results)
        alone.scale(0)
        words = r"dask://\S+: the cluster has no workers left: start some, then the same command"
        with pytest.raises(InputError, match=words):
            list(results)
    assert capfd.readouterr().err.count("the cluster has no workers left: waiting 0.5 s for some") == 1


def test_a_scheduler_that_is_killed_is_one_sentence(capfd):
    code = (
        "import sys, time; from distributed import LocalCluster\n"
        "with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol='tcp',"
        " dashboard_address=None) as c: print(c.scheduler_address, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip().replace("tcp://", "dask://")
        results = map_in_order(time.sleep, [0.05] * 100, executor=address, workers=1)
        next(results)
        capfd.readouterr()
        cluster.kill()
        words = rf"{address}: the Dask scheduler is gone: start it again, then the same command"
        with pytest.raises(InputError, match=words):
            list(results)
    assert capfd.readouterr().err == ""


def test_fault_in_a_worker_names_the_photo(make_set, tmp_path, quiet):
    small = make_set(40)
    (small.images / "000000000031.jpg").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"000000000031\.jpg \(annotation 310\): the image is damaged"):
        build(small.settings(tmp_path / "x" / "small", workers=2), console=quiet)
