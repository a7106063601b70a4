"""Keypoints of photos: photos and boxes to views, a network, and people in pixels of the photos."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from semipose.configs.errors import InputError
from semipose.models.model_folder import Model
from semipose.pipelines.batch import EvalBatch
from semipose.predict.boxes import AutoBoxes, BoxFinder, FinderSettings, PeopleSettings
from semipose.predict.exported import ExportedModel
from semipose.predict.people import People, read_pixels
from semipose.predict.sources import Boxes, PhotoItem, find_work
from semipose.predict.views import Cut, ViewMaker, cut_person, cut_photo, shown_scale
from semipose.sharding.annotations.boxes import clip_box
from semipose.training.predict import Predictions, autocast_of, predict
from semipose.training.scoring.oks import person_score, without_duplicates

Precision = Literal["no", "bf16", "fp16"]
PEOPLE_AT_ONCE, PHOTOS_AT_ONCE = 32, 4
ARRAYS = ("xy", "peaks", "boxes", "scores")
"""The arrays of `People` that a network and its boxes decide."""


@dataclass(frozen=True)
class Frame:
    """A photo or a frame of a film, decoded."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB, upright."""
    facts: dict[str, Any]
    """The fields of `People` that say which photo it is."""
    boxes: Boxes | None = None
    """The people where they are known."""


@dataclass(frozen=True)
class _Row:
    """The prediction of one person."""

    xy: np.ndarray
    peaks: np.ndarray
    area: float


class Predictor:
    """A model, ready to predict. `semipose.load` makes it; `predictor("photo.jpg")` gives `People`."""

    def __init__(
        self,
        model: Model | ExportedModel,
        *,
        people: PeopleSettings | None = None,
        batch_size: int | None = None,
        precision: Precision = "no",
        flip_test: bool = False,
        min_peak: float = 0.2,
        min_score: float = 0.1,
    ) -> None:
        """
        Args:
            model: what `read_model` or `read_exported` gives.
            people: who finds the people of a photo whose boxes are not given; not for detector-free models.
            batch_size: views in one pass of the network; None: 32 people or 4 whole photos.
            precision: of the network's pass: no (float32), bf16 or fp16.
            flip_test: whether to average over each view and its mirror image.
            min_peak: keypoints with a lower peak count as not found.
            min_score: people that a detector-free model finds with a lower score are left out.

        Raises InputError for settings that an exported model has no place for.
        """
        self.model = model
        self.is_person = model.config.kind == "person"
        self.batch_size = batch_size or (PEOPLE_AT_ONCE if self.is_person else PHOTOS_AT_ONCE)
        self.min_peak, self.min_score = min_peak, min_score
        self._people = people or AutoBoxes()
        self._finder: BoxFinder | None = None
        self._answer: Callable[[EvalBatch], Predictions]
        if isinstance(model, ExportedModel):
            if flip_test or precision != "no":
                name = "flip_test" if flip_test else "precision"
                raise InputError(f"{name}: {model.source} holds the choice of its export: leave {name} out")
            self.device, size_hw, self._answer = model.device, model.size_hw, model.predict
        else:
            self.device = next(model.network.parameters()).device
            size_hw = model.config.size_hw or (0, 0)
            autocast = autocast_of(self.device, precision)
            self._answer = partial(_answer_of, model, self.device, flip_test=flip_test, autocast=autocast)
        self._views = ViewMaker(size_hw, model.config.border)

    def __call__(self, photos: Any, boxes: Any = None) -> Any:
        """The people of a photo, or a list of those of several.

        Args:
            photos: a path or an address, a PIL image, an array (H, W, 3) of uint8 with red first, or a list
                of such.
            boxes: the boxes of the people as [[x, y, width, height], ...] in pixels of the upright photo; of
                a list of photos, a list of such lists. None: they are found as `people` says.

        Each given box has its row, in their order. Raises InputError for a box outside its photo.
        """
        are_many = isinstance(photos, list | tuple)
        listed = list(photos) if are_many else [photos]
        given = [None] * len(listed) if boxes is None else list(boxes) if are_many else [boxes]
        if len(given) != len(listed):
            raise InputError(
                f"there are boxes for {len(given)} photos, and {len(listed)} photos: give equally many"
            )
        frames = (
            _with_all_boxes(_frame_of(photo, None if box is None else _as_boxes(box)))
            for photo, box in zip(listed, given, strict=True)
        )
        results = list(self.predict(frames, keep_all=boxes is not None))
        return results if are_many else results[0]

    def stream(self, *sources: str | Path) -> Iterator[People]:
        """The people of each photo and each frame of folders, zips, films, ..., one after the other.

        Raises InputError at a photo that cannot be read.
        """
        from semipose.predict.video import frame_of_film, read_frames

        work = find_work([str(source) for source in sources], keypoints=self.model.config.skeleton.names)
        yield from self.predict(frame_of_item(item, item.read()) for item in work.photos)
        for film in work.films:
            frames = (frame_of_film(film, frame) for frame in read_frames(film))
            yield from self.predict(frames, keep_pixels=np.asarray)

    def predict(
        self,
        frames: Iterable[Frame],
        *,
        keep_all: bool = False,
        keep_pixels: Callable[[np.ndarray], np.ndarray | None] | None = None,
    ) -> Iterator[People]:
        """The people of each frame, in order; at most a batch of views is held.

        keep_all: whether people who repeat a better scored one stay (duplicates are OKS > 0.9).
        keep_pixels: what is kept of a frame's pixels until its people are complete, and given to
        `People.image`; without it, what the frame says.
        """
        if self.is_person:
            return self._of_people(frames, keep_all, keep_pixels)
        return self._of_photos(frames, keep_pixels)

    def _of_people(
        self, frames: Iterable[Frame], keep_all: bool, keep_pixels: Callable[[np.ndarray], Any] | None
    ) -> Iterator[People]:
        """Cut the people out frame by frame, and predict them in full batches across frames."""
        waiting: deque[tuple[Frame, Boxes]] = deque()
        cuts: list[Cut] = []
        rows: list[_Row] = []

        def complete() -> Iterator[People]:
            while waiting and len(rows) >= len(waiting[0][1].xywh):
                frame, boxes = waiting.popleft()
                yield self._people_of(frame, boxes, rows[: len(boxes.xywh)], keep_all)
                del rows[: len(boxes.xywh)]

        for frame, boxes in self._with_boxes(frames):
            boxes = _inside(boxes, frame.pixels)
            waiting.append((_kept(frame, keep_pixels), boxes))
            for box_xywh in boxes.xywh:
                cuts.append(cut_person(frame.pixels, box_xywh, self.model.config.person_crop))
                if len(cuts) == self.batch_size:
                    rows += self._rows(cuts)
                    cuts.clear()
            yield from complete()
        if cuts:
            rows += self._rows(cuts)
        yield from complete()

    def _of_photos(
        self, frames: Iterable[Frame], keep_pixels: Callable[[np.ndarray], Any] | None
    ) -> Iterator[People]:
        """Predict whole photos in batches."""
        waiting: list[tuple[Frame, Cut]] = []
        for frame in frames:
            cut = cut_photo(frame.pixels, self._shown_px(frame.pixels))
            waiting.append((_kept(frame, keep_pixels), cut))
            if len(waiting) == self.batch_size:
                yield from self._photos(waiting)
                waiting.clear()
        if waiting:
            yield from self._photos(waiting)

    def _photos(self, waiting: Sequence[tuple[Frame, Cut]]) -> Iterator[People]:
        cuts = [cut for _, cut in waiting]
        is_fitted = isinstance(self.model, ExportedModel)
        found = self._run(
            self._views.fitted_photos(cuts) if is_fitted else self._views.photos(cuts, self._photo_px)
        )
        assert found.samples is not None
        assert found.scores is not None
        for sample, (frame, _) in enumerate(waiting):
            chosen = np.flatnonzero((found.samples == sample) & (found.scores >= self.min_score))
            chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")]
            xy, peaks = found.points_xy[chosen], found.peaks[chosen]
            yield self._result(frame, xy, peaks, _extent(xy, peaks), found.scores[chosen])

    @property
    def _photo_px(self) -> int:
        """On how many pixels a network of whole photos sees the shorter side."""
        assert self.model.config.photo_views is not None
        return self.model.config.photo_views.size

    def _shown_px(self, pixels: np.ndarray) -> float:
        """On how many pixels the shorter side of this photo is seen."""
        if not isinstance(self.model, ExportedModel):
            return self._photo_px
        size_wh = (pixels.shape[1], pixels.shape[0])
        return min(size_wh) * shown_scale(size_wh, self.model.size_hw)

    def _with_boxes(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Boxes]]:
        """Each frame with its people; a detector searches several frames at once."""
        group: list[Frame] = []
        for frame in frames:
            if frame.boxes is not None and not group:
                yield frame, frame.boxes
                continue
            group.append(frame)
            if len(group) >= self.finder.batch_size:
                yield from self._searched(group)
                group.clear()
        yield from self._searched(group)

    def _searched(self, group: Sequence[Frame]) -> Iterator[tuple[Frame, Boxes]]:
        unknown = [frame for frame in group if frame.boxes is None]
        found = iter(self.finder.find([frame.pixels for frame in unknown]) if unknown else [])
        for frame in group:
            yield frame, next(found) if frame.boxes is None else frame.boxes

    @property
    def finder(self) -> BoxFinder:
        """Who finds the people; loaded when first needed."""
        if self._finder is None:
            self._finder = self.choose_finder().load(self.device)
        return self._finder

    def choose_finder(self) -> FinderSettings:
        """The settings of who finds the people. Raises InputError where no detector knows such things."""
        if isinstance(self._people, AutoBoxes):
            config = self.model.config
            return self._people.detector_of(config.category_name, config.skeleton.names)
        return self._people

    def _rows(self, cuts: Sequence[Cut]) -> list[_Row]:
        found = self._run(self._views.people(cuts))
        columns = zip(found.points_xy, found.peaks, found.areas.tolist(), strict=True)
        return [_Row(*column) for column in columns]

    def _run(self, batch: EvalBatch) -> Predictions:
        found = self._answer(batch)
        if not (np.isfinite(found.points_xy).all() and np.isfinite(found.peaks).all()):
            raise InputError(
                f"{self.model.source}: the network gives values that are not finite numbers: its weights are "
                "broken, or precision=fp16 is too small for it"
            )
        return found

    def _people_of(self, frame: Frame, boxes: Boxes, rows: Sequence[_Row], keep_all: bool) -> People:
        """The people of one frame of single views, without those that repeat a better scored one."""
        num_keypoints = self.model.config.skeleton.num_keypoints
        xy = np.array([row.xy for row in rows], np.float32).reshape(-1, num_keypoints, 2)
        peaks = np.array([row.peaks for row in rows], np.float32).reshape(-1, num_keypoints)
        scores = person_score(boxes.scores, peaks)
        kept = list(range(len(rows)))
        if not keep_all and rows:
            areas = np.array([row.area for row in rows])
            kept = sorted(without_duplicates(xy, areas, scores, self.model.config.skeleton.sigmas))
        return self._result(frame, xy[kept], peaks[kept], boxes.xywh[kept], scores[kept])

    def restored(
        self,
        frame: Frame,
        arrays: Mapping[str, Any],
        keep_pixels: Callable[[np.ndarray], np.ndarray | None] | None = None,
    ) -> People:
        """The people of a frame as `predict` gave them, from their ARRAYS as lists."""
        num_keypoints = self.model.config.skeleton.num_keypoints
        shapes = {
            "xy": (-1, num_keypoints, 2),
            "peaks": (-1, num_keypoints),
            "boxes": (-1, 4),
            "scores": (-1,),
        }
        given = [np.array(arrays[name], np.float32).reshape(shapes[name]) for name in ARRAYS]
        return self._result(_kept(frame, keep_pixels), *given)

    def _result(
        self, frame: Frame, xy: np.ndarray, peaks: np.ndarray, boxes: np.ndarray, scores: np.ndarray
    ) -> People:
        config = self.model.config
        return People(
            xy=xy,
            peaks=peaks,
            boxes=boxes.astype(np.float32).reshape(-1, 4),
            scores=scores.astype(np.float32),
            skeleton=config.skeleton,
            category=(config.category_id, config.category_name),
            min_peak=self.min_peak,
            **frame.facts,
        )


def _answer_of(
    model: Model,
    device: torch.device,
    batch: EvalBatch,
    *,
    flip_test: bool,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Predictions:
    """What a network finds in a batch that is on the host."""
    batch = replace(
        batch,
        image=batch.image.to(device, non_blocking=True),
        image_from_view=batch.image_from_view.to(device),
    )
    networks = {"network": model.network}
    return predict(networks, [batch], codec=model.codec, flip_test=flip_test, autocast=autocast)["network"]


def _extent(xy: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """The boxes (P, 4) as x, y, width, height of the keypoints that were found, or else of all."""
    is_found = peaks > 0
    is_found = (is_found | ~is_found.any(1, keepdims=True))[..., None]
    least, most = np.where(is_found, xy, np.inf).min(1), np.where(is_found, xy, -np.inf).max(1)
    return np.concatenate([least, most - least], axis=1)


def _kept(frame: Frame, keep_pixels: Callable[[np.ndarray], np.ndarray | None] | None) -> Frame:
    """The frame without its pixels, or with what is kept of them."""
    facts = {"size_wh": (frame.pixels.shape[1], frame.pixels.shape[0]), **frame.facts}
    if keep_pixels is not None:
        kept = keep_pixels(frame.pixels)
        facts["read_image"] = None if kept is None else partial(np.asarray, kept)
    return Frame(np.empty((0, 0, 3), np.uint8), facts, frame.boxes)


def _frame_of(photo: Any, boxes: Boxes | None) -> Frame:
    """A photo that the user of `Predictor.__call__` gives."""
    if isinstance(photo, str | Path):
        work = find_work([str(photo)])
        if len(work.photos) != 1 or work.films:
            raise InputError(f"{photo}: this is not one photo: call stream(...) for folders, zips and films")
        item = replace(work.photos[0], boxes=boxes)
        return frame_of_item(item, item.read())
    pixels = read_pixels(photo)
    name = getattr(photo, "filename", "") or "photo"
    return Frame(pixels, {"file_name": Path(name).name, "read_image": partial(np.asarray, pixels)}, boxes)


def frame_of_item(item: PhotoItem, pixels: np.ndarray) -> Frame:
    """A photo of a source, for the predictor."""
    facts = {"file_name": item.file_name, "image_id": item.id, "read_image": item.read}
    return Frame(pixels, facts, item.boxes)


def _as_boxes(rows: Any) -> Boxes:
    """Boxes that the user gives as [[x, y, width, height], ...]."""
    try:
        xywh = np.asarray(rows, np.float64).reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise InputError("boxes must be [[x, y, width, height], ...] in pixels of the photo") from error
    if not np.isfinite(xywh).all() or (xywh[:, 2:] <= 0).any():
        raise InputError("boxes must be [[x, y, width, height], ...] with finite numbers and sides above 0")
    return Boxes(xywh, np.ones(len(xywh)))


def _inside(boxes: Boxes, pixels: np.ndarray) -> Boxes:
    """The boxes without those that are empty or outside the photo."""
    inside = _are_inside(boxes, pixels)
    return Boxes(boxes.xywh[inside], boxes.scores[inside])


def _are_inside(boxes: Boxes, pixels: np.ndarray) -> list[bool]:
    """Whether each box shows some of the photo."""
    size_wh = (pixels.shape[1], pixels.shape[0])
    return [clip_box(tuple(box), size_wh) is not None for box in boxes.xywh.tolist()]


def _with_all_boxes(frame: Frame) -> Frame:
    """The frame, whose boxes the user gave. Raises InputError where one is outside the photo."""
    boxes, (height, width) = frame.boxes, frame.pixels.shape[:2]
    if boxes is not None and not all(are_inside := _are_inside(boxes, frame.pixels)):
        row = are_inside.index(False)
        raise InputError(
            f"boxes: {boxes.xywh[row].tolist()} (x, y, width, height; row {row}) is outside the photo, which "
            f"has {width} x {height} pixels: leave it out"
        )
    return frame
