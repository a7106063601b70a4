"""`dataset.json`, which describes the content of a folder of shards, and the check against it."""

import hashlib
import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.annotations.skeleton import Skeleton, to_category
from semipose.sharding.annotations.split import SplitCard
from semipose.sharding.samples.crop import Crop
from semipose.sharding.samples.kinds import KINDS
from semipose.sharding.samples.sample import SampleKind
from semipose.sharding.store.files import file_sha256, write_atomic
from semipose.sharding.store.index import Component, read_index, read_lines
from semipose.sharding.store.tar_check import check_tar, refuse

MANIFEST_NAME = "dataset.json"
GROUND_TRUTH_NAME = "ground_truth.json"
PHOTO_ABSENT, PHOTO_DAMAGED = "photo absent", "photo damaged"
"""Reasons in `Manifest.dropped` that a photo put there later may cure."""
_CURE = "copy it again or build the shards again"
_HASH_KEY = "sha256"
"""The key in `dataset.json` of the hash of all other values; shards of older builds have none."""


def is_plain_name(name: str) -> bool:
    """Whether a file's name can be used in a shell command unchanged, with or without quotes of any kind."""
    return re.fullmatch(r"[\w.+=@-]+", name, re.ASCII) is not None


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar: its name, number of samples, size and hashes (idx_sha256: that of its index)."""

    file: Annotated[str, Field(pattern=r"^[^/\\\x00]+\.tar$")]
    samples: int
    bytes: int
    sha256: str
    idx_sha256: str

    @property
    def idx_file(self) -> str:
        """Name of the index beside the tar."""
        return str(Path(self.file).with_suffix(".idx"))


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """The model that labelled the people of a folder of shards.

    model: its address, or the name of the file with its results. revision, licence: of the model, where they
    are known. keypoints: those that it labelled; the others have v = 0. labels_sha256: hash of the labels.
    """

    model: str
    revision: str | None
    licence: str | None
    keypoints: tuple[str, ...]
    labels_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one folder of shards.

    kind: what a sample is. order, seed: the order of the samples (seed matters for `shuffle`).
    annotations_sha256: hash of every record that the format read; settings_sha256: of the settings of the
    build; ground_truth_sha256: of `ground_truth.json`. dropped, problems: counts by reason. split: how the
    source was divided, if this is one side of it; faulty annotations are then counted on both sides. teacher:
    the model that labelled the people, if no human did; v of a keypoint is then its confidence, from 0 to 1.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format_version: int
    kind: Literal["person", "image"]
    name: str
    skeleton: Skeleton
    crop: Crop
    order: Literal["file", "shuffle"]
    seed: int
    shards: tuple[ShardEntry, ...]
    annotations_sha256: str
    settings_sha256: str
    ground_truth_sha256: str
    dropped: dict[str, int]
    problems: dict[str, int]
    split: SplitCard | None = None
    teacher: TeacherCard | None = None

    @property
    def sample_kind(self) -> SampleKind:
        """The kind of the samples."""
        return KINDS[self.kind]

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(shard.bytes for shard in self.shards)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards. Raises InputError if it is missing or wrong."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        output = shlex.quote(f"output={folder}")
        what = "no such folder" if not folder.is_dir() else f"the folder holds no {MANIFEST_NAME}"
        raise InputError(f"{folder}: {what}; make the shards with `semipose shards RECIPE {output}`")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the manifest cannot be read ({error.strerror}): correct that") from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """The manifest in the bytes of a `dataset.json`. Raises InputError that begins with `where`."""
    cure = "build the shards again"
    try:
        values = json.loads(content)
        version = values.get("format_version")
        kind = KINDS.get(str(values.get("kind")), KINDS["person"])
        if version != kind.format_version:
            raise InputError(
                f"{where}: this has format version {version!r}, but this version reads {kind.format_version} "
                f"of kind {kind.name}: {cure}"
            )
        claimed = values.pop(_HASH_KEY, "")
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(key) for key in first["loc"]) or "the file"
        raise InputError(f"{where}: {key}: {first['msg']}: {cure}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: this is no manifest ({error}): {cure}") from error
    if claimed not in ("", _hash(values)):
        raise InputError(f"{where}: the manifest was altered: it does not match its own SHA-256; {_CURE}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `dataset.json`, with its own hash, into `folder` atomically, and return its path."""
    values = asdict(manifest)
    if manifest.teacher is None:  # so that shards made before there were teachers stay what they are
        del values["teacher"]
    content = json.dumps({**values, _HASH_KEY: _hash(values)}, indent=1) + "\n"
    return write_atomic(folder / MANIFEST_NAME, content.encode())


def _hash(values: dict[str, Any]) -> str:
    """Hash of the values, whatever their layout; an absent value equals null, as it does for a reader."""
    given = {key: value for key, value in values.items() if value is not None}
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def check_shards(folder: Path, manifest: Manifest) -> None:
    """Compare tars, indices and ground truth of `folder` with the manifest, and them with each other.

    Each tar is there with its size, hash and headers (about a second per GB); each index is there, is the
    tar's own (by its hash) and describes samples that DALI reads rightly (see tar_check.py).
    Raises InputError naming the first file that differs, and the cure. DALI passes such faults silently.
    """
    for shard in manifest.shards:
        tar = folder / shard.file
        if not tar.is_file():
            raise InputError(f"{tar}: the shard is missing; {_CURE}")
        check_size(tar.stat().st_size, shard, tar=str(tar))
        samples = check_index(folder / shard.idx_file, shard)
        if file_sha256(tar) != shard.sha256:
            raise InputError(f"{tar}: the shard was altered: its SHA-256 is not the manifest's; {_CURE}")
        findings = Findings(tar)
        with tar.open("rb", buffering=0) as file:
            check_tar(file, samples, findings, manifest.sample_kind.members)
        refuse(findings)
    check_truth(folder / GROUND_TRUTH_NAME, manifest)


def check_index(idx: Path, shard: ShardEntry, *, where: str | None = None) -> list[tuple[Component, ...]]:
    """The samples of a shard's index, found to be the one of the manifest.

    where: what to call the index if not `idx`. Raises InputError.
    """
    where = where or str(idx)
    if not idx.is_file():
        raise InputError(f"{where}: the index is missing; build the shards again, or copy it beside its tar")
    if file_sha256(idx) != shard.idx_sha256 or len(read_lines(idx)) != shard.samples:
        raise InputError(f"{where}: the index does not belong to {shard.file}: copy both again")
    return read_index(idx)


def check_truth(truth: Path, manifest: Manifest, *, where: str | None = None) -> None:
    """Compare the ground truth with the manifest; `where`: how to name it. Raises InputError."""
    where = where or str(truth)
    if not truth.is_file() or file_sha256(truth) != manifest.ground_truth_sha256:
        raise InputError(f"{where}: the file is missing or was altered; {_CURE}")
    check_keypoints(truth, manifest, where=where)


class _Truth(msgspec.Struct):
    categories: list[dict[str, Any]] = []  # msgspec gives each file its own


def check_keypoints(truth: Path, manifest: Manifest, *, where: str) -> None:
    """Compare the manifest's keypoints with those that a ground truth repeats. Raises InputError."""
    try:
        categories = read_json(truth, _Truth, expected="a ground truth in COCO form").categories
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{truth}: ')}") from error
    expected = to_category(manifest.skeleton)
    for category in categories:  # shards of other tools may have none
        for key in ("keypoints", "flip_pairs", "skeleton", "sigmas"):
            if key in category and category[key] != expected[key]:
                raise InputError(
                    f"{where}: its {key} are not those of {MANIFEST_NAME}: one was altered; {_CURE}"
                )


def check_size(size: int, shard: ShardEntry, *, tar: str) -> None:
    """Compare the bytes of a tar with the manifest. Raises InputError."""
    if size != shard.bytes:
        what = "was cut short" if size < shard.bytes else "was altered"
        raise InputError(
            f"{tar}: the shard {what}: {size} bytes instead of {shard.bytes} as in the manifest; {_CURE}"
        )
