"""Who labels the people: a network of a run or of a hub, ViTPose by transformers, or a file of results.

A teacher sees the stored picture of each person and their box, and answers in pixels of that picture.
"""

import io
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from semipose.configs.errors import InputError, one_line
from semipose.models.hub import is_address
from semipose.models.model_folder import read_model
from semipose.predict.command import name_of, weights_sha256
from semipose.predict.model import choose_device
from semipose.predict.predictor import Frame, Predictor
from semipose.predict.sources import Boxes
from semipose.sharding.annotations.boxes import box_overlap
from semipose.sharding.annotations.formats.rows import read_json
from semipose.sharding.annotations.record import Photo
from semipose.sharding.annotations.results import PhotoFinder, ResultRow
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.samples.crop import move_box, move_keypoints
from semipose.sharding.samples.sample import invert_axis_aligned
from semipose.sharding.store.files import file_sha256
from semipose.teach.settings import TeachSettings

VITPOSE = "vitpose:"
LEAST_IOU = 0.3
"""The overlap of boxes from which a row of results can be a person of the shards."""


@dataclass(frozen=True)
class StoredPerson:
    """A person of the shards."""

    id: int
    image_id: int
    file_name: str
    jpg: bytes
    box_xywh: np.ndarray
    """(4,) float64, stored pixels."""
    image_from_stored: np.ndarray
    """(2, 3) float64: source pixels from stored pixels."""

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return np.array(Image.open(io.BytesIO(self.jpg)).convert("RGB"))


class Teacher(ABC):
    """A model that labels people."""

    model: str
    """What it is, for the records."""
    names: tuple[str, ...]
    """The keypoints that it knows."""
    identity: str
    """What its labels depend on, besides the people."""
    revision: str | None = None
    licence: str | None = None

    @abstractmethod
    def label(self, people: Iterable[StoredPerson]) -> Iterator[np.ndarray]:
        """For each person (K, 3) float64: x and y in stored pixels, and the confidence from 0 to 1."""

    def why_nobody(self, min_confidence: float) -> str:
        """Why nobody has a label, after `label`, and the cure."""
        return (
            f"no keypoint has a confidence of {min_confidence} or more: lower min_confidence, or take "
            "another teacher"
        )


def load_teacher(by: str, skeleton: Skeleton, photos: Sequence[Photo], cfg: TeachSettings) -> Teacher:
    """The teacher that the user names. Raises InputError if it cannot be had.

    by: vitpose:MODEL, a .json file of COCO results, the folder of a run, a model folder or hf://OWNER/NAME.
    skeleton, photos: those of the shards.
    """
    if by.startswith(VITPOSE):
        return VitPoseTeacher(by.removeprefix(VITPOSE), cfg)
    if by.endswith(".json"):
        return ResultsTeacher(Path(by), skeleton, photos, cfg)
    return NetworkTeacher(by, cfg)


class NetworkTeacher(Teacher):
    """A network that this project trained."""

    def __init__(self, source: str, cfg: TeachSettings) -> None:
        model = read_model(source, choose_device(cfg.device), cfg.network)
        if model.config.kind != "person":
            raise InputError(
                f"{source}: this model finds people in whole photos, and single people are to be labelled: "
                "give a model of single people"
            )
        self._predictor = Predictor(
            model, batch_size=cfg.batch_size, precision=cfg.precision, flip_test=cfg.flip_test, min_peak=0.0
        )
        self.model = source if is_address(source) else name_of(source)
        self.names = model.config.skeleton.names
        started_from = model.config.provenance.licences.items()
        self.licence = "; ".join(f"{licence} (of {name})" for name, licence in started_from) or None
        self.identity = f"{weights_sha256(model.network)} {cfg.flip_test} {cfg.precision}"

    def label(self, people: Iterable[StoredPerson]) -> Iterator[np.ndarray]:
        """The heights of the peaks are the confidences."""
        frames = (
            Frame(person.pixels, {"file_name": person.file_name}, Boxes(person.box_xywh[None], np.ones(1)))
            for person in people
        )
        for answer in self._predictor.predict(frames, keep_all=True):
            if not len(answer):  # the box is outside of the picture
                yield np.zeros((len(self.names), 3))
                continue
            yield np.column_stack([answer.xy[0], answer.peaks[0].clip(0, 1)]).astype(np.float64)


class VitPoseTeacher(Teacher):
    """ViTPose of the transformers library (Xu et al., NeurIPS 2022; Apache-2.0)."""

    def __init__(self, source: str, cfg: TeachSettings) -> None:
        try:
            from transformers import AutoProcessor, VitPoseForPoseEstimation
        except ImportError as error:
            raise InputError(
                "vitpose: transformers is not installed: pip install 'semipose[vitpose]'"
            ) from error
        self._device, self._batch_size = choose_device(cfg.device), cfg.batch_size
        try:
            self._prepare = AutoProcessor.from_pretrained(source, revision=cfg.revision)
            network = VitPoseForPoseEstimation.from_pretrained(source, revision=cfg.revision)
        except Exception as error:  # the library has many kinds
            raise InputError(
                f"{VITPOSE}{source}: it cannot be loaded ({one_line(error)}): give the name of a ViTPose "
                "model of the Hugging Face Hub, or a folder that holds one"
            ) from error
        self._network = network.to(self._device).eval()
        labels = network.config.id2label
        self.model = f"{VITPOSE}{name_of(source) if Path(source).is_dir() else source}"
        self.names = tuple(labels[number] for number in sorted(labels))
        self.revision = cfg.revision or getattr(network.config, "_commit_hash", None)
        self.identity = f"{self.model} {weights_sha256(network)}"

    def label(self, people: Iterable[StoredPerson]) -> Iterator[np.ndarray]:
        """The scores of the library are the confidences."""
        waiting = iter(people)
        while batch := list(islice(waiting, self._batch_size)):
            boxes = [[person.box_xywh.tolist()] for person in batch]
            inputs = self._prepare([person.pixels for person in batch], boxes=boxes, return_tensors="pt")
            inputs = inputs.to(self._device)
            if self._network.config.backbone_config.num_experts > 1:
                # ViTPose+ has an expert for each data set that it was trained on; the first is COCO's.
                inputs["dataset_index"] = torch.zeros(len(batch), dtype=torch.int64, device=self._device)
            with torch.inference_mode():
                outputs = self._network(**inputs)
            for answers in self._prepare.post_process_pose_estimation(outputs, boxes=boxes):
                yield self._row(answers[0])

    def _row(self, answer: dict[str, Any]) -> np.ndarray:
        row = np.zeros((len(self.names), 3))
        labels = answer["labels"].cpu().numpy()
        row[labels, :2] = answer["keypoints"].cpu().numpy()
        row[labels, 2] = answer["scores"].cpu().numpy().clip(0, 1)
        return row


class _Row(msgspec.Struct):
    """A row of COCO results, or of the keypoints.json of a prediction."""

    keypoints: list[float]
    image_id: int | str | None = None
    file_name: str | None = None
    bbox: list[float] | None = None
    peaks: list[float] | None = None


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Category(msgspec.Struct):
    keypoints: list[str] = []


class _File(msgspec.Struct):
    annotations: list[_Row]
    images: list[_Image] = []
    categories: list[_Category] = []


class ResultsTeacher(Teacher):
    """Keypoints that any model has found: COCO results, or the keypoints.json of `semipose predict`."""

    def __init__(self, path: Path, skeleton: Skeleton, photos: Sequence[Photo], cfg: TeachSettings) -> None:
        if not path.is_file():
            raise InputError(f"{path}: this is not there: give a JSON file of COCO results")
        either: Any = list[_Row] | _File
        content: list[_Row] | _File = read_json(path, either, expected="a list of COCO results")
        file = content if isinstance(content, _File) else _File(content)
        if not file.annotations:
            raise InputError(f"{path}: it holds no results: give a JSON file of COCO results")
        self.names = cfg.names or self._names(path, file, skeleton)
        names_of_images = {image.id: image.file_name for image in file.images}
        finder = PhotoFinder(photos, by_id=True)
        self._rows: dict[int, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        for number, row in enumerate(file.annotations, start=1):
            person = self._read(path, number, row)
            if row.image_id is None and row.file_name is None:
                raise InputError(
                    f"{path}: row {number} names no photo: give it an `image_id` or a `file_name`"
                )
            file_name = row.file_name or names_of_images.get(row.image_id)  # type: ignore[arg-type]
            for photo in finder.find(ResultRow(bbox=[], image_id=row.image_id, file_name=file_name)):
                self._rows[photo.id].append(person)
        if not self._rows:
            raise InputError(
                f"{path}: none of its {len(file.annotations):,} rows is of a photo of the shards (such as "
                f"{photos[0].file_name}): give each row the `image_id` or the `file_name` of its photo"
            )
        self.model, self.revision = path.name, cfg.revision
        self._has_matched = False
        self.identity = f"{file_sha256(path)} {self.names}"

    @staticmethod
    def _names(path: Path, file: _File, skeleton: Skeleton) -> tuple[str, ...]:
        """The keypoints of the rows in their order, where the user does not give them."""
        named = next((category.keypoints for category in file.categories if category.keypoints), None)
        if named:
            return tuple(named)
        count = len(file.annotations[0].keypoints) // 3
        for known in (skeleton, COCO_17):
            if known.num_keypoints == count:
                return known.names
        raise InputError(
            f"{path}: its rows have {count} keypoints, and the shards have {skeleton.num_keypoints}: say "
            "which they are with names=[...], in their order"
        )

    def _read(self, path: Path, number: int, row: _Row) -> tuple[np.ndarray, np.ndarray]:
        """Box (4,) and keypoints (K, 3) with confidences of a row, in source pixels."""
        if len(row.keypoints) != 3 * len(self.names):
            raise InputError(
                f"{path}: row {number} has {len(row.keypoints)} numbers for {len(self.names)} keypoints: "
                "give x, y and the confidence of each, in the order of names=[...]"
            )
        keypoints = np.array(row.keypoints, np.float64).reshape(-1, 3)
        if row.peaks is not None and len(row.peaks) == len(self.names):
            keypoints[:, 2] = row.peaks
        if not np.isfinite(keypoints).all() or keypoints[:, 2].min() < 0:
            raise InputError(f"{path}: row {number} has numbers that are not finite, or confidences below 0")
        # Results of some tools have visibilities from 0 to 2 in place of confidences.
        keypoints[:, 2] = keypoints[:, 2].clip(0, 1)
        known = keypoints[keypoints[:, 2] > 0, :2]
        if row.bbox is not None and len(row.bbox) == 4:
            return np.array(row.bbox, np.float64), keypoints
        if not len(known):
            return np.zeros(4), keypoints
        return np.concatenate([known.min(0), np.ptp(known, axis=0)]), keypoints

    def label(self, people: Iterable[StoredPerson]) -> Iterator[np.ndarray]:
        """The rows of each photo are assigned to its people by the overlap of their boxes."""
        for _, group in groupby(people, key=lambda person: person.image_id):
            persons = list(group)
            rows = self._rows.get(persons[0].image_id, [])
            answers = [np.zeros((len(self.names), 3)) for _ in persons]
            boxes = np.array([move_box(each.box_xywh, each.image_from_stored) for each in persons])
            overlap = box_overlap(boxes, np.array([box for box, _ in rows]).reshape(-1, 4))
            for person, row in zip(
                *linear_sum_assignment(-overlap.reshape(len(boxes), len(rows))), strict=True
            ):
                if overlap[person, row] >= LEAST_IOU:
                    self._has_matched = True
                    stored_from_image = invert_axis_aligned(persons[person].image_from_stored)
                    answers[person] = move_keypoints(rows[row][1], stored_from_image)
            yield from answers

    def why_nobody(self, min_confidence: float) -> str:
        """The boxes, or the confidences."""
        if self._has_matched:
            return super().why_nobody(min_confidence)
        return (
            f"no box of the results overlaps that of a person in its photo by {LEAST_IOU:.0%}: give results "
            "of the same photos, with boxes in their pixels"
        )
