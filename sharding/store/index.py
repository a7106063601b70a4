"""DALI's index of a tar shard ("v1.2"): where each component of each sample is."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from semipose.configs.load import InputError
from semipose.sharding.store.files import write_atomic

VERSION = "v1.2"


class Component(NamedTuple):
    """One member of a sample: its extension, first payload byte in the tar, size in bytes, member name."""

    extension: str
    offset: int
    size: int
    member: str


def write_index(idx_path: Path, samples: Sequence[tuple[Component, ...]]) -> Path:
    """Write the index of these samples and return its path."""
    return _write_lines(idx_path, [" ".join(f"{e} {o} {s} {m}" for e, o, s, m in each) for each in samples])


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
                f"{idx_path}: line {len(samples) + 2} is not a line of an index: build the shards again"
            ) from error
    return samples


def read_members(
    file: BinaryIO, sample: Iterable[Component], extensions: Collection[str] | None = None
) -> dict[str, bytes]:
    """The members of a sample of an open tar by extension: all, or those that are named."""
    members = {}
    for component in sample:
        if extensions is None or component.extension in extensions:
            file.seek(component.offset)
            members[component.extension] = file.read(component.size)
    return members


def subset_index(idx_in: Path, idx_out: Path, keep: Sequence[int]) -> Path:
    """Write the samples `keep` (ordinals, in order) of `idx_in` to `idx_out`.

    DALI then reads only these samples of the unchanged tar. Raises InputError if an ordinal does not exist.
    """
    lines = read_lines(idx_in)
    wrong = [ordinal for ordinal in keep if not 0 <= ordinal < len(lines)]
    if wrong:
        raise InputError(f"{idx_in}: sample {wrong[0]} was asked for, but the shard has {len(lines)} samples")
    return _write_lines(idx_out, [lines[ordinal] for ordinal in keep])


def read_lines(idx_path: Path) -> list[str]:
    """The lines of an index, one per sample, without the first line, which is checked. Raises InputError."""
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
            f"{idx_path}: the first line is {head!r} instead of {VERSION!r} and {len(lines)} samples: the "
            "index is cut short or of another version: build the shards again"
        )
    return lines


def _write_lines(idx_path: Path, lines: Sequence[str]) -> Path:
    text = "\n".join([f"{VERSION} {len(lines)}", *lines]) + "\n"
    return write_atomic(idx_path, text.encode())
