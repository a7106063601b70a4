"""Files and tars that arrive as streams, over http (by curl) or from any command.

A stream cannot be searched, so webdataset's reader reads a tar from its start. Each header is compared with
the shard's index before that reader sees it, so the reader never reads a member of another name or size, or
anything compressed. A stream that breaks is opened again and continues where it broke. Memory and time are
bounded, whatever the other side sends.
"""

import hashlib
import os
import re
import select
import shlex
import subprocess
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from webdataset.tariterators import tar_file_iterator

from semipose.configs.load import InputError
from semipose.sharding.store.index import Component
from semipose.sharding.store.manifest import is_plain_name
from semipose.sharding.store.tar_check import end_of, other_member

# curl itself retries what fails before the first byte. The time limits are enforced here.
CURL = (
    "curl --fail --silent --show-error --location --globoff --max-redirs 10 --proto =http,https "
    "--connect-timeout 30 --retry 5 --retry-connrefused"
)
RETRIES = 3
"""How often a stream is opened again without a new sample in between."""
WAIT_S = 1.0
"""The wait before the first retry; it doubles for each further one."""
BUDGET_S = 120.0
"""How long a reader waits for a file without progress, over all retries."""
STALL_S = 60.0
"""How long a stream may deliver fewer than LEAST_BYTES before it counts as broken."""
LEAST_BYTES = 60_000
NOTICE_S = 10.0
"""After this wait, a warning names the file."""
EXIT_S = 5.0
_PIECE_BYTES = 1 << 20
_MOST_END_BYTES = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE
_CURL_SAYS = {
    1: "it redirects to something other than http, or is not answered in http",
    3: "the address is malformed",
    6: "the host is not known",
    7: "no connection",
    18: "the transfer broke off",
    28: "no connection in time",
    35: "the TLS connection failed",
    47: "it is redirected more than 10 times",
    52: "the server gave no answer",
    56: "the connection broke off",
    60: "the server's certificate is not valid",
    127: "it is not installed",
}
_FINAL = frozenset({1, 3, 47, 60, 127})
"""Exit codes of curl for which a retry is useless."""
_PASSING = frozenset({"408", "425", "429"})
"""The 4xx statuses of http for which a retry may help."""

Payloads = dict[str, bytes]


class StreamError(OSError):
    """A stream ended early; is_final: a retry would not help."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class BrokenStreamError(Exception):
    """A stream delivered fewer or other bytes than its index says, even after retries."""


def locate(root: str, file: str) -> str:
    """Return the address of a file in a streamed folder, for `fetch` and `read_tar`.

    root: `http(s)://...`, after which the file follows, or `pipe:COMMAND`, in which `{file}` stands for it.
    """
    if not root.startswith("pipe:"):
        return f"{_escape(root).rstrip('/')}/{quote(file, safe='')}"
    if "{file}" not in root:
        raise InputError(
            f"{root}: the command must name the file to print as {{file}}: pipe:cat shards/{{file}}"
        )
    if not is_plain_name(file):
        raise InputError(
            f"{root}: {file!r} cannot be part of a command: give the shards a name of plain letters"
        )
    return root.replace("{file}", file)


def fetch(url: str, path: Path, *, most: int) -> None:
    """Write a whole file to `path`. Raises InputError, also if it has more than `most` bytes."""
    patience = _Patience(url)
    while True:
        try:
            with _open(url, patience) as stream, path.open("wb") as file:
                size = 0
                while piece := stream.read(min(_PIECE_BYTES, most + 1 - size)):
                    size += file.write(piece)
                if size > most:
                    raise InputError(
                        f"{url}: the file is larger than the expected {most:,} bytes: correct the address"
                    )
                stream.check_ending()
            return
        except StreamError as error:
            if not patience.tries_again(error):
                raise InputError(
                    f"{url}: the file cannot be read ({error}): correct the address or the connection"
                ) from error


def read_tar(
    url: str,
    samples: Sequence[tuple[Component, ...]],
    wanted: Sequence[int],
    extensions: Sequence[str],
    compare: Callable[[str], None] | None = None,
) -> Iterator[tuple[int, Payloads]]:
    """Yield some samples of a tar, each with its index and the bytes of some of its members.

    samples: all samples of the tar, from its index. wanted: ascending indices of the samples to yield.
    compare: called at the end with the SHA-256 of the whole tar, which is read to its end for it; without it,
    nothing is read beyond the last wanted sample. Raises BrokenStreamError.
    """
    patience = _Patience(url)
    done = 0
    while True:
        try:
            with _open(url, patience) as stream:
                for sample in _read_once(stream, samples, wanted[done:], extensions, compare):
                    yield sample
                    done += 1
                    patience.renew()
            return
        except StreamError as error:
            if not patience.tries_again(error):
                raise BrokenStreamError(str(error)) from error


def _read_once(
    stream: "_Stream",
    samples: Sequence[tuple[Component, ...]],
    wanted: Sequence[int],
    extensions: Sequence[str],
    compare: Callable[[str], None] | None,
) -> Iterator[tuple[int, Payloads]]:
    is_wanted = set(wanted)
    tar = _Tar(stream, samples)
    for index, sample in enumerate(samples if compare else samples[: wanted[-1] + 1]):
        payloads = {}
        for component in sample:
            payload = tar.read_member(component)
            if index in is_wanted and component.extension in extensions:
                payloads[component.extension] = payload
        if index in is_wanted:
            yield index, payloads
    if compare:
        compare(tar.read_end())


class _Patience:
    """The remaining retries of a file, and the remaining time that its reader waits for it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.renew()

    def renew(self) -> None:
        """Reset both, after progress."""
        self._failures, self.left_s = 0, BUDGET_S

    def tries_again(self, error: StreamError) -> bool:
        """Whether to open the file again after this error; if so, warns and waits for a moment."""
        self._failures += 1
        if error.is_final or self._failures > RETRIES or self.left_s <= 0:
            return False
        again = f"{self.url}: {error}: opened again ({self._failures} of {RETRIES})"
        warnings.warn(again, stacklevel=3)
        time.sleep(WAIT_S * 2 ** (self._failures - 1))
        return True


@contextmanager
def _open(url: str, patience: _Patience) -> Iterator["_Stream"]:
    stream = _Stream(url, patience)
    try:
        yield stream
    finally:
        stream.end()


class _Stream:
    """The output of a command, hashed while it is read. Waiting counts only while almost nothing arrives."""

    def __init__(self, url: str, patience: _Patience) -> None:
        self._url, self._patience = url, patience
        self._is_curl = not url.startswith("pipe:")
        command = f"exec {CURL} {shlex.quote(url)}" if self._is_curl else url.removeprefix("pipe:")
        errors = subprocess.PIPE if self._is_curl else None
        self._process = subprocess.Popen(
            command, shell=True, bufsize=0, stdout=subprocess.PIPE, stderr=errors
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._digest = hashlib.sha256()
        self._waited_s, self._received, self._has_warned = 0.0, 0, False
        self._is_idle = self._is_curl
        self._reason: str | None = None
        self.is_final = False

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; fewer only at the end of the output. Raises StreamError."""
        pieces = []
        while count > 0 and (piece := self._read_some(min(count, _PIECE_BYTES))):
            pieces.append(piece)
            count -= len(piece)
        content = b"".join(pieces)
        self._digest.update(content)
        return content

    @property
    def sha256(self) -> str:
        """Hash of all bytes so far."""
        return self._digest.hexdigest()

    def check_ending(self) -> None:
        """Raise StreamError if the command failed."""
        reason = self.end()
        if reason is not None:
            raise StreamError(reason, is_final=self.is_final)

    def end(self) -> str | None:
        """Stop the command; returns how it failed, or None. (A command that is cut off early often fails.)"""
        if not self._output.closed:
            self._patience.left_s -= self._waited_s
            self._output.close()
            try:
                self._process.wait(0 if self._is_idle else EXIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._reason = self._explain(self._process.returncode)
        return self._reason

    def _explain(self, status: int) -> str | None:
        """Return how the command failed; sets `is_final` if it would fail again."""
        errors = self._process.stderr
        printed = "" if errors is None else errors.read().decode(errors="replace").strip()
        if errors is not None:
            errors.close()
        if status == 0:
            return None
        if status < 0:
            return "its command did not end and was killed"
        if not self._is_curl:
            return f"its command ended with status {status}"
        answer = re.search(r"returned error: (\d+)", printed) if status == 22 else None
        self.is_final = status in _FINAL or bool(answer and answer[1][0] == "4" and answer[1] not in _PASSING)
        if answer:
            what = ", which means that the file is not there" if answer[1] in ("403", "404", "410") else ""
            return f"curl: the server answered with status {answer[1]}{what}"
        own = re.search(rf"curl: \({status}\) (.*)", printed)
        return f"curl: {_CURL_SAYS.get(status) or (own[1] if own else f'status {status}')}"

    def _read_some(self, most: int) -> bytes:
        """Return at most `most` next bytes, none at the end. Raises StreamError after a stall."""
        limit_s = min(STALL_S, self._patience.left_s)
        is_ready: list[Any] = []
        while not is_ready:
            until_s = limit_s if self._has_warned else min(NOTICE_S, limit_s)
            began = time.monotonic()
            is_ready = self._poll.poll(1000 * max(0.0, until_s - self._waited_s))
            self._waited_s += time.monotonic() - began
            if self._waited_s >= limit_s:
                self._is_idle = True
                raise StreamError(f"{self._received or 'no'} bytes arrived in {self._waited_s:.0f} s")
            if self._waited_s >= NOTICE_S and not self._has_warned:
                self._has_warned = True
                warnings.warn(f"{self._url}: waiting for this file; almost nothing arrives", stacklevel=2)
        piece = os.read(self._output.fileno(), most)
        self._is_idle = self._is_curl and bool(piece)
        self._received += len(piece)
        if self._received >= LEAST_BYTES:
            self._waited_s, self._received, self._has_warned = 0.0, 0, False
        return piece


class _Tar:
    """A tar that arrives member by member; webdataset's reader gets its bytes from `read`."""

    def __init__(self, stream: _Stream, samples: Sequence[tuple[Component, ...]]) -> None:
        self._stream = stream
        self._coming = chain.from_iterable(samples)
        self._next = next(self._coming, None)
        self._end = end_of(samples)
        self._position = 0
        self._error_args: tuple[Any, ...] = ()
        self._members = tar_file_iterator(self, skip_meta=None)

    def read_member(self, component: Component) -> bytes:
        """Return the payload of the next member, which must be `component`.

        Raises BrokenStreamError if it is a different member, whose payload is then not read, whatever its
        size, and StreamError if the tar ends before it.
        """
        try:
            payload: bytes = next(self._members)["data"]
        except (BrokenStreamError, StreamError) as error:
            error.args = self._error_args  # without what the reader adds to them
            raise
        except (StopIteration, tarfile.TarError) as error:
            reason = self._stream.end()
            is_between = self._position == component.offset - tarfile.BLOCKSIZE
            verb = "ended" if is_between and not reason else "broke off"
            raise StreamError(
                f"it {verb} before {component.member} ({reason or 'the tar is cut short'})",
                is_final=self._stream.is_final,
            ) from error
        return payload

    def read_end(self) -> str:
        """Read what follows the last member; returns the SHA-256 of the tar. Raises BrokenStreamError."""
        most = self._end + _MOST_END_BYTES - self._position
        if len(self._stream.read(most + 1)) > most:
            raise BrokenStreamError("it continues after the last member of its index")
        self._stream.check_ending()
        return self._stream.sha256

    def read(self, count: int) -> bytes:
        """Return at most `count` bytes; a header comes alone, and only if it is the next one of the index."""
        header_at = self._next.offset - tarfile.BLOCKSIZE if self._next else None
        if header_at is not None:
            count = min(count, (header_at - self._position) or tarfile.BLOCKSIZE)
        try:
            piece = self._stream.read(count)
            if self._position == header_at and len(piece) == tarfile.BLOCKSIZE:
                self._check_header(piece)
        except (BrokenStreamError, StreamError) as error:
            self._error_args = error.args
            raise
        self._position += len(piece)
        return piece

    def _check_header(self, header: bytes) -> None:
        component = self._next
        assert component is not None
        try:
            other = other_member(header, component)
        except tarfile.HeaderError as error:
            raise BrokenStreamError(f"there is no tar header before {component.member} ({error})") from error
        if other is not None:
            raise BrokenStreamError(
                f"it has {other} where the index has {component.member} ({component.size} bytes)"
            )
        self._next = next(self._coming, None)


def _escape(root: str) -> str:
    """The address as the user typed it, with characters escaped that http does not allow."""
    scheme, _, rest = root.partition("://")
    host, slash, path = rest.partition("/")
    path = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path)
    return f"{scheme}://{host}{slash}{quote(path, safe='/%:?&=~@!$()*,;+')}"
