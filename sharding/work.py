"""The work of one worker process: photos to samples, each photo decoded once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.load import InputError
from sharding.crop import CropLaw
from sharding.decode import decode_photo
from sharding.photos import Photos
from sharding.plan import PhotoTask
from sharding.write import Sample, image_sample, person_sample

PERSONS_PER_JOB = 24
"""Enough work for a job to outweigh its way to the worker and back, little enough to share it out."""


@dataclass(frozen=True, eq=False)
class Job:
    """Some photos in order, and all that a worker must know to store them."""

    tasks: tuple[PhotoTask, ...]
    photos: Photos
    kind: str
    crop: CropLaw


@dataclass(frozen=True, eq=False)
class PhotoSamples:
    """What became of one photo: its width and height and its samples, or its fault."""

    size_wh: tuple[int, int] = (0, 0)
    samples: tuple[Sample, ...] = ()
    fault: str = ""


def make_jobs(tasks: Sequence[PhotoTask], photos: Photos, kind: str, crop: CropLaw) -> Iterator[Job]:
    """The tasks, in order, in portions that no photo is torn apart by."""
    portion: list[PhotoTask] = []
    persons = 0
    for task in tasks:
        portion.append(task)
        persons += max(1, len(task.persons))
        if persons >= PERSONS_PER_JOB:
            yield Job(tuple(portion), photos, kind, crop)
            portion, persons = [], 0
    if portion:
        yield Job(tuple(portion), photos, kind, crop)


def do_job(job: Job) -> list[PhotoSamples]:
    """The samples of a job's photos, in order. Runs in any process; equal jobs give equal bytes."""
    return [_store(task, job) for task in job.tasks]


def _store(task: PhotoTask, job: Job) -> PhotoSamples:
    name = task.photo.file_name
    who = f"annotation {task.persons[0].id}" if task.persons else f"image {task.photo.id}"
    payload = job.photos.read(name)
    where = f"{job.photos.where(name)} ({who})"
    try:
        pixels, is_faithful = decode_photo(payload, size_wh=task.photo.size_wh, where=where)
    except InputError as error:
        return PhotoSamples(fault=str(error))
    faithful = payload if is_faithful else None
    if job.kind == "image":
        samples: tuple[Sample, ...] = (image_sample(task, pixels, faithful, job.crop),)
    else:
        samples = tuple(person_sample(person, pixels, faithful, job.crop) for person in task.persons)
    return PhotoSamples(size_wh=(pixels.shape[1], pixels.shape[0]), samples=samples)
