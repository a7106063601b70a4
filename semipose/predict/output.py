"""The folder of predictions: parts while the work goes on, and at its end the files that others read.

While it goes on, `.progress` holds `work.json`, which says what is predicted and how, and `part-*.jsonl`, the
parts that are complete and the complete sections of the others, which are films. A part is written under
another name and renamed, so a killed command loses the part that it was working on, and any number of
processes can write into one folder.
"""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from semipose.configs.errors import InputError
from semipose.predict.people import CSV_COLUMNS, People, csv_rows
from semipose.sharding.store.files import names_in, refuse_strangers, write_atomic, write_atomic_parts

PROGRESS, WORK, SUMMARY = ".progress", "work.json", "summary.json"
KEYPOINTS, TABLE, BAD, DRAWN = "keypoints.json", "keypoints.csv", "bad.json", "drawn"
OURS = frozenset({PROGRESS, SUMMARY, KEYPOINTS, TABLE, BAD, DRAWN})

Numbered = Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]
"""`images` and `annotations` of each photo or frame, as the final files hold them."""

_HALF_WRITTEN = re.compile(r"\.\d+\.tmp$")


class OutputFolder:
    """A folder of predictions, which may be complete, begun, or not there yet."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """identity: plain values that decide the files; a folder of another identity is refused.

        Raises InputError for a folder that holds anything else.
        """
        self.path, self.identity = path, json.loads(json.dumps(identity))
        self.progress = path / PROGRESS
        names, written = names_in(path), self._written()
        # A command that was killed at its very start leaves a folder without the file that says whose it is.
        refuse_strangers(
            path, [name for name in names if not _is_ours(name) or (written is None and name != PROGRESS)]
        )
        is_begun = self.is_complete or any(self.progress.glob("part-*.jsonl"))
        if written is not None and written != self.identity and is_begun:
            differs = ", ".join(_differences(written, self.identity))
            raise InputError(
                f"{path}: the folder holds other predictions ({differs}): choose another one with output=, "
                "or remove it"
            )
        if self.is_complete:  # a command that was killed at its very end leaves the parts
            shutil.rmtree(self.progress, ignore_errors=True)
        else:
            self.progress.mkdir(parents=True, exist_ok=True)
            write_atomic(self.progress / WORK, json.dumps(self.identity).encode())

    @classmethod
    def begun(cls, path: Path, identity: str) -> "OutputFolder":
        """The folder that another process has begun, by its identity as JSON."""
        folder = cls.__new__(cls)
        folder.path, folder.identity, folder.progress = path, json.loads(identity), path / PROGRESS
        return folder

    def _written(self) -> dict[str, Any] | None:
        """The identity of what the folder holds; None if it holds no predictions."""
        for path in (self.path / SUMMARY, self.progress / WORK):
            with suppress(OSError, ValueError, KeyError, TypeError):
                content = json.loads(path.read_bytes())
                identity = content["identity"] if path.name == SUMMARY else content
                return dict(identity)
        return None

    @property
    def is_complete(self) -> bool:
        """Whether the final files are there."""
        return (self.path / SUMMARY).is_file()

    def part(self, number: int) -> Path:
        """The file of a complete part."""
        return self.progress / f"part-{number:08d}.jsonl"

    def section(self, number: int, section: int) -> Path:
        """The file of a section of a film whose part is not complete."""
        return self.progress / f"part-{number:08d}-section-{section:06d}.jsonl"

    def picture(self, file_name: str, suffix: str) -> Path:
        """Where the picture of a photo, or the film of a film, is written; its folder is made."""
        parts = [part for part in file_name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        safe = "/".join("".join("_" if letter in '<>:"|?*' else letter for letter in part) for part in parts)
        path = self.path / DRAWN / f"{safe}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def writing(self, number: int) -> Iterator[Callable[[dict[str, Any]], None]]:
        """`write(row)` adds a row to a part, which is complete when this ends without an error."""
        aside = self.progress / f"part-{number:08d}.{os.getpid()}.tmp"
        try:
            with aside.open("wb") as file:

                def write(row: dict[str, Any]) -> None:
                    file.write(msgspec.json.encode(row) + b"\n")

                yield write
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.part(number))
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def finish(
        self, num_parts: int, category: dict[str, Any], facts: Callable[[dict[str, int]], dict[str, Any]]
    ) -> bool:
        """Write the final files if all parts are there and no other process has; returns whether all were.

        facts: what `summary.json` holds, by the counts of photos, frames, people and bad files.
        """
        parts = [self.part(number) for number in range(num_parts)]
        if not self.is_complete and not all(part.is_file() for part in parts):
            return False
        with suppress(FileNotFoundError), FileLock(self.progress / "lock"):
            # Of several processes that end together, the first one writes.
            if not self.is_complete:
                self._merge(parts, category, facts)
        shutil.rmtree(self.progress, ignore_errors=True)
        return True

    def _merge(
        self, parts: list[Path], category: dict[str, Any], facts: Callable[[dict[str, int]], dict[str, Any]]
    ) -> None:
        names = category["keypoints"]
        for stray in (*self.path.glob("*.tmp"), *(self.path / DRAWN).rglob("*.tmp")):
            if _HALF_WRITTEN.search(stray.name):
                stray.unlink(missing_ok=True)
        counts, bad, last_photo = {"photos": 0, "frames": 0, "people": 0, "bad": 0}, [], 0
        for row in _rows(parts):
            if "bad" in row:
                bad.append(row["bad"])
                continue
            is_frame = "video" in row["image"]
            counts["frames" if is_frame else "photos"] += 1
            counts["people"] += len(row["people"])
            last_photo = last_photo if is_frame else max(last_photo, row["image"]["id"])
        counts["bad"] = len(bad)
        numbered = partial(_numbered, parts, last_photo)
        write_atomic_parts(self.path / KEYPOINTS, _coco_file(numbered, category))
        write_atomic_parts(self.path / TABLE, _csv_file(numbered(), names))
        write_atomic(self.path / BAD, (json.dumps(bad, indent=1, ensure_ascii=False) + "\n").encode())
        content = {**counts, **facts(counts), "identity": self.identity}
        write_atomic(self.path / SUMMARY, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _is_ours(name: str) -> bool:
    return _HALF_WRITTEN.sub("", name) in OURS


def row_of(people: People) -> dict[str, Any]:
    """The row of a part for one photo or frame."""
    return {"image": people.image_row(), "people": people.annotations()}


def _rows(parts: list[Path]) -> Iterator[dict[str, Any]]:
    for part in parts:
        with part.open("rb") as file:
            yield from map(msgspec.json.decode, file)


def _numbered(parts: list[Path], last_photo: int) -> Numbered:
    """Each photo and its people with their final ids: frames of films are numbered after the last photo."""
    last_person = 0
    for row in _rows(parts):
        if "image" not in row:
            continue
        image, people = row["image"], row["people"]
        if "video" in image:
            last_photo += 1
            image["id"] = last_photo
        for person in people:
            last_person += 1
            person |= {"id": last_person, "image_id": image["id"]}
        yield image, people


def _coco_file(numbered: Callable[[], Numbered], category: dict[str, Any]) -> Iterator[bytes]:
    """The pieces of one COCO file with one row per line."""

    def rows(values: Iterator[Any]) -> Iterator[bytes]:
        first = True
        for value in values:
            yield (b"\n" if first else b",\n") + msgspec.json.encode(value)
            first = False

    yield b'{"images": ['
    yield from rows(image for image, _ in numbered())
    yield b'\n],\n"annotations": ['
    yield from rows(person for _, people in numbered() for person in people)
    yield b'\n],\n"categories": [\n' + msgspec.json.encode(category) + b"\n]}\n"


def _csv_file(numbered: Numbered, names: list[str]) -> Iterator[bytes]:
    """The tidy table, from the same rows as the COCO file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for image, people in numbered:
        writer.writerows(csv_rows(image, people, names))
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _differences(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            if isinstance(was.get(key), dict) and isinstance(now.get(key), dict):
                yield from (f"{key}.{each}" for each in _differences(was[key], now[key]))
            elif key.endswith("_sha256"):  # which tells nobody anything
                yield f"{key.removesuffix('_sha256')} changed"
            else:
                yield f"{key} was {was.get(key)} and is {now.get(key)}"
