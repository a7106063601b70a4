"""Who finds the people of a photo: nobody (the whole photo), a file, or one of several detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field

from semipose.configs.errors import InputError, one_line
from semipose.configs.settings import settings
from semipose.predict.sources import NOBODY, Boxes
from semipose.sharding.annotations.detector import DetectorSettings, TorchvisionDetector, class_of

Share = Annotated[float, Field(ge=0, le=1)]
_GIVE = "or give boxes with people.name=boxes people.file=FILE, or take people.name=whole for cut-out people"


class BoxFinder(Protocol):
    """Finds the people of photos."""

    batch_size: int
    """How many photos it searches at once."""

    def find(self, photos: Sequence[np.ndarray]) -> list[Boxes]:
        """The people of photos (H, W, 3) uint8 RGB."""


class _Whole:
    """Each photo is one person."""

    batch_size = 1

    def find(self, photos: Sequence[np.ndarray]) -> list[Boxes]:
        sizes = [(photo.shape[1] - 1.0, photo.shape[0] - 1.0) for photo in photos]
        return [Boxes(np.array([[0.0, 0.0, *size]]), np.ones(1)) for size in sizes]


@settings
class WholePhotos:
    """Each photo is one person, as a cut-out is."""

    name: Literal["whole"] = "whole"

    def load(self, device: torch.device) -> BoxFinder:  # noqa: ARG002
        """The finder."""
        return _Whole()


@settings
class Detector(DetectorSettings):
    """A detector of torchvision; its weights are downloaded once."""

    name: Literal["detector"] = "detector"

    def load(self, device: torch.device) -> BoxFinder:
        """The detector on its device. Raises InputError if its weights cannot be had."""
        try:
            model = TorchvisionDetector(self, setting="people", device=self.device or str(device))
        except InputError as error:
            raise InputError(f"{error}; {_GIVE}") from error
        return _Searching(model.find, self.batch_size)


class _Searching:
    """A detector that gives a list of (box, score) for each photo."""

    def __init__(self, find: Any, batch_size: int) -> None:
        self._find, self.batch_size = find, batch_size

    def find(self, photos: Sequence[np.ndarray]) -> list[Boxes]:
        return [
            Boxes(
                np.array([box for box, _ in rows], np.float64).reshape(-1, 4), np.array([s for _, s in rows])
            )
            if rows
            else NOBODY
            for rows in self._find(photos)
        ]


@settings
class AutoBoxes:
    """The boxes of the COCO file that is given as a source; of other photos, those of `detector`."""

    name: Literal["auto"] = "auto"

    def detector_of(self, thing: str, keypoints: Sequence[str]) -> Detector:
        """The default detector for things of a category. Raises InputError if it does not know them."""
        category = class_of(thing, keypoints)
        if category is None:
            raise InputError(
                f"people: the model is of the category {thing!r}, for which torchvision's detector has no "
                "class: take people.name=whole if each photo shows one, give boxes with people.name=boxes "
                "people.file=FILE, or name a class with people.name=detector people.category=NUMBER (1 is "
                "person)"
            )
        return Detector(category=category)


@settings
class FileBoxes:
    """Boxes from a file."""

    name: Literal["boxes"] = "boxes"
    file: Path
    """A JSON file: COCO results (`[{"image_id" or "file_name", "bbox", "score"}, ...]`), or COCO annotations
    with `images`. An `image_id` of results is the photo's id in the COCO file that is predicted; of other
    photos it is the number at the end of the file name."""
    category: int = 1
    """The category_id of people in results; boxes of other categories are left out."""
    min_score: Share = 0.0
    """Boxes with a lower score are left out."""

    def load(self, device: torch.device) -> BoxFinder:  # noqa: ARG002
        """Nobody is searched for: photos that the file does not name have no people."""
        return _Searching(lambda photos: [[] for _ in photos], 1)


@settings
class RTDETR:
    """RT-DETR of the transformers library (Apache-2.0)."""

    name: Literal["rtdetr"] = "rtdetr"
    model: str = "PekingU/rtdetr_v2_r18vd"
    """A model of the Hugging Face Hub, which is downloaded once, or a folder."""
    category: str = "person"
    """What is searched for, by the model's own name."""
    min_score: Share = 0.5
    """Boxes with a lower score are left out."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Number of photos that are searched at once."""

    def load(self, device: torch.device) -> BoxFinder:
        """The detector. Raises InputError if the library or the model cannot be had."""
        try:
            from transformers import AutoImageProcessor, AutoModelForObjectDetection
        except ImportError as error:
            raise _not_installed("transformers", "rtdetr") from error
        try:
            prepare = AutoImageProcessor.from_pretrained(self.model)
            model = AutoModelForObjectDetection.from_pretrained(self.model).to(device).eval()
        except Exception as error:  # the library has many kinds
            raise InputError(
                f"people.model: {self.model} cannot be loaded ({one_line(error)}), {_GIVE}"
            ) from error
        labels = {name: number for number, name in model.config.id2label.items()}
        if self.category not in labels:
            raise InputError(
                f"people.category: {self.model} does not know {self.category!r}: take one of {[*labels]}"
            )

        def find(photos: Sequence[np.ndarray]) -> list[list[tuple[list[float], float]]]:
            inputs = prepare(images=list(photos), return_tensors="pt").to(device)
            with torch.inference_mode():
                outputs = model(**inputs)
            sizes = [photo.shape[:2] for photo in photos]
            found = prepare.post_process_object_detection(
                outputs, target_sizes=sizes, threshold=self.min_score
            )
            return [
                [
                    (_xywh(box), score)
                    for box, score, label in zip(
                        each["boxes"].tolist(), each["scores"].tolist(), each["labels"].tolist(), strict=True
                    )
                    if label == labels[self.category]
                ]
                for each in found
            ]

        return _Searching(find, self.batch_size)


@settings
class RFDETR:
    """RF-DETR of Roboflow (Apache-2.0 in these sizes)."""

    name: Literal["rfdetr"] = "rfdetr"
    size: Literal["nano", "small", "medium", "large"] = "nano"
    """Which of its published models, which is downloaded once."""
    category: int = 1
    """The category of people, as COCO counts."""
    min_score: Share = 0.5
    """Boxes with a lower score are left out."""

    def load(self, device: torch.device) -> BoxFinder:
        """The detector. Raises InputError if the library or the model cannot be had."""
        try:
            import rfdetr
        except ImportError as error:
            raise _not_installed("rfdetr", "rfdetr") from error
        try:
            model = getattr(rfdetr, f"RFDETR{self.size.title()}")(device=str(device))
        except Exception as error:  # downloads have many kinds
            raise InputError(
                f"people.size: RF-DETR {self.size} cannot be loaded ({one_line(error)}), {_GIVE}"
            ) from error

        def find(photos: Sequence[np.ndarray]) -> list[list[tuple[list[float], float]]]:
            found = [model.predict(photo, threshold=self.min_score) for photo in photos]
            return [
                [
                    (_xywh(box), float(score))
                    for box, score, label in zip(each.xyxy, each.confidence, each.class_id, strict=True)
                    if label == self.category
                ]
                for each in found
            ]

        return _Searching(find, 1)


@settings
class OnnxDetector:
    """A detector as an ONNX file, with the inputs and outputs that RF-DETR's export writes.

    Input: (1, 3, H, W), RGB normalised by the mean and deviation of ImageNet. Outputs: `dets` (1, Q, 4),
    centre, width and height as shares of the image, and `labels` (1, Q, C), logits.
    """

    name: Literal["onnx"] = "onnx"
    file: Path
    """The ONNX file."""
    category: Annotated[int, Field(ge=0)] = 1
    """The column of people in `labels`."""
    min_score: Share = 0.5
    """Boxes with a lower score are left out."""

    def load(self, device: torch.device) -> BoxFinder:  # noqa: ARG002
        """The detector. Raises InputError if the library is absent or the file is none of these."""
        try:
            import onnxruntime
        except ImportError as error:
            raise _not_installed("onnxruntime", "onnx") from error
        from semipose.predict.onnx_detector import find_with

        try:
            session = onnxruntime.InferenceSession(str(self.file))
        except Exception as error:  # onnxruntime has many kinds
            raise InputError(
                f"people.file: {self.file} cannot be loaded ({one_line(error)}): give an ONNX file"
            ) from error
        return _Searching(find_with(session, self), 1)


FinderSettings = WholePhotos | FileBoxes | Detector | RTDETR | RFDETR | OnnxDetector
PeopleSettings = AutoBoxes | FinderSettings


def _xywh(corners: Any) -> list[float]:
    x1, y1, x2, y2 = map(float, corners)
    return [x1, y1, x2 - x1, y2 - y1]


def _not_installed(package: str, extra: str) -> InputError:
    return InputError(f"people: {package} is not installed: pip install 'semipose[{extra}]', {_GIVE}")


def named(people: Any) -> PeopleSettings:
    """The finder of that name with its defaults, or the settings themselves. Raises InputError."""
    kinds = (AutoBoxes, WholePhotos, Detector, RTDETR, RFDETR)
    by_name = {kind().name: kind for kind in kinds}
    if isinstance(people, str):
        if people not in by_name:
            raise InputError(f"people: there is no {people!r}: take one of {', '.join(by_name)}")
        return by_name[people]()
    return people
