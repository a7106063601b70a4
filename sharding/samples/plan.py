"""The photos that a build stores, their order and their people."""

import random
from collections import Counter
from collections.abc import Sequence

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.photos.base import safe_name
from semipose.sharding.annotations.photos.similar_names import NearNames
from semipose.sharding.annotations.record import Annotations, Photo
from semipose.sharding.samples.sample import PhotoTask
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.manifest import PHOTO_ABSENT


def make_plan(settings: BuildSettings, annotations: Annotations, dropped: Counter[str]) -> list[PhotoTask]:
    """The photos to store, in order; samples without their photo are counted in `dropped`.

    Raises InputError if a photo is absent (and `missing_images` is stop), or if no sample is left.
    """
    tasks = photo_tasks(settings, annotations)
    absent: set[str] = set()
    if settings.missing_images == "skip":
        absent = _absent(tasks, annotations.photos)
        dropped[PHOTO_ABSENT] += sum(
            settings.sample_kind.num_samples(task) for task in tasks if task.photo.file_name in absent
        )
    tasks = wanted_tasks(tasks, settings, absent)
    absent = _absent(tasks, annotations.photos)
    if absent:
        first = next(task for task in tasks if task.photo.file_name in absent)
        raise absent_photo_error(first, len(absent), annotations.photos)
    if not tasks:
        why = [annotations.findings.why("dropped")]
        if dropped[PHOTO_ABSENT]:
            why.append(f"{dropped[PHOTO_ABSENT]} {PHOTO_ABSENT} (correct source.images)")
        reasons = "; ".join(filter(None, why)) or "the source has none"
        raise InputError(
            f"{annotations.findings.file}: no {settings.kind} is left to store: {reasons}: correct the source"
        )
    return tasks


def wanted_tasks(tasks: list[PhotoTask], settings: BuildSettings, skipped: set[str]) -> list[PhotoTask]:
    """The tasks to store, in order, without the photos in `skipped`."""
    if settings.order == "shuffle":
        tasks = list(tasks)
        random.Random(settings.seed).shuffle(tasks)
    tasks = [task for task in tasks if task.photo.file_name not in skipped]
    return tasks if settings.limit is None else _take(tasks, settings.limit, settings)


def _absent(tasks: Sequence[PhotoTask], photos: Photos) -> set[str]:
    """The names of absent photos. Raises InputError for a name that leads out of the location."""
    names = [task.photo.file_name for task in tasks]
    for name in names:
        try:
            safe_name(name, photos.location)
        except InputError as error:
            raise InputError(f"{error}{NearNames(photos).told(name)}") from None
    return photos.absent(names)


def absent_photo_error(task: PhotoTask, count: int, photos: Photos) -> InputError:
    """The error about the first of `count` absent photos."""
    there = NearNames(photos).told(task.photo.file_name)
    who = f"annotation {task.persons[0].id}" if task.persons else f"image {task.photo.id}"
    more = f", as are {count - 1} more" if count > 1 else ""
    return InputError(
        f"{photos.where(task.photo.file_name)}: {who} names this photo, but the file is absent{there}{more}: "
        "add the file, correct its name or source.images, or leave such people out with missing_images=skip"
    )


def photos_without_box(settings: BuildSettings, annotations: Annotations) -> list[Photo]:
    """Photos in which a detector found nobody: they have no samples, but their missed people count in scores.

    Empty with a `limit`, with which only the photos of its samples are scored.
    """
    if annotations.annotated is None or settings.limit is not None:
        return []
    names = (photo.file_name for photo in annotations.empty_photos)
    absent = annotations.photos.absent(names) if settings.missing_images == "skip" else set()
    return [photo for photo in annotations.empty_photos if photo.file_name not in absent]


def photo_tasks(settings: BuildSettings, annotations: Annotations) -> list[PhotoTask]:
    """Every photo that a build could store, in the order of the annotations."""
    return settings.sample_kind.tasks(annotations, keeps_empty=settings.empty_photos == "keep")


def _take(tasks: list[PhotoTask], limit: int, settings: BuildSettings) -> list[PhotoTask]:
    """The tasks of the first `limit` samples; the last photo may lose some of its persons."""
    kind, left = settings.sample_kind, limit
    taken: list[PhotoTask] = []
    for task in tasks:
        if left <= 0:
            break
        taken.append(kind.first(task, left))
        left -= kind.num_samples(taken[-1])
    return taken
