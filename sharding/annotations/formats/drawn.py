"""Drawn people: articulated figures with LSP's 14 keypoints, written as plain COCO files and read as such."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import Field

from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.drawing.paint import MOST_PEOPLE
from semipose.sharding.annotations.drawing.scene import Scene, draw_scene
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.annotations.skeleton import LSP_14, to_category
from semipose.sharding.store.files import (
    follow_links,
    holds_anything,
    making_folder,
    put_in_place,
    was_left_unfinished,
    write_atomic,
)

VERSION = 1
"""Version of the drawing code. Raise it when equal settings draw other people: old drawings are refused."""
ANNOTATIONS_NAME = "annotations.json"
_DOING, _DRAWN = "drawing", "drawn"
LEAST_SIDE_PX = 48
"""Below this a person's hands and feet are smaller than a pixel."""


@settings
class DrawnFormat:
    """People drawn by the seed: no download needed. Equal settings give equal files."""

    name: Literal["drawn"] = "drawn"
    folder: Path
    """The folder of the pictures (images/) and annotations.json, which are drawn if they are not there."""
    people: int = Field(default=4000, ge=1)
    """Number of people to draw."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything that is drawn; use a different one for each split."""
    size_wh: tuple[int, int] = (192, 160)
    """Width and height of each picture in pixels."""
    crowded: float = Field(default=0.35, ge=0, le=1)
    """Share of the pictures that have two to four people close together."""
    people_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """How often a picture shows 1, 2, 3, ... people, as weights such as [3, 4, 3]; null: see `crowded`."""
    occluded: float = Field(default=0.35, ge=0, le=1)
    """Share of the pictures that have an object in front of the people."""

    def __post_init__(self) -> None:
        if min(self.size_wh) < LEAST_SIDE_PX:
            raise ValueError(f"size_wh: both numbers must be at least {LEAST_SIDE_PX} px, not {self.size_wh}")
        weights = self.people_weights
        if weights is not None and (len(weights) > MOST_PEOPLE or not sum(weights)):
            raise ValueError(
                f"people_weights: give at most {MOST_PEOPLE} weights, one of them above 0, not "
                f"{list(weights)}"
            )

    def read(self) -> Annotations:
        """Draw the pictures where they are not there yet, then read them as COCO.

        Raises InputError if the folder holds anything else than what these settings draw, and where it
        cannot be written.
        """
        folder = follow_links(self.folder)
        if _drawn_by(folder) != _own_settings(self) or was_left_unfinished(folder, _DOING):
            with named_disk_errors(self.folder):
                write_drawn(self)
        return CocoFormat(annotations=self.folder / ANNOTATIONS_NAME, images=self.folder / "images").read()


def write_drawn(cfg: DrawnFormat) -> None:
    """Draw into a temporary folder, then move it into place; wait for another build that draws the same.

    Raises InputError if the folder holds anything else.
    """
    folder = follow_links(cfg.folder)
    if not was_left_unfinished(folder, _DOING):
        _refuse_others(cfg, folder)  # and leave it untouched
    with making_folder(folder, _DOING, keeps=f"{_DRAWN}/{ANNOTATIONS_NAME}", waits=True) as aside:
        drawn = aside / _DRAWN
        is_open = folder.is_dir() and not (folder / ANNOTATIONS_NAME).exists()
        if is_open and _drawn_by(drawn) == _own_settings(cfg):  # a kill while the files were moved
            put_in_place(drawn, folder, last=ANNOTATIONS_NAME)
        if _drawn_by(folder) != _own_settings(cfg):
            _refuse_others(cfg, folder)
            shutil.rmtree(drawn, ignore_errors=True)
            _draw(cfg, drawn)
            put_in_place(drawn, folder, last=ANNOTATIONS_NAME)


def _refuse_others(cfg: DrawnFormat, folder: Path) -> None:
    """Raise InputError if the folder holds something that these settings do not draw."""
    if folder.exists() and (not folder.is_dir() or holds_anything(folder, _DOING)):
        raise InputError(
            f"{cfg.folder}: this exists, but it is not what these settings draw: remove it or choose another "
            "source.folder"
        )


def _draw(cfg: DrawnFormat, folder: Path) -> None:
    """Pictures and annotations, into a new folder."""
    (folder / "images").mkdir(parents=True)
    rows: dict[str, Any] = {"info": {"drawn_by": _own_settings(cfg)}, "images": [], "annotations": []}
    rows["categories"] = [to_category(LSP_14)]
    for number, scene in enumerate(draw_scenes(cfg), start=1):
        file_name = f"{number:06d}.jpg"
        _, content = cv2.imencode(".jpg", scene.picture, (cv2.IMWRITE_JPEG_QUALITY, 95))
        (folder / "images" / file_name).write_bytes(content.tobytes())
        width, height = cfg.size_wh
        rows["images"].append({"id": number, "file_name": file_name, "width": width, "height": height})
        rows["annotations"] += _annotations(scene, number, first_id=len(rows["annotations"]) + 1)
    write_atomic(folder / ANNOTATIONS_NAME, json.dumps(rows).encode())


def draw_scenes(cfg: DrawnFormat) -> Iterator[Scene]:
    """The pictures in order, each with a random stream of its own; the last one completes `people`."""
    number = left = 0
    while (left := cfg.people - number) > 0:
        rng = np.random.default_rng([cfg.seed, number])
        is_crowded, is_occluded = rng.random(2) < (cfg.crowded, cfg.occluded)
        if cfg.people_weights is not None:
            shares = np.array(cfg.people_weights) / sum(cfg.people_weights)
            num_people = 1 + int(rng.choice(len(shares), p=shares))
        else:
            num_people = int(rng.integers(2, MOST_PEOPLE + 1)) if is_crowded else 1
        num_people = min(left, num_people)
        scene = draw_scene(rng, size_wh=cfg.size_wh, num_people=num_people, occluded=bool(is_occluded))
        number += num_people
        yield scene


def _annotations(scene: Scene, image_id: int, *, first_id: int) -> list[dict[str, Any]]:
    """The COCO rows of a picture's people."""
    return [
        {
            "id": first_id + index,
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": list(person.box_xywh),
            "area": person.area,
            "num_keypoints": len(person.keypoints),
            "keypoints": [round(number, 2) for number in person.keypoints.ravel().tolist()],
        }
        for index, person in enumerate(scene.people)
    ]


def _own_settings(cfg: DrawnFormat) -> dict[str, Any]:
    """Everything that decides the drawings, as JSON returns it."""
    values = {
        "version": VERSION,
        "people": cfg.people,
        "seed": cfg.seed,
        "size_wh": list(cfg.size_wh),
        "crowded": cfg.crowded,
        "occluded": cfg.occluded,
    }
    if cfg.people_weights is not None:  # so that older drawings stay what they are
        values["people_weights"] = list(cfg.people_weights)
    return values


def _drawn_by(folder: Path) -> dict[str, Any] | None:
    """The settings that a folder was drawn by, according to its file; None without such a file."""
    try:
        found = json.loads((folder / ANNOTATIONS_NAME).read_bytes())["info"]["drawn_by"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
