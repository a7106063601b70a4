"""Ultralytics' YOLO-pose folders, written and read.

The format is that of Ultralytics' documentation (docs.ultralytics.com/datasets/pose): a line for each person
with class, centre and size of the box, and x, y, v of each keypoint, all shares of the photo's width and
height; `kpt_shape` and `flip_idx` in data.yaml. Ultralytics refuses coordinates below 0 or above 1. It keeps
no ids, so people are recognised by their keypoints and boxes.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from semipose.configs.errors import InputError
from semipose.label.labels import LabelledPerson, LabelledPhoto, Labels, bare_skeleton, order_of_names

DATA, IMAGES, LINES = "data.yaml", "images/train", "labels/train"


def yolo_files(labels: Labels) -> dict[str, bytes]:
    """data.yaml and the labels of each photo.

    Raises InputError for a photo without a size, and for photos whose labels would be in one file.
    """
    skeleton = labels.skeleton
    data = {
        "path": ".",
        "train": IMAGES,
        "val": IMAGES,
        "names": {0: labels.category[1]},
        "kpt_shape": [skeleton.num_keypoints, 3],
        "flip_idx": list(skeleton.flip_order),
        "kpt_names": {0: list(skeleton.names)},
    }
    files = {DATA: yaml.safe_dump(data, sort_keys=False, allow_unicode=True).encode()}
    for photo in labels.photos:
        file = _label_file(photo.file_name)
        if file in files:
            raise InputError(
                f"{photo.file_name}: in the YOLO format its labels are in {file}, like those of "
                "another photo: rename one of them, or choose another format="
            )
        files[file] = "".join(_line(person, photo) for person in photo.people).encode()
    return files


def _label_file(file_name: str) -> str:
    return f"{LINES}/{Path(file_name).with_suffix('.txt').as_posix()}"


def _line(person: LabelledPerson, photo: LabelledPhoto) -> str:
    if photo.size_wh is None:
        raise InputError(
            f"{photo.file_name}: it has no width and height, of which YOLO's coordinates are shares: add "
            "them to the file"
        )
    size = np.array(photo.size_wh, np.float64)
    box = person.box_or_extent_xywh
    if box is None:
        return ""
    numbers = [*((box[:2] + box[2:] / 2) / size), *(box[2:] / size)]
    for x, y, v in person.keypoints:
        numbers += [x / size[0], y / size[1], v] if v else [0, 0, 0]
    return " ".join(["0", *(f"{min(max(value, 0), 2):.8g}" for value in numbers)]) + "\n"


def read_yolo(path: Path, sent: Labels) -> Labels:
    """The people of the photos that went out, from a data.yaml or its folder, except photos without a file.

    Raises InputError for a data.yaml of other keypoints, and for lines that do not fit it.
    """
    data = path / DATA if path.is_dir() else path
    try:
        content = yaml.safe_load(data.read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{data}: this cannot be read as the data.yaml of a YOLO-pose folder") from error
    names = sent.skeleton.names
    shape = content.get("kpt_shape") if isinstance(content, dict) else None
    if shape not in ([len(names), 3], [len(names), 2]):
        raise InputError(
            f"{data}: kpt_shape is {shape}, but {len(names)} keypoints went out: give the data.yaml that "
            "`semipose label out` wrote, or a pose set with these keypoints"
        )
    listed = content.get("kpt_names") or {}
    own = (listed.get(0) if isinstance(listed, dict) else listed) or names
    order = order_of_names(data, own, names)
    bases = Counter(Path(_label_file(photo.file_name)).name for photo in sent.photos)
    photos = []
    for photo in sent.photos:
        file = _find_labels(data.parent, photo.file_name, bases)
        if file is not None and photo.size_wh is not None:
            people = [
                _read_line(line, f"{file}:{number}", photo.size_wh, order, shape[1])
                for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1)
                if line.strip()
            ]
            photos.append(LabelledPhoto(photo.file_name, photo.size_wh, people))
    return Labels(bare_skeleton(names), sent.category, photos)


def _find_labels(folder: Path, file_name: str, bases: Counter[str]) -> Path | None:
    """The labels of a photo where they went out, or wherever a tool put them below `labels`.

    bases: how many photos went out whose files of labels have the same last name; of several, a file in
    another folder may be that of another photo.
    """
    file = folder / _label_file(file_name)
    if file.is_file():
        return file
    if bases[file.name] > 1:
        return None
    matches = sorted((folder / "labels").rglob(file.name)) if (folder / "labels").is_dir() else []
    return matches[0] if len(matches) == 1 else None


def _read_line(
    line: str, where: str, size_wh: tuple[int, int], order: list[int], dims: int
) -> LabelledPerson:
    expected = 5 + dims * len(order)
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError as error:
        raise InputError(f"{where}: the line holds something that is no number: correct it") from error
    if len(numbers) != expected or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{where}: the line has {len(numbers)} numbers, but a class, a box and {len(order)} keypoints "
            f"are {expected}: correct it"
        )
    size = np.array(size_wh, np.float64)
    points = np.array(numbers[5:]).reshape(-1, dims)
    v = points[:, 2] if dims == 3 else np.where((points == 0).all(axis=1), 0, 2)
    if not np.isin(v, (0, 1, 2)).all() or max(numbers[1:5]) > 1.01 or points[:, :2].max() > 1.01:
        raise InputError(
            f"{where}: coordinates must be shares of the photo from 0 to 1, and visibilities 0, 1 or 2: "
            "correct the line"
        )
    keypoints = np.column_stack([points[:, :2] * size, v])[order]
    centre, extent = np.array(numbers[1:3]) * size, np.array(numbers[3:5]) * size
    return LabelledPerson(keypoints, np.concatenate([centre - extent / 2, extent]))
