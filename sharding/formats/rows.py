"""Annotation files in JSON, read row by row: the file is mapped, not loaded, and rows decoded one at a time.

Nothing of a file but the rows' places is held, so a file of hundreds of MB costs what its persons cost.
"""

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from configs.load import InputError
from sharding.findings import Fault, Findings

Row = TypeVar("Row", bound=msgspec.Struct)
Content = TypeVar("Content")

LARGEST_VALUE = 16 << 20
"""Bytes that one number list or text of an annotation file may have; more is no annotation."""
_QUOTE = re.compile(rb'(?<!\\)"')


class RowReader(Generic[Row]):
    """Decodes rows of one kind; a row that is not of that kind is a finding that stops."""

    def __init__(self, kind: type[Row], findings: Findings, *, subject: str, key: str = "id") -> None:
        """subject: what a row is, for messages; key: where it says its id."""
        self._decoder = msgspec.json.Decoder(kind)
        self._findings = findings
        self._subject = subject
        self._key = key

    def read(self, raws: Iterable[msgspec.Raw]) -> Iterator[tuple[Row, msgspec.Raw]]:
        """The readable rows in order, each with the text that it was read from."""
        for number, raw in enumerate(raws, start=1):
            row = self.decode(raw, number)
            if row is not None:
                yield row, raw

    def decode(self, raw: msgspec.Raw, number: int) -> Row | None:
        """One row; `number` is its place in the file, from 1, and names a row without a readable id."""
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            cure = "correct the row"
            fault = Fault(_plainly(error), cure=cure, subject=self._subject)
            self._findings.add(fault, self._name(raw, number))
        except UnicodeDecodeError:  # the file's reader skips rows without a look at their texts
            fault = Fault(
                "it holds text that is not UTF-8", cure="save the file as UTF-8", subject=self._subject
            )
            self._findings.add(fault, self._name(raw, number))
        return None

    def _name(self, raw: msgspec.Raw, number: int) -> int | str:
        try:
            parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            return msgspec.json.decode(parts[self._key], type=int | str)
        except (KeyError, msgspec.ValidationError, UnicodeDecodeError):
            return f"in row {number}"


def _plainly(error: msgspec.ValidationError) -> str:
    """``bbox: expected `array`, got `str` ``, from msgspec's message."""
    message, _, place = str(error).partition(" - at `$")
    key = place.strip("`.").replace(".", " ")
    text = message[0].lower() + message[1:]
    return f"{key}: {text}" if key else text


def read_json(path: Path, kind: type[Content], *, expected: str) -> Content:
    """A JSON file as `kind`, whose `msgspec.Raw` parts stay where they are in the mapped file.

    expected: what the file should be, for the message. Raises InputError for a file that cannot be read, is
    no JSON, holds something else, is nested too deeply, or has one value of more than `LARGEST_VALUE` bytes.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(
            f"{path}: the annotations cannot be read ({error.strerror}): correct the path"
        ) from error
    except ValueError as error:  # an empty file cannot be mapped
        raise InputError(f"{path}: the file is empty: copy or download it again") from error
    _refuse_giant_values(path, content)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: this is not {expected} ({_plainly(error)}): give that file") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: this is no whole JSON file ({error}): copy or download it again"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: the JSON is nested too deeply for annotations: correct it") from error


def _refuse_giant_values(path: Path, content: mmap.mmap) -> None:
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
