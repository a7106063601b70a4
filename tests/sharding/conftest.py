"""A small COCO set on disk, made anew for each test."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.skeleton import COCO_17, to_category
from semipose.sharding.build import BuildSettings

SIZE_WH = (200, 150)


@dataclass
class SmallSet:
    """Photos of noise with two annotated persons each; `content` is the JSON, `save` writes it again."""

    folder: Path
    content: dict[str, Any]

    @property
    def annotations(self) -> Path:
        return self.folder / "annotations.json"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def source(self) -> CocoFormat:
        return CocoFormat(annotations=self.annotations, images=self.images)

    def save(self) -> None:
        self.annotations.write_text(json.dumps(self.content))

    def settings(self, output: Path, **changes: Any) -> BuildSettings:
        return BuildSettings(
            **{"source": self.source, "output": output, "samples_per_shard": 4, "workers": 1, **changes}
        )


def annotation(number: int, image_id: int, rng: np.random.Generator) -> dict[str, Any]:
    x, y, width, height = 20 + rng.random() * 60, 10 + rng.random() * 40, 40.5, 80.25
    points = np.column_stack(
        [
            np.round(x + rng.random(17) * width, 2),
            np.round(y + rng.random(17) * height, 2),
            rng.integers(1, 3, 17),
        ]
    )
    points[rng.integers(0, 17)] = 0
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": 1500.5,
        "bbox": [x, y, width, height],
        "keypoints": points.ravel().tolist(),
        "num_keypoints": 16,
    }


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., SmallSet]:
    def make(photos: int = 5) -> SmallSet:
        rng = np.random.default_rng(0)
        folder = tmp_path / "set"
        (folder / "images").mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, photos + 1):
            pixels = rng.integers(0, 255, (SIZE_WH[1] // 10, SIZE_WH[0] // 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize(SIZE_WH).save(folder / "images" / f"{number:012d}.jpg", quality=90)
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 200, "height": 150})
            annotations += [annotation(10 * number + i, number, rng) for i in range(2)]
        small = SmallSet(
            folder, {"images": images, "annotations": annotations, "categories": [to_category(COCO_17)]}
        )
        small.save()
        return small

    return make


@pytest.fixture
def quiet() -> Console:
    return Console(quiet=True)
