"""Whether one tar shard and its index are what the manifest says and what DALI reads rightly."""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

from configs.load import InputError
from sharding.annotations.findings import Fault, Findings
from sharding.check.sample_check import check_sample
from sharding.samples.sample import SampleKind
from sharding.store.files import file_sha256
from sharding.store.index import Component, check_headers, read_index
from sharding.store.manifest import MEMBERS, ShardEntry, check_index, check_size

_CURE = "copy it again or build the shards again"
_ZEROS = bytes(tarfile.BLOCKSIZE)

MISSING_FILE = Fault("file missing", cure=_CURE, subject="file")
OTHER_SIZE = Fault("size other than in the manifest", cure=_CURE, subject="file")
OTHER_HASH = Fault("SHA-256 other than in the manifest", cure=_CURE, subject="file")
OTHER_COUNT = Fault("number of samples other than in the manifest", cure=_CURE, subject="file")
BAD_INDEX = Fault("no index that can be read", cure=_CURE, subject="file")
STALE_INDEX = Fault("the index says otherwise than the tar", cure=_CURE, subject="sample")
NO_TAR = Fault("no tar header where one should be", cure=_CURE, subject="file")
CUT_IN_MEMBER = Fault("the tar ends inside this member", cure=_CURE, subject="member")
NO_END = Fault("the tar ends without the zeros that end one: it was cut short", cure=_CURE, subject="file")
AFTER_END = Fault("the tar goes on after its end", cure=_CURE, subject="file")
EMPTY = Fault("no sample in the tar", cure=_CURE, subject="file")
LONG_NAME = Fault("long name (PAX or GNU header), which DALI loses", cure=_CURE, subject="member")
NO_FILE = Fault("member that is no plain file", cure=_CURE, subject="member")
FOREIGN = Fault(f"member that is none of {', '.join(MEMBERS)}", cure=_CURE, subject="member")
INCOMPLETE = Fault("member missing", cure=_CURE, subject="member")
APART = Fault("members of the sample are apart", cure=_CURE, subject="sample")
TWICE = Fault("sample twice", cure=_CURE, subject="sample")
REFUSED = Fault("a run would refuse it", cure=_CURE, subject="file")


@dataclass(frozen=True)
class ShardJob:
    """One shard for a worker to read.

    truth: rows of ground_truth.json by id, as JSON, that its samples should have; None not to compare.
    """

    folder: str
    shard: ShardEntry
    kind: SampleKind
    num_keypoints: int
    truth: Mapping[int, bytes] | None


class ShardReport(NamedTuple):
    """findings: of one shard. keys: of its samples. ids: of the people in them, in order."""

    findings: Findings
    keys: list[str]
    ids: list[int]


def check_shard(job: ShardJob) -> ShardReport:
    """Read a whole tar, its index and all its members. Runs in any process; holds one sample at a time."""
    tar, idx = Path(job.folder, job.shard.file), Path(job.folder, job.shard.idx_file)
    findings = Findings(tar)
    for path in (path for path in (tar, idx) if not path.is_file()):
        findings.add(MISSING_FILE, path.name)
    if not tar.is_file():
        return ShardReport(findings, [], [])
    size = tar.stat().st_size
    if size != job.shard.bytes:
        findings.add(OTHER_SIZE, tar.name, f"{size} bytes instead of {job.shard.bytes}")
    for path, sha256 in ((tar, job.shard.sha256), (idx, job.shard.idx_sha256)):
        if path.is_file() and file_sha256(path) != sha256:
            findings.add(OTHER_HASH, path.name)
    with tar.open("rb") as file:
        samples = _group(_members(file, findings), findings)
        if len(samples) != job.shard.samples:
            findings.add(OTHER_COUNT, tar.name, f"{len(samples)} instead of {job.shard.samples}")
        if not samples:
            findings.add(EMPTY, tar.name)
        if idx.is_file():
            _compare_index(idx, samples, findings)
        ids = [person for sample in samples.values() for person in _check_sample(file, sample, job, findings)]
        if not any(findings):
            _open_as_a_run(file, idx, job.shard, findings)
    return ShardReport(findings, list(samples), ids)


def _members(file: BinaryIO, findings: Findings) -> Iterator[tuple[str, Component]]:
    """The plain members of a tar as its headers give them, each with its key, as far as they can be read."""
    size = os.fstat(file.fileno()).st_size
    name = Path(file.name).name
    place = 0
    while True:
        file.seek(place)
        header = file.read(tarfile.BLOCKSIZE)
        if header == _ZEROS:
            _check_end(file, name, findings)
            return
        if len(header) < tarfile.BLOCKSIZE:
            findings.add(NO_END, name, f"{size} bytes")
            return
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if member.size < 0:
                raise tarfile.HeaderError("a size below 0")
        except tarfile.HeaderError as error:
            findings.add(NO_TAR, name, f"at byte {place}: {error}")
            return
        start = place + tarfile.BLOCKSIZE
        if start + member.size > size:
            findings.add(CUT_IN_MEMBER, member.name)
            return
        place = start + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        ):
            findings.add(LONG_NAME, member.name)
        elif not member.isreg():
            findings.add(NO_FILE, member.name)
        else:
            _, _, extension = member.name.rpartition("/")[2].partition(".")
            key = member.name.removesuffix(f".{extension}")
            yield key, Component(extension, start, member.size, member.name)


def _check_end(file: BinaryIO, name: str, findings: Findings) -> None:
    tail = file.read()
    if len(tail) < tarfile.BLOCKSIZE:
        findings.add(NO_END, name)
    elif any(tail):
        findings.add(AFTER_END, name)


def _group(members: Iterator[tuple[str, Component]], findings: Findings) -> dict[str, list[Component]]:
    """The members by sample; of a member that is there twice the first."""
    samples: dict[str, list[Component]] = {}
    last_key = None
    for key, component in members:
        if key != last_key and key in samples:
            findings.add(APART, key)
        last_key = key
        sample = samples.setdefault(key, [])
        if any(component.extension == other.extension for other in sample):
            findings.add(TWICE, key)
            continue
        sample.append(component)
        if component.extension not in MEMBERS:
            findings.add(FOREIGN, component.member)
    for key, sample in samples.items():
        for extension in set(MEMBERS) - {component.extension for component in sample}:
            findings.add(INCOMPLETE, f"{key}.{extension}")
    return samples


def _compare_index(idx: Path, samples: dict[str, list[Component]], findings: Findings) -> None:
    try:
        indexed = read_index(idx)
    except InputError as error:
        findings.add(BAD_INDEX, idx.name, str(error).removeprefix(f"{idx}: ").rpartition(": ")[0])
        return
    for here, there in zip_longest(indexed, samples.items()):
        key, components = there or (here[0].member.removesuffix(f".{here[0].extension}"), [])
        if here is None or sorted(here) != sorted(components):
            findings.add(STALE_INDEX, key)


def _check_sample(file: BinaryIO, sample: list[Component], job: ShardJob, findings: Findings) -> list[int]:
    members = {}
    for component in sample:
        if component.extension in MEMBERS:
            file.seek(component.offset)
            members[component.extension] = (component.member, file.read(component.size))
    return check_sample(members, findings, kind=job.kind, num_keypoints=job.num_keypoints, truth=job.truth)


def _open_as_a_run(file: BinaryIO, idx: Path, shard: ShardEntry, findings: Findings) -> None:
    """What a run that opens the shards checks, so that nothing it refuses passes here."""
    try:
        check_size(os.fstat(file.fileno()).st_size, shard, tar=file.name)
        check_headers(file, check_index(idx, shard, tar=file.name), tar=file.name)
    except InputError as error:
        findings.add(REFUSED, shard.file, str(error))
