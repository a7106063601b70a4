"""Outputs that are links, mount points or folders already, and disks that refuse."""

import errno
import io
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

import semipose.sharding.build
from semipose.configs.load import InputError, load
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.files import put_in_place, write_atomic
from semipose.sharding.store.manifest import check_shards, read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(make_set):
    return make_set(3)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("is_there", [True, False], ids=["to an empty folder", "to a folder to make"])
def test_shards_are_built_where_a_link_leads(small, tmp_path, quiet, is_there):
    disk, link = tmp_path / "disk", tmp_path / "shards" / "coco"
    (disk / "big" if is_there else disk).mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(disk / "big")
    for _ in range(2):  # the second finds them whole
        build(small.settings(link), console=quiet)
        assert link.is_symlink()
        assert names_in(link.parent) == ["coco"]
        assert names_in(disk) == ["big"]
        assert {path.name for path in link.glob("*.tar")} == {"coco-000000.tar", "coco-000001.tar"}
        check_shards(link, read_manifest(link))


@pytest.mark.parametrize("leads_to", ["nowhere", "itself", "a folder on it"])
def test_a_link_that_leads_nowhere_is_refused_before_the_work(small, tmp_path, quiet, monkeypatch, leads_to):
    """The disk may not be mounted: filling the folder below it would be wrong."""
    link = tmp_path / "coco"
    link.symlink_to(link if leads_to == "itself" else tmp_path / "unmounted" / "coco")
    output = link / "train" if leads_to == "a folder on it" else link
    monkeypatch.setattr(semipose.sharding.build, "_build_aside", None)
    with pytest.raises(
        InputError, match=r"the link .*coco leads to .*mount that disk, correct the link"
    ) as e:
        build(small.settings(output), console=quiet)
    assert "\n" not in str(e.value)
    assert names_in(tmp_path) == ["coco", "set"]


def test_a_folder_that_is_there_stays_and_is_filled(small, tmp_path, quiet, monkeypatch):
    """As a mount point, or the current folder of a shell, must: the system refuses to rename it."""
    output = tmp_path / "shards" / "coco"
    output.mkdir(parents=True)
    number = output.stat().st_ino

    def rename(source, target, *, real=os.rename):
        if Path(source) == output or Path(target) == output:
            raise OSError(errno.EBUSY, "Device or resource busy", str(output))
        return real(source, target)

    def write_manifest(*args, real=semipose.sharding.build.write_manifest):
        assert names_in(output.parent) == ["coco"], "made beside it, on what may be another disk"
        return real(*args)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(semipose.sharding.build, "write_manifest", write_manifest)
    build(small.settings(output), console=quiet)
    expected = files_of(output)
    (output / "coco-000001.tar").write_bytes(b"damaged")
    build(small.settings(output), console=quiet)
    assert files_of(output) == expected
    assert output.stat().st_ino == number
    assert names_in(output.parent) == ["coco"]


@pytest.mark.parametrize("moved", range(4))
def test_a_manifest_stands_only_beside_whole_shards(tmp_path, monkeypatch, moved):
    """Whatever moves the files of a folder that was there is stopped after so many of them."""
    made, output = tmp_path / "made", tmp_path / "coco"
    for folder in (made, output):
        folder.mkdir()
        for name in ("dataset.json", "a.tar", "b.tar", "z.idx"):
            (folder / name).write_text(f"{name} in {folder.name}")
    calls = iter(range(9))

    def move(*paths, real=shutil.move):
        return real(*paths) if next(calls) < moved else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", move)
        with pytest.raises(ZeroDivisionError):
            put_in_place(made, output, last="dataset.json")
    assert names_in(output) == ["a.tar", "b.tar", "z.idx"]
    put_in_place(made, output, last="dataset.json")
    assert {path.read_text() for path in output.iterdir()} == {f"{name} in made" for name in names_in(output)}
    assert "dataset.json" in names_in(output)


def test_a_folder_that_appears_during_the_build_is_filled_across_disks(small, tmp_path, quiet, monkeypatch):
    """A disk that is mounted at the output after a build was stopped."""
    output = tmp_path / "shards" / "coco"
    real = semipose.sharding.build.write_manifest

    def write_manifest(*args):
        output.mkdir()
        return real(*args)

    def rename(source, target, *, real=os.rename):
        if Path(target).parent == output:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        return real(source, target)

    monkeypatch.setattr(semipose.sharding.build, "write_manifest", write_manifest)
    monkeypatch.setattr(os, "rename", rename)
    build(small.settings(output), console=quiet)
    check_shards(output, read_manifest(output))
    assert names_in(output.parent) == ["coco"]


def test_shards_that_a_damaged_output_no_longer_has_are_removed(small, tmp_path, quiet):
    output = tmp_path / "coco"
    build(small.settings(output, missing_images="skip"), console=quiet)
    (small.images / "000000000003.jpg").unlink()
    (output / "coco-000000.tar").write_bytes(b"damaged")
    (output / "notes.txt").write_text("mine")
    build(small.settings(output, missing_images="skip"), console=quiet)
    assert names_in(output) == [
        "coco-000000.idx",
        "coco-000000.tar",
        "dataset.json",
        "ground_truth.json",
        "notes.txt",
    ]
    check_shards(output, read_manifest(output))


def test_photos_replaced_after_they_were_left_out_are_not_forgotten(small, tmp_path):
    """The same command keeps what it made, so it must say how the people of two photos get in."""
    output = tmp_path / "coco"

    def shown():
        text = io.StringIO()
        settings = small.settings(output, corrupt_images="skip", missing_images="skip")
        build(settings, console=Console(file=text, width=80))
        return text.getvalue()

    cut, gone = small.images / "000000000002.jpg", small.images / "000000000003.jpg"
    whole = {path: path.read_bytes() for path in (cut, gone)}
    cut.write_bytes(whole[cut][:-50])
    gone.unlink()
    shown()
    for path, content in whole.items():
        path.write_bytes(content)
    told = shown()
    assert "samples left out because their photos were absent or damaged: 4; if you" in told
    assert f"remove {output} and start the same command again" in told
    shutil.rmtree(output)
    shown()
    assert read_manifest(output).num_samples == 6
    assert "left out" not in shown()


def test_a_mount_point_is_filled(small, tmp_path):
    output = tmp_path / "shards" / "coco"
    output.mkdir(parents=True)
    script = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from rich.console import Console
        from semipose.sharding.build import build
        from semipose.sharding.annotations.formats.coco import CocoFormat
        from semipose.sharding.store.manifest import check_shards, read_manifest
        from semipose.sharding.settings import BuildSettings

        folder, output = Path({str(small.folder)!r}), Path({str(output)!r})
        source = CocoFormat(annotations=folder / "annotations.json", images=folder / "images")
        build(BuildSettings(source=source, output=output, workers=1), console=Console(quiet=True))
        assert os.path.ismount(output)
        check_shards(output, read_manifest(output))
        """)
    mounted = f'mount -t tmpfs none {output} || exit 77; exec "$0" -c "$1"'
    command = ["unshare", "-rm", "sh", "-c", mounted, sys.executable, script]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip(f"mounting is not allowed here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert names_in(output.parent) == ["coco"]


@pytest.mark.parametrize("output", [".", "/", "''", "shards/..", '"a\\0b"'])
def test_an_output_without_a_name_is_refused(small, tmp_path, output):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"source: {{name: coco, annotations: {small.annotations}, images: {small.images}}}\n")
    with pytest.raises(InputError, match=r"does not name a folder to make: give a path that ends in a name"):
        load(BuildSettings, recipe, [f"output={output}"])


CURES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room, as your quota",
    errno.EACCES: "correct the permissions",
    errno.EROFS: "mount that disk so that it can be written",
    errno.EMFILE: r"raise the limit of open files \(`ulimit -n 4096`\)",
    errno.EFBIG: r"raise the limit of file sizes \(`ulimit -f unlimited`\)",
    errno.ENOLCK: "mount that disk with file locks",
    errno.EXDEV: "choose a folder without other disks mounted in it",
    errno.EBUSY: "end the program that uses it, or unmount",
    errno.EIO: "check that disk",
    errno.EL2HLT: "correct that",
}


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (call, number)
        for call in ("mkdir", "open", "fsync", "rename", "flock")
        for number in CURES
        if (call, number) != ("flock", errno.EACCES)  # how some disks say that another process holds the lock
    ],
)
def test_each_refusal_of_a_disk_has_its_cure(small, tmp_path, quiet, monkeypatch, call, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    def refuse_to_write(path, mode="r", *args, real=Path.open, **keys):
        return refuse() if "w" in mode else real(path, mode, *args, **keys)

    if call == "flock":
        monkeypatch.setattr("fcntl.flock", refuse)
    elif call in ("open", "mkdir"):
        monkeypatch.setattr(Path, call, refuse_to_write if call == "open" else refuse)
    else:
        monkeypatch.setattr(os, "replace" if call == "rename" else call, refuse)
    reason = f"{os.strerror(number)}.*"
    with pytest.raises(
        InputError, match=rf"shards/coco: it cannot be written \({reason}\): {CURES[number]}"
    ) as error:
        build(small.settings(tmp_path / "shards" / "coco"), console=quiet)
    assert str(error.value).endswith(
        "then start the same command again; it continues after the last complete shard"
    )
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "card.json", b"{}")
    assert names_in(tmp_path) == []
