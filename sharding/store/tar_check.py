"""Whether a tar shard and its index are ones that DALI reads rightly: the one checker of runs and verify.

What is wrong goes to `Findings`: verify lists all of it, and a run stops at the first (`refuse`).
"""

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import BinaryIO

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.store.index import Component

_BUILD = "build the shards again"
_CURE = f"copy it again or {_BUILD}"
_END_BYTES = 2 * tarfile.BLOCKSIZE  # zeros that end a tar
_ZEROS = bytes(tarfile.BLOCKSIZE)
_LONG_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

NO_TAR = Fault("no tar header where one should be", cure=_CURE, subject="file")
CUT_IN_MEMBER = Fault("the tar ends inside this member", cure=_CURE, subject="member")
NO_END = Fault("the tar ends without the zeros that end one: it was cut short", cure=_CURE, subject="file")
AFTER_END = Fault("the tar goes on after its end", cure=_CURE, subject="file")
EMPTY = Fault("no sample in the tar", cure=_CURE, subject="file")
LONG_NAME = Fault("long name (PAX or GNU header), which DALI loses", cure=_CURE, subject="member")
NO_FILE = Fault("member that is no plain file", cure=_CURE, subject="member")
FOREIGN = Fault("member that a sample should not have", cure=_CURE, subject="member")
INCOMPLETE = Fault("member missing", cure=_CURE, subject="member")
APART = Fault("members of the sample are apart", cure=_CURE, subject="sample")
TWICE = Fault("sample twice", cure=_CURE, subject="sample")
IN_FOLDER = Fault("folder in the name, which may lead out of this one", cure=_CURE, subject="sample")
STALE_INDEX = Fault("the index says otherwise than the tar", cure=_CURE, subject="sample")
GAP = Fault(
    "it does not follow the member before it in the index, or has a long name", cure=_CURE, subject="member"
)

Samples = dict[str, list[Component]]
"""The members of each sample, by its key."""


def check_tar(
    file: BinaryIO,
    indexed: Sequence[Sequence[Component]] | None,
    findings: Findings,
    extensions: Sequence[str],
) -> Samples:
    """Read all headers of a tar; what is wrong with them is added to the findings. Gives its samples.

    indexed: the samples of its index, to compare with; None if there is no index that can be read.
    extensions: of the members that each sample must have.
    """
    name = Path(file.name).name
    samples = _group(_read_members(file, chain.from_iterable(indexed or ()), findings), findings, extensions)
    if not samples:
        findings.add(EMPTY, name)
    if indexed is not None:
        _compare(indexed, samples, findings)
    return samples


def check_index_alone(
    indexed: Sequence[Sequence[Component]], *, tar: str, tar_bytes: int, extensions: Sequence[str]
) -> None:
    """Find out from an index alone whether a tar of so many bytes is sound; extensions: as in `check_tar`.

    One header of 512 bytes comes before each member, and zeros, at most a record of them, after the last: so
    there is no long (PAX, GNU) name, and no member that the index leaves out. Raises InputError.
    """
    findings, name = Findings(tar), Path(tar).name
    if not indexed:
        findings.add(EMPTY, name)
    _compare(indexed, _group(chain.from_iterable(indexed), findings, extensions), findings)
    end = 0
    for component in chain.from_iterable(indexed):
        if component.offset != end + tarfile.BLOCKSIZE or component.size < 0:
            findings.add(GAP, component.member)
        end = _padded_end(component)
    _check_end(tar_bytes - end, name, findings)
    refuse(findings)


def refuse(findings: Findings) -> None:
    """Raise InputError with the first fault; nothing if there is none."""
    for finding in findings:
        who = "" if finding.fault.subject == "file" else f"{finding.fault.subject} {finding.ids[0]}: "
        detail = f" ({finding.detail})" if finding.detail else ""
        raise InputError(f"{findings.file}: {who}{finding.fault.what}{detail}: {finding.cure}")


def _read_members(file: BinaryIO, hints: Iterator[Component], findings: Findings) -> Iterator[Component]:
    """The plain members of a tar as its headers give them, as far as they can be read.

    hints: what probably comes. A header that is beyond doubt that of a hint is not decoded, which takes long.
    """
    size, name = os.fstat(file.fileno()).st_size, Path(file.name).name
    hint, place = next(hints, None), 0
    while True:
        file.seek(place)
        header = file.read(tarfile.BLOCKSIZE)
        if header == _ZEROS or len(header) < tarfile.BLOCKSIZE:
            _check_end(size - place, name, findings)
            if header == _ZEROS and any(file.read()):
                findings.add(AFTER_END, name)
            return
        start = place + tarfile.BLOCKSIZE
        while hint is not None and hint.offset < start:
            hint = next(hints, None)
        if hint is not None and hint.offset == start and _is_plain_header(header, hint):
            component, fault = hint, None
        else:
            try:
                component, fault = _decode_header(header, start)
            except tarfile.HeaderError as error:
                findings.add(NO_TAR, name, f"at byte {place}: {error}")
                return
        if start + component.size > size:
            findings.add(CUT_IN_MEMBER, component.member)
            return
        if fault is not None:
            findings.add(fault, component.member)
        else:
            yield component
        place = _padded_end(component)


def _decode_header(header: bytes, start: int) -> tuple[Component, Fault | None]:
    """The member whose payload begins at `start`, and its fault if it is no plain file."""
    member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    if member.size < 0:
        raise tarfile.HeaderError("a size below 0")
    _, _, extension = member.name.rpartition("/")[2].partition(".")
    component = Component(extension, start, member.size, member.name)
    return component, LONG_NAME if member.type in _LONG_NAMES else None if member.isreg() else NO_FILE


def _check_end(count: int, name: str, findings: Findings) -> None:
    """Look at how many bytes follow the last member."""
    if count < _END_BYTES:
        findings.add(NO_END, name)
    elif count > _END_BYTES + tarfile.RECORDSIZE:
        findings.add(AFTER_END, name)


def _group(members: Iterable[Component], findings: Findings, extensions: Sequence[str]) -> Samples:
    """The members by sample; of a member that is there twice the first."""
    samples: Samples = {}
    last_key = None
    for component in members:
        key = component.member.removesuffix(f".{component.extension}")
        if key != last_key and key in samples:
            findings.add(APART, key)
        last_key = key
        sample = samples.setdefault(key, [])
        if any(component.extension == other.extension for other in sample):
            findings.add(TWICE, key)
            continue
        sample.append(component)
        if component.extension not in extensions or component.member == key:
            findings.add(FOREIGN, component.member, f"only {', '.join(extensions)}")
    for key, sample in samples.items():
        for extension in sorted(set(extensions) - {component.extension for component in sample}):
            findings.add(INCOMPLETE, f"{key}.{extension}")
        if "/" in key or "\\" in key:
            findings.add(IN_FOLDER, key)
    return samples


def _compare(indexed: Sequence[Sequence[Component]], samples: Samples, findings: Findings) -> None:
    for here, there in zip_longest(indexed, samples.items()):
        key, components = there or (here[0].member.removesuffix(f".{here[0].extension}"), [])
        if here is None or sorted(here) != sorted(components):
            findings.add(STALE_INDEX, key)


def check_header(header: bytes, component: Component, *, tar: str) -> None:
    """Find out whether the 512 bytes before a component name it. Raises InputError that names `tar`."""
    try:
        other = other_member(header, component)
    except tarfile.HeaderError as error:
        raise InputError(
            f"{tar}: there is no tar header before {component.member} ({error}): {_BUILD}"
        ) from error
    if other is not None:
        raise InputError(
            f"{tar}: it has {other} where the index has {component.member} ({component.size} bytes): "
            f"the index is stale: {_BUILD}"
        )


def other_member(header: bytes, component: Component) -> str | None:
    """Say which member a header of 512 bytes names; None if it is `component`. Raises tarfile.HeaderError.

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


def end_of(samples: Sequence[Sequence[Component]]) -> int:
    """Where the last member of a shard ends, padding included; the zeros that end a tar follow."""
    return _padded_end(samples[-1][-1])


def _padded_end(component: Component) -> int:
    return component.offset + -(-component.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
