"""DALI's index of a tar shard ("v1.2"): where each component of each sample lies."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from configs.load import InputError
from sharding.files import write_atomic

VERSION = "v1.2"


class Component(NamedTuple):
    """One member of a sample: its extension, first payload byte in the tar, size in bytes, member name."""

    extension: str
    offset: int
    size: int
    member: str


def build_index(tar_path: Path, idx_path: Path | None = None) -> Path:
    """Write the index of `tar_path` (beside it, unless told) and return its path.

    Raises InputError for a file that is no tar, is cut short, or whose samples' members are not adjacent.
    """
    idx_path = idx_path or tar_path.with_suffix(".idx")
    samples: dict[str, list[Component]] = {}
    last_key = None
    for key, component in _components(tar_path):
        if key != last_key and key in samples:
            raise InputError(
                f"{tar_path}: the members of sample {key} are not adjacent; build the shard again"
            )
        samples.setdefault(key, []).append(component)
        last_key = key
    _write_lines(
        idx_path, [" ".join(f"{e} {o} {s} {m}" for e, o, s, m in sample) for sample in samples.values()]
    )
    return idx_path


def read_index(idx_path: Path) -> list[tuple[Component, ...]]:
    """The samples of an index, in order. Raises InputError for a missing or malformed index."""
    samples = []
    for line in read_lines(idx_path):
        words = line.split(" ")
        try:
            numbers = [(int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 4)]
            samples.append(
                tuple(Component(words[4 * i], o, s, words[4 * i + 3]) for i, (o, s) in enumerate(numbers))
            )
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{idx_path}: line {len(samples) + 2} is no index line: build the shards again"
            ) from error
    return samples


def subset_index(idx_in: Path, idx_out: Path, keep: Sequence[int]) -> Path:
    """Write to `idx_out` the samples `keep` (ordinals, in the order wanted) of `idx_in`.

    DALI then reads only those samples of the untouched tar. Raises InputError where an ordinal is not there.
    """
    lines = read_lines(idx_in)
    wrong = [ordinal for ordinal in keep if not 0 <= ordinal < len(lines)]
    if wrong:
        raise InputError(f"{idx_in}: sample {wrong[0]} was asked for, but the shard has {len(lines)} samples")
    return _write_lines(idx_out, [lines[ordinal] for ordinal in keep])


def read_lines(idx_path: Path) -> list[str]:
    """The lines of an index, one a sample, its head checked and left out. Raises InputError."""
    try:
        head, *lines = idx_path.read_text(encoding="utf-8").splitlines() or [""]
    except OSError as error:
        raise InputError(
            f"{idx_path}: the index cannot be read ({error.strerror}): build the shards again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{idx_path}: this is no index file: build the shards again") from error
    if head != f"{VERSION} {len(lines)}":
        raise InputError(
            f"{idx_path}: the head says {head!r} where {VERSION!r} and {len(lines)} samples were expected: "
            "the index is cut short or of another version; build the shards again"
        )
    return lines


def _components(tar_path: Path) -> Iterator[tuple[str, Component]]:
    try:
        with tar_path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            end = 0
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.isfile():
                    continue
                _, _, extension = member.name.rpartition("/")[2].partition(".")
                key = member.name.removesuffix(f".{extension}")
                yield key, Component(extension, member.offset_data, member.size, member.name)
            # tarfile takes a file that ends before or inside a header for a whole one.
            file.seek(end)
            if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise InputError(f"{tar_path}: this is no whole tar file ({error}): build the shard again") from error


def _write_lines(idx_path: Path, lines: Sequence[str]) -> Path:
    text = "\n".join([f"{VERSION} {len(lines)}", *lines]) + "\n"
    return write_atomic(idx_path, text.encode())
