"""What a labelling tool exported, read and compared with what went out."""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from semipose.configs.errors import InputError
from semipose.label.cvat import read_cvat
from semipose.label.label_studio import read_label_studio
from semipose.label.labels import LabelledPerson, LabelledPhoto, Labels, PhotosByName, read_coco_labels
from semipose.label.out import unlabel_outside
from semipose.label.yolo import DATA, read_yolo
from semipose.sharding.annotations.boxes import box_overlap
from semipose.sharding.annotations.record import photo_key
from semipose.training.scoring.oks import oks_to_truth

LEAST_SIMILARITY = 0.1
"""People whose OKS and IoU are lower are not the same one."""
SAME_BOX_PX, MOVED_PX = 1.0, 0.1
"""Boxes closer than this are one; a keypoint that moved further has been moved (tools round to 0.01)."""


@dataclass
class Changes:
    """What a tool changed."""

    added: int = 0
    removed: list[int] = field(default_factory=list)
    """Ids of people who went out and are gone."""
    kept: int = 0
    moved_px: list[float] = field(default_factory=list)
    """How far each moved keypoint is from where it was."""
    visibility: int = 0
    """Keypoints whose v is another one."""
    boxes_given_back: int = 0
    """Boxes that the tool had replaced by the extent of the keypoints, or had left out."""
    outside: list[str] = field(default_factory=list)
    """Keypoints outside of their photo."""
    unlabelled: int = 0
    """People without a single labelled keypoint."""
    not_back: list[str] = field(default_factory=list)
    """Photos that went out and did not come back, or that nobody has labelled yet."""

    def lines(self) -> list[str]:
        """The changes in words."""
        moved = f"{len(self.moved_px):,} keypoints moved"
        if self.moved_px:
            moved += f" by {np.median(self.moved_px):.1f} px in the median"
        lines = [
            f"people: {self.kept:,} came back, {self.added:,} were added, {len(self.removed):,} were removed"
            + (f" ({_some(list(map(str, self.removed)))})" if self.removed else ""),
            f"keypoints: {moved}, {self.visibility:,} have another visibility",
        ]
        if self.boxes_given_back:
            lines.append(
                f"boxes: {self.boxes_given_back:,} people have the box back with which they went out"
            )
        if self.outside:
            lines.append(
                f"note: keypoints outside of their photo count as not labelled: {_some(self.outside)}"
            )
        if self.unlabelled:
            lines.append(
                f"note: {self.unlabelled:,} people have no labelled keypoint and count as not labelled"
            )
        if self.not_back:
            lines.append(
                f"note: {len(self.not_back):,} photos did not come back labelled and stay as they were: "
                f"{_some(self.not_back)}"
            )
        return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def read_export(path: Path, sent: Labels) -> tuple[Labels, list[str]]:
    """What a tool exported, and the photos that nobody has labelled yet.

    An XML file is CVAT's, a JSON list Label Studio's, any other JSON a COCO file, a data.yaml or a folder
    with one YOLO-pose; a zip holds one of them. Raises InputError for anything else.
    """
    if path.is_dir() or path.suffix.lower() in (".yaml", ".yml"):
        return read_yolo(path, sent), []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: this cannot be read ({error.strerror}): give the file of the tool"
        ) from error
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(path) as file, tempfile.TemporaryDirectory() as folder:
            wanted = [
                name for name in file.namelist() if name.lower().endswith((".xml", ".json", ".yaml", ".txt"))
            ]
            file.extractall(folder, wanted)
            return read_export(_only_one(path, Path(folder)), sent)
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start == b"<":
        return read_cvat(path, content, sent), []
    if start == b"[":
        return _read_tasks(path, content, sent)
    if start == b"{":
        return read_coco_labels(path, names=sent.skeleton.names), []
    raise InputError(
        f"{path}: this is no export of CVAT (XML or COCO), of Label Studio (JSON), and no YOLO-pose folder: "
        "export it as one of these"
    )


def _read_tasks(path: Path, content: bytes, sent: Labels) -> tuple[Labels, list[str]]:
    try:
        return read_label_studio(path, content, sent)
    except (UnicodeDecodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: this is no whole JSON file: export the project again") from error


def _only_one(path: Path, folder: Path) -> Path:
    files = [*folder.rglob("*.xml"), *folder.rglob("*.json"), *folder.rglob(DATA)]
    if len(files) != 1:
        raise InputError(
            f"{path}: the zip holds {len(files)} files of annotations, not one: give that file itself"
        )
    return files[0]


def compare(
    sent: Labels, back: Labels, waiting: Sequence[str], path: Path = Path("the export")
) -> tuple[Labels, Changes]:
    """The labels that came back from `path`, with the ids and boxes that went out, and what has changed.

    People are the same if the tool kept their id; otherwise those with the highest OKS or IoU are. Raises
    InputError if no photo is among those that went out, or if one may be several of them.
    """
    sent_by_name = {photo_key(photo.file_name): photo for photo in sent.photos}
    sent_photos = PhotosByName(sent_by_name, path)
    changes = Changes(not_back=list(waiting))
    photos, returned = [], set()
    for photo in back.photos:
        known = sent_photos.find(photo.file_name)
        before = known or LabelledPhoto(photo.file_name, photo.size_wh)
        returned.add(photo_key(before.file_name) if known else "")
        photos.append(_compare_photo(before, photo, sent, changes))
    if back.photos and not returned - {""}:
        raise InputError(
            f"none of the {len(back.photos):,} photos (such as {back.photos[0].file_name}) went out (such as "
            f"{sent.photos[0].file_name if sent.photos else 'none'}): give the sent.json of this export"
        )
    waiting_names = set(map(photo_key, waiting))
    changes.not_back += [
        photo.file_name for name, photo in sent_by_name.items() if name not in returned | waiting_names
    ]
    return Labels(sent.skeleton, sent.category, photos), changes


def _compare_photo(
    before: LabelledPhoto, after: LabelledPhoto, sent: Labels, changes: Changes
) -> LabelledPhoto:
    """The people of one photo; those who went out have their ids, new ones none."""
    size_wh = before.size_wh or after.size_wh
    pairs = match(before.people, after.people, sent.skeleton.sigmas)
    photo = LabelledPhoto(before.file_name, size_wh)
    for index, person in enumerate(after.people):
        old = before.people[pairs[index]] if index in pairs else None
        names = [sent.skeleton.names[k] for k in unlabel_outside(person, photo)]
        changes.outside += [f"{name} in {photo.file_name}" for name in names]
        changes.unlabelled += not person.num_labelled
        person.id = None if old is None else old.id
        if old is None:
            changes.added += 1
        else:
            changes.kept += 1
            _note_keypoints(old, person, changes)
            changes.boxes_given_back += _give_back_box(old, person)
        photo.people.append(person)
    gone = set(range(len(before.people))) - set(pairs.values())
    changes.removed += [before.people[i].id or 0 for i in sorted(gone)]
    return photo


def _note_keypoints(old: LabelledPerson, new: LabelledPerson, changes: Changes) -> None:
    both = (old.keypoints[:, 2] > 0) & (new.keypoints[:, 2] > 0)
    distances = np.linalg.norm(old.keypoints[both, :2] - new.keypoints[both, :2], axis=1)
    changes.moved_px += distances[distances > MOVED_PX].tolist()
    changes.visibility += int((old.keypoints[:, 2] != new.keypoints[:, 2]).sum())


def _give_back_box(old: LabelledPerson, new: LabelledPerson) -> bool:
    """Give a person the box with which they went out, if the tool has none or only the keypoints' extent.

    It grows around keypoints that were moved out of it. Returns whether a box was given back.
    """
    extent = new.extent_xywh
    is_replaced = new.box_xywh is None or (
        extent is not None and np.abs(new.box_xywh - extent).max() < SAME_BOX_PX
    )
    if old.box_xywh is None or not is_replaced:
        return False
    is_changed = new.box_xywh is None or bool(np.abs(new.box_xywh - old.box_xywh).max() >= SAME_BOX_PX)
    low, high = old.box_xywh[:2], old.box_xywh[:2] + old.box_xywh[2:]
    if extent is not None:
        low, high = np.minimum(low, extent[:2]), np.maximum(high, extent[:2] + extent[2:])
    new.box_xywh = np.concatenate([low, high - low])
    return is_changed


def match(
    before: Sequence[LabelledPerson],
    after: Sequence[LabelledPerson],
    sigmas: Sequence[float],
    least: float = LEAST_SIMILARITY,
) -> dict[int, int]:
    """Index of each person after -> that of the same person before.

    Ids decide where the tool kept them; of two people with one id (a copy), the more similar one has it. The
    others are assigned so that the sum of their similarities (the higher one of OKS and IoU) is highest.
    """
    similarity = _similarity(before, after, sigmas)
    has_id = np.array([[a.id is not None and a.id == b.id for b in before] for a in after], bool)
    value = similarity + 2.0 * has_id.reshape(similarity.shape)
    rows, columns = linear_sum_assignment(-value)
    return {
        int(row): int(column)
        for row, column in zip(rows, columns, strict=True)
        if value[row, column] >= least
    }


def _similarity(
    before: Sequence[LabelledPerson], after: Sequence[LabelledPerson], sigmas: Sequence[float]
) -> np.ndarray:
    """(len(after), len(before)) the higher one of OKS and IoU."""
    if not before or not after:
        return np.zeros((len(after), len(before)))
    boxes = [_box_of(person) for person in before]
    areas = np.array([max(box[2] * box[3], 1.0) for box in boxes])
    truth = np.array([person.keypoints for person in before])
    points = np.array([person.keypoints for person in after])
    oks = oks_to_truth(points[..., :2], truth, areas, sigmas)
    oks[~(points[..., 2] > 0).any(axis=1)] = 0  # whose keypoints are nowhere
    iou = box_overlap(np.array([_box_of(person) for person in after]), np.array(boxes))
    return np.asarray(np.maximum(oks, iou))


def _box_of(person: LabelledPerson) -> np.ndarray:
    box = person.box_or_extent_xywh
    return np.zeros(4) if box is None else box
