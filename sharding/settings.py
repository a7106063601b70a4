"""The settings of a build, which a recipe under configs/shards sets."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import UNREADABLE, NoBoxes
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.source import Source
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.annotations.split import TrainValSplit
from semipose.sharding.samples.crop import Crop, PersonCrop
from semipose.sharding.samples.kinds import KINDS
from semipose.sharding.samples.sample import SampleKind
from semipose.sharding.store.files import require_name


@settings
class BuildSettings:
    """The settings of one build, which makes the shards of one split."""

    source: Source
    """The annotations and photos to read."""
    output: Path
    """The folder to create, or an empty one to fill; the shards take its name."""
    kind: Literal["person", "image"] = "person"
    """What a sample is: `person`, one person in a crop, or `image`, a whole photo with all its people."""
    crop: Crop = Field(default_factory=PersonCrop)
    """The part of each photo to store; `kind: image` needs crop.name=none."""
    empty_photos: Literal["drop", "keep"] = "drop"
    """What `kind: image` does with photos without people: `drop` leaves them out, `keep` puts them after the
    others."""
    more_keypoints: tuple[str, ...] = ()
    """Keypoints after those of the annotations that nobody annotated, such as those of a model that labels
    other people (`data.sources` of a run): v = 0 for everybody."""
    split: TrainValSplit | None = None
    """How to divide one source into train and val, and which of the two to build; null: build all of it."""
    order: Literal["file", "shuffle"] = "file"
    """Order of the photos: `file`, as annotated (published subsets are the first N people), or `shuffle`. The
    people of one photo stay together."""
    seed: int = 0
    """Seed of the shuffled order."""
    limit: int | None = Field(default=None, ge=1)
    """Take only this number of samples from the start of the order; null: all."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Number of samples per tar."""
    missing_images: Literal["stop", "skip"] = "stop"
    """What to do if a photo is absent: `stop` the build, or `skip` its people."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    """What to do if a photo is damaged or has another size than annotated: `stop` the build, or `skip` its
    people."""
    check: Literal["first", "only"] = "first"
    """`only` reports every fault of the annotations and photos and builds nothing."""
    executor: str = Field(default="local", pattern=r"^(local|dask://\S+:\d+)$")
    """Where photos are processed: `local`, in processes of this machine, or dask://HOST:PORT, by the workers
    of a Dask cluster that can read the photos under the same path. Both make the same bytes."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Number of processes on this machine (executor: local)."""

    def __post_init__(self) -> None:
        require_name(self.output)
        has_detections = isinstance(getattr(self.source, "boxes", None), Detections)
        self.sample_kind.refuse(self.crop, has_detections=has_detections)
        if isinstance(getattr(self.source, "boxes", None), NoBoxes):
            if self.kind != "image":
                raise ValueError("source.boxes.name=none gives no people to cut out: set kind=image")
            if self.empty_photos != "keep":
                raise ValueError(
                    "source.boxes.name=none gives photos without people, which would all be dropped: set "
                    "empty_photos=keep"
                )

    @property
    def sample_kind(self) -> SampleKind:
        """The kind of the samples."""
        return KINDS[self.kind]

    def read(self) -> Annotations:
        """The source's annotations; photos that gave no size because they are damaged may be left out."""
        annotations = self.source.read()
        if self.corrupt_images == "skip":
            annotations.findings.leave_out(UNREADABLE)
        return annotations


EXECUTION = frozenset({"source", "output", "check", "executor", "workers"})
"""Settings that do not change the bytes of the shards, given the annotations."""
