"""A detector's boxes in place of the annotated ones: how an annotated split is scored without knowing it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from configs.load import InputError
from configs.settings import settings
from sharding.boxes import AREA_OF_BOX, clip_box
from sharding.findings import Fault, Findings
from sharding.formats.rows import RowReader, read_json
from sharding.record import Annotations, Person, Photo


class _Row(msgspec.Struct):
    image_id: int
    bbox: list[float]
    score: float
    category_id: int | None = None


@settings
class Detections:
    """A JSON in COCO's results form: `[{"image_id", "bbox", "score", "category_id"}, ...]`."""

    results: Path
    """The JSON file, such as COCO_val2017_detections_AP_H_56_person.json."""
    min_score: float = 0.0
    """Boxes with a lower score are left out (published: none)."""
    category: int = 1
    """The category_id of people; boxes of others are left out, boxes without one are taken."""

    def put_into(self, annotations: Annotations) -> Annotations:
        """The annotations with a person for each box, and the annotated persons as what they are scored by.

        Boxes are taken as they are, not clipped (published), but those wholly outside their photo are
        dropped. The ids are places in the file, from 1, photos come in the order of their first box. Raises
        InputError for a file of another kind, and where no box is of an annotated photo.
        """
        photos = photos_of(annotations)
        unlabelled = np.zeros((annotations.skeleton.num_keypoints, 3), np.float32)
        unlabelled.flags.writeable = False
        of_photo: dict[int, list[Person]] = {}
        for number, row in self._rows(photos, annotations.findings):
            photo = photos[row.image_id]
            person = Person(
                id=number,
                image_id=photo.id,
                file_name=photo.file_name,
                source_size_wh=photo.size_wh,
                box_xywh=(row.bbox[0], row.bbox[1], row.bbox[2], row.bbox[3]),
                keypoints=unlabelled,
                area=AREA_OF_BOX * row.bbox[2] * row.bbox[3],
                score=row.score,
            )
            of_photo.setdefault(photo.id, []).append(person)
        return replace(
            annotations,
            persons=tuple(person for people in of_photo.values() for person in people),
            empty_photos=tuple(photo for photo in photos.values() if photo.id not in of_photo),
            annotated=annotations.persons,
        )

    def _rows(self, photos: Mapping[int, Photo], findings: Findings) -> list[tuple[int, _Row]]:
        """The boxes to take, each with its place in the file; the faults of the others become findings."""
        raws = read_json(self.results, list[msgspec.Raw], expected="a list of COCO results")
        subject = f"box of {self.results.name}"
        unknown = Fault("box of a photo that the annotations do not list", "dropped", "", subject)
        outside = Fault("box empty or outside the photo", "dropped", "", subject)
        broken = Fault("bbox must be 4 numbers", subject=subject)
        reader = RowReader(_Row, findings, subject=subject)
        taken = []
        for number, raw in enumerate(raws, start=1):
            row = reader.decode(raw, number)
            if row is None or row.score < self.min_score or row.category_id not in (None, self.category):
                continue
            photo = photos.get(row.image_id)
            if photo is None:
                findings.add(unknown, f"in row {number}", f"image {row.image_id}")
            elif len(row.bbox) != 4:
                findings.add(broken, f"in row {number}", f"found {len(row.bbox)}")
            elif clip_box((row.bbox[0], row.bbox[1], row.bbox[2], row.bbox[3]), photo.size_wh) is None:
                findings.add(outside, f"in row {number}", str(row.bbox))
            else:
                taken.append((number, row))
        if not taken and findings.ids(unknown):
            raise InputError(
                f"{self.results}: none of its boxes is of a photo of {findings.file}: give the boxes of the "
                "same split"
            )
        return taken


def photos_of(annotations: Annotations) -> dict[int, Photo]:
    """All photos by id, those with persons first."""
    photos = {
        person.image_id: Photo(id=person.image_id, file_name=person.file_name, size_wh=person.source_size_wh)
        for person in annotations.persons
    }
    return photos | {photo.id: photo for photo in annotations.empty_photos}
