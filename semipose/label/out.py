"""People to a labelling tool: `semipose label out`."""

import os
from pathlib import Path

import numpy as np
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.label.cvat import cvat_files
from semipose.label.label_studio import label_studio_files
from semipose.label.labels import LabelledPerson, LabelledPhoto, Labels, as_json, read_coco_labels
from semipose.label.settings import OutSettings
from semipose.label.yolo import IMAGES, yolo_files
from semipose.predict.output import KEYPOINTS
from semipose.sharding.annotations.boxes import clip_box
from semipose.sharding.annotations.photos import Photos, open_photos
from semipose.sharding.annotations.photos.base import safe_name
from semipose.sharding.store.files import write_atomic

SENT, COCO, PHOTOS = "sent.json", "annotations.json", "photos"


def send(source: Path, cfg: OutSettings, console: Console) -> Path:
    """Write the people of a prediction folder or of a COCO file for a tool; returns the folder.

    Raises InputError for a source that is none, for photos that are not there, and for an output that exists.
    """
    file = source / KEYPOINTS if source.is_dir() else source
    if not file.is_file():
        raise InputError(
            f"{source}: there is no {KEYPOINTS} here: give a folder of predictions, or a COCO file"
        )
    labels = read_coco_labels(file)
    if any(photo.is_frame for photo in labels.photos):
        raise InputError(
            f"{file}: it holds frames of films, which are no photos: predict photos of them instead"
        )
    output = cfg.output or Path("label") / cfg.format
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output}: this exists already: choose another output=, or remove it")
    photos = _photos_of(file, cfg)
    outside = _bring_inside(labels)
    if outside:
        console.print(
            f"note: {outside:,} keypoints outside of their photo go out as not labelled", highlight=False
        )
    if cfg.format == "cvat":
        files = cvat_files(labels)
    elif cfg.format == "label-studio":
        files = label_studio_files(labels, cfg.photos_at)
    elif cfg.format == "yolo":
        files = yolo_files(labels)
    else:
        files = {COCO: as_json(labels.to_coco(attributes=True))}
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    if photos is not None:
        write_photos(labels, photos, output / (IMAGES if cfg.format == "yolo" else PHOTOS), cfg.photos)
    write_atomic(output / SENT, as_json(labels.to_coco()))  # last: it makes the folder complete
    _tell(labels, output, cfg, console)
    return output


def _tell(labels: Labels, output: Path, cfg: OutSettings, console: Console) -> None:
    """Say how much went out, and if no keypoint did, why."""
    console.print(
        f"{output}: {labels.num_people:,} people with {labels.num_keypoints:,} keypoints in "
        f"{len(labels.photos):,} photos for {cfg.format}; keep {SENT}, by which `semipose label in` "
        "recognises them",
        highlight=False,
        soft_wrap=True,
    )
    are_predicted = any(person.peaks is not None for photo in labels.photos for person in photo.people)
    if are_predicted and not labels.num_keypoints:
        console.print(
            "note: no keypoint goes out, because those with a peak below min_peak of the prediction do not: "
            "predict again with a lower one (min_peak=0.05 of `semipose predict`, predict.min_peak=0.05 of "
            "`semipose label next`)",
            highlight=False,
            soft_wrap=True,
        )


def _photos_of(file: Path, cfg: OutSettings) -> Photos | None:
    if cfg.photos == "none":
        return None
    location = cfg.images or str(file.parent / PHOTOS)
    if cfg.images is None and not Path(location).is_dir():
        raise InputError(
            f"{file}: say where its photos are with images=FOLDER (or a zip), or give photos=none"
        )
    return open_photos(location)


def _bring_inside(labels: Labels) -> int:
    """Number people without an id, clip boxes, and unlabel keypoints outside of the photo; their count."""
    outside = 0
    next_id = max((person.id or 0 for photo in labels.photos for person in photo.people), default=0) + 1
    taken: set[int] = set()
    for photo in labels.photos:
        for person in photo.people:
            if person.id is None or person.id in taken:
                person.id, next_id = next_id, next_id + 1
            taken.add(person.id)
            outside += len(unlabel_outside(person, photo))
            if photo.size_wh is not None and person.box_xywh is not None:
                x, y, width, height = person.box_xywh.tolist()
                clipped = clip_box((x, y, width, height), photo.size_wh)
                person.box_xywh = None if clipped is None else np.array(clipped, np.float64)
    return outside


def unlabel_outside(person: LabelledPerson, photo: LabelledPhoto) -> list[int]:
    """Give the labelled keypoints more than a pixel outside of the photo v = 0; returns which they are.

    Those that are less far outside move to the edge of the photo.
    """
    if photo.size_wh is None:
        return []
    points_xy, size = person.keypoints[:, :2], np.array(photo.size_wh)
    is_labelled = person.keypoints[:, 2] > 0
    is_outside = is_labelled & ((points_xy < -1) | (points_xy > size + 1)).any(axis=1)
    person.keypoints[is_labelled, :2] = np.clip(points_xy, 0, size)[is_labelled]
    person.keypoints[is_outside, 2] = 0
    return np.flatnonzero(is_outside).tolist()


def write_photos(labels: Labels, photos: Photos, folder: Path, how: str) -> None:
    """Copy or link the photos into a folder, by their names. Raises InputError for those that are absent."""
    names = [photo.file_name for photo in labels.photos]
    absent = photos.absent(names)
    if absent:
        raise InputError(
            f"{photos.location}: {len(absent):,} of {len(names):,} photos are not here, such as "
            f"{sorted(absent)[0]}: correct images="
        )
    for name in names:
        path = folder / safe_name(name, photos.location)
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            original = Path(photos.location) / name
            if not original.is_file():
                raise InputError(
                    f"{photos.location}: only photos of a folder can be linked: give photos=copy"
                )
            path.unlink(missing_ok=True)
            os.symlink(original.absolute(), path)
        else:
            write_atomic(path, photos.read(name))
