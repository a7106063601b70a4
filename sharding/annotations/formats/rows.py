"""Annotation files in JSON, read row by row: the file is mapped, not loaded, and rows decoded one at a time.

Only the positions of the rows are kept, so a file of hundreds of MB takes no more memory than its persons.
"""

import gzip
import mmap
import os
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import msgspec

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.json_faults import is_json_lines, json_error, json_lines_error

Row = TypeVar("Row", bound=msgspec.Struct)
Content = TypeVar("Content")
Tidy = Callable[[dict[str, Any]], list[str]]
"""Rewrites a row of another spelling in place; returns what it changed."""

LARGEST_VALUE = 16 << 20
"""The most bytes of a list of numbers or a text in an annotation file; anything larger is no annotation."""
NUMBER_SPELLING = 'numbers written as text ("1") or with a needless fraction (1.0), taken as numbers'
LARGEST_UNPACKED = 8 << 30
"""The most bytes that a packed annotation file may hold."""
_QUOTE = re.compile(rb'(?<!\\)"')
_NO_NUMBER = re.compile(rb'"\s*[+-]?(nan|inf|infinity)\s*"', re.IGNORECASE)
"""Texts that would become numbers that are not finite."""
_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError)


class RowReader(Generic[Row]):
    """Decodes rows of one kind; a row of another kind is a finding that stops the build.

    Spellings of other programs that can mean only one thing are read and counted.
    """

    def __init__(
        self,
        kind: type[Row],
        findings: Findings,
        *,
        subject: str,
        key: str = "id",
        tidy: Tidy | None = None,
        counts_spellings: bool = True,
    ) -> None:
        """subject: what a row is, for messages; key: where it says its id; tidy: for rows that cannot be read
        as they are; counts_spellings: False where another reader of the same rows counts them."""
        self._decoder = msgspec.json.Decoder(kind)
        self._lax_decoder = msgspec.json.Decoder(kind, strict=False)
        self._findings = findings
        self._subject = subject
        self._key = key
        self._tidy = tidy
        self._counts_spellings = counts_spellings

    def read(self, raws: Iterable[msgspec.Raw]) -> Iterator[tuple[Row, msgspec.Raw]]:
        """The readable rows in order, each with the text that it was read from."""
        for number, raw in enumerate(raws, start=1):
            row = self.decode(raw, number)
            if row is not None:
                yield row, raw

    def decode(self, raw: msgspec.Raw, number: int) -> Row | None:
        """One row; `number`, its position in the file from 1, names a row without a readable id."""
        try:
            return self._decoder.decode(raw)
        except _DECODE_ERRORS as error:
            return self._decode_otherwise(raw, number, error)

    def _decode_otherwise(self, raw: msgspec.Raw, number: int, first_error: Exception) -> Row | None:
        """A row of an unusual spelling; None, with a finding, if it is something else."""
        try:
            content = _decode_any(raw, first_error)
            spellings = []
            if isinstance(content, dict):
                spellings = self._tidy(content) if self._tidy is not None else []
                content |= {key: int(value) for key, value in content.items() if _is_id_as_text(key, value)}
            tidied = msgspec.json.encode(content)
            if not (spellings and _is_read_by(self._decoder, tidied)):
                spellings.append(NUMBER_SPELLING)
            decoder = self._decoder if _NO_NUMBER.search(tidied) else self._lax_decoder
            row = decoder.decode(tidied)
        except _DECODE_ERRORS as error:
            plainly = _plainly(error)
            is_id = re.match(r"(\w+_)?id: ", plainly)
            cure = "write whole numbers as ids" if is_id else "correct the row"
            if plainly.endswith("missing required field `id`"):
                cure = "give each row a whole number of its own as id"
            if isinstance(error, UnicodeDecodeError):
                cure = "save the file as UTF-8"
            self._findings.add(Fault(plainly, cure=cure, subject=self._subject), self.name(raw, number))
            return None
        for spelling in spellings if self._counts_spellings else ():
            record = getattr(row, self._key, f"in row {number}")
            self._findings.add(Fault(spelling, "corrected", "", self._subject), record)
        return row

    def name(self, raw: msgspec.Raw, number: int) -> int | str:
        """The id of a row; its position in the file if it has none."""
        try:
            parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            return msgspec.json.decode(parts[self._key], type=int | str, strict=False)
        except (KeyError, *_DECODE_ERRORS):
            return f"in row {number}"


def _decode_any(raw: msgspec.Raw, first_error: Exception) -> Any:
    """The value of a row; raises `first_error` if it is not JSON."""
    try:
        return msgspec.json.decode(raw)
    except _DECODE_ERRORS:
        raise first_error from None


def _is_id_as_text(key: str, value: Any) -> bool:
    """Whether a value is an id such as "0012", which is no number in JSON's own spelling."""
    return (key == "id" or key.endswith("_id")) and isinstance(value, str) and value.isdecimal()


def _is_read_by(decoder: "msgspec.json.Decoder[Row]", content: bytes) -> bool:
    try:
        decoder.decode(content)
    except _DECODE_ERRORS:
        return False
    return True


def _plainly(error: Exception) -> str:
    """``bbox: expected `array`, got `str` ``, from msgspec's message."""
    if not isinstance(error, msgspec.ValidationError):
        return "it holds text that is not UTF-8"
    message, _, place = str(error).partition(" - at `$")
    key = place.strip("`.").replace(".", " ")
    text = message[0].lower() + message[1:]
    return f"{key}: {text}" if key else text


def read_json(path: Path, kind: type[Content], *, expected: str, strict: bool = True) -> Content:
    """A JSON file as `kind`, whose `msgspec.Raw` parts stay in the mapped file.

    A byte order mark is skipped, and a gzip file unpacked to a temporary file. expected: what the file
    should be, for the message. strict: False where numbers may be written as text or with a needless
    fraction. Raises InputError for a file that cannot be read, is not JSON, holds something else, is nested
    too deeply, or has a value of more than `LARGEST_VALUE` bytes.
    """
    content = _map(path)
    if content[: len(_BOM)] == _BOM:
        content = content[len(_BOM) :]
    _refuse_giant_values(path, content)
    try:
        return msgspec.json.decode(content, type=kind, strict=strict)
    except msgspec.ValidationError as error:
        if is_json_lines(content):
            raise json_lines_error(path) from error
        raise InputError(f"{path}: this is not {expected} ({_plainly(error)}): give that file") from error
    except _DECODE_ERRORS as error:
        raise json_error(path, content, error) from error
    except RecursionError as error:
        raise InputError(f"{path}: the JSON is nested too deeply for annotations: correct it") from error


def _map(path: Path) -> memoryview:
    """The bytes of a file, unpacked if it is a gzip file. They stay on the disk until they are read."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            return _unpacked(file, path) if is_packed else _mapped(file, path)
    except OSError as error:
        raise InputError(
            f"{path}: the annotations cannot be read ({error.strerror}): correct the path"
        ) from error


def _unpacked(file: IO[bytes], path: Path) -> memoryview:
    """The content of a gzip file, in a temporary file, so that it takes no memory."""
    packed = gzip.GzipFile(fileobj=file)
    try:
        with tempfile.TemporaryFile() as unpacked:
            while block := packed.read(1 << 20):
                unpacked.write(block)
                if unpacked.tell() > LARGEST_UNPACKED:
                    raise InputError(
                        f"{path}: the gzip file holds more than {LARGEST_UNPACKED >> 30} GiB: this is no "
                        "annotation file, or it is damaged; correct it"
                    )
            unpacked.flush()
            return _mapped(unpacked, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: the gzip file is damaged or not whole ({error}): copy or download it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: the gzip file cannot be unpacked ({error.strerror}): make room in "
            f"{tempfile.gettempdir()}, or unpack it yourself and give that file"
        ) from error


def _mapped(file: IO[bytes], path: Path) -> memoryview:
    if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
        raise InputError(f"{path}: the file is empty: copy or download it again")
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _refuse_giant_values(path: Path, content: memoryview) -> None:
    """Refuse a value whose decoding would take memory without bound, before anything is decoded.

    Keys and texts begin and end with a quotation mark, so a long stretch without one is one value.
    """
    for start in range(0, len(content), LARGEST_VALUE):
        end = start + LARGEST_VALUE
        if end < len(content) and not _QUOTE.search(content, start, end):
            raise InputError(
                f"{path}: one value at byte {start} has more than {LARGEST_VALUE >> 20} MiB: this is no "
                "annotation file, or it is damaged; correct it"
            )
