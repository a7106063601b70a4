"""Annotations and photos to a folder of shards: `python sharding/build.py RECIPE [key=value ...]`."""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, Python looks for packages in this folder instead of its parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import hashlib
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from pydantic import Field, TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from configs.load import InputError, command
from configs.settings import settings
from sharding.check import absent_photo_error, absent_photos, decode_photo
from sharding.crop import CropLaw, PersonCrop
from sharding.files import file_sha256, write_atomic
from sharding.formats.source import Source
from sharding.manifest import (
    FORMAT_VERSION,
    GROUND_TRUTH_NAME,
    Manifest,
    check_shards,
    read_manifest,
    write_manifest,
)
from sharding.record import Annotations, Person
from sharding.truth import ground_truth
from sharding.write import Sample, person_sample, write_shards


@settings
class BuildSettings:
    """One build makes the shards of one split."""

    source: Source
    """The annotations and photos."""
    output: Path
    """The folder to make; its name is also that of the shards."""
    crop: CropLaw = Field(default_factory=PersonCrop)
    """What of each photo is stored."""
    order: Literal["file", "shuffle"] = "file"
    """Order of the samples: as annotated (published subsets are the first N), or shuffled."""
    seed: int = 0
    """Seed of the shuffle."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many persons of that order."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Persons in one tar."""
    missing_images: Literal["stop", "skip"] = "stop"
    """What to do about persons whose photo is absent."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    """What to do about persons whose photo is damaged, or of another size than annotated."""


@dataclass
class Tally:
    """What a build has stored and left out so far."""

    persons: list[Person] = field(default_factory=list)
    sizes_wh: dict[int, tuple[int, int]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def build(settings: BuildSettings, *, console: Console) -> Manifest:
    """Make the folder of shards that `settings` describe, or find that it is there already.

    All is written aside and renamed at the end: on any error the output is as it was before. An output of the
    same settings and annotations is left alone if it is whole, and made again if it is damaged.
    Raises InputError for faults of the input and for an output that holds anything else.
    """
    start = time.perf_counter()
    annotations = settings.source.read()
    hashes = {
        "annotations_sha256": _hash_annotations(annotations),
        "settings_sha256": _hash_settings(settings),
    }
    finished = _find_finished(settings.output, hashes, console)
    if finished is not None:
        return finished
    tally = Tally(dropped=Counter(annotations.dropped))
    persons = _choose_persons(settings, annotations, tally)
    aside = settings.output.with_name(f".{settings.output.name}.{os.getpid()}.building")
    try:
        aside.mkdir(parents=True)
        manifest = _write_folder(
            aside, settings, annotations, persons=persons, tally=tally, hashes=hashes, console=console
        )
        _move_into_place(aside, settings.output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    seconds = time.perf_counter() - start
    _print_summary(console, settings.output, manifest, num_photos=len(tally.sizes_wh), seconds=seconds)
    return manifest


def _find_finished(output: Path, hashes: dict[str, str], console: Console) -> Manifest | None:
    """The manifest of an output that is already what the build would make; None where it is to be made."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    other = f"{output}: this exists and is not what this build makes: remove it or give another output=..."
    try:
        manifest = read_manifest(output)
    except InputError as error:
        raise InputError(other) from error
    if any(getattr(manifest, key) != value for key, value in hashes.items()):
        raise InputError(f"{other} (it was made from other annotations or settings)")
    try:
        check_shards(output, manifest, deep=True)
    except InputError as error:
        console.print(f"making {output} again: {error}", highlight=False, soft_wrap=True)
        return None
    console.print(f"{output} is there already: {manifest.num_samples} samples, same annotations and settings")
    return manifest


def _choose_persons(settings: BuildSettings, annotations: Annotations, tally: Tally) -> list[Person]:
    """The persons to store, in their order; every photo of theirs is there."""
    folder = annotations.image_folder
    persons = list(annotations.persons)
    if settings.order == "shuffle":
        random.Random(settings.seed).shuffle(persons)
    if settings.missing_images == "skip":
        absent = absent_photos(persons, folder)
        tally.dropped["photo absent"] = sum(person.file_name in absent for person in persons)
        persons = [person for person in persons if person.file_name not in absent]
    persons = persons[: settings.limit]
    absent = absent_photos(persons, folder)
    if absent:
        raise absent_photo_error(absent, folder)
    return persons


def _write_folder(
    folder: Path,
    settings: BuildSettings,
    annotations: Annotations,
    *,
    persons: Sequence[Person],
    tally: Tally,
    hashes: dict[str, str],
    console: Console,
) -> Manifest:
    """Shards, ground truth and manifest of the persons, in a folder of their own."""
    name = settings.output.name
    samples = _samples(persons, annotations.image_folder, settings, tally)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tracked = progress.track(samples, total=len(persons), description=f"sharding {name}")
        shards = write_shards(folder, name, iter(tracked), settings.samples_per_shard)
    if not shards:
        raise InputError(
            f"{settings.output}: no person is left to store (dropped: {dict(tally.dropped)}): "
            "correct the source"
        )
    truth = json.dumps(ground_truth(annotations, tally.persons, tally.sizes_wh), separators=(",", ":"))
    write_atomic(folder / GROUND_TRUTH_NAME, truth.encode())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        kind="person",
        name=name,
        skeleton=annotations.skeleton,
        crop=settings.crop,
        order=settings.order,
        seed=settings.seed,
        shards=shards,
        ground_truth_sha256=file_sha256(folder / GROUND_TRUTH_NAME),
        dropped=dict(+tally.dropped),
        problems=annotations.problems,
        **hashes,
    )
    write_manifest(folder, manifest)
    return manifest


def _samples(
    persons: Sequence[Person], image_folder: Path, settings: BuildSettings, tally: Tally
) -> Iterator[Sample]:
    """The samples in order. A photo is decoded once for all its persons that stand together."""
    for image_id, group in groupby(persons, key=lambda person: person.image_id):
        people = list(group)
        try:
            photo, payload = _read_photo(image_folder, people[0])
        except InputError:
            if settings.corrupt_images == "stop":
                raise
            tally.dropped["photo damaged"] += len(people)
            continue
        tally.sizes_wh[image_id] = (photo.shape[1], photo.shape[0])
        for person in people:
            tally.persons.append(person)
            yield person_sample(person, photo, payload, settings.crop)


def _read_photo(image_folder: Path, person: Person) -> tuple[np.ndarray, bytes | None]:
    """The pixels of a person's photo, and its bytes where they decode to just these pixels."""
    path = image_folder / person.file_name
    where = f"{path} (annotation {person.id})"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{where}: the file cannot be read ({error.strerror}): mend its permissions"
        ) from error
    photo, is_faithful = decode_photo(payload, size_wh=person.source_size_wh, where=where)
    return photo, payload if is_faithful else None


def _move_into_place(aside: Path, output: Path) -> None:
    """Rename the finished folder; a damaged or empty one of that name gives way."""
    if output.exists():
        old = aside.with_suffix(".old")
        output.replace(old)
        aside.replace(output)
        shutil.rmtree(old)
    else:
        aside.replace(output)


def _hash_annotations(annotations: Annotations) -> str:
    """Hash of all that the format gave, wherever its files lie."""
    digest = hashlib.sha256(json.dumps(annotations.skeleton.to_json()).encode())
    for person in annotations.persons:
        facts = (
            person.id,
            person.image_id,
            person.file_name,
            person.source_size_wh,
            person.box_xywh,
            person.area,
        )
        digest.update(repr(facts).encode())
        digest.update(person.keypoints.astype("<f4").tobytes())
    digest.update(json.dumps([annotations.ignored, annotations.dropped, annotations.problems]).encode())
    return digest.hexdigest()


def _hash_settings(settings: BuildSettings) -> str:
    """Hash of the settings that decide the shards, given the annotations."""
    values = TypeAdapter(BuildSettings).dump_python(settings, mode="json", exclude={"source", "output"})
    return hashlib.sha256(json.dumps([FORMAT_VERSION, values], sort_keys=True).encode()).hexdigest()


def _print_summary(
    console: Console, output: Path, manifest: Manifest, *, num_photos: int, seconds: float
) -> None:
    table = Table(title=str(output), show_header=False)
    table.add_row("samples", f"{manifest.num_samples:,} persons of {num_photos:,} photos")
    for reason, count in manifest.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}")
    for problem, count in manifest.problems.items():
        table.add_row(f"mended: {problem}", f"{count:,}")
    table.add_row("shards", f"{len(manifest.shards):,}, {manifest.num_bytes / 1e6:,.1f} MB")
    table.add_row("time", f"{seconds:.1f} s, {num_photos / seconds:,.0f} images/s")
    console.print(table)


def main(settings: BuildSettings) -> None:
    """Build with progress and summary on the terminal."""
    build(settings, console=Console())


if __name__ == "__main__":
    command(BuildSettings, main, description="Annotations and photos to tar shards.", recipes="shards")
