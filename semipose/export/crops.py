"""Views with which an export is checked and calibrated: of the scored people of a run, or of drawn ones."""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from semipose.configs import yaml12
from semipose.configs.errors import InputError
from semipose.models.files import RECIPE_NAME
from semipose.models.model_folder import Model, model_folder
from semipose.pipelines.views import BORDER_GREYS, view_from_stored
from semipose.predict.views import fitted_view
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.build import BuildSettings, build
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.store.index import read_index, read_members
from semipose.sharding.store.manifest import MANIFEST_NAME, Manifest, read_manifest


def read_views(model: Model, size_hw: tuple[int, int], count: int) -> tuple[np.ndarray, str]:
    """At most `count` views (N, H, W, 3) uint8 RGB, and whose they are, in words.

    They are the first of the people that the run was scored on, if the shards of its recipe are on this
    machine and of the model's kind; otherwise drawn people, who look the same to any runtime.
    """
    shards = _scored_shards(model)
    if shards is not None:
        return np.stack(list(_views(shards, model, size_hw, count))), f"people of {shards}"
    with TemporaryDirectory() as folder:
        source = DrawnFormat(folder=Path(folder) / "drawn", people=count, seed=0)
        settings = BuildSettings(source=source, output=Path(folder) / "shards", workers=1)
        if model.config.kind == "image":
            settings = replace(settings, kind="image", crop=WholePhoto())
        build(settings, console=Console(quiet=True))
        views = np.stack(list(_views(Path(folder) / "shards", model, size_hw, count)))
        return views, "drawn people"


def _scored_shards(model: Model) -> Path | None:
    """The shards that the recipe of the model names, if they can be read here."""
    try:
        recipe = model_folder(model.source) / RECIPE_NAME
        values = yaml12.parse(recipe.read_text(), str(recipe)).value
        shards = Path(str(values["data"]["val"]))
        if (shards / MANIFEST_NAME).is_file() and read_manifest(shards).kind == model.config.kind:
            return shards
    except (OSError, InputError, LookupError, TypeError, ValueError):
        pass
    return None


def _views(shards: Path, model: Model, size_hw: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    manifest = read_manifest(shards)
    for members in islice(_samples(shards, manifest), count):
        pixels = np.array(Image.open(io.BytesIO(members["jpg"])).convert("RGB"))
        poses = manifest.sample_kind.decode_pose(members["pose"], manifest.skeleton.num_keypoints)
        yield _view(pixels, poses.boxes_xywh, model, size_hw)


def _samples(shards: Path, manifest: Manifest) -> Iterator[dict[str, bytes]]:
    for shard in manifest.shards:
        with (shards / shard.file).open("rb") as file:
            for sample in read_index(shards / shard.idx_file):
                yield read_members(file, sample, ("jpg", "pose"))


def _view(pixels: np.ndarray, boxes_xywh: np.ndarray, model: Model, size_hw: tuple[int, int]) -> np.ndarray:
    """The view of a stored person, or of a stored photo, which fills the upper left."""
    height, width = size_hw
    if model.config.kind == "person":
        none = np.zeros(1)
        matrix = view_from_stored(boxes_xywh[:1], none + 1, none, none > 0, size_hw)[0]
    else:
        matrix = fitted_view((pixels.shape[1], pixels.shape[0]), size_hw)
    border = BORDER_GREYS[model.config.border]
    return cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=border)
