"""Tars that arrive as streams: over http, or from any command. The only file here that imports `webdataset`.

A stream cannot be searched, so a tar is read from its start, and each member is held against the shard's
index: what differs from it was damaged on the way. A stream that breaks is opened again, and goes on where it
broke.
"""

import re
import shlex
import tarfile
import time
import warnings
from collections.abc import Iterator, Sequence
from subprocess import TimeoutExpired

from webdataset.gopen import Pipe, gopen_pipe
from webdataset.tariterators import tar_file_iterator

from configs.load import InputError
from sharding.index import Component

# curl tries again by itself what fails before the first byte; a stalled transfer ends after a minute.
CURL = (
    "curl --fail --silent --location --connect-timeout 30 --speed-limit 1 --speed-time 60 "
    "--retry 5 --retry-connrefused"
)
RETRIES = 3
"""How often a stream is opened again without a sample in between."""
CURL_SAYS = {
    6: "the host is not known",
    7: "no connection",
    18: "the transfer broke off",
    22: "the server refused, such as for a file that is not there",
    28: "no byte came for too long",
    127: "it is not installed",
}
WAIT_S = 1.0
"""Before the first time; doubled for each further one."""
EXIT_S = 5.0

Payloads = dict[str, bytes]


class BrokenStreamError(Exception):
    """A stream gave less or other bytes than its index says, also when it was opened again."""


def locate(root: str, file: str) -> str:
    """Return the address of a file of a stream's folder, as `fetch` and `read_tar` take it.

    root: `http(s)://...`, the file follows after a slash; or `pipe:COMMAND`, in which `{file}` stands for it.
    """
    if not root.startswith("pipe:"):
        return f"{root.rstrip('/')}/{file}"
    if "{file}" not in root:
        raise InputError(
            f"{root}: the command must name the file to print as {{file}}: pipe:cat shards/{{file}}"
        )
    if not re.fullmatch(r"[\w.+=@-]+", file, re.ASCII):
        raise InputError(
            f"{root}: {file!r} cannot stand in a command: give the shards a name of plain letters"
        )
    return root.replace("{file}", file)


def fetch(url: str) -> bytes:
    """Read a whole small file. Raises InputError."""
    failures = 0
    while True:
        pipe = _open(url)
        content = pipe.stream.read()
        ending = _ending(url, pipe)
        if ending is None:
            return content
        failures += 1
        if failures > RETRIES:
            raise InputError(
                f"{url}: the file cannot be read ({ending}): correct the address or mend the way"
            )
        _wait(url, ending, failures)


def read_tar(
    url: str, samples: Sequence[tuple[Component, ...]], places: Sequence[int], extensions: Sequence[str]
) -> Iterator[tuple[int, Payloads]]:
    """Yield some samples of a tar, each with its place and the bytes of some of its members.

    samples: all of the tar, from its index. places: those wanted, rising; nothing is read beyond the last.
    Raises BrokenStreamError.
    """
    done = failures = 0
    while done < len(places):
        try:
            for found in _read_once(url, samples, places[done:], extensions):
                yield found
                done, failures = done + 1, 0
        except (OSError, EOFError, tarfile.TarError) as error:
            failures += 1
            if failures > RETRIES:
                raise BrokenStreamError(str(error)) from error
            _wait(url, str(error), failures)


def _read_once(
    url: str, samples: Sequence[tuple[Component, ...]], places: Sequence[int], extensions: Sequence[str]
) -> Iterator[tuple[int, Payloads]]:
    wanted = set(places)
    pipe = _open(url)
    try:
        members = tar_file_iterator(pipe.stream)
        for place, sample in enumerate(samples[: places[-1] + 1]):
            payloads = {}
            for component in sample:
                payload = _next_member(members, component, url, pipe)
                if place in wanted and component.extension in extensions:
                    payloads[component.extension] = payload
            if place in wanted:
                yield place, payloads
    finally:
        _ending(url, pipe)  # that of a command whose output nobody reads to the end means nothing


def _next_member(members: Iterator[dict], component: Component, url: str, pipe: Pipe) -> bytes:
    """Return the bytes of the next member, which must be `component`."""
    try:
        member = next(members, None)
    except (OSError, tarfile.TarError) as error:
        raise EOFError(f"it broke off before {component.member} ({_ending(url, pipe) or error})") from error
    if member is None:
        raise EOFError(f"it ended before {component.member} ({_ending(url, pipe) or 'the tar is cut short'})")
    if (member["fname"], len(member["data"])) != (component.member, component.size):
        raise BrokenStreamError(
            f"it has {member['fname']} ({len(member['data'])} bytes) where the index has {component.member} "
            f"({component.size} bytes)"
        )
    return member["data"]


def _open(url: str) -> Pipe:
    command = url if url.startswith("pipe:") else f"pipe:{CURL} {shlex.quote(url)}"
    return gopen_pipe(command)


def _ending(url: str, pipe: Pipe) -> str | None:
    """Return how a command failed whose output has ended or was closed; None where it did not."""
    pipe.stream.close()
    try:
        status = pipe.proc.wait(EXIT_S)
    except TimeoutExpired:
        pipe.proc.kill()
        pipe.proc.wait()
        return "its command did not end and was killed"
    if status == 0:
        return None
    if url.startswith("pipe:"):
        return f"its command ended with status {status}"
    return f"curl: {CURL_SAYS.get(status, f'status {status}')}"


def _wait(url: str, reason: str, failures: int) -> None:
    warnings.warn(f"{url}: {reason}: opened again ({failures} of {RETRIES})", stacklevel=3)
    time.sleep(WAIT_S * 2 ** (failures - 1))
