"""Builds that are killed, run out of disk, or meet each other."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from filelock import FileLock

import semipose.sharding.build
import semipose.sharding.store.output
from semipose.configs.load import InputError
from semipose.sharding.build import build
from semipose.sharding.store.manifest import check_shards, read_manifest

ROOT = Path(__file__).resolve().parents[2]

KILLER = """
import json, shutil, signal, sys
from pathlib import Path
from rich.console import Console
from semipose.sharding.build import build
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.settings import BuildSettings
from tests.killing import run_and_die

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
step, then, whole, start = int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]), sys.argv[6]

def begin():
    shutil.rmtree(output, ignore_errors=True)
    if start != "absent":
        output.mkdir(parents=True)
    if start == "damaged":
        shutil.copytree(whole, output, dirs_exist_ok=True)
        (output / "small-000001.tar").write_bytes(b"damaged")

def whole_build():
    source = CocoFormat(annotations=folder / "annotations.json", images=folder / "images")
    settings = BuildSettings(source=source, output=output, samples_per_shard=4, workers=1)
    build(settings, console=Console(quiet=True))

def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}

building = output.with_name(f".{output.name}.building") if start == "absent" else output / ".building"
kills, resumable = 0, 0
begin()
while run_and_die(whole_build, step * kills) == -signal.SIGKILL:
    kills += 1
    resumable += (building / "journal.jsonl").exists()
    if then == "complete each":
        assert run_and_die(whole_build, None) == 0
        assert files_of(output) == files_of(whole)
        begin()
print(json.dumps({"kills": kills, "resumable": resumable}))
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(make_set, tmp_path, quiet):
    """A small set and the folder of its uninterrupted build."""
    small = make_set(8)
    build(small.settings(tmp_path / "whole" / "small"), console=quiet)
    return small, tmp_path / "whole" / "small"


@pytest.mark.parametrize(
    ("step", "then", "start"),
    [
        (1, "go on", "absent"),
        pytest.param(5, "complete each", "absent", marks=pytest.mark.slow),
        pytest.param(1, "go on", "an empty folder", marks=pytest.mark.slow),
        pytest.param(13, "complete each", "an empty folder", marks=pytest.mark.slow),
        (4, "go on", "damaged"),
    ],
)
def test_killed_at_any_moment_it_ends_with_the_same_bytes(whole, tmp_path, step, then, start):
    """Build n is killed before its file operation n * step. Either the next one goes on from there, killed in
    its turn; or an undisturbed one completes what the killed one left, and all begins anew. start: what the
    output is at the beginning."""
    small, expected = whole
    output = tmp_path / "killed" / "small"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(small.folder), str(output), str(step), then, str(expected), start],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] > outcome["resumable"] >= 3, "few kills hit a build: the test proves little"
    assert files_of(output) == files_of(expected)
    assert [path.name for path in output.parent.iterdir()] == ["small"]


def test_killed_build_takes_its_workers_along(make_set, tmp_path):
    small = make_set(40)  # jobs for both workers
    output = tmp_path / "killed" / "small"
    script = textwrap.dedent(f"""
        from pathlib import Path
        from rich.console import Console
        from semipose.sharding.build import build
        from semipose.sharding.annotations.formats.coco import CocoFormat
        from semipose.sharding.settings import BuildSettings

        if __name__ == "__main__":
            folder = Path({str(small.folder)!r})
            source = CocoFormat(annotations=folder / "annotations.json", images=folder / "images")
            settings = BuildSettings(source=source, output=Path({str(output)!r}), workers=2)
            build(settings, console=Console(quiet=True))
        """)
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment)
    children: set[int] = set()
    while len(children) < 3 and process.poll() is None:  # two workers and multiprocessing's resource tracker
        children |= children_of(process.pid)
    assert len(children) >= 3, "the build ended before its workers were seen"
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any(is_alive(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [child for child in children if is_alive(child)]


def children_of(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return set()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_full_disk_is_one_sentence_and_the_next_build_goes_on(whole, tmp_path, quiet, monkeypatch):
    small, expected = whole
    output = tmp_path / "full" / "small"
    writes = {"left": 2}
    real = os.fsync

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".tar.tmp"):
            if not writes["left"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            writes["left"] -= 1
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        InputError, match=r"full/small: it cannot be written \(No space left on device\): make"
    ):
        build(small.settings(output), console=quiet)
    monkeypatch.undo()
    assert not output.exists()
    left = output.with_name(".small.building") / "shards"
    assert sorted(path.name for path in left.iterdir()) == [
        f"small-{i:06d}.{kind}" for i in range(2) for kind in ("idx", "tar")
    ]
    stamps = {path.name: path.stat().st_mtime_ns for path in left.iterdir()}
    build(small.settings(output), console=quiet)
    assert files_of(output) == files_of(expected)
    assert {name: (output / name).stat().st_mtime_ns for name in stamps} == stamps, "made again"


def test_a_kill_after_the_rename_leaves_nothing_behind(whole, tmp_path, quiet, monkeypatch):
    small, expected = whole
    output = tmp_path / "renamed" / "small"
    real = semipose.sharding.store.output.put_in_place
    monkeypatch.setattr(
        semipose.sharding.store.output, "put_in_place", lambda *args, **keys: real(*args, **keys) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        build(small.settings(output), console=quiet)
    monkeypatch.undo()
    assert files_of(output) == files_of(expected)
    build(small.settings(output), console=quiet)
    assert [path.name for path in output.parent.iterdir()] == ["small"]


def test_second_build_of_one_output_refuses(whole, tmp_path, quiet):
    small, _ = whole
    output = tmp_path / "shared" / "small"
    aside = output.with_name(".small.building")
    aside.mkdir(parents=True)
    with FileLock(aside / "lock"), pytest.raises(InputError, match="another build is writing this folder"):
        build(small.settings(output), console=quiet)
    build(small.settings(output), console=quiet)
    check_shards(output, read_manifest(output))


@pytest.mark.parametrize("damage", ["other settings", "shard altered", "journal cut", "journal empty"])
def test_only_intact_shards_of_the_same_build_are_gone_on_from(whole, tmp_path, quiet, monkeypatch, damage):
    small, expected = whole
    output = tmp_path / "x" / "small"
    monkeypatch.setattr(semipose.sharding.build, "write_manifest", lambda *_: 1 / 0)
    first = small.settings(output, seed=1) if damage == "other settings" else small.settings(output)
    with pytest.raises(ZeroDivisionError):
        build(first, console=quiet)
    monkeypatch.undo()
    aside = output.with_name(".small.building")
    if damage == "shard altered":
        path = aside / "shards" / "small-000001.tar"
        path.write_bytes(path.read_bytes()[:-512] + b"x" * 512)
    if damage == "journal cut":
        path = aside / "journal.jsonl"
        path.write_text(path.read_text()[:-40])
    if damage == "journal empty":  # its first line met a full disk
        (aside / "journal.jsonl").write_text("")
    stamp = (aside / "shards" / "small-000000.tar").stat().st_mtime_ns
    manifest = build(small.settings(output), console=quiet)
    assert files_of(output) == files_of(expected)
    kept = (output / manifest.shards[0].file).stat().st_mtime_ns == stamp
    assert kept == (damage in ("shard altered", "journal cut"))
