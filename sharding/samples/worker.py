"""The work of one worker process: it turns photos into samples and decodes each photo once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semipose.configs.load import InputError
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.samples.crop import Crop
from semipose.sharding.samples.decode import decode_photo
from semipose.sharding.samples.sample import PhotoTask, SampleKind, TarSample, frame
from semipose.sharding.settings import BuildSettings

PERSONS_PER_JOB = 24
"""Enough work to outweigh the transfer of a job to a worker and back, little enough to balance the load."""


@dataclass(frozen=True, eq=False)
class Job:
    """Some photos in order, and everything that a worker needs to store them.

    ordinals: the ordinal, in the whole plan, of the first sample of each photo; keys are made from them, so
    that no two samples share a key, whichever worker makes them. upright: see `Annotations`.
    """

    tasks: tuple[PhotoTask, ...]
    ordinals: tuple[int, ...]
    photos: Photos
    kind: SampleKind
    crop: Crop
    upright: bool


@dataclass(frozen=True, eq=False)
class PhotoSamples:
    """The result for one photo: its width and height, its samples and notes, or its fault."""

    size_wh: tuple[int, int] = (0, 0)
    samples: tuple[TarSample, ...] = ()
    fault: str = ""
    notes: tuple[str, ...] = ()


def make_jobs(
    plan: Sequence[PhotoTask], first_task: int, *, annotations: Annotations, settings: BuildSettings
) -> Iterator[Job]:
    """The tasks from `first_task` on, in order, in portions of whole photos."""
    portion: list[PhotoTask] = []
    ordinals: list[int] = []
    persons = 0
    kind = settings.sample_kind
    ordinal = sum(map(kind.num_samples, plan[:first_task]))
    for place in range(first_task, len(plan)):
        portion.append(plan[place])
        ordinals.append(ordinal)
        ordinal += kind.num_samples(plan[place])
        persons += max(1, len(plan[place].persons))
        if persons >= PERSONS_PER_JOB or place == len(plan) - 1:
            yield Job(
                tuple(portion),
                tuple(ordinals),
                annotations.photos,
                kind,
                settings.crop,
                annotations.upright,
            )
            portion, ordinals, persons = [], [], 0


def do_job(job: Job) -> list[PhotoSamples]:
    """The samples of the photos of a job, in order. Equal jobs give equal bytes in any process."""
    return [_store(task, ordinal, job) for task, ordinal in zip(job.tasks, job.ordinals, strict=True)]


def _store(task: PhotoTask, ordinal: int, job: Job) -> PhotoSamples:
    name = task.photo.file_name
    who = f"annotation {task.persons[0].id}" if task.persons else f"image {task.photo.id}"
    payload = job.photos.read(name)
    where = f"{job.photos.where(name)} ({who})"
    try:
        decoded = decode_photo(payload, size_wh=task.photo.size_wh, where=where, upright=job.upright)
    except InputError as error:
        return PhotoSamples(fault=str(error))
    pixels, faithful = decoded.pixels, payload if decoded.is_faithful else None
    samples = job.kind.encode(task, pixels, faithful, job.crop)
    framed = tuple(frame(sample, f"{key:09d}") for key, sample in enumerate(samples, ordinal))
    notes = tuple(note.what for note in decoded.notes)
    return PhotoSamples(size_wh=(pixels.shape[1], pixels.shape[0]), samples=framed, notes=notes)
