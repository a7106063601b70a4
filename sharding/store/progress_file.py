"""A file that records progress line by line, so that stopped work can continue."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from semipose.sharding.store.files import write_atomic


class HashedLines:
    """Lines of text after a head that identifies the work.

    Each line begins with a hash of itself and of all lines before it. Reading ends before the first line with
    a wrong hash, whether a kill cut it short or a disk damaged it, so no line is ever read that was not
    written there. A file with another head counts as empty.
    """

    def __init__(self, path: Path, head: str) -> None:
        self.path = path
        self._head = head
        self._hash = hashlib.sha256()

    def read(self) -> list[str]:
        """The lines after the head."""
        content = self.path.read_bytes() if self.path.exists() else b""
        digest = hashlib.sha256()
        texts = []
        for line in content.split(b"\n"):
            claimed, _, text = line.partition(b" ")
            digest.update(text + b"\n")
            if claimed != digest.hexdigest().encode():
                break
            texts.append(text.decode())
        return texts[1:] if texts[:1] == [self._head] else []

    def rewrite(self, texts: Sequence[str]) -> None:
        """Replace the content of the file by these lines; without lines it is removed."""
        self._hash = hashlib.sha256()
        if texts:
            write_atomic(self.path, b"".join(self._hashed([self._head, *texts])))
        else:
            self.path.unlink(missing_ok=True)

    def append(self, text: str) -> None:
        """Add a line and flush it to the disk; call `rewrite` before."""
        head = [] if self.path.exists() else [self._head]
        with self.path.open("ab") as file:
            file.writelines(self._hashed([*head, text]))
            file.flush()
            os.fsync(file.fileno())

    def _hashed(self, texts: Iterable[str]) -> Iterator[bytes]:
        for text in texts:
            self._hash.update(f"{text}\n".encode())
            yield f"{self._hash.hexdigest()} {text}\n".encode()
