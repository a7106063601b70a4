"""Whole photos with drawn-up people, and a network that knows them, for tests of predicting and scoring."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from semipose.models.codecs.ae import AECodec
from semipose.models.codecs.dekr import DEKRCodec
from semipose.models.codecs.heatmap import STRIDE
from semipose.models.codecs.instances import InstanceCodec
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import apply, invert
from semipose.pipelines.people import People
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton
from semipose.sharding.store.ground_truth import GroundTruth
from tests.models.codecs import test_ae, test_cid, test_dekr


def truth_of(photos: Sequence[dict[str, Any]], skeleton: Skeleton = COCO_17) -> dict[str, Any]:
    """The ground truth of photos, each {"size_wh", "people": [(K, 3), ...], other fields of its row}."""
    images, rows = [], []
    for number, photo in enumerate(photos, start=1):
        facts = {key: value for key, value in photo.items() if key not in ("size_wh", "people")}
        width, height = photo["size_wh"]
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height, **facts})
        for person in photo["people"]:
            marked = person[person[:, 2] > 0, :2]
            (x0, y0), (x1, y1) = marked.min(0), marked.max(0)
            rows.append(
                {
                    "id": 10 + len(rows),
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                    "area": float(0.53 * (x1 - x0) * (y1 - y0)),
                    "num_keypoints": len(marked),
                    "keypoints": np.asarray(person, np.float64).ravel().tolist(),
                }
            )
    categories = [{"id": 1, "name": "person", "keypoints": list(skeleton.names), "skeleton": []}]
    return {"images": images, "categories": categories, "annotations": rows}


def cards_of(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The `KEY.json` of each photo."""
    return [
        {
            "id": image["id"],
            "image_id": image["id"],
            "file_name": image["file_name"],
            "ids": [row["id"] for row in truth["annotations"] if row["image_id"] == image["id"]],
            "areas": [row["area"] for row in truth["annotations"] if row["image_id"] == image["id"]],
            "ignored": [],
            "source_size": [image["width"], image["height"]],
        }
        for image in truth["images"]
    ]


def batches_of(truth: dict[str, Any], *, batch_size: int, short_px: int) -> Iterator[EvalBatch]:
    """Photos whose short side is shown on `short_px`, padded at the right and below to the largest."""
    cards = cards_of(truth)
    for start in range(0, len(cards), batch_size):
        records = cards[start : start + batch_size]
        sizes = np.array([record["source_size"] for record in records])
        zoom = short_px / sizes.min(1)
        width, height = (np.ceil(sizes * zoom[:, None] / 32).max(0) * 32).astype(int)
        # The first pixel's corner stays where it is: x_image = (x_view + 0.5) / zoom - 0.5.
        matrices = [[[1 / z, 0, 0.5 / z - 0.5], [0, 1 / z, 0.5 / z - 0.5]] for z in zoom]
        yield EvalBatch(
            torch.zeros(len(records), 3, height, width),
            torch.tensor(matrices, dtype=torch.float32),
            records,
        )


class PhotoOracle:
    """Answers with the maps of the annotated people, moved by `offset_px` of the view."""

    def __init__(self, truth: dict[str, Any], codec: InstanceCodec, *, offset_px: float = 0.0) -> None:
        self.truth, self.codec, self.offset_px = truth, codec, offset_px
        self.batch: EvalBatch | None = None
        self.calls = 0

    def watch(self, batches: Iterable[EvalBatch]) -> Iterator[EvalBatch]:
        """Pass the batches on and remember the one at hand; every second call is asked of mirror images."""
        for self.batch in batches:
            yield self.batch

    def people(self) -> People:
        """The people of the batch at hand, in view px."""
        assert self.batch is not None
        num_keypoints = self.codec.skeleton.num_keypoints
        photos = GroundTruth(self.truth, self.codec.skeleton).keypoints_of_photos(self.batch.records)
        people = test_dekr.pad(photos, num_keypoints)
        n, m, k, _ = people.points_xy.shape
        view_from_image = invert(self.batch.image_from_view)
        points = apply(view_from_image, people.points_xy.view(n, m * k, 2)).view(n, m, k, 2)
        corners = apply(view_from_image, people.corners_xy.view(n, m * 4, 2)).view(n, m, 4, 2)
        return People(points + self.offset_px, people.visible, people.is_person, corners)

    def __call__(self, images: torch.Tensor) -> Any:
        self.calls += 1
        people = self.people()
        hw = images.shape[-2] // STRIDE, images.shape[-1] // STRIDE
        return answer_of(people, hw, self.codec)


class MirrorOracle(PhotoOracle):
    """As `PhotoOracle`, and every second call shows the mirror images, as with the flip test."""

    def __call__(self, images: torch.Tensor) -> Any:
        maps = super().__call__(images)
        return maps if self.calls % 2 else self.codec.mirror(maps)  # mirroring is its own inverse


def answer_of(people: People, hw: tuple[int, int], codec: InstanceCodec) -> Any:
    """The maps of a network that has learned its targets by heart."""
    if isinstance(codec, AECodec):
        return test_ae.answer(people, hw, codec, fine=False)
    if isinstance(codec, DEKRCodec):
        return test_dekr.answer(codec.targets(people, hw), codec.skeleton.num_keypoints, hw)
    return test_cid.answer(codec.targets(people, hw))
