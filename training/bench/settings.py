"""The settings of each benchmark, and the input and output of one measured process of training steps."""

import os
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.pipelines.photo_views import PhotoViewSettings
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.formats.source import Source

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
KEYPOINTS = 17
"""Keypoints of a person where they are not varied."""
MOST_THREADS = 16
DRAWN = DrawnFormat(folder=Path("data/bench"), people=600, size_wh=(640, 480))


def default_threads() -> int:
    """Two, as the targets have it; beside a GPU, whose data is wanted faster, as many as there are cores."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0))) if torch.cuda.is_available() else 2


@settings
class PeopleSettings:
    """The people that are measured on, the same for all rivals; without any of these, drawn ones."""

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
        if sum(given is not None for given in (self.photos, self.source, self.shards)) > 1:
            raise ValueError("the people come from one place: give photos and annotations, source, or shards")

    def photo_source(self) -> Source | None:
        """Where annotations and photos are; None if shards are given."""
        if self.shards is not None:
            return None
        if self.photos is not None and self.annotations is not None:
            return CocoFormat(annotations=self.annotations, images=self.photos)
        return self.source or DRAWN

    def require_photos(self) -> Source:
        """Where annotations and photos are. Raises InputError if shards are given."""
        source = self.photo_source()
        if source is None:
            raise InputError(
                "growth cuts the people anew: give photos and annotations, or source, instead of shards"
            )
        return source


@settings
class LoaderBenchSettings(PeopleSettings):
    """What is measured of the loader, and how long."""

    output: Path = Path("runs/bench/loader.json")
    """The result file; the plot goes beside it."""
    views: ViewSettings = Field(default_factory=ViewSettings)
    """Size of the views, and how they are drawn."""
    batch_size: Count = 32
    """Persons in a batch."""
    threads: Count = Field(default_factory=default_threads)
    """Worker processes of the loaders that we are compared with, and CPU threads of ours; by default two, and
    beside a GPU as many as there are cores."""
    keypoints: Count = KEYPOINTS
    """Keypoints of each person that is masked."""
    rounds: Count = 7
    """How often each variant is timed."""
    batches: Count = 20
    """Batches in one timing, at least."""


@settings
class LoaderGrowthSettings(PeopleSettings):
    """What is varied, one thing at a time, from `batch_size`, 17 keypoints, one shard, one path, one rank."""

    output: Path = Path("runs/bench/loader_growth.json")
    """The result file; the plot goes beside it."""
    views: ViewSettings = Field(default_factory=ViewSettings)
    """Size of the views, and how they are drawn."""
    batch_size: Count = 32
    """Persons in a batch where that is not varied."""
    batch_sizes: tuple[Count, ...] = (8, 16, 32, 64)
    """Persons in a batch."""
    keypoints: tuple[Count, ...] = (14, 17, 24, 133)
    """Keypoints of a person."""
    paths: tuple[Count, ...] = (1, 2, 3, 4)
    """Strong paths, each masked anew."""
    shards_of_people: tuple[Count, ...] = (1, 8, 64)
    """Tars that hold the people."""
    ranks: tuple[Count, ...] = (1, 2)
    """Processes that load at the same time."""
    threads: Count = Field(default_factory=default_threads)
    """CPU threads of a loader."""
    rounds: Count = 5
    """How often each variant is timed."""
    batches: Count = 10
    """Batches in one timing, at least."""


@settings
class PhotoBenchSettings(PeopleSettings):
    """What is measured of whole photos, and how long."""

    output: Path = Path("runs/bench/photos.json")
    """The result file; the plot goes beside it."""
    views: PhotoViewSettings = Field(default_factory=PhotoViewSettings)
    """Size of the views, and how they are drawn."""
    batch_size: Count = 8
    """Photos in a batch."""
    people_per_photo: Count = 5
    """People in each photo of the targets, losses and decoding."""
    threads: Count = Field(default_factory=default_threads)
    """Worker processes of the loader that ours is compared with, and CPU threads of ours."""
    rounds: Count = 5
    """How often each variant is timed."""
    batches: Count = 3
    """Batches in one timing, at least."""


@settings
class StepLimits:
    """How long the steps of one process are measured."""

    warmup: Count = 2
    """Steps before anything is timed; on a GPU at least 20, as kernels are compiled and chosen."""
    steps: Count = 5
    """Timed steps, at least."""
    seconds: Seconds = 15.0
    """More steps are timed until so much time has passed."""


@settings
class StepBenchSettings(PeopleSettings):
    """Which steps are measured, and how long."""

    output: Path = Path("runs/bench/steps.json")
    """The result file; the plot goes beside it."""
    loader: Path = Path("runs/bench/loader.json")
    """The result of `python -m semipose.training.bench loader`, for the table of targets."""
    protocol: str = "coco-1k"
    """Network, sizes and views of the steps: the name of a file under configs/protocols."""
    supervised: str = "supervised"
    """The method of the supervised step: the name of a file under configs/methods."""
    semi: str = "adaptive_mixup"
    """The method of the semi-supervised step."""
    changes: tuple[str, ...] = ()
    """Changes to the settings of both steps, such as `views.size_hw=[128,96]`."""
    batch_sizes: tuple[Count, ...] | None = None
    """Labelled, and as many unlabelled, people in a step; without it 8 on a CPU, 32 and 256 on a GPU."""
    threads: Count = Field(default_factory=default_threads)
    """Worker processes of the classic loader, and CPU threads of each of our streams; by default two, and
    beside a GPU as many as there are cores."""
    rounds: Count = 2
    """How often each step is measured, in a new process each time, in turns."""
    limits: StepLimits = Field(default_factory=StepLimits)
    """How long each time."""
    only: tuple[str, ...] = ()
    """Names of the rows to measure; without any, all."""
    longest_s: Annotated[float, Field(gt=0)] = 300.0
    """A process that takes longer is ended, and its row left out."""


@settings
class StepGrowthSettings(StepBenchSettings):
    """What is varied, one thing at a time, from `batch_size`, 17 keypoints, one path, one rank.

    A step does not see in how many shards its people are stored: loader-growth measures that.
    """

    output: Path = Path("runs/bench/step_growth.json")
    """The result file; the plot goes beside it."""
    batch_size: Count = 8
    """Labelled, and as many unlabelled, people in a step where that is not varied."""
    batch_sizes: tuple[Count, ...] | None = (8, 16, 32, 64)
    """People in a step."""
    keypoints: tuple[Count, ...] = (14, 17, 24, 133)
    """Keypoints of a person."""
    paths: tuple[Count, ...] = (1, 2, 3, 4)
    """Strong paths."""
    ranks: tuple[Count, ...] = (1, 2)
    """Processes that train together; on one machine they share its cores, and need a GPU each."""
    rounds: Count = 1
    """How often each step is measured, in a new process each time, in turns."""
    limits: StepLimits = Field(default_factory=lambda: StepLimits(warmup=1, steps=2, seconds=5.0))
    """How long each time."""


@settings
class ShardBenchSettings:
    """What is measured of sharding, and how long."""

    annotations: Path
    """A COCO keypoint file."""
    images: Path
    """The folder of its photos."""
    repeats: Count = 10
    """How often the file's rows are repeated, under new ids, for the timing: start-up then weighs little."""
    rounds: Count = 5
    """How often each way is timed."""
    workers: Count = Field(default_factory=lambda: os.cpu_count() or 1)
    """Processes of the build."""
    memory_repeats: tuple[int, ...] = (1, 100)
    """How often the rows are repeated for the measurement of memory."""
    samples_per_shard: Count = 1000
    """Persons in one tar, for both ways."""
    output: Path = Path("runs/bench/shards.json")
    """The result file; the plot goes beside it."""


StepName = Literal["supervised", "semi"]


@settings
class StepSpec:
    """One way to make a step: the input of a measured process."""

    name: str
    group: str
    """The row and its group."""
    step: StepName
    loader: Literal["none", "host", "device", "classic"] = "none"
    """Our loader with that cache, or the classic one."""
    way: Literal["ours", "classic"] = "ours"
    """Our method, or the same step as the published code makes it."""
    recipes: tuple[Path, ...]
    """Protocol and method."""
    changes: tuple[str, ...] = ()
    batch_size: Count
    precision: Literal["no", "bf16"] = "no"
    compile: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    processes: Count = 1
    """Ranks that make the step together."""
    crops: str
    """Shards of the people."""
    people: PeopleSettings = Field(default_factory=PeopleSettings)
    """Where the classic loader finds their photos."""
    threads: Count = 2
    limits: StepLimits = Field(default_factory=StepLimits)
    output: Path
    """Where the process leaves its StepTimes."""


@settings
class StepTimes:
    """What a measured process leaves: one number for each timed stretch of steps."""

    steps_per_s: tuple[float, ...]
    data_wait_share: tuple[float, ...]
    images: dict[str, int]
    """Labelled, weak, strong and mixed images in a step."""
    gpu_busy_share: float | None = None
    gpu_peak_gib: float | None = None
