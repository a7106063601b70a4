"""CrowdPose: COCO's format with 14 joints, without areas and `info`, and with a crowd index of each photo."""

from pathlib import Path
from typing import Any, Literal

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.findings import Findings
from semipose.sharding.annotations.formats.coco import read_coco
from semipose.sharding.annotations.record import Annotations
from semipose.sharding.annotations.skeleton import CROWDPOSE_14, Skeleton


@settings
class CrowdPoseFormat:
    """CrowdPose's own annotation file."""

    name: Literal["crowdpose"] = "crowdpose"
    annotations: Path
    """The JSON file, such as crowdpose_train.json."""
    images: str | Path
    """The photos 100000.jpg, ...: a folder, a zip file or a URL."""
    boxes: Detections | None = None
    """For a split that is scored: boxes of a detector instead of the annotated ones."""

    def read(self) -> Annotations:
        """The persons by COCO's rule, in the order of the JSON `images`, then of the annotations.

        Area is 0.53 of the annotated box, as CrowdPose's own scoring takes it. The bones of the file are
        COCO's, of 17 keypoints, and are replaced. `photo_facts` has the crowd index of each photo. Raises
        InputError for a file with other joints.
        """
        return read_coco(
            self.annotations, self.images, describe=_describe, area_from_box=True, boxes=self.boxes
        )


def _describe(category: dict[str, Any], where: str, _findings: Findings) -> Skeleton:
    names = tuple(category.get("keypoints") or ())
    if names != CROWDPOSE_14.names:
        raise InputError(
            f"{where}: the keypoints are {', '.join(map(str, names)) or 'none'}, but those of CrowdPose are "
            f"{', '.join(CROWDPOSE_14.names)}: use its file, or read this one with source.name=coco-style"
        )
    return CROWDPOSE_14
