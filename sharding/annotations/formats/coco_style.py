"""Your own data in COCO's format: any category, any keypoints."""

from pathlib import Path
from typing import Literal

from semipose.configs.settings import settings
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.coco import read_coco
from semipose.sharding.annotations.formats.own_rows import OwnRows
from semipose.sharding.annotations.record import Annotations


@settings
class CocoStyleFormat(OwnRows):
    """Your own COCO keypoint file; settings replace what its category leaves out or says wrongly."""

    name: Literal["coco-style"] = "coco-style"
    annotations: Path
    """The JSON file with `images`, `annotations` and `categories`; everything else may be missing."""
    images: str | Path
    """Where the photos are, to which each `file_name` is relative: a folder, a zip file or a URL."""
    boxes: Detections | None = None
    """For a split that is scored: boxes of a detector instead of the annotated ones."""

    def read(self) -> Annotations:
        """The annotated things by COCO's rule, in the order of `images`, then of the annotations.

        An area that is missing or 0 is 0.53 of the box. Raises InputError as `read_coco`, and for settings
        that do not fit the keypoints.
        """
        return read_coco(
            self.annotations,
            self.images,
            describe=self.describe,
            prepare=self.prepare,
            category_names=self.category_names,
            has_own_keypoints=self.keypoints is not None,
            boxes=self.boxes,
        )
