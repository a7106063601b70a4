"""Small shards of whole photos, through the project's own build."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.skeleton import Skeleton, to_category
from semipose.sharding.build import build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.settings import BuildSettings

SKELETON = Skeleton(names=("nose", "left", "right"), flip_pairs=((1, 2),), bones=(), sigmas=(0.05,) * 3)


def person(keypoints: Any, bbox: Sequence[float] = (20, 30, 60, 80), **fields: Any) -> dict[str, Any]:
    """A COCO row without ids; keypoints (3, 3)."""
    flat = np.asarray(keypoints, float).ravel().tolist()
    return {"keypoints": flat, "bbox": list(bbox), "area": 900.0, "iscrowd": 0, **fields}


def write_photos(
    folder: Path,
    jpegs: Sequence[bytes],
    sizes_hw: Sequence[tuple[int, int]],
    people: Sequence[Sequence[dict[str, Any]]],
    *,
    per_shard: int = 7,
    **settings: Any,
) -> Path:
    """A folder of shards of those photos, named 0000.jpg, 0001.jpg, ..., with ids from 1; empty ones last."""
    source = folder.with_name(f"{folder.name}-source")
    source.mkdir(parents=True)
    images, rows = [], []
    for index, (jpeg, (height, width)) in enumerate(zip(jpegs, sizes_hw, strict=True)):
        name = f"{index:04d}.jpg"
        (source / name).write_bytes(jpeg)
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for row in people[index]:
            rows.append({"id": len(rows) + 1, "image_id": index + 1, "category_id": 1, **row})
    content = {"images": images, "annotations": rows, "categories": [to_category(SKELETON)]}
    (source / "annotations.json").write_text(json.dumps(content))
    build(
        BuildSettings(
            source=CocoFormat(annotations=source / "annotations.json", images=source),
            output=folder,
            kind="image",
            crop=WholePhoto(),
            samples_per_shard=per_shard,
            workers=1,
            **{"empty_photos": "keep", **settings},
        ),
        console=Console(quiet=True),
    )
    return folder
