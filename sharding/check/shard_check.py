"""Checks that one tar shard and its index match the manifest and that DALI reads them correctly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.check.sample_check import check_sample
from semipose.sharding.samples.sample import SampleKind
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.index import Component, read_index
from semipose.sharding.store.manifest import ShardEntry
from semipose.sharding.store.tar_check import check_tar

_CURE = "copy it again or build the shards again"

MISSING_FILE = Fault("file missing", cure=_CURE, subject="file")
OTHER_SIZE = Fault("size other than in the manifest", cure=_CURE, subject="file")
OTHER_HASH = Fault("SHA-256 other than in the manifest", cure=_CURE, subject="file")
OTHER_COUNT = Fault("number of samples other than in the manifest", cure=_CURE, subject="file")
BAD_INDEX = Fault("no index that can be read", cure=_CURE, subject="file")


@dataclass(frozen=True)
class ShardJob:
    """One shard that a worker reads.

    truth: rows of ground_truth.json by id, as JSON, that its samples should have; None not to compare.
    is_taught: whether a model labelled them.
    """

    folder: str
    shard: ShardEntry
    kind: SampleKind
    num_keypoints: int
    truth: Mapping[int, bytes] | None
    is_taught: bool = False


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
    indexed = _read_index(idx, findings) if idx.is_file() else None
    with tar.open("rb") as file:
        samples = check_tar(file, indexed, findings, job.kind.members)
        if len(samples) != job.shard.samples:
            findings.add(OTHER_COUNT, tar.name, f"{len(samples)} instead of {job.shard.samples}")
        ids = [person for sample in samples.values() for person in _check_sample(file, sample, job, findings)]
    return ShardReport(findings, list(samples), ids)


def _read_index(idx: Path, findings: Findings) -> list[tuple[Component, ...]] | None:
    try:
        return read_index(idx)
    except InputError as error:
        findings.add(BAD_INDEX, idx.name, str(error).removeprefix(f"{idx}: ").rpartition(": ")[0])
        return None


def _check_sample(file: BinaryIO, sample: list[Component], job: ShardJob, findings: Findings) -> list[int]:
    members = {}
    for component in sample:
        if component.extension in job.kind.members:
            file.seek(component.offset)
            members[component.extension] = (component.member, file.read(component.size))
    return check_sample(
        members,
        findings,
        kind=job.kind,
        num_keypoints=job.num_keypoints,
        truth=job.truth,
        is_taught=job.is_taught,
    )
