"""Opens folders of shards: local ones, and those in an object store or behind a web server or a command.

Once a folder is open, its manifest, indices and ground truth are on this machine; the tars stay where they
are.
"""

import re
import weakref
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import fsspec
import msgspec

from semipose.configs.load import InputError
from semipose.pipelines import stream
from semipose.pipelines.temporary_folder import make_folder
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.store.index import read_index
from semipose.sharding.store.manifest import (
    GROUND_TRUTH_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    check_index,
    check_shards,
    check_size,
    check_truth,
    parse_manifest,
    read_manifest,
)
from semipose.sharding.store.tar_check import check_end, check_header, check_index_alone, end_of

STREAMED = ("http", "https", "pipe")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
"""Object stores that DALI can read, and the packages that fetch the small files from them."""
FETCHES_AT_ONCE = 8
HEADER_BYTES = 512
MANIFEST_BYTES = 16_000_000
"""Largest size of a manifest in bytes, enough for 60,000 tars."""
TRUTH_BYTES = 64_000_000
"""Largest size of a ground truth in bytes, apart from those of its samples."""


class _Row(msgspec.Struct):
    id: int
    image_id: int = 0
    num_keypoints: int = 0
    iscrowd: int = 0


class _ImageRow(msgspec.Struct):
    id: int
    file_name: str


class _Listed(msgspec.Struct):
    images: list[_ImageRow] = []  # msgspec makes a new list for each file
    annotations: list[_Row] = []
    detections: list[_Row] | None = None


class ListedSamples(NamedTuple):
    """What the ground truth says of all samples of a folder, in their order."""

    ids: list[int]
    """Of the annotation of a person; of a whole photo."""
    are_annotated: list[bool]
    """Whether the person, or a person of the photo, has a labelled keypoint."""
    file_names: list[str]
    """Only of whole photos."""


@dataclass(frozen=True)
class Shards:
    """An open folder of shards."""

    root: str
    """Its address, as it was given."""
    folder: Path
    """The local folder of its manifest, indices and ground truth."""
    manifest: Manifest
    tars: tuple[str, ...]
    """The path or address of each tar."""
    is_streamed: bool = False
    """Whether the tars are read by `pipelines.stream` instead of DALI's own reader."""

    @cached_property
    def listed(self) -> ListedSamples:
        """All samples as the ground truth lists them. Raises InputError if it lists too few."""
        file = read_json(self.folder / GROUND_TRUTH_NAME, _Listed, expected="a ground truth in COCO form")
        count = self.manifest.num_samples
        if self.manifest.kind == "image":
            self._check_length(file.images, "photos")
            people = (row for row in file.annotations if row.num_keypoints > 0 and not row.iscrowd)
            annotated = {row.image_id for row in people}
            ids = [row.id for row in file.images[:count]]
            names = [row.file_name for row in file.images[:count]]
            return ListedSamples(ids, [image_id in annotated for image_id in ids], names)
        rows = file.annotations if file.detections is None else file.detections
        self._check_length(rows, "annotations")
        rows = rows[:count]
        return ListedSamples([row.id for row in rows], [row.num_keypoints > 0 for row in rows], [])

    def _check_length(self, rows: Sized, what: str) -> None:
        if len(rows) < self.manifest.num_samples:
            raise InputError(
                f"{self.root}: {GROUND_TRUTH_NAME} lists {len(rows)} {what} for "
                f"{self.manifest.num_samples} samples: build the shards again"
            )


def open_shards(root: str | Path) -> Shards:
    """Open a folder of shards, local or remote, and compare it with its manifest. Raises InputError.

    For a local folder see `sharding.store.manifest.check_shards`. For others, the hashes of indices and
    ground truth are compared, and in an object store also the sizes and the first and last headers of the
    tars.
    """
    scheme = re.match(r"(pipe|\w+(?=://)):", str(root))
    if isinstance(root, Path) or scheme is None:
        return _open_folder(Path(root))
    if scheme[1] in STREAMED:
        return _open_elsewhere(root, partial(stream.locate, root), stream.fetch)
    if scheme[1] in PACKAGES:
        store = _file_system(root, scheme[1])
        shards = _open_elsewhere(root, lambda file: f"{root.rstrip('/')}/{file}", partial(_fetch, store))
        _check_tars(store, shards)
        return shards
    raise InputError(
        f"{root}: shards are read from folders, s3://, gs://, http(s):// and pipe:COMMAND: use one of these"
    )


def _open_folder(folder: Path) -> Shards:
    manifest = read_manifest(folder)
    check_shards(folder, manifest)
    tars = tuple(str(folder / shard.file) for shard in manifest.shards)
    return Shards(str(folder), folder, manifest, tars)


class _Fetch(Protocol):
    def __call__(self, url: str, path: Path, *, most: int) -> None:
        """Write the file at an address to `path`. Raises InputError, also for more than `most` bytes."""


def _open_elsewhere(root: str, locate: Callable[[str], str], fetch: _Fetch) -> Shards:
    """Fetch and check the small files of remote shards; they are removed with the result."""
    folder, remove = make_folder()
    try:
        where = locate(MANIFEST_NAME)
        fetch(where, folder / MANIFEST_NAME, most=MANIFEST_BYTES)
        manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes(), where)
        tars = tuple(locate(shard.file) for shard in manifest.shards)
        most = {shard.idx_file: _most_index_bytes(shard) for shard in manifest.shards}
        most[GROUND_TRUTH_NAME] = _most_truth_bytes(manifest)

        def fetch_small(name: str) -> None:
            fetch(locate(name), folder / name, most=most[name])

        with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
            list(pool.map(fetch_small, most))
    except BaseException:
        remove()
        raise
    shards = Shards(root, folder, manifest, tars, is_streamed=root.split(":")[0] in STREAMED)
    weakref.finalize(shards, remove)
    for tar, shard in zip(tars, manifest.shards, strict=True):
        samples = check_index(folder / shard.idx_file, shard, where=locate(shard.idx_file))
        check_index_alone(samples, tar=tar, tar_bytes=shard.bytes, extensions=manifest.sample_kind.members)
    check_truth(folder / GROUND_TRUTH_NAME, manifest, where=locate(GROUND_TRUTH_NAME))
    return shards


def _file_system(root: str, scheme: str) -> Any:
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise InputError(
            f"{root}: reading {scheme}:// needs {PACKAGES[scheme]}: pip install {PACKAGES[scheme]}"
        ) from error


def _most_index_bytes(shard: ShardEntry) -> int:
    """One line per sample: three times an extension, two numbers and a name of at most 100 bytes."""
    return 512 * (shard.samples + 1)


def _most_truth_bytes(manifest: Manifest) -> int:
    """COCO needs 0.7 kB per sample, which includes photos without a sample and crowds with masks."""
    return TRUTH_BYTES + 16_000 * manifest.num_samples


def _fetch(store: Any, url: str, path: Path, *, most: int) -> None:
    with _named(url):
        if store.info(url)["size"] > most:
            raise InputError(
                f"{url}: the file is larger than the expected {most:,} bytes: correct the address"
            )
        path.write_bytes(store.cat_file(url))


def _check_tars(store: Any, shards: Shards) -> None:
    """Compare the sizes and the first and last headers of tars in an object store with their indices."""
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
        list(pool.map(partial(_check_tar, store, shards.folder), shards.tars, shards.manifest.shards))


def _check_tar(store: Any, folder: Path, tar: str, shard: ShardEntry) -> None:
    samples = read_index(folder / shard.idx_file)
    with _named(tar):
        check_size(store.info(tar)["size"], shard, tar=tar)
        for component in (samples[0][0], samples[-1][-1]):
            header = store.cat_file(tar, start=component.offset - HEADER_BYTES, end=component.offset)
            check_header(header, component, tar=tar)
        check_end(store.cat_file(tar, start=end_of(samples), end=shard.bytes), tar=tar)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn any error of an object store's library into one sentence with the address of the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{url}: the store has no such file: correct the address") from error
    except TimeoutError as error:
        raise InputError(
            f"{url}: the store did not answer in time: correct the address, or try again later"
        ) from error
    except Exception as error:
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise InputError(
            f"{url}: the file cannot be read ({what}): check the address and the credentials"
        ) from error
