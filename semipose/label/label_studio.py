"""Label Studio's tasks with predictions, and its labelling configuration; tasks read back.

The format is that of Label Studio's documentation (labelstud.io: guide/task_format, guide/predictions,
tags/keypointlabels, tags/rectanglelabels, tags/choices) and of its converter: coordinates are percent of
the photo, a person is a rectangle, and its keypoints name it with `parentID`, as the converter's YOLO export
expects (label_studio_sdk/converter/exports/yolo.py). Label Studio has no visibility: keypoints that are not
labelled are left out, and hidden ones carry the choice `hidden`, which the tag Choices with perRegion stores
under the id of their region.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import numpy as np

from semipose.configs.errors import InputError, one_line
from semipose.label.labels import (
    LabelledPerson,
    LabelledPhoto,
    Labels,
    as_json,
    bare_skeleton,
    order_of_names,
    refuse_repeated_photos,
)

TASKS, CONFIG = "tasks.json", "config.xml"
HIDDEN = "hidden"
_REGION = re.compile(r"person-(\d+)$")


def label_studio_files(labels: Labels, photos_at: str) -> dict[str, bytes]:
    """The tasks to import and the labelling configuration to paste.

    photos_at: what comes before the name of a photo in its address. Raises InputError for a photo without a
    size.
    """
    return {
        TASKS: as_json([_task(photo, labels, photos_at) for photo in labels.photos]),
        CONFIG: _config(labels),
    }


def _config(labels: Labels) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image", zoom="true")
    people = ElementTree.SubElement(view, "RectangleLabels", name="person", toName="image")
    ElementTree.SubElement(people, "Label", value=labels.category[1])
    keypoints = ElementTree.SubElement(
        view, "KeyPointLabels", name="keypoint", toName="image", strokeWidth="3"
    )
    for index, name in enumerate(labels.skeleton.names):
        ElementTree.SubElement(keypoints, "Label", value=name, model_index=str(index))
    choices = {"name": "visibility", "toName": "image", "perRegion": "true", "whenTagName": "keypoint"}
    visibility = ElementTree.SubElement(view, "Choices", choices)
    ElementTree.SubElement(visibility, "Choice", value=HIDDEN)
    ElementTree.indent(view)
    return ElementTree.tostring(view, "utf-8") + b"\n"


def _task(photo: LabelledPhoto, labels: Labels, photos_at: str) -> dict[str, Any]:
    if photo.size_wh is None:
        raise InputError(
            f"{photo.file_name}: it has no width and height, of which Label Studio's coordinates are shares: "
            "add them to the file"
        )
    width, height = photo.size_wh
    result: list[dict[str, Any]] = []
    frame = {"original_width": width, "original_height": height, "image_rotation": 0}
    for number, person in enumerate(photo.people):
        region = f"person-{person.id}" if person.id is not None else f"new-{number}"
        box = person.box_or_extent_xywh
        if box is not None:
            x, y, box_width, box_height = (box * 100 / np.array([width, height, width, height])).tolist()
            value: dict[str, Any] = {"x": x, "y": y, "width": box_width, "height": box_height, "rotation": 0}
            value["rectanglelabels"] = [labels.category[1]]
            head = {"id": region, "from_name": "person", "to_name": "image", "type": "rectanglelabels"}
            result.append({**head, **frame, "value": value})
        for k, (x, y, v) in enumerate(person.keypoints.tolist()):
            if v == 0:
                continue
            place = {"x": x * 100 / width, "y": y * 100 / height, "width": 0.5}
            point: dict[str, Any] = {"id": f"{region}-{k}", "to_name": "image", **frame}
            value = {**place, "keypointlabels": [labels.skeleton.names[k]]}
            kind = {"from_name": "keypoint", "type": "keypointlabels", "parentID": region}
            result.append({**point, **kind, "value": value})
            if v == 1:
                choice = {
                    "from_name": "visibility",
                    "type": "choices",
                    "value": {**place, "choices": [HIDDEN]},
                }
                result.append({**point, **choice})
    scores = [person.score for person in photo.people if person.score is not None]
    prediction: dict[str, Any] = {"model_version": "semipose", "result": result}
    if scores:
        prediction["score"] = round(min(scores), 5)
    data = {"image": photos_at + quote(photo.file_name), "file_name": photo.file_name}
    return {"data": data, "predictions": [prediction]}


def read_label_studio(path: Path, content: bytes, sent: Labels) -> tuple[Labels, list[str]]:
    """The people of Label Studio's JSON export, and the photos that nobody has labelled yet.

    Of several annotations of a task, the one that was updated last counts. path: the file, for messages.
    Raises InputError for another export, for keypoints of another set, and for keypoints of nobody.
    """
    tasks = json.loads(content)
    if not all(isinstance(task, dict) for task in tasks):
        raise InputError(f"{path}: this is no list of Label Studio's tasks: export the project as JSON")
    if tasks and not any("data" in task for task in tasks):
        raise InputError(f"{path}: this is not Label Studio's full JSON (maybe JSON-MIN): export as JSON")
    photos, waiting = [], []
    for number, task in enumerate(tasks, start=1):
        name = _name_of(task, sent)
        if name is None:
            raise InputError(f"{path}: task {task.get('id', number)} has no image in its `data`: remove it")
        done = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
        if not done:
            waiting.append(name)
            continue
        latest = max(done, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
        try:
            photos.append(_read_photo(latest.get("result") or [], name, sent, path))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{path}: {name}: a region is not as Label Studio writes it ({one_line(error)}): export the "
                "project as JSON"
            ) from error
    refuse_repeated_photos(path, [*photos, *(LabelledPhoto(name, None) for name in waiting)])
    return Labels(bare_skeleton(sent.skeleton.names), sent.category, photos), waiting


def _name_of(task: dict[str, Any], sent: Labels) -> str | None:
    """The photo of a task: the name that went out with it, or the end of the image's address."""
    data = task.get("data") or {}
    if isinstance(data.get("file_name"), str):
        return str(data["file_name"])
    image = data.get("image")
    if not isinstance(image, str):
        return None
    address = unquote(image)
    matches = [photo.file_name for photo in sent.photos if address.endswith(f"/{photo.file_name}")]
    return max(matches, key=len) if matches else address.rpartition("/")[2]


def _read_photo(result: Sequence[dict[str, Any]], name: str, sent: Labels, path: Path) -> LabelledPhoto:
    hidden = {
        item["id"] for item in result if item["type"] == "choices" and HIDDEN in item["value"]["choices"]
    }
    boxes: dict[str, np.ndarray] = {}
    size_wh = None
    for item in result:
        if item.get("image_rotation"):
            raise InputError(f"{path}: {name}: the photo was rotated in Label Studio: rotate it back there")
        if item["type"] == "rectanglelabels" and item["value"]["rectanglelabels"] == [sent.category[1]]:
            value, (width, height) = item["value"], _size_of(item)
            if value.get("rotation"):
                raise InputError(
                    f"{path}: {name}: the rectangle {item['id']} is rotated: draw it upright, as boxes are"
                )
            shares = np.array([value[key] for key in ("x", "y", "width", "height")], np.float64)
            boxes[item["id"]] = shares / 100 * [width, height, width, height]
    points: dict[str, dict[str, tuple[float, float, float]]] = defaultdict(dict)
    for item, keypoint, x, y in _keypoints_of(result):
        size_wh = size_wh or _size_of(item)
        order_of_names(
            path, [*sent.skeleton.names, *({keypoint} - {*sent.skeleton.names})], sent.skeleton.names
        )
        owner = item.get("parentID")
        if owner not in boxes:
            owner = _owner_of(x, y, keypoint, boxes, points)
        if owner is None:
            raise InputError(
                f"{path}: {name}: the keypoint {keypoint!r} at ({x:.0f}, {y:.0f}) belongs to nobody: draw a "
                "rectangle around its person, or drag it into the person's in the list of regions"
            )
        if keypoint in points[owner]:
            raise InputError(
                f"{path}: {name}: a person has the keypoint {keypoint!r} twice, at ({x:.0f}, {y:.0f}) and at "
                f"({points[owner][keypoint][0]:.0f}, {points[owner][keypoint][1]:.0f}): remove one"
            )
        points[owner][keypoint] = (x, y, 1.0 if item["id"] in hidden else 2.0)
    people = []
    for region, box in boxes.items():
        rows = [points[region].get(keypoint, (0.0, 0.0, 0.0)) for keypoint in sent.skeleton.names]
        numbered = _REGION.match(region)
        people.append(LabelledPerson(np.array(rows), box, int(numbered[1]) if numbered else None))
    return LabelledPhoto(name, size_wh, people)


def _keypoints_of(result: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, float, float]]:
    """Each keypoint: its item, its name, and x and y in pixels; those that know their person first."""
    items = [item for item in result if item["type"] == "keypointlabels"]
    for item in sorted(items, key=lambda item: item.get("parentID") is None):
        width, height = _size_of(item)
        (keypoint,) = item["value"]["keypointlabels"]
        yield item, keypoint, item["value"]["x"] * width / 100, item["value"]["y"] * height / 100


def _size_of(item: dict[str, Any]) -> tuple[int, int]:
    return int(item["original_width"]), int(item["original_height"])


def _owner_of(
    x: float,
    y: float,
    keypoint: str,
    boxes: dict[str, np.ndarray],
    points: dict[str, dict[str, tuple[float, float, float]]],
) -> str | None:
    """The smallest rectangle around a keypoint whose person has no keypoint of this name yet."""
    around = [
        (float(width * height), region)
        for region, (left, top, width, height) in boxes.items()
        if left <= x <= left + width and top <= y <= top + height and keypoint not in points[region]
    ]
    return min(around)[1] if around else None
