"""Writes samples to tar shards, each with its index and its hash."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

from semipose.sharding.samples.sample import TarSample
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.index import Component, write_index
from semipose.sharding.store.manifest import ShardEntry


def write_shards(
    folder: Path, name: str, samples: Iterator[TarSample], samples_per_shard: int, *, num_written: int = 0
) -> Iterator[ShardEntry]:
    """Write the samples, in their order, to `{name}-{000000}.tar` files in `folder`, each with its index.

    num_written: samples that are already there, in full shards. Yields each shard when it is complete on the
    disk, and holds one sample at a time.
    """
    while (first := next(samples, None)) is not None:
        path = folder / f"{name}-{num_written // samples_per_shard:06d}.tar"
        entry = _write_shard(path, chain([first], islice(samples, samples_per_shard - 1)))
        num_written += entry.samples
        yield entry


def _write_shard(path: Path, samples: Iterable[TarSample]) -> ShardEntry:
    aside = path.with_suffix(".tar.tmp")
    try:
        index, sha256 = _write_tar(aside, samples)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    idx = write_index(path.with_suffix(".idx"), index)
    return ShardEntry(
        file=path.name,
        samples=len(index),
        bytes=path.stat().st_size,
        sha256=sha256,
        idx_sha256=file_sha256(idx),
    )


def _write_tar(path: Path, samples: Iterable[TarSample]) -> tuple[list[tuple[Component, ...]], str]:
    """Write the samples as one tar and flush it to the disk; return its index and its hash."""
    index: list[tuple[Component, ...]] = []
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for sample in samples:
            start = file.tell()
            index.append(tuple(part._replace(offset=start + part.offset) for part in sample.members))
            file.write(sample.content)
            digest.update(sample.content)
        end = bytes(2 * tarfile.BLOCKSIZE)  # what ends a tar; then it is filled up to a whole record
        end += bytes(-(file.tell() + len(end)) % tarfile.RECORDSIZE)
        file.write(end)
        digest.update(end)
        file.flush()
        os.fsync(file.fileno())
    return index, digest.hexdigest()
