"""What a benchmark of the pipelines can be told, and the people that it runs on."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console

from configs.load import InputError
from configs.settings import settings
from pipelines.source import Split, open_split
from pipelines.views import ViewSettings
from sharding.annotations.formats.coco import CocoFormat
from sharding.annotations.formats.drawn import DrawnFormat
from sharding.annotations.formats.source import Source
from sharding.annotations.record import Annotations
from sharding.build import BuildSettings, build
from sharding.samples.crop import PersonCrop, WholePhoto

Count = Annotated[int, Field(ge=1)]
MOST_THREADS = 16


def threads_here() -> int:
    """Two, as the targets have it; beside a GPU, whose data is wanted faster, as many as there are cores."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0))) if torch.cuda.is_available() else 2


DRAWN = DrawnFormat(folder=Path("data/bench"), people=600, size_wh=(640, 480))


@settings
class PeopleSettings:
    """The people that are measured on, the same for all loaders; without any of these, drawn ones."""

    photos: str | None = None
    """Photos of a COCO keypoint file: their folder. Goes with `annotations`."""
    annotations: Path | None = None
    """The COCO keypoint file, such as person_keypoints_val2017.json. Goes with `photos`."""
    source: Source | None = None
    """Annotations and photos of any other format (source.name=...), as a shard recipe has them."""
    shards: str | None = None
    """Shards that exist already; what reads photos is then left out."""

    def __post_init__(self) -> None:
        if (self.photos is None) != (self.annotations is None):
            raise ValueError("photos and annotations go together: give photos=FOLDER annotations=FILE")
        if sum(each is not None for each in (self.photos, self.source, self.shards)) > 1:
            raise ValueError("the people come from one place: give photos and annotations, source, or shards")

    def chosen(self) -> Source | None:
        """Where annotations and photos are; None where shards are given."""
        if self.shards is not None:
            return None
        if self.photos is not None and self.annotations is not None:
            return CocoFormat(annotations=self.annotations, images=self.photos)
        return self.source or DRAWN


@settings
class BenchSettings(PeopleSettings):
    """What is measured, and how long."""

    output: Path = Path("runs/bench/pipelines.json")
    """The result file; the plot goes beside it."""
    views: ViewSettings = Field(default_factory=ViewSettings)
    """Size of the views, and how they are drawn."""
    batch_size: Count = 32
    """Persons in a batch."""
    threads: Count = Field(default_factory=threads_here)
    """Worker processes of the loaders that we are compared with, and CPU threads of ours; by default two, and
    beside a GPU as many as there are cores."""
    keypoints: Count = 17
    """Keypoints of each person that is masked."""
    rounds: Count = 7
    """How often each variant is timed."""
    batches: Count = 20
    """Batches in one timing, at least."""


@dataclass(frozen=True)
class People:
    """The same persons in every form in which a loader reads them."""

    crops: Split
    photos: Split | None
    """Shards with whole photos."""
    annotations: Annotations | None
    """Annotations and photo files."""

    def describe(self) -> dict[str, Any]:
        """As plain JSON values."""
        manifest = self.crops.manifest
        return {
            "people": self.crops.num_samples,
            "keypoints": self.crops.skeleton.num_keypoints,
            "kilobytes_a_crop": round(manifest.num_bytes / manifest.num_samples / 1e3, 1),
            "from": self.crops.root if self.annotations is None else self.annotations.photos.location,
        }


def workers_for(num_people: int) -> int:
    """Processes that cut so many people: each costs the seconds in which one alone cuts a few hundred."""
    return min(os.cpu_count() or 1, 1 + num_people // 200)


def open_people(cfg: PeopleSettings, views: ViewSettings, folder: Path, console: Console) -> People:
    """Build the crops that training reads, and whole photos for comparison, in `folder`; or open the shards
    that are given. Raises InputError."""
    source = cfg.chosen()
    if source is None:
        assert cfg.shards is not None
        return People(open_split(cfg.shards), None, None)
    annotations = source.read()
    where = annotations.photos.where(annotations.persons[0].file_name)
    if not Path(where).is_file():
        raise InputError(
            f"{where}: the loaders that we are compared with read photos from a folder: unpack them"
        )
    height, width = views.size_hw
    workers = workers_for(len(annotations.persons))
    make: Callable[..., Any] = partial(BuildSettings, source=source, workers=workers)
    build(make(output=folder / "crops", crop=PersonCrop(input_size_wh=(width, height))), console=console)
    build(make(output=folder / "photos", crop=WholePhoto()), console=console)
    return People(open_split(folder / "crops"), open_split(folder / "photos"), annotations)
