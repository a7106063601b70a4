"""Photos at any address that fsspec knows: object stores, web servers, chains of them."""

import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import fsspec

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos.base import (
    MOST_BYTES,
    Listing,
    Photos,
    UnreachableError,
    absent_photo,
    by_folder,
    no_location,
    safe_name,
    sort_out,
    too_large_photo,
)

RETRY_SECONDS = (0.5, 2.0)
"""Waits before the second and the third try over a network."""
BUDGET_S = 120.0
"""How long one photo of a web server may take, in all its tries."""
STALL_S = 60.0
"""How long a web server may be silent before it is asked again."""
NOTICE_S = 10.0
"""After so much waiting, a message names the photo."""

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
_MOST_LETTERS = 200
_FINAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class UrlPhotos(Photos):
    """Photos at an address of an object store, a web server, or a chain such as `zip://::s3://bucket/a.zip`."""

    def read(self, name: str, *, head: int | None = None) -> bytes:
        where = self.where(name)
        files, path = self._find(name)
        fetch = _fetch_web if self._is_web else _fetch
        try:
            payload = _with_retries(lambda: fetch(files, path, head or MOST_BYTES + 1), where)
        except FileNotFoundError as error:
            raise absent_photo(where) from error
        except Exception as error:  # every protocol has its own errors
            raise _unreachable(where, error) from error
        if len(payload) > MOST_BYTES:
            raise too_large_photo(where)
        return payload

    def absent(self, names: Iterable[str]) -> set[str]:
        """One listing for each folder that the names speak of; a web server is asked name by name."""
        if self._is_web:
            asked = set(names)
            with ThreadPoolExecutor(16) as pool:
                return {name for name in pool.map(self._if_absent, asked) if name is not None}
        missing: set[str] = set()
        for folder, wanted in by_folder(names, self.location).items():
            there = self._listed(folder)
            missing.update(name for base, name in wanted if base not in there)
        return missing

    def listing(self) -> Listing:
        if self._is_web:
            raise InputError(
                f"{self.location}: a web server does not list its photos: name them in annotations, or give "
                "a folder, a zip or an object store"
            )
        files, root = self._root()
        try:
            paths = _with_retries(lambda: files.find(root), self.location)
        except FileNotFoundError as error:
            raise no_location(self.location) from error
        except Exception as error:  # every protocol has its own errors
            raise _unreachable(self.location, error) from error
        finally:
            files.invalidate_cache()  # large for all of COCO, and soon out of date
        if not paths:
            raise no_location(self.location)
        return sort_out(safe_name(path.removeprefix(root).lstrip("/"), self.location) for path in paths)

    @property
    def _is_web(self) -> bool:
        return self.location.startswith(("http://", "https://"))

    def _find(self, name: str) -> tuple[Any, str]:
        """The file system of the location, and a name's path in it."""
        name = safe_name(name, self.location)
        files, root = self._root()
        return files, "/".join(filter(None, [root, quote(name) if self._is_web else name]))

    def _root(self) -> tuple[Any, str]:
        files, root = file_system(self.location, os.getpid())
        return files, root.rstrip("/")

    def _listed(self, folder: str) -> set[str]:
        """The files right in a sub-folder ("" for the location itself)."""
        files, path = self._find(folder) if folder else self._root()
        try:
            entries = _with_retries(lambda: files.ls(path, detail=True), self.location)
        except (FileNotFoundError, NotADirectoryError) as error:
            if not folder:
                raise no_location(self.location) from error
            return set()
        except Exception as error:  # every protocol has its own errors
            raise _unreachable(self.location, error) from error
        finally:
            files.invalidate_cache()  # large for all of COCO, and soon out of date
        return {entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file"}

    def _if_absent(self, name: str) -> str | None:
        """The name if a web server does not have it, otherwise None."""
        files, path = self._find(name)
        try:
            _with_retries(lambda: _fetch_web(files, path, 0), self.where(name))
        except FileNotFoundError:
            return name
        except Exception as error:  # aiohttp's own errors
            raise _unreachable(self.where(name), error) from error
        return None


@lru_cache(maxsize=8)
def file_system(location: str, _pid: int) -> tuple[Any, str]:
    """fsspec's file system of an address and the path in it, made once in each process."""
    try:
        return fsspec.core.url_to_fs(location, **_web_options(location))
    except ImportError as error:
        packages = [_PACKAGES[each] for each in re.findall(r"(\w+)://", location) if each in _PACKAGES]
        cure = f"pip install {' '.join(packages)}" if packages else str(error)
        raise InputError(f"{location}: a package for this protocol is not installed: {cure}") from error
    except FileNotFoundError as error:
        raise no_location(location) from error
    except Exception as error:  # an unknown protocol, a damaged archive: every protocol has its own errors
        raise _unreachable(location, error) from error


def _fetch(files: Any, path: str, num_bytes: int) -> bytes:
    """The first so many bytes of an object."""
    try:
        content: bytes = files.cat_file(path, start=0, end=num_bytes)
    except KeyError as error:  # what a zip says before fsspec 2026.9
        raise FileNotFoundError(path) from error
    return content


def _fetch_web(files: Any, path: str, num_bytes: int) -> bytes:
    """The same as a stream: a web server may ignore the range that is asked for."""
    content = bytearray()
    # A block size of 0 is fsspec's way to ask for a stream; any size spares a question for it.
    with files.open(path, "rb", block_size=0, size=1) as stream:
        while len(content) < num_bytes and (piece := stream.read(min(1 << 20, num_bytes - len(content)))):
            content += piece
    return bytes(content)


def _web_options(location: str) -> dict[str, Any]:
    """fsspec's options of an address that leads to a web server; aiohttp would wait five minutes."""
    if not re.search(r"https?://", location):
        return {}
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=BUDGET_S, sock_connect=STALL_S, sock_read=STALL_S)
    options = {"client_kwargs": {"timeout": timeout}}
    return {"http": options, "https": options} if "::" in location else options


def _with_retries(action: Callable[[], _Result], where: str) -> _Result:
    """Try again after errors that may pass (fsspec's s3 and gs do so too, its http does not)."""
    began = time.monotonic()
    notice = threading.Timer(NOTICE_S, warnings.warn, [f"{where}: this is waited for; nothing has come yet"])
    notice.daemon = True
    notice.start()
    try:
        for seconds in RETRY_SECONDS:
            try:
                return action()
            except _FINAL_ERRORS:
                raise
            except Exception:  # every protocol has its own errors
                if time.monotonic() - began + seconds >= BUDGET_S:
                    raise
                time.sleep(seconds)
        return action()
    finally:
        notice.cancel()


_WORDS = {
    "TooManyRedirects": "it is redirected more than 10 times",
    "NonHttpUrlRedirectClientError": "it is redirected to something else than http",
    "InvalidUrlRedirectClientError": "it is redirected to an address that is malformed",
    "ServerDisconnectedError": "the server gave no answer",
    "ClientPayloadError": "the transfer broke off",
}
"""What aiohttp's errors mean, by their class; empty if aiohttp is not installed."""


def _unreachable(where: str, error: Any) -> UnreachableError:
    reason = _WORDS.get(type(error).__name__)
    if reason is None and isinstance(error, TimeoutError):
        reason = f"it did not come within {BUDGET_S:.0f} s"
    if reason is None and isinstance(getattr(error, "status", None), int):  # an answer of a web server
        reason = f"{error.status} {error.message}".splitlines()[0].rstrip(": ")
    if reason is None:
        reason = " ".join(str(error).split())[:_MOST_LETTERS] or type(error).__name__
    return UnreachableError(
        f"{where}: this cannot be read ({reason}): correct the address, or the rights to read it"
    )
