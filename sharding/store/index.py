"""DALI's index of a tar shard ("v1.2"): where each component of each sample lies; whether both are sound."""

import tarfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

from configs.load import InputError
from sharding.store.files import write_atomic

VERSION = "v1.2"
_BUILD = "build the shards again"
_END_BYTES = 2 * tarfile.BLOCKSIZE  # zeros that end a tar


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


def check_samples(
    samples: Sequence[tuple[Component, ...]], *, tar: str, extensions: Sequence[str], tar_bytes: int
) -> None:
    """Find out from its index alone whether a shard of `tar_bytes` is one that DALI reads rightly.

    Each sample has one member of each of `extensions`, all of its own key; no key comes twice; the members
    fill the tar without a gap (see `_check_gaps`). Raises InputError that names `tar`.
    """
    if not samples:
        raise InputError(f"{tar}: the shard holds no sample: {_BUILD}")
    keys: set[str] = set()
    for sample in samples:
        key = sample[0].member.removesuffix(f".{sample[0].extension}")
        found = ", ".join(component.member for component in sample)
        if sorted(component.extension for component in sample) != sorted(extensions):
            wanted = ", ".join(extensions)
            raise InputError(f"{tar}: sample {key} is {found} where {wanted} belong to it: {_BUILD}")
        if any(component.member != f"{key}.{component.extension}" for component in sample):
            raise InputError(f"{tar}: sample {key} is {found}, of more than one key: {_BUILD}")
        if "/" in key or "\\" in key:
            raise InputError(
                f"{tar}: sample {key} has a folder in its name, which may lead out of it: {_BUILD}"
            )
        if key in keys:
            raise InputError(f"{tar}: sample {key} is there twice: {_BUILD}")
        keys.add(key)
    _check_gaps(samples, tar, tar_bytes)


def _check_gaps(samples: Sequence[tuple[Component, ...]], tar: str, tar_bytes: int) -> None:
    """One header of 512 bytes before each member, and zeros, at most a record of them, after the last.

    So there is no long (PAX, GNU) name, whose components DALI loses, and no member that the index leaves out.
    """
    end = 0
    for component in chain.from_iterable(samples):
        if component.offset != end + tarfile.BLOCKSIZE or component.size < 0:
            raise InputError(
                f"{tar}: {component.member} does not follow the member before it: the index is stale, or the "
                f"members of a sample are apart, or the tar has long (PAX, GNU) names: {_BUILD}"
            )
        end = _padded_end(component)
    if tar_bytes < end + _END_BYTES:
        raise InputError(f"{tar}: the tar was cut short before its end: {_BUILD}")
    if tar_bytes > end + _END_BYTES + tarfile.RECORDSIZE:
        raise InputError(f"{tar}: the tar goes on after the last member of its index: {_BUILD}")


def check_headers(file: BinaryIO, samples: Sequence[tuple[Component, ...]], *, tar: str) -> None:
    """Find out whether a tar's headers say what its sound index says. Raises InputError that names `tar`."""
    for component in chain.from_iterable(samples):
        file.seek(component.offset - tarfile.BLOCKSIZE)
        check_header(file.read(tarfile.BLOCKSIZE), component, tar=tar)
    file.seek(end_of(samples))
    check_end(file.read(), tar=tar)


def check_header(header: bytes, component: Component, *, tar: str) -> None:
    """Find out whether the 512 bytes before a component name it. Raises InputError that names `tar`."""
    try:
        other = other_member(header, component)
    except tarfile.HeaderError as error:
        raise InputError(
            f"{tar}: no tar header stands before {component.member} ({error}): {_BUILD}"
        ) from error
    if other is not None:
        raise InputError(
            f"{tar}: {other} stands where the index has {component.member} ({component.size} bytes): "
            f"the index is stale: {_BUILD}"
        )


def other_member(header: bytes, component: Component) -> str | None:
    """Say which member a header of 512 bytes names; None where it is `component`. Raises tarfile.HeaderError.

    Extended headers (PAX, GNU) are other members: what they claim is not read.
    """
    if _is_plain_header(header, component):
        return None
    member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    if member.isreg() and (member.name, member.size) == (component.member, component.size):
        return None
    return f"{member.name} ({member.size} bytes)"


def _is_plain_header(header: bytes, component: Component) -> bool:
    """Whether it is, beyond doubt, the header of that component: seven times as fast as `tarfile`."""
    name = component.member.encode()
    return (
        header[:100] == name.ljust(100, b"\0")
        and header[124:136] == b"%011o\0" % component.size
        and header[156:157] == tarfile.REGTYPE
        and not any(header[345:500])
        and header[148:156] == b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    )


def check_end(tail: bytes, *, tar: str) -> None:
    """Find out whether what follows the last member ends a tar. Raises InputError that names `tar`."""
    if len(tail) < _END_BYTES or any(tail):
        raise InputError(
            f"{tar}: the tar does not end after the last member of its index: the index is stale: {_BUILD}"
        )


def end_of(samples: Sequence[tuple[Component, ...]]) -> int:
    """Where the last member of a shard ends, padding included; the zeros that end a tar follow."""
    return _padded_end(samples[-1][-1])


def _padded_end(component: Component) -> int:
    return component.offset + -(-component.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _write_lines(idx_path: Path, lines: Sequence[str]) -> Path:
    text = "\n".join([f"{VERSION} {len(lines)}", *lines]) + "\n"
    return write_atomic(idx_path, text.encode())
