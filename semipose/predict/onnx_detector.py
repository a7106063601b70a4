"""Boxes from the outputs of an ONNX detector; `boxes.OnnxDetector` says which form they have."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from semipose.configs.errors import InputError
from semipose.pipelines.views import MEAN_RGB, STD_RGB

if TYPE_CHECKING:
    from semipose.predict.boxes import OnnxDetector

Found = list[tuple[list[float], float]]
USUAL_SIDE = 560
"""The input's height and width where the file leaves them free."""


def find_with(session: Any, cfg: "OnnxDetector") -> Callable[[Sequence[np.ndarray]], list[Found]]:
    """The function from photos (H, W, 3) uint8 to the boxes and scores of their people.

    Raises InputError for a file with other outputs.
    """
    (given, *_), outputs = session.get_inputs(), {each.name for each in session.get_outputs()}
    if not {"dets", "labels"} <= outputs:
        raise InputError(
            f"people.file: {cfg.file} has the outputs {', '.join(sorted(outputs))}, not `dets` and `labels`: "
            "give a file as RF-DETR's export writes it"
        )
    height, width = (side if isinstance(side, int) else USUAL_SIDE for side in given.shape[2:4])

    def find(photos: Sequence[np.ndarray]) -> list[Found]:
        return [_people(photo) for photo in photos]

    def _people(photo: np.ndarray) -> Found:
        small = cv2.resize(photo, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
        image = ((small - np.array(MEAN_RGB, np.float32)) / np.array(STD_RGB, np.float32)).transpose(2, 0, 1)
        shares, logits = session.run(["dets", "labels"], {given.name: np.ascontiguousarray(image[None])})
        scores = 1 / (1 + np.exp(-logits[0, :, cfg.category].astype(np.float64)))
        sides = np.array([photo.shape[1], photo.shape[0]])
        centre, size = shares[0, :, :2] * sides, shares[0, :, 2:] * sides
        chosen = np.flatnonzero(scores >= cfg.min_score)
        return [([*(centre[i] - size[i] / 2).tolist(), *size[i].tolist()], float(scores[i])) for i in chosen]

    return find
