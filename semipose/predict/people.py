"""The people of one photo or frame, as a prediction gives them: arrays, pictures, COCO, CSV."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semipose.configs.errors import InputError
from semipose.sharding.annotations.skeleton import Skeleton, to_category

CSV_COLUMNS = ("file", "frame", "time_s", "person", "track", "keypoint", "x", "y", "peak")


@dataclass(frozen=True, kw_only=True)
class People:
    """N people of one photo, the surest first in whole photos, in the order of their boxes otherwise."""

    xy: np.ndarray
    """(N, K, 2) float32: pixels of the upright photo, with pixel centres at integers."""
    peaks: np.ndarray
    """(N, K) float32: how sure the network is of each keypoint, about 1 at best."""
    boxes: np.ndarray
    """(N, 4) float32: x, y, width, height in pixels; the extent of the keypoints in whole photos."""
    scores: np.ndarray
    """(N,) float32: the score of the box times the mean of the peaks above 0.2; the codec's in whole
    photos."""
    skeleton: Skeleton
    category: tuple[int, str] = (1, "person")
    """Id and name of the category in the annotation file of the training."""
    min_peak: float = 0.2
    """Keypoints with a lower peak count as not found: v = 0, hollow in pictures."""
    track_ids: np.ndarray | None = None
    """(N,) int64: who is who over the frames of a film; None without tracking."""
    file_name: str = "photo"
    image_id: int = 1
    size_wh: tuple[int, int] = (0, 0)
    """Width and height of the photo."""
    frame: int | None = None
    """Number of the frame in its film, from 0."""
    time_s: float | None = None
    """Time of the frame in seconds."""
    read_image: Callable[[], np.ndarray] | None = None
    """Gives the pixels (H, W, 3) uint8 RGB, for pictures."""

    def __len__(self) -> int:
        """N."""
        return len(self.xy)

    @property
    def names(self) -> tuple[str, ...]:
        """The K names of the keypoints."""
        return self.skeleton.names

    @property
    def is_found(self) -> np.ndarray:
        """(N, K) bool: whether the peak of a keypoint is at least `min_peak`."""
        return self.peaks >= self.min_peak

    @property
    def image(self) -> np.ndarray:
        """The pixels (H, W, 3) uint8 RGB; a photo is read again."""
        if self.read_image is None:
            raise InputError(f"{self.file_name}: its pixels are not at hand, so nothing can be drawn on them")
        return self.read_image()

    def draw(self, path: str | Path | None = None) -> np.ndarray:
        """The photo with its people drawn in, (h, w, 3) uint8 RGB; with a path, written there as well.

        Raises InputError for a path with another suffix than .webp, .png, .jpg or .jpeg.
        """
        from semipose.predict.draw import draw_people, encode_picture
        from semipose.sharding.store.files import write_atomic

        file = None if path is None else Path(path)
        if file is not None and file.suffix.lower() not in (".webp", ".png", ".jpg", ".jpeg"):
            raise InputError(f"{file}: a picture is written as .webp, .png or .jpg: name it so")
        picture = draw_people(self.image, self)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, encode_picture(picture, file))
        return picture

    def annotations(self, *, first_id: int = 1) -> list[dict[str, Any]]:
        """A COCO annotation for each person, with `score`, `peaks` and, in a film, `track_id`."""
        visible = np.where(self.is_found, 2, 0)
        rows = []
        for i in range(len(self)):
            keypoints = np.column_stack([self.xy[i].astype(np.float64).round(3), visible[i]])
            row = {
                "id": first_id + i,
                "image_id": self.image_id,
                "category_id": self.category[0],
                "bbox": self.boxes[i].astype(np.float64).round(3).tolist(),
                "area": round(float(self.boxes[i, 2] * self.boxes[i, 3]), 2),
                "iscrowd": 0,
                "num_keypoints": int(self.is_found[i].sum()),
                "keypoints": [int(n) if k % 3 == 2 else n for k, n in enumerate(keypoints.ravel().tolist())],
                "peaks": self.peaks[i].astype(np.float64).round(4).tolist(),
                "score": round(float(self.scores[i]), 5),
            }
            if self.track_ids is not None:
                row["track_id"] = int(self.track_ids[i])
            rows.append(row)
        return rows

    def image_row(self) -> dict[str, Any]:
        """The row of the photo in a COCO file; that of a frame says which film it is of."""
        row: dict[str, Any] = {"id": self.image_id, "file_name": self.file_name}
        row |= {"width": self.size_wh[0], "height": self.size_wh[1]}
        if self.frame is not None:
            name = Path(self.file_name)
            row["file_name"] = f"{name.with_suffix('').as_posix()}_{self.frame:06d}.jpg"
            row |= {"video": self.file_name, "frame": self.frame, "time_s": self.time_s}
        return row

    def category_row(self) -> dict[str, Any]:
        """The category in COCO's form."""
        return to_category(self.skeleton, category_id=self.category[0], name=self.category[1])

    def to_coco(self) -> dict[str, Any]:
        """A COCO file of this photo alone."""
        rows = {"images": [self.image_row()], "annotations": self.annotations()}
        return {**rows, "categories": [self.category_row()]}

    def to_csv(self, path: str | Path | None = None) -> str:
        """The tidy table of this photo as text, a row for each keypoint; with a path, written there too."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([CSV_COLUMNS, *csv_rows(self.image_row(), self.annotations(), self.names)])
        if path is not None:
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def to_supervision(self) -> Any:
        """The same as `supervision.KeyPoints`. Raises InputError if that library is not installed."""
        try:
            import supervision
        except ImportError as error:
            raise InputError("supervision is not installed: pip install 'semipose[supervision]'") from error
        return supervision.KeyPoints(
            xy=self.xy.astype(np.float32),
            keypoint_confidence=self.peaks.astype(np.float32),
            detection_confidence=self.scores.astype(np.float32),
            visible=self.is_found,
            class_id=np.full(len(self), self.category[0]),
        )


def csv_rows(
    image: dict[str, Any], people: Sequence[dict[str, Any]], names: Sequence[str]
) -> Iterator[list[Any]]:
    """A row for each keypoint of each person of one photo, as CSV_COLUMNS says; x and y in pixels.

    image, people: `image_row` and `annotations` of its people.
    """
    facts = [image.get("video", image["file_name"]), image.get("frame"), image.get("time_s")]
    for number, person in enumerate(people, start=1):
        values = iter(person["keypoints"])
        for name, peak in zip(names, person["peaks"], strict=True):
            x, y, _ = next(values), next(values), next(values)
            yield [*facts, number, person.get("track_id"), name, x, y, peak]


def read_pixels(photo: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an array in that form or of a PIL image, which is turned upright by EXIF."""
    if isinstance(photo, Image.Image):
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(photo).convert("RGB"))
    pixels = np.asarray(photo)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"an image must be an array (H, W, 3) of uint8, red first, and not {pixels.dtype} "
            f"{pixels.shape}: convert it, or give a path or a PIL image"
        )
    return np.ascontiguousarray(pixels)
