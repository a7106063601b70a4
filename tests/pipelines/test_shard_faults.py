"""Every way in which a tar can be wrong that DALI reads in silence is named when a run opens the shards.

Each fault is made twice: in a shard after its manifest was written, and with an index and a manifest that
were made from the faulty tar, as by another tool that knows no better.
"""

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rich.console import Console

from semipose.configs.load import InputError
from semipose.pipelines.source import open_split
from semipose.sharding.annotations.findings import Fault
from semipose.sharding.check.report import beside
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.store import tar_check
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.index import read_index
from semipose.sharding.store.manifest import read_manifest, write_manifest
from tests.pipelines.conftest import MakeShards, grey_photos

FAULTY = "test-000001.tar"  # the samples 4 to 7
Members = list[tuple[str, bytes]]


def members_of(tar: Path) -> Members:
    return [
        (component.member, tar.read_bytes()[component.offset :][: component.size])
        for sample in read_index(tar.with_suffix(".idx"))
        for component in sample
    ]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))


def header_of(tar: Path, name: str) -> int:
    with tarfile.open(tar) as file:
        return file.getmember(name).offset


def cut_before_a_sample(tar: Path, members: Members) -> None:
    tar.write_bytes(tar.read_bytes()[: header_of(tar, "000000006.jpg")])


def cut_within_a_sample(tar: Path, members: Members) -> None:
    tar.write_bytes(tar.read_bytes()[: header_of(tar, "000000006.json")])


def zeros_after_a_cut_within_a_sample(tar: Path, members: Members) -> None:
    write_tar(tar, members[:-1])


def no_end(tar: Path, members: Members) -> None:
    with tarfile.open(tar) as file:
        end = max(-(-(m.offset_data + m.size) // 512) * 512 for m in file)
    tar.write_bytes(tar.read_bytes()[:end])


def empty(tar: Path, members: Members) -> None:
    write_tar(tar, [])


def no_byte(tar: Path, members: Members) -> None:
    tar.write_bytes(b"")


def interleaved(tar: Path, members: Members) -> None:
    write_tar(tar, sorted(members, key=lambda member: member[0].rpartition(".")[2]))


def long_names(tar: Path, members: Members) -> None:
    write_tar(tar, [(f"{'long' * 30}{name}", payload) for name, payload in members], form=tarfile.PAX_FORMAT)


def gnu_long_names(tar: Path, members: Members) -> None:
    write_tar(tar, [(f"{'long' * 30}{name}", payload) for name, payload in members], form=tarfile.GNU_FORMAT)


def leading_out(tar: Path, members: Members) -> None:
    write_tar(tar, [(f"../{name}", payload) for name, payload in members])


def wrong_extension(tar: Path, members: Members) -> None:
    write_tar(tar, [(name.replace("6.jpg", "6.jpeg"), payload) for name, payload in members])


def missing_component(tar: Path, members: Members) -> None:
    write_tar(tar, [member for member in members if member[0] != "000000005.pose"])


def one_too_many(tar: Path, members: Members) -> None:
    write_tar(tar, [*members, ("000000007.txt", b"a note")])


def same_key_in_a_row(tar: Path, members: Members) -> None:
    write_tar(tar, [(name.replace("5.", "4."), payload) for name, payload in members])


def same_key_apart(tar: Path, members: Members) -> None:
    write_tar(tar, [(name.replace("7.", "4."), payload) for name, payload in members])


def no_tar(tar: Path, members: Members) -> None:
    tar.write_bytes(b"html" * (tar.stat().st_size // 4))


def index_as_it_comes(tar: Path) -> list[str]:
    """What a tool writes that groups neighbours by their key and minds nothing else."""
    lines: dict[tuple[str, int], list[str]] = {}
    run, last = 0, None
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                key, _, extension = member.name.rpartition(".")
                run += key != last
                last = key
                words = f"{extension} {member.offset_data} {member.size} {member.name}"
                lines.setdefault((key, run), []).append(words)
    except tarfile.TarError:
        pass
    return [" ".join(words) for words in lines.values()]


def agree(folder: Path, lines: list[str]) -> None:
    """Make the index of the faulty tar of these lines, and the manifest agree with both."""
    tar, idx = folder / FAULTY, (folder / FAULTY).with_suffix(".idx")
    idx.write_text("\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
    manifest = read_manifest(folder)
    entry = dataclasses.replace(
        manifest.shards[1],
        samples=len(lines),
        bytes=tar.stat().st_size,
        sha256=file_sha256(tar),
        idx_sha256=file_sha256(idx),
    )
    write_manifest(folder, dataclasses.replace(manifest, shards=(manifest.shards[0], entry)))


@pytest.fixture
def folder(make_shards: MakeShards) -> Path:
    return make_shards(grey_photos(8), per_shard=4)


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        open_split(folder)
    assert str(folder / "test-000001.") in str(error.value)
    assert "again" in str(error.value)  # the cure
    assert "\n" not in str(error.value)
    return str(error.value)


def listed_by_verify(folder: Path) -> set[str]:
    """The files in which verify finds that a tar and its index are not what DALI reads rightly."""
    with pytest.raises(InputError):
        verify(VerifySettings(verify=folder, workers=1), console=Console(quiet=True))
    rows = json.loads(beside(folder, "verify.json").read_text())["faults"]
    known = {fault.what for fault in vars(tar_check).values() if isinstance(fault, Fault)}
    return {Path(row["file"]).name for row in rows if row["fault"] in known}


FAULTS: list[tuple[Callable[[Path, Members], None], str]] = [
    (cut_before_a_sample, "the tar ends without the zeros that end one: it was cut short"),
    (cut_within_a_sample, "the tar ends without the zeros that end one: it was cut short"),
    (zeros_after_a_cut_within_a_sample, "member 000000007.json: member missing"),
    (no_end, "the tar ends without the zeros that end one: it was cut short"),
    (empty, "no sample in the tar"),
    (no_byte, "the tar ends without the zeros that end one: it was cut short"),
    (interleaved, "sample 000000004: members of the sample are apart"),
    (long_names, "member ././@PaxHeader: long name (PAX or GNU header), which DALI loses"),
    (gnu_long_names, "member ././@LongLink: long name (PAX or GNU header), which DALI loses"),
    (leading_out, "sample ../000000004: folder in the name, which may lead out"),
    (wrong_extension, "member 000000006.jpeg: member that a sample should not have (only jpg, pose, json)"),
    (missing_component, "member 000000005.pose: member missing"),
    (one_too_many, "member 000000007.txt: member that a sample should not have (only jpg, pose, json)"),
    (same_key_in_a_row, "sample 000000004: sample twice"),
    (same_key_apart, "sample 000000004: members of the sample are apart"),
    (no_tar, "no tar header where one should be (at byte 0: invalid header)"),
]


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_fault_is_named(folder: Path, fault: Callable[[Path, Members], None], says: str) -> None:
    tar = folder / FAULTY
    fault(tar, members_of(tar))
    assert "manifest" in refusal(folder)  # made after the manifest was written
    agree(folder, index_as_it_comes(tar))
    assert says in refusal(folder)
    assert FAULTY in listed_by_verify(folder)


def later_by_a_sample(tar: Path, lines: list[str]) -> list[str]:
    """The tar has one more sample in front than the index knows: the same offsets, other members."""
    members = members_of(tar)
    write_tar(tar, [(name.replace("00000000", "00000001"), payload) for name, payload in members])
    return lines


def with_other_sizes(tar: Path, lines: list[str]) -> list[str]:
    write_tar(tar, [(name, payload + b"more" * 200) for name, payload in members_of(tar)])
    return lines


def without_its_last_samples(tar: Path, lines: list[str]) -> list[str]:
    return lines[:2]


def without_its_last_small_member(tar: Path, lines: list[str]) -> list[str]:
    """An empty one, which hides where a tar ends in zeros."""
    content = bytearray(tar.read_bytes())
    last = read_index(tar.with_suffix(".idx"))[-1][-1]
    end = last.offset + -(-last.size // 512) * 512
    content[end : end + 512] = tarfile.TarInfo("000000008.jpg").tobuf(tarfile.USTAR_FORMAT)
    tar.write_bytes(content)
    return lines


def without_its_first_sample(tar: Path, lines: list[str]) -> list[str]:
    return lines[1:]


def of_the_whole_tar(tar: Path, lines: list[str]) -> list[str]:
    tar.write_bytes(tar.read_bytes()[:9_000])
    return lines


def of_a_photo_that_became_a_folder(tar: Path, lines: list[str]) -> list[str]:
    content = bytearray(tar.read_bytes())
    header = tarfile.TarInfo.frombuf(bytes(content[:512]), "utf-8", "strict")
    header.type = tarfile.DIRTYPE
    content[:512] = header.tobuf(tarfile.USTAR_FORMAT)
    tar.write_bytes(content)
    return lines


STALE: list[tuple[Callable[[Path, list[str]], list[str]], str]] = [
    (later_by_a_sample, "sample 000000014: the index says otherwise than the tar"),
    (with_other_sizes, "the tar goes on after its end|the index says otherwise than the tar"),
    (
        without_its_last_samples,
        "goes on after its end|sample 000000006: the index says otherwise than the tar",
    ),
    (without_its_last_small_member, "member 000000008.json: member missing"),
    (without_its_first_sample, "sample 000000004: the index says otherwise than the tar"),
    (of_the_whole_tar, "the tar ends without the zeros that end one: it was cut short"),
    (of_a_photo_that_became_a_folder, "member 000000004.jpg: member that is no plain file"),
]


@pytest.mark.parametrize(("fault", "says"), STALE, ids=[fault.__name__ for fault, _ in STALE])
def test_stale_index_is_named(folder: Path, fault: Callable[[Path, list[str]], list[str]], says: str) -> None:
    tar = folder / FAULTY
    lines = fault(tar, index_as_it_comes(tar))
    tar.with_suffix(".idx").write_text("\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
    assert "manifest" in refusal(folder) or "stale" in refusal(folder)
    agree(folder, lines)
    with pytest.raises(InputError, match=f"{FAULTY}: .*({says})"):
        open_split(folder)
    assert FAULTY in listed_by_verify(folder)


def test_stale_index_of_the_same_shape(folder: Path) -> None:
    """Of a shard with as many samples: it fits the manifest's count but not its hash."""
    idx = folder / "test-000001.idx"
    idx.write_text(idx.read_text().replace("00000000", "00000001"))
    assert "test-000001.idx: the index does not belong to test-000001.tar" in refusal(folder)


def test_sound_shards_of_another_tool_are_taken(folder: Path) -> None:
    tar = folder / FAULTY
    write_tar(tar, members_of(tar))
    agree(folder, index_as_it_comes(tar))
    assert open_split(folder).num_samples == 8
