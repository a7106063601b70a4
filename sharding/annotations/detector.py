"""People found by a detector of torchvision: the only file of sharding that imports torch, when needed."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field

from semipose.configs.disk import named_disk_errors
from semipose.configs.errors import InputError, why_unreadable
from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import (
    UNREADABLE,
    Box,
    FoundBoxes,
    number_photos,
    place_boxes,
    sized,
)
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.photos import Photos
from semipose.sharding.annotations.record import Photo
from semipose.sharding.samples.decode import decode_photo
from semipose.sharding.store.files import file_sha256, write_atomic
from semipose.sharding.store.progress_file import HashedLines

NOT_SEARCHED = replace(UNREADABLE, cure="remove or replace it: a detector searches all photos")
Result = dict[str, Any]
"""One box as a COCO result: image_id, file_name, category_id, bbox, score."""


@settings
class DetectorSettings:
    """A detector of torchvision, and which of its boxes count."""

    model: str = "fasterrcnn_resnet50_fpn_v2"
    """The name of a detector of torchvision."""
    weights: str = "DEFAULT"
    """The name of published weights, which torchvision downloads, or the path of a state dict."""
    category: int = 1
    """The label of people in the detector's output."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Boxes with a lower score are left out."""
    batch_size: int = Field(default=8, ge=1)
    """Number of photos that the detector processes at once."""
    device: str | None = None
    """The device, such as cuda or cpu; null: cuda if there is a GPU."""


PERSON = "person"
_OTHERS_MEAN = frozenset({"mouse"})
"""Classes whose names mean something else where keypoints are labelled: the detector's is a computer's."""


def class_of(thing: str, keypoints: Iterable[str]) -> int | None:
    """The label that the default detector gives to things of a category; None if it does not know them.

    Things of an unknown name that have wrists and shoulders among their keypoints are people: dancers, say.
    """
    usual, name = DetectorSettings(), thing.strip().casefold()
    if name == PERSON:  # torchvision takes seconds to import
        return usual.category
    from torchvision.models import get_model_weights

    names = get_model_weights(usual.model).DEFAULT.meta["categories"]
    if name in names and name not in _OTHERS_MEAN:
        return int(names.index(name))
    parts = " ".join(keypoints).casefold()
    return usual.category if "wrist" in parts and "shoulder" in parts else None


@settings
class DetectorBoxes(DetectorSettings):
    """Boxes of a detector of torchvision, found once and kept."""

    name: Literal["detector"] = "detector"
    cache: Path
    """The JSON file in which the boxes are kept, as COCO results, so that photos are searched only once."""

    def find(self, photos: Photos) -> tuple[list[FoundBoxes], Findings]:
        """All photos with the boxes found, those with the highest score first; and the photos' faults.

        Detection continues where it was stopped. Raises InputError for an unknown model, weights that do
        not fit it, photos that do not decode, and a cache of other settings or photos.
        """
        findings = Findings(photos.location)
        listed = number_photos(photos, findings)
        listed = sized(listed, photos, findings, are_listed=True, unreadable=NOT_SEARCHED)
        boxes: dict[str, list[Box]] = defaultdict(list)
        if all(photo.size_wh for photo in listed):  # faults stop the build: no hours are spent before
            for row in _detect(self, listed, photos):
                boxes[row["file_name"]].append(tuple(row["bbox"]))
        return place_boxes(listed, boxes, findings), findings


def _detect(cfg: DetectorBoxes, listed: Sequence[Photo], photos: Photos) -> list[Result]:
    """The results of all photos, from the cache or found now."""
    made_by = _identity(cfg, listed)
    if cfg.cache.exists():
        return _read_cache(cfg.cache, made_by)
    part = HashedLines(cfg.cache.with_name(f"{cfg.cache.name}.part"), json.dumps(made_by))
    with named_disk_errors(cfg.cache):
        cfg.cache.parent.mkdir(parents=True, exist_ok=True)
        with _alone(cfg.cache):
            lines = part.read()
            part.rewrite(lines)
            found = [json.loads(line) for line in lines]
            rows: list[Result] = [row for each in found for row in each["rows"]]
            done = found[-1]["next"] if found else 0
            for next_photo, new in _run(cfg, listed, done, photos):
                rows += new
                part.append(json.dumps({"next": next_photo, "rows": new}))
            content = {"info": {"detected_by": made_by}, "annotations": rows}
            write_atomic(cfg.cache, json.dumps(content).encode())
            part.rewrite([])
    return rows


def _identity(cfg: DetectorBoxes, listed: Sequence[Photo]) -> dict[str, Any]:
    """What decides the boxes."""
    weights = Path(cfg.weights)
    names = "\n".join(photo.file_name for photo in listed)
    return {
        "model": cfg.model,
        "weights": file_sha256(weights) if weights.is_file() else cfg.weights,
        "category": cfg.category,
        "min_score": cfg.min_score,
        "photos": len(listed),
        "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }


class _Row(msgspec.Struct):
    image_id: int
    file_name: str
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _Cache(msgspec.Struct):
    info: dict[str, dict[str, Any]]
    annotations: list[_Row]


def _read_cache(path: Path, made_by: dict[str, Any]) -> list[Result]:
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Cache)
        found = content.info["detected_by"]
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: this exists, but holds no boxes of a detector: remove it, or choose another "
            "source.boxes.cache"
        ) from error
    if found != made_by:
        differs = ", ".join(key for key in made_by if made_by[key] != found.get(key))
        raise InputError(
            f"{path}: these boxes were found with other settings or in other photos ({differs}): remove the "
            "file, or choose another source.boxes.cache"
        )
    return [msgspec.to_builtins(row) for row in content.annotations]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Lock the cache for this process. Raises InputError if another process is filling it."""
    path = cache.with_name(f".{cache.name}.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{cache}: another build is finding these boxes: wait for it, or choose another "
            "source.boxes.cache"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


class TorchvisionDetector:
    """A detector with its weights, on its device."""

    def __init__(self, cfg: DetectorSettings, *, setting: str, device: str | None = None) -> None:
        """setting: what the settings are called in messages, such as `source.boxes`.

        Raises InputError for an unknown model, and for weights that cannot be had or do not fit it.
        """
        import torch

        self._cfg = cfg
        self._device = torch.device(device or cfg.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = _load_model(cfg, setting).to(self._device).eval()

    def find(self, photos: Sequence[np.ndarray]) -> list[list[tuple[Box, float]]]:
        """The boxes x, y, w, h and scores of the people of photos (H, W, 3) uint8 RGB."""
        import torch

        with torch.inference_mode():
            # A copy, because PIL's pixels are read-only, which torch warns of.
            views = [torch.from_numpy(each.copy()).to(self._device).permute(2, 0, 1) / 255 for each in photos]
            return [_boxes_of(output, self._cfg) for output in self._model(views)]


def _boxes_of(output: dict[str, Any], cfg: DetectorSettings) -> list[tuple[Box, float]]:
    """The people of one photo; output: boxes (n, 4) x1, y1, x2, y2, labels (n,), scores (n,)."""
    corners, labels, scores = (output[key].tolist() for key in ("boxes", "labels", "scores"))
    return [
        ((x1, y1, x2 - x1, y2 - y1), score)
        for (x1, y1, x2, y2), label, score in zip(corners, labels, scores, strict=True)
        if label == cfg.category and score >= cfg.min_score
    ]


def _run(
    cfg: DetectorBoxes, listed: Sequence[Photo], start: int, photos: Photos
) -> Iterator[tuple[int, list[Result]]]:
    """The results of each batch from photo `start` on, with the index of the photo after it."""
    if start == len(listed):
        return
    detector = TorchvisionDetector(cfg, setting="source.boxes")
    with ThreadPoolExecutor() as pool:
        for first in range(start, len(listed), cfg.batch_size):
            batch = listed[first : first + cfg.batch_size]
            pixels = list(pool.map(lambda photo: _decode(photo, photos), batch))
            found = detector.find(pixels)
            rows = [row for pair in zip(batch, found, strict=True) for row in _results(*pair, cfg)]
            yield first + len(batch), rows


def _decode(photo: Photo, photos: Photos) -> np.ndarray:
    """The photo's pixels (H, W, 3) uint8, upright."""
    where = photos.where(photo.file_name)
    try:
        payload = photos.read(photo.file_name)
        pixels = decode_photo(payload, size_wh=photo.size_wh, where=where, upright=True).pixels
    except InputError as error:
        reason = str(error).partition(": replace")[0]
        raise InputError(
            f"{reason}: replace or remove it and start again; what was detected is kept"
        ) from error
    return pixels


def _results(photo: Photo, people: list[tuple[Box, float]], cfg: DetectorBoxes) -> list[Result]:
    """The people of one photo as COCO results."""
    return [
        {
            "image_id": photo.id,
            "file_name": photo.file_name,
            "category_id": cfg.category,
            "bbox": [round(number, 2) for number in box_xywh],
            "score": round(score, 5),
        }
        for box_xywh, score in people
    ]


def _load_model(cfg: DetectorSettings, setting: str) -> Any:
    """The detector with its weights, on the CPU. setting: what the settings are called in messages."""
    import torch
    from torchvision.models import detection, get_model, get_model_weights, list_models

    names = list_models(module=detection)
    if cfg.model not in names:
        raise InputError(
            f"{setting}.model: torchvision has no detector {cfg.model!r}: choose one of {', '.join(names)}"
        )
    try:
        if Path(cfg.weights).is_file():
            model = get_model(cfg.model, weights=None, weights_backbone=None)
            model.load_state_dict(torch.load(cfg.weights, map_location="cpu", weights_only=True))
            return model
        if cfg.weights in ("DEFAULT", *get_model_weights(cfg.model).__members__):
            return get_model(cfg.model, weights=cfg.weights)
    except Exception as error:  # torch and the download have many kinds
        raise InputError(
            f"{setting}.weights: {cfg.weights} cannot be loaded into {cfg.model} "
            f"({why_unreadable(error)}): give the path of a state dict of this model, or a name of its "
            "weights if this machine has internet access"
        ) from error
    raise InputError(
        f"{setting}.weights: {cfg.weights} is neither a file nor the name of weights of {cfg.model}: give "
        f"the path of a state dict, or one of {', '.join(get_model_weights(cfg.model).__members__)}"
    )
