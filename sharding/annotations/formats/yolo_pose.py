"""Ultralytics' YOLO-pose folders: photos, a text file of labels for each, and a data.yaml."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.sharding.annotations.boxes import AREA_OF_BOX, sized
from semipose.sharding.annotations.findings import Fault, Findings
from semipose.sharding.annotations.formats.categories import choose_categories
from semipose.sharding.annotations.formats.coco import Rule, judge_rows
from semipose.sharding.annotations.formats.coco_rows import NO_SIZE, AnnotationRow, ImageRow
from semipose.sharding.annotations.formats.own_rows import OwnRows
from semipose.sharding.annotations.photos import Photos, below_location, open_photos
from semipose.sharding.annotations.record import Annotations, Photo
from semipose.sharding.annotations.skeleton import COCO_17, to_category

BAD_NUMBERS = Fault("the line holds something that is no number", subject="line")
UNKNOWN_CLASS = Fault("class that `names` does not have", cure="correct it, or `names`", subject="line")
REPEATED = Fault("lines that stand there again", "corrected", "", "line")
NOT_SHARES = Fault(
    "coordinates above 1, where they are shares of the photo's width and height",
    cure="divide x by the width and y by the height of the photo",
    subject="line",
)
CORNER = Fault(
    "keypoint at exactly 0, 0 without a visibility, taken as not labelled", "corrected", "", "line"
)
NO_LABELS = Fault("photo without a file of labels, taken as one without people", "kept", "", "photo")

_BOX_NUMBERS = 5
"""A line begins with so many numbers before its keypoints: the class, and the box's centre and size."""
_MOST = 1.01
"""Rounding explains shares up to 1 plus this; Ultralytics accepts them too."""
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@settings
class YoloPoseFormat(OwnRows):
    """A data set in Ultralytics' YOLO-pose format; settings add what its data.yaml does not say."""

    name: Literal["yolo-pose"] = "yolo-pose"
    data: Path
    """The data.yaml, which gives the photos and their keypoints."""
    split: Literal["train", "val", "test"] = "train"
    """Which photos of data.yaml to take."""

    def read(self) -> Annotations:
        """The people by COCO's rule, photos by name or as listed; ids of both count from 1.

        Shares become pixels as Ultralytics makes them: x times the width of the upright photo, y times its
        height. The area is 0.53 of the box. Photos without a file of labels are without people. The names of
        the keypoints are those of data.yaml (`kpt_names`), COCO's where there are 17 that `flip_idx` mirrors
        as COCO's, and otherwise keypoint_0, keypoint_1, ... Raises InputError for a data.yaml of another kind
        and for folders that are not there.
        """
        content = _read_yaml(self.data)
        count, dims = _keypoint_shape(content, self.data)
        listed = _categories(content, count, self.data)
        has_own_keypoints = self.keypoints is not None
        categories = choose_categories(
            listed, self.data, self.category_names, has_own_keypoints=has_own_keypoints
        )
        findings = Findings(self.data, has_own_settings=True)
        skeleton = self.describe(categories.chosen[0], str(self.data), findings)
        if skeleton.num_keypoints != count:
            raise InputError(
                f"{self.data}: kpt_shape has {count} keypoints, but {skeleton.num_keypoints} have names: "
                f"give {count} names (source.keypoints)"
            )
        photos, names = _find_photos(content, self.data, self.split)
        rule = Rule(findings, categories, count, area_from_box=False, prepare=self.prepare)
        images = _read_labels(names, photos, rule, dims=dims)
        return judge_rows(images, rule, skeleton=skeleton, photos=photos, upright=True)

    def prepare(self, row: AnnotationRow, image: ImageRow, rule: Rule) -> None:
        """Convert a row to COCO's format by the settings; its area follows from its box after that."""
        OwnRows.prepare(self, row, image, rule)
        if row.area is not None and row.bbox is not None:
            row.area = AREA_OF_BOX * row.bbox[2] * row.bbox[3]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: this cannot be read ({error.strerror}): give the data.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: this is no YAML file ({reason}): correct it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: this is no data.yaml of Ultralytics: give that file")
    return content


def _keypoint_shape(content: dict[str, Any], path: Path) -> tuple[int, int]:
    """How many keypoints there are, and how many numbers each has: 2, or 3 with its visibility."""
    shape = content.get("kpt_shape")
    if shape is None:
        raise InputError(
            f"{path}: there is no kpt_shape, so this is a set of boxes: give the data.yaml of a pose "
            "set, with kpt_shape: [number of keypoints, 2 or 3]"
        )
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(each) is int for each in shape)
    if not is_shape or shape[0] < 1 or shape[1] not in (2, 3):
        raise InputError(
            f"{path}: kpt_shape is {shape!r}, but must be the number of keypoints, and 2 or 3: correct it"
        )
    return shape[0], shape[1]


def _categories(content: dict[str, Any], count: int, path: Path) -> list[dict[str, Any]]:
    """The classes as COCO categories, by their index."""
    pairs = _flip_pairs(content.get("flip_idx"), count, path)
    classes = _by_index(content.get("names"), path, "names")
    if not classes:
        number = content.get("nc")
        classes = {index: f"class_{index}" for index in range(number if type(number) is int else 1)}
    key = next((key for key in ("kpt_names", "keypoint_names") if content.get(key)), None)
    names = content[key] if key else None
    if isinstance(names, list) and not isinstance(names[0], list | dict):
        names = dict.fromkeys(classes, names)  # one list for all classes
    of_class = _by_index(names, path, str(key))
    rows = []
    for index, name in classes.items():
        row: dict[str, Any] = {"keypoints": [f"keypoint_{number}" for number in range(count)]}
        if count == COCO_17.num_keypoints and pairs == [list(pair) for pair in COCO_17.flip_pairs]:
            row = to_category(COCO_17)
        if index in of_class:
            row = {"keypoints": of_class[index]}
        row |= {"id": index, "name": str(name)} | ({} if pairs is None else {"flip_pairs": pairs})
        rows.append(row)
    return rows


def _by_index(found: Any, path: Path, key: str) -> dict[int, Any]:
    """A list, or a mapping of numbers, as a mapping of numbers; InputError for anything else."""
    if isinstance(found, list):
        return dict(enumerate(found))
    if not isinstance(found, dict | None):
        raise InputError(f"{path}: {key} is {found!r}, but must be a list or a mapping: correct it")
    try:
        return {int(index): value for index, value in (found or {}).items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} has a key that is no number ({error}): correct it") from error


def _flip_pairs(flip_idx: Any, count: int, path: Path) -> list[list[int]] | None:
    """The pairs of a permutation that mirrors the keypoints; None if it is left out."""
    if flip_idx is None:
        return None
    if not isinstance(flip_idx, list) or sorted(map(str, flip_idx)) != sorted(map(str, range(count))):
        raise InputError(
            f"{path}: flip_idx is {flip_idx!r}, but must name each of the {count} keypoints of kpt_shape "
            "once, by its index from 0: correct it"
        )
    order = [int(index) for index in flip_idx]
    wrong = [index for index, other in enumerate(order) if order[other] != index]
    if wrong:
        raise InputError(
            f"{path}: flip_idx mirrors keypoint {wrong[0]} into {order[wrong[0]]}, but that one into "
            f"{order[order[wrong[0]]]}: correct it, so that the two mirror each other"
        )
    return [[index, other] for index, other in enumerate(order) if index < other]


def _find_photos(content: dict[str, Any], path: Path, split: str) -> tuple[Photos, list[str]]:
    """The folder of the photos of a split, and their names relative to it, without repeats."""
    key = next((key for key in _SPLITS[split] if content.get(key)), None)
    if key is None:
        have = [each for each, keys in _SPLITS.items() if any(content.get(key) for key in keys)]
        raise InputError(
            f"{path}: there is no `{split}`, only {', '.join(have) or 'nothing'}: choose another source.split"
        )
    entries = content[key] if isinstance(content[key], list) else [content[key]]
    places = [_find_place(str(entry), content.get("path"), path) for entry in entries]
    if len(places) == 1 and places[0].is_dir():
        photos = open_photos(places[0])
        names = photos.names()
    else:
        files = [file for place in places for file in _photos_of(place)]
        folders = [os.path.dirname(file) for file in files if os.path.exists(file)]
        location = os.path.commonpath(folders) if folders else str(path.absolute().parent)
        photos = open_photos(location)
        names = [
            os.path.relpath(file, location) if Path(file).is_relative_to(location) else file for file in files
        ]
        names = below_location([name.replace(os.sep, "/") for name in names], photos)
    if not names:
        raise InputError(f"{path}: there are no photos in {', '.join(map(str, places))}: correct `{key}`")
    return photos, list(dict.fromkeys(names))


def _find_place(entry: str, root: Any, path: Path) -> Path:
    """The folder or list that an entry of data.yaml means: below `path`, or below the file itself.

    `path` may belong to another machine, and some exports begin with a `..` that leads nowhere.
    """
    here = path.absolute().parent
    roots = [here / str(root), here / Path(str(root)).name] if root else []
    tries = [
        base / each for base in (*roots, here) for each in dict.fromkeys((entry, entry.removeprefix("../")))
    ]
    for place in tries:
        if place.exists():
            return Path(os.path.normpath(place))
    raise InputError(
        f"{path}: {entry!r} is neither at {tries[0]} nor at {here / entry}: correct `path` and the entry"
    )


def _photos_of(place: Path) -> list[str]:
    """The photos of a folder, or those that a text file lists; those of the list may be absent."""
    if place.is_dir():
        return [os.path.join(place, name) for name in open_photos(place).names()]
    try:
        lines = place.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{place}: this is no list of photos ({error}): give a text file with one photo per line"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    return [
        os.path.abspath(name if os.path.exists(name) else os.path.join(place.parent, name)) for name in names
    ]


def _read_labels(
    names: Sequence[str], photos: Photos, rule: Rule, *, dims: int
) -> Iterator[tuple[ImageRow, list[AnnotationRow]]]:
    """Each photo with its people, in pixels."""
    findings = rule.findings
    unsized = [Photo(id=number, file_name=name, size_wh=None) for number, name in enumerate(names, start=1)]
    files = {photo.id: _label_file(os.path.join(photos.location, photo.file_name)) for photo in unsized}
    if not any(os.path.isfile(file) for file in files.values()):
        raise InputError(
            f"{photos.location}: none of the {len(names)} photos has a file of labels: put that of "
            f"{names[0]} at {files[1]}, and the others likewise"
        )
    next_id = 1
    for photo in sized(unsized, photos, findings):
        if photo.size_wh is None:
            if photos.absent([photo.file_name]):
                findings.add(NO_SIZE, photo.id, photo.file_name)
            continue
        image = ImageRow(photo.id, photo.file_name, *photo.size_wh)
        if not os.path.isfile(files[photo.id]):
            findings.add(NO_LABELS, photo.file_name)
            yield image, []
            continue
        rows = []
        for where, numbers in _lines(files[photo.id], findings):
            if _is_sound(numbers, where, rule, dims=dims):
                rows.append(_row(numbers, image, where, findings, id=next_id, dims=dims))
            next_id += 1
        yield image, rows


def _label_file(photo: str) -> str:
    """The label file of a photo: under `labels` in place of the last `images` of its path, or beside it."""
    head, images, tail = photo.rpartition(f"{os.sep}images{os.sep}")
    path = f"{head}{os.sep}labels{os.sep}{tail}" if images else photo
    return os.path.splitext(path)[0] + ".txt"


def _lines(file: str, findings: Findings) -> Iterator[tuple[str, list[float]]]:
    """The lines of a label file without repeats, and their names in messages."""
    seen = set()
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        findings.add(Fault("the file of labels cannot be read", subject="file"), file, str(error))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{file}:{number}"
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError as error:
            findings.add(BAD_NUMBERS, where, str(error))
            continue
        if tuple(numbers) in seen:
            findings.add(REPEATED, where)
        elif numbers:
            seen.add(tuple(numbers))
            yield where, numbers


def _is_sound(numbers: list[float], where: str, rule: Rule, *, dims: int) -> bool:
    """Whether a line has the numbers of this keypoint set, as shares; if not, a finding says why."""
    findings, count = rule.findings, rule.num_keypoints
    expected = _BOX_NUMBERS + count * dims
    if len(numbers) != expected:
        others = f"class, box and {count} times x, y{', v' if dims == 3 else ''}"
        fault = Fault(
            f"a line must be {expected} numbers ({others})", cure="correct it, or kpt_shape", subject="line"
        )
        findings.add(fault, where, f"found {len(numbers)}")
        return False
    if not all(map(math.isfinite, numbers)) or not numbers[0].is_integer():
        findings.add(BAD_NUMBERS, where, f"class {numbers[0]:g}")
        return False
    if numbers[0] not in rule.categories.listed_ids:
        findings.add(UNKNOWN_CLASS, where, f"class {numbers[0]:g}")
        return False
    points = [number for start in (0, 1) for number in numbers[_BOX_NUMBERS + start :: dims]]
    largest = max(*numbers[1:_BOX_NUMBERS], *points)
    if largest > _MOST:
        findings.add(NOT_SHARES, where, f"found {largest:g}")
    return largest <= _MOST


def _row(
    numbers: list[float], image: ImageRow, where: str, findings: Findings, *, id: int, dims: int
) -> AnnotationRow:
    """A line as a row of a COCO file, in pixels of the photo."""
    x, y, width, height = numbers[1:_BOX_NUMBERS]
    box = [
        (x - width / 2) * image.width,
        (y - height / 2) * image.height,
        width * image.width,
        height * image.height,
    ]
    keypoints: list[float] = []
    for start in range(_BOX_NUMBERS, len(numbers), dims):
        x, y = numbers[start : start + 2]
        visibility = numbers[start + 2] if dims == 3 else 2.0 * (x >= 0 and y >= 0 and (x, y) != (0, 0))
        if dims == 2 and (x, y) == (0, 0):
            findings.add(CORNER, where)
        is_there = dims == 3 or visibility > 0
        keypoints += [x * image.width, y * image.height, visibility] if is_there else [0.0, 0.0, 0.0]
    return AnnotationRow(
        id=id,
        image_id=image.id,
        category_id=int(numbers[0]),
        bbox=box,
        area=AREA_OF_BOX * box[2] * box[3],
        keypoints=keypoints,
    )
