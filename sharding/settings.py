"""What a shard recipe can say."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.settings import settings
from sharding.annotations.detections import Detections
from sharding.annotations.formats.source import Source
from sharding.annotations.split import TrainValSplit
from sharding.samples.crop import Crop, PersonCrop
from sharding.samples.kinds import KINDS
from sharding.samples.sample import SampleKind
from sharding.store.files import require_name


@settings
class BuildSettings:
    """One build makes the shards of one split."""

    source: Source
    """The annotations and photos."""
    output: Path
    """The folder to make, or an empty one to fill; its name is also that of the shards."""
    kind: Literal["person", "image"] = "person"
    """What a sample is: one person, cut out, or one whole photo with all its people."""
    crop: Crop = Field(default_factory=PersonCrop)
    """What of each photo is stored; `kind: image` takes crop.name=none."""
    empty_photos: Literal["drop", "keep"] = "drop"
    """What `kind: image` does with photos that have no person; kept, they come after the others."""
    split: TrainValSplit | None = None
    """Where one source is to be divided into train and val: how, and which of the two to build."""
    order: Literal["file", "shuffle"] = "file"
    """Order of the photos: as annotated (published subsets are the first N persons), or shuffled. The people
    of one photo stay together."""
    seed: int = 0
    """Seed of the shuffle."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many samples of that order."""
    samples_per_shard: int = Field(default=1000, ge=1)
    """Samples in one tar."""
    missing_images: Literal["stop", "skip"] = "stop"
    """What to do about persons whose photo is absent."""
    corrupt_images: Literal["stop", "skip"] = "stop"
    """What to do about persons whose photo is damaged, or of another size than annotated."""
    check: Literal["first", "only"] = "first"
    """`only` reports every fault of annotations and photos and builds nothing."""
    executor: str = Field(default="local", pattern=r"^(local|dask://\S+:\d+)$")
    """Where photos are cut: in processes of this machine, or dask://HOST:PORT, the workers of a Dask cluster
    that see the photos under the same path. The bytes made are the same."""
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processes of this machine (executor: local)."""

    def __post_init__(self) -> None:
        require_name(self.output)
        has_detections = isinstance(getattr(self.source, "boxes", None), Detections)
        self.sample_kind.refuse(self.crop, has_detections=has_detections)

    @property
    def sample_kind(self) -> SampleKind:
        """The kind of the samples."""
        return KINDS[self.kind]


EXECUTION = frozenset({"source", "output", "check", "executor", "workers"})
"""Settings that do not change a byte of the shards, given the annotations."""
