"""Boxes of a detector instead of the annotated ones, for scoring an annotated split fairly."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX, clip_box, sized
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.record import Annotations, Person, Photo
from semipose.sharding.annotations.results import FoundBox, PhotoFinder, note_boxes, read_results


@settings
class Detections:
    """A JSON in COCO's results form: `[{"image_id", "bbox", "score", "category_id"}, ...]`."""

    results: Path
    """The JSON file, such as COCO_val2017_detections_AP_H_56_person.json."""
    min_score: float = 0.0
    """Boxes with a lower score are left out (published: none)."""
    category: int = 1
    """The category_id of people; boxes of other categories are left out, and boxes without one are kept."""

    def put_into(self, annotations: Annotations) -> Annotations:
        """The annotations with one person per box, and the annotated persons that scores compare them with.

        Boxes are used unchanged, not clipped (published), but those completely outside their photo are
        dropped. Boxes of photos without annotations are in pixels of the upright photo. The ids are positions
        in the file, from 1; photos are in the order of their first box. Raises InputError for a file of
        another kind, and if no box belongs to an annotated photo.
        """
        photos = photos_of(annotations)
        if annotations.upright:
            listed = sized(photos.values(), annotations.photos, annotations.findings)
            photos = {photo.id: photo for photo in listed}
        unlabelled = np.zeros((annotations.skeleton.num_keypoints, 3), np.float32)
        unlabelled.flags.writeable = False
        of_photo: dict[int, list[Person]] = {}
        for box, photo in self._boxes(photos.values(), annotations.findings):
            person = Person(
                id=box.number,
                image_id=photo.id,
                file_name=photo.file_name,
                source_size_wh=photo.size_wh,
                box_xywh=box.box_xywh,
                keypoints=unlabelled,
                area=AREA_OF_BOX * box.box_xywh[2] * box.box_xywh[3],
                score=box.row.score,
            )
            of_photo.setdefault(photo.id, []).append(person)
        return replace(
            annotations,
            persons=tuple(person for people in of_photo.values() for person in people),
            empty_photos=tuple(photo for photo in photos.values() if photo.id not in of_photo),
            annotated=annotations.persons,
        )

    def _boxes(self, photos: Collection[Photo], findings: Findings) -> list[tuple[FoundBox, Photo]]:
        """The boxes to take, each with its photo; the faults of the others become findings."""
        subject = f"box of {self.results.name}"
        unknown = Fault("box of a photo that the annotations do not list", "dropped", "", subject)
        ambiguous = Fault("two photos have this name", cure="write the id of the photo", subject=subject)
        outside = Fault("box empty or outside the photo", "dropped", "", subject)
        beyond = Fault("box far beyond the photo", "kept", "", subject, is_identity=False)
        rows = read_results(
            self.results,
            findings,
            category=self.category,
            min_score=self.min_score,
            subject=subject,
            scored=True,
        )
        finder = PhotoFinder(photos, by_id=True)
        taken = []
        for box in rows:
            named, where = finder.find(box.row), f"in row {box.number}"
            if len(named) != 1:
                findings.add(ambiguous if named else unknown, where, f"image {box.row.image_id}")
            elif clip_box(box.box_xywh, named[0].size_wh) is None:
                findings.add(outside, where, str(box.row.bbox))
            else:
                taken.append((box, named[0]))
        if not taken and findings.ids(unknown):
            raise InputError(
                f"{self.results}: none of its boxes belongs to a photo of {findings.file}: give the boxes of "
                "the same split"
            )
        note_boxes([box for box, _ in taken], [photo.size_wh for _, photo in taken], findings, beyond=beyond)
        return taken


def photos_of(annotations: Annotations) -> dict[int, Photo]:
    """All photos by id, those with persons first."""
    photos = {
        person.image_id: Photo(id=person.image_id, file_name=person.file_name, size_wh=person.source_size_wh)
        for person in annotations.persons
    }
    return photos | {photo.id: photo for photo in annotations.empty_photos}
