"""The loop that one writes first: cv2 and ShardWriter in one process, each photo decoded once."""

import json
from pathlib import Path

import cv2
import numpy as np
from webdataset.writer import ShardWriter

from semipose.sharding.annotations.record import Annotations
from semipose.sharding.samples.crop import (
    JPEG_QUALITY,
    PersonCrop,
    cut,
    image_from_stored,
    move_box,
    move_keypoints,
    person_region,
)
from semipose.sharding.samples.person import encode_pose
from semipose.sharding.samples.sample import PhotoTask, invert_axis_aligned


def plain_loop(
    tasks: list[PhotoTask], annotations: Annotations, crop: PersonCrop, folder: Path, samples_per_shard: int
) -> None:
    """Store the same regions and labels as `build` does, without its checks, index, hashes and resumption."""
    folder.mkdir(parents=True)
    count = 0
    with ShardWriter(str(folder / "%06d.tar"), maxcount=samples_per_shard, verbose=0) as writer:
        for task in tasks:
            photo = cv2.imread(annotations.photos.where(task.photo.file_name))
            assert photo is not None, "the build has read the same photo"
            for person in task.persons:
                region = person_region(person.box_xywh, (photo.shape[1], photo.shape[0]), crop)
                _, jpg = cv2.imencode(".jpg", cut(photo, region), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
                matrix = image_from_stored(region)
                inverse = invert_axis_aligned(matrix)
                pose = encode_pose(
                    move_box(np.array(person.box_xywh), inverse), move_keypoints(person.keypoints, inverse)
                )
                card = {"id": person.id, "area": person.area, "image_from_stored": matrix.tolist()}
                sample = {"jpg": jpg.tobytes(), "pose": pose, "json": json.dumps(card).encode()}
                writer.write({"__key__": f"{count:09d}", **sample})
                count += 1
