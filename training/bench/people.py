"""The people that are measured on, the same for all rivals: cut into the shards that each reads."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from semipose.configs.load import InputError
from semipose.pipelines.source import Split, open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.record import Annotations, Person
from semipose.sharding.annotations.skeleton import DEFAULT_SIGMA, Skeleton, to_category
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import PersonCrop, WholePhoto
from semipose.training.bench.settings import PeopleSettings


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


def open_people(cfg: PeopleSettings, views: ViewSettings, folder: Path, console: Console) -> People:
    """Build the crops that training reads, and whole photos for comparison, in `folder`; or open the shards
    that are given. Raises InputError."""
    source = cfg.photo_source()
    if source is None:
        assert cfg.shards is not None
        return People(open_split(cfg.shards), None, None)
    annotations = source.read()
    photo = annotations.photos.where(annotations.persons[0].file_name)
    if not Path(photo).is_file():
        raise InputError(
            f"{photo}: the loaders that we are compared with read photos from a folder: unpack them"
        )
    make: Callable[..., Any] = partial(BuildSettings, source=source, workers=workers_for(annotations))
    crop = PersonCrop(input_size_wh=views.size_hw[::-1])
    build(make(output=folder / "crops", crop=crop), console=console)
    build(make(output=folder / "photos", crop=WholePhoto()), console=console)
    return People(open_split(folder / "crops"), open_split(folder / "photos"), annotations)


def workers_for(annotations: Annotations) -> int:
    """Processes that cut people: each costs the seconds in which one alone cuts a few hundred."""
    return min(os.cpu_count() or 1, 1 + len(annotations.persons) // 200)


def cut_people(
    annotations: Annotations,
    folder: Path,
    *,
    num_keypoints: int,
    size_hw: tuple[int, int],
    num_shards: int = 1,
) -> Split:
    """Shards of people whose keypoints are repeated, or cut off, until there are `num_keypoints`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "annotations.json"
    file.write_text(json.dumps(coco_rows(annotations, num_keypoints)))
    make: Callable[..., Any] = partial(BuildSettings, crop=PersonCrop(input_size_wh=size_hw[::-1]))
    settings = make(
        source=CocoFormat(annotations=file, images=annotations.photos.location),
        output=folder / "shards",
        workers=workers_for(annotations),
        samples_per_shard=-(-len(annotations.persons) // num_shards),
    )
    build(settings, console=Console(quiet=True))
    return open_split(settings.output)


def coco_rows(annotations: Annotations, num_keypoints: int) -> dict[str, Any]:
    """A COCO keypoint file of the same people."""
    skeleton = Skeleton(
        names=tuple(f"keypoint {index}" for index in range(num_keypoints)),
        flip_pairs=(),
        bones=(),
        sigmas=(DEFAULT_SIGMA,) * num_keypoints,
    )
    photos = {person.image_id: person for person in annotations.persons}
    return {
        "categories": [to_category(skeleton)],
        "images": [_image(person) for person in photos.values()],
        "annotations": [_row(person, num_keypoints) for person in annotations.persons],
    }


def _image(person: Person) -> dict[str, Any]:
    assert person.source_size_wh is not None, "COCO files and drawn people say how large a photo is"
    width, height = person.source_size_wh
    return {"id": person.image_id, "file_name": person.file_name, "width": width, "height": height}


def _row(person: Person, num_keypoints: int) -> dict[str, Any]:
    # The marked ones first: a person whose keypoints are cut off must not lose them all.
    marked_first = np.argsort(person.keypoints[:, 2] == 0, kind="stable")
    chosen = marked_first[np.arange(num_keypoints) % len(marked_first)]
    return {
        "id": person.id,
        "image_id": person.image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": person.area,
        "bbox": list(person.box_xywh),
        "keypoints": person.keypoints[chosen].ravel().tolist(),
    }
