"""The same people in other shards: with more or fewer keypoints, in more or fewer tars."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipelines.bench.settings import workers_for
from pipelines.source import Split, open_split
from sharding.annotations.formats.coco import CocoFormat
from sharding.annotations.record import Annotations, Person
from sharding.annotations.skeleton import DEFAULT_SIGMA, Skeleton, to_category
from sharding.build import BuildSettings, build
from sharding.samples.crop import PersonCrop


def cut_people(
    annotations: Annotations,
    folder: Path,
    *,
    num_keypoints: int,
    num_shards: int,
    size_hw: tuple[int, int],
    console: Console,
) -> Split:
    """Shards of people whose keypoints are repeated, or cut off, until there are `num_keypoints`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "annotations.json"
    file.write_text(json.dumps(coco_rows(annotations, num_keypoints)))
    make: Callable[..., Any] = partial(BuildSettings, crop=PersonCrop(input_size_wh=size_hw[::-1]))
    settings = make(
        source=CocoFormat(annotations=file, images=annotations.photos.location),
        output=folder / "shards",
        workers=workers_for(len(annotations.persons)),
        samples_per_shard=-(-len(annotations.persons) // num_shards),
    )
    build(settings, console=console)
    return open_split(settings.output)


def coco_rows(annotations: Annotations, num_keypoints: int) -> dict[str, Any]:
    """A COCO keypoint file of the same people."""
    skeleton = Skeleton(
        names=tuple(f"keypoint {number}" for number in range(num_keypoints)),
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
    places = marked_first[np.arange(num_keypoints) % len(marked_first)]
    return {
        "id": person.id,
        "image_id": person.image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": person.area,
        "bbox": list(person.box_xywh),
        "keypoints": person.keypoints[places].ravel().tolist(),
    }
