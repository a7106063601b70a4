"""Checks every photo that the annotations name: absent, damaged, of another size, turned by EXIF."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from semipose.configs.load import InputError
from semipose.sharding.annotations.findings import Effect, Fault, Findings
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.photos.base import LeadsOutError, safe_name
from semipose.sharding.annotations.photos.similar_names import NearNames
from semipose.sharding.annotations.record import Annotations, Photo, photo_key
from semipose.sharding.samples.crop import PersonCrop, person_region
from semipose.sharding.samples.decode import PhotoSizeError, decode_photo
from semipose.sharding.samples.plan import photo_tasks, wanted_tasks
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.executor import map_in_order

PHOTOS_PER_JOB = 8
SAME_BYTES = Fault(
    "the same photo under another name (equal bytes)",
    "kept",
    "remove one of them: people on both are trained on twice, and a split may divide them",
    "photo",
)
BOX_OUTSIDE = Fault("box outside the photo", cure="correct the box, or remove the person")

Trouble = Literal["leads out", "absent", "linked out", "unreadable", "damaged", "mis-sized"]
_WHATS: dict[Trouble, tuple[str, str]] = {
    "leads out": ("the name leads out of the photos' location", "name photos relative to it, without '..'"),
    "absent": ("photo absent", "put it there, or correct source.images; missing_images=skip leaves it out"),
    "linked out": (
        "the photo is a link that leads out of the photos' location",
        "put the file itself there (cp -L follows links), or give the folder that contains it "
        "(source.images)",
    ),
    "unreadable": ("photo cannot be read", "correct its permissions, or the location"),
    "damaged": ("photo cannot be decoded", "replace the file; corrupt_images=skip leaves it out"),
    "mis-sized": (
        "photo of another size than annotated",
        "put the original file there, or correct the annotations; corrupt_images=skip leaves it out",
    ),
}


class Verdict(NamedTuple):
    """What a look at one photo showed; size_wh, notes, digest (of its bytes): of one that can be stored."""

    trouble: Trouble | None
    detail: str = ""
    size_wh: tuple[int, int] | None = None
    notes: tuple[Fault, ...] = ()
    digest: bytes | None = None


@dataclass(frozen=True)
class Look:
    """Some photos for one worker to check; upright: see `Annotations`."""

    photos: Photos
    wanted: tuple[Photo, ...]
    upright: bool


class Survey(NamedTuple):
    """The state of the photos of some annotations.

    findings: by photo. num_photos: the number of checked photos. unusable: names of those that cannot be
    stored. sizes_wh: by name, of photos whose size the annotations do not give.
    """

    findings: Findings
    num_photos: int
    unusable: set[str]
    sizes_wh: dict[str, tuple[int, int]]


def survey_photos(
    settings: BuildSettings, annotations: Annotations, *, console: Console, by_name: bool = False
) -> Survey:
    """Decode every photo that the annotations name, in worker processes, without storing anything.

    by_name: only find those that are absent, which takes no time, and open none.

    A fault of a photo that the build would store stops it, or drops the photo if the settings say skip; a
    fault of a photo without a sample (without people, or beyond `limit`) is kept. Holds a few photos at a
    time.
    """
    named = _named_photos(annotations)
    verdicts: dict[Photo, Verdict] = {}
    for photo in named:
        try:
            safe_name(photo.file_name, annotations.photos.location)
        except InputError:
            verdicts[photo] = Verdict("leads out")
    absent = annotations.photos.absent(photo.file_name for photo in named if photo not in verdicts)
    verdicts |= {photo: Verdict("absent") for photo in named if photo.file_name in absent}
    there = [photo for photo in named if photo not in verdicts]
    if by_name:
        named = [photo for photo in named if photo in verdicts]
    else:
        verdicts |= zip(there, _look_at_all(there, annotations, settings, console), strict=True)
    unusable = {photo.file_name for photo in named if verdicts[photo].trouble is not None}
    stored = _stored_names(settings, annotations, absent)
    findings = Findings(annotations.photos.location)
    sizes_wh: dict[str, tuple[int, int]] = {}
    near = NearNames(annotations.photos)
    for photo in named:
        trouble, detail, size_wh, notes, _ = verdicts[photo]
        if photo.size_wh is None and size_wh is not None:
            sizes_wh[photo.file_name] = size_wh
        if trouble is not None:
            fault = _fault(trouble, settings, is_stored=photo.file_name in stored)
            hint = near.told(photo.file_name) if trouble in ("absent", "leads out") else ""
            findings.add(fault, f"{photo.file_name}{hint}", detail)
        for note in notes:
            findings.add(note, photo.file_name)
    _find_equal_bytes(verdicts, findings)
    if isinstance(settings.crop, PersonCrop):
        _find_boxes_outside(settings.crop, annotations, stored, sizes_wh, findings)
    return Survey(findings, len(there), unusable, sizes_wh)


def look_at(look: Look) -> list[Verdict]:
    """The verdicts on some photos, in order. Runs in any process."""
    return [_judge(look.photos, photo, look.upright) for photo in look.wanted]


def _named_photos(annotations: Annotations) -> list[Photo]:
    """Every photo once, in the order of the annotations, those without persons last."""
    of_persons = (
        Photo(id=person.image_id, file_name=person.file_name, size_wh=person.source_size_wh)
        for person in annotations.persons
    )
    return list(dict.fromkeys(chain(of_persons, annotations.empty_photos)))


def _stored_names(settings: BuildSettings, annotations: Annotations, absent: set[str]) -> set[str]:
    """The photos that a build would look at: all it stores, and any that it would skip on the way."""
    skipped = absent if settings.missing_images == "skip" else set()
    tasks = photo_tasks(settings, annotations)
    stored = {task.photo.file_name for task in wanted_tasks(tasks, settings, skipped)}
    return stored | (skipped & {task.photo.file_name for task in tasks})


def _find_equal_bytes(verdicts: Mapping[Photo, Verdict], findings: Findings) -> None:
    """Add findings for photos that occur again; one name with several image ids is one photo."""
    first_of: dict[bytes, str] = {}
    names = {photo_key(photo.file_name): verdict.digest for photo, verdict in verdicts.items()}
    for name, digest in names.items():
        if digest is not None and first_of.setdefault(digest, name) != name:
            findings.add(SAME_BYTES, name, f"as {first_of[digest]}")
    findings.warn_if_many(SAME_BYTES, len(names))


def _find_boxes_outside(
    crop: PersonCrop,
    annotations: Annotations,
    stored: set[str],
    sizes_wh: dict[str, tuple[int, int]],
    findings: Findings,
) -> None:
    """Boxes that a build would refuse; a format that knows the sizes of its photos drops them itself."""
    for person in annotations.persons:
        size_wh = sizes_wh.get(person.file_name)
        if not all(map(math.isfinite, person.box_xywh)):  # a fault of its own
            continue
        if size_wh and person.file_name in stored and person_region(person.box_xywh, size_wh, crop).is_empty:
            findings.add(BOX_OUTSIDE, person.id, f"{list(person.box_xywh)} of {size_wh[0]}x{size_wh[1]}")


def _fault(trouble: Trouble, settings: BuildSettings, *, is_stored: bool) -> Fault:
    what, cure = _WHATS[trouble]
    effect: Effect = "stops"
    if not is_stored and trouble != "leads out":
        what, effect = f"{what} (no sample is made of it)", "kept"
    elif (trouble == "absent" and settings.missing_images == "skip") or (
        trouble in ("damaged", "mis-sized") and settings.corrupt_images == "skip"
    ):
        effect = "dropped"
    return Fault(what, effect, cure, "photo")


def _look_at_all(
    there: Sequence[Photo], annotations: Annotations, settings: BuildSettings, console: Console
) -> list[Verdict]:
    looks = (
        Look(annotations.photos, tuple(there[start : start + PHOTOS_PER_JOB]), annotations.upright)
        for start in range(0, len(there), PHOTOS_PER_JOB)
    )
    results = map_in_order(look_at, looks, executor=settings.executor, workers=settings.workers)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with closing(results), Progress(*columns, console=console) as progress:
        verdicts = chain.from_iterable(results)
        return list(progress.track(verdicts, total=len(there), description="looking at photos"))


def _judge(photos: Photos, photo: Photo, upright: bool) -> Verdict:
    where = photos.where(photo.file_name)
    try:
        payload = photos.read(photo.file_name)
    except LeadsOutError as error:
        return Verdict("linked out", _reason(error, where))
    except InputError as error:
        return Verdict("unreadable", _reason(error, where))
    try:
        decoded = decode_photo(payload, size_wh=photo.size_wh, where=where, upright=upright)
    except PhotoSizeError as error:
        return Verdict("mis-sized", error.detail)
    except InputError as error:
        return Verdict("damaged", _reason(error, where))
    size_wh = (decoded.pixels.shape[1], decoded.pixels.shape[0])
    return Verdict(None, size_wh=size_wh, notes=decoded.notes, digest=hashlib.sha256(payload).digest())


def _reason(error: InputError, where: str) -> str:
    """The text of an error about a photo, without the name and the cure."""
    return str(error).removeprefix(f"{where}: ").rpartition(": ")[0]
