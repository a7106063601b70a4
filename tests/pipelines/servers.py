"""A web server and an S3 stub over one folder, in a thread, with faults on demand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
NO_BUCKET = b'<?xml version="1.0"?><Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>'


class Handler(BaseHTTPRequestHandler):
    """Files of `server.folder`: whole, in ranges, and as a bucket's listing."""

    server: "FileServer"
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: else each answer waits 40 ms for the other side

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        name = unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        self.server.requests.append((self.command, name))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if "list-type" in query:
            is_there = unquote(url.path).split("/")[1] == BUCKET
            listing = self._listing(query.get("prefix", ""), query.get("delimiter", "\0"))
            return self._send(200, listing, with_body) if is_there else self._send(404, NO_BUCKET, with_body)
        if name in self.server.answers:
            self.close_connection = True
            with suppress(ConnectionError):  # the other side may have heard enough
                return self.server.answers[name](self)
            return None
        path = self.server.folder / name
        if not path.is_file():
            return self._send(404, b"", with_body)
        content = path.read_bytes()
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged:
            start, end = int(ranged[1]), min(int(ranged[2] or len(content) - 1), len(content) - 1)
            extra = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            return self._send(206, content[start : end + 1], with_body, extra)
        self._send(200, content, with_body, breaks_after=self.server.breaks.pop(name, None))

    def _send(
        self,
        status: int,
        content: bytes,
        with_body: bool,
        extra: dict[str, str] | None = None,
        breaks_after: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("ETag", '"0"')
        for key, value in (extra or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content[:breaks_after])
        self.close_connection = breaks_after is not None

    def _listing(self, prefix: str, delimiter: str) -> bytes:
        folder = self.server.folder
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        names_below = sorted(name for name in names if name.startswith(prefix))
        folders = {
            prefix + head + delimiter
            for head, found, _ in (name.removeprefix(prefix).partition(delimiter) for name in names_below)
            if found
        }
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;0&quot;</ETag><Size>{os.path.getsize(folder / name)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for name in names_below
            if not name.startswith(tuple(folders))
        )
        rows += "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders)
        )
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return (
            f'<?xml version="1.0"?><ListBucketResult xmlns="{space}">{head}{rows}</ListBucketResult>'.encode()
        )

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class FileServer(ThreadingHTTPServer):
    """Serves `folder`.

    breaks: name of a file to the bytes after which its next transfer breaks off. answers: name of a file to
    what answers in its place, as long as it is there.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.breaks: dict[str, int] = {}
        self.answers: dict[str, Callable[[Handler], None]] = {}
        self.is_over = threading.Event()
        self.requests: list[tuple[str, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of callers that heard enough."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    """Run a server over `folder` on a free port."""
    with FileServer(folder) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.is_over.set()  # for answers that wait
        server.shutdown()


@contextmanager
def serve_apart(folder: Path) -> Iterator[str]:
    """Run a server in a process of its own; gives its address. DALI holds the GIL while it opens S3 files."""
    with subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def send(handler: Handler, content: bytes, status: int = 200, **headers: str) -> None:
    """Answer with such a status, headers and content."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)
    handler.wfile.flush()


def silent(handler: Handler) -> None:
    """Say nothing, for as long as anyone waits."""
    handler.server.is_over.wait(20)


def drip(handler: Handler) -> None:
    """Say a byte a hundredth of a second, without end."""
    send(handler, b"")
    while not handler.server.is_over.wait(0.01):
        handler.wfile.write(b"{")
        handler.wfile.flush()


def redirect(to: str) -> Callable[[Handler], None]:
    """What sends its caller elsewhere."""
    return lambda handler: send(handler, b"", 302, Location=to)


def hang_up(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.rfile.close()


def pipe_of(folder: Path) -> str:
    """The address of a folder that `cat` prints."""
    return f"pipe:cat {shlex.quote(str(folder))}/{{file}}"


def cut(tar: Path) -> None:
    """Cut a tar inside a photo."""
    tar.write_bytes(tar.read_bytes()[:9_000])


def swap(tar: Path) -> None:
    """Put the first tar in the place of `tar`."""
    shutil.copy(tar.with_name("test-000000.tar"), tar)


if __name__ == "__main__":
    with FileServer(Path(sys.argv[1])) as server:
        print(server.url, flush=True)  # noqa: T201 - what the parent reads
        server.serve_forever()
