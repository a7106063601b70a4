"""CVAT's labels of a task, and its XML ("CVAT for images 1.1"), written and read.

The format is that of CVAT's own writer and reader (cvat/apps/dataset_manager/formats/cvat.py,
`dump_as_cvat_annotation` and `load_anno`) and of its documentation (docs.cvat.ai, XML annotation format): a
person is a `skeleton` with one `points` for each keypoint, where outside="1" means not labelled and
occluded="1" hidden. The person's box is a `box` with the same `group_id`; the id is an attribute of the
skeleton. CVAT writes coordinates with two decimals.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from semipose.configs.errors import InputError, one_line
from semipose.label.labels import (
    PERSON_ID,
    LabelledPerson,
    LabelledPhoto,
    Labels,
    as_json,
    as_person_id,
    bare_skeleton,
    order_of_names,
    refuse_repeated_photos,
)

XML, LABELS = "annotations.xml", "labels.json"
BOX = " box"
"""What is added to the name of the category for the label of the boxes."""
SVG_MARGIN, SVG_SIZE = 8.0, 100.0
"""CVAT's drawing of a skeleton is 100 wide and high."""


def cvat_files(labels: Labels) -> dict[str, bytes]:
    """The XML to upload, and the labels to paste into the raw view of the task's label constructor."""
    return {XML: _write_xml(labels), LABELS: as_json(_task_labels(labels))}


def _task_labels(labels: Labels) -> list[dict[str, Any]]:
    name = labels.category[1]
    person_id = {
        "name": PERSON_ID,
        "mutable": False,
        "input_type": "text",
        "default_value": "",
        "values": [""],
    }
    return [
        {
            "name": name,
            "type": "skeleton",
            "attributes": [person_id],
            "svg": _skeleton_svg(labels),
            "sublabels": [
                {"name": keypoint, "type": "points", "attributes": []} for keypoint in labels.skeleton.names
            ],
        },
        {"name": name + BOX, "type": "rectangle", "attributes": []},
    ]


def _skeleton_svg(labels: Labels) -> str:
    """The drawing from which CVAT takes nodes (counted from 1) and edges of a skeleton."""
    layout = _layout(labels).round(2).tolist()
    parts: list[ElementTree.Element] = []
    for a, b in labels.skeleton.bones:
        ends = {"x1": layout[a][0], "y1": layout[a][1], "x2": layout[b][0], "y2": layout[b][1]}
        nodes = {"data-type": "edge", "data-node-from": a + 1, "data-node-to": b + 1}
        parts.append(_element("line", {**ends, "stroke": "black", "stroke-width": 0.5, **nodes}))
    for number, (name, (x, y)) in enumerate(zip(labels.skeleton.names, layout, strict=True), start=1):
        look = {"r": 0.75, "stroke": "black", "fill": "#b3b3b3", "stroke-width": 0.1, "cx": x, "cy": y}
        node = {"data-type": "element node", "data-element-id": number, "data-node-id": number}
        parts.append(_element("circle", {**look, **node, "data-label-name": name}))
    return "".join(ElementTree.tostring(part, "unicode", short_empty_elements=False) for part in parts)


def _layout(labels: Labels) -> np.ndarray:
    """(K, 2) where each keypoint is drawn: its median position in the boxes, or else on a circle."""
    count = labels.skeleton.num_keypoints
    angles = np.arange(count) / count * 2 * np.pi
    layout = 0.5 + 0.45 * np.column_stack([np.sin(angles), -np.cos(angles)])
    people = [person for photo in labels.photos for person in photo.people if person.box_xywh is not None]
    if people:
        points = np.array([person.keypoints for person in people])
        boxes = np.array([person.box_xywh for person in people])
        shares = (points[..., :2] - boxes[:, None, :2]) / boxes[:, None, 2:]
        for k in range(count):
            labelled = points[:, k, 2] > 0
            if labelled.any():
                layout[k] = np.median(shares[labelled, k], axis=0)
    return SVG_MARGIN + np.clip(layout, 0, 1) * (SVG_SIZE - 2 * SVG_MARGIN)


def _element(tag: str, attributes: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.Element(tag, {name: str(value) for name, value in attributes.items()})


def _write_xml(labels: Labels) -> bytes:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    root.append(_meta(labels))
    group = 0
    for number, photo in enumerate(labels.photos):
        image = {"id": number, "name": photo.file_name}
        if photo.size_wh is not None:
            image |= {"width": photo.size_wh[0], "height": photo.size_wh[1]}
        image_element = _element("image", image)
        root.append(image_element)
        for person in photo.people:
            group += 1
            image_element.append(_skeleton_element(person, labels, group))
            if person.box_xywh is not None:
                x, y, width, height = person.box_xywh.tolist()
                corners = {"xtl": x, "ytl": y, "xbr": x + width, "ybr": y + height}
                texts = {corner: f"{value:.2f}" for corner, value in corners.items()}
                head = {"label": labels.category[1] + BOX, "source": "auto", "occluded": 0}
                image_element.append(_element("box", {**head, **texts, "z_order": 0, "group_id": group}))
    ElementTree.indent(root)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "utf-8") + b"\n"


def _skeleton_element(person: LabelledPerson, labels: Labels, group: int) -> ElementTree.Element:
    head = {"label": labels.category[1], "source": "auto", "z_order": 0, "group_id": group}
    skeleton = _element("skeleton", head)
    for name, (x, y, v) in zip(labels.skeleton.names, person.keypoints.tolist(), strict=True):
        state = {"label": name, "source": "auto", "outside": int(v == 0), "occluded": int(v == 1)}
        skeleton.append(_element("points", {**state, "points": f"{x:.2f},{y:.2f}"}))
    if person.id is not None:
        attribute = _element("attribute", {"name": PERSON_ID})
        attribute.text = str(person.id)
        skeleton.append(attribute)
    return skeleton


def _meta(labels: Labels) -> ElementTree.Element:
    """The head of the file with the labels of the task."""
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    for name, text in (("name", "semipose"), ("size", str(len(labels.photos))), ("mode", "annotation")):
        ElementTree.SubElement(task, name).text = text
    listed = ElementTree.SubElement(task, "labels")
    for row in _task_labels(labels):
        _add_label(listed, row)
        for sublabel in row.get("sublabels", ()):
            _add_label(listed, sublabel, parent=row["name"])
    return meta


def _add_label(listed: ElementTree.Element, row: dict[str, Any], parent: str | None = None) -> None:
    label = ElementTree.SubElement(listed, "label")
    ElementTree.SubElement(label, "name").text = row["name"]
    ElementTree.SubElement(label, "type").text = row["type"]
    attributes = ElementTree.SubElement(label, "attributes")
    for each in row["attributes"]:
        attribute = ElementTree.SubElement(attributes, "attribute")
        for key in ("name", "mutable", "input_type", "default_value"):
            ElementTree.SubElement(attribute, key).text = str(each[key])
        ElementTree.SubElement(attribute, "values").text = "\n".join(each["values"])
    if "svg" in row:
        ElementTree.SubElement(label, "svg").text = row["svg"]
    if parent is not None:
        ElementTree.SubElement(label, "parent").text = parent


def read_cvat(path: Path, content: bytes, sent: Labels) -> Labels:
    """The people of a "CVAT for images 1.1" XML file.

    path: the file, for messages. Raises InputError for another XML file, for a video's tracks, and for
    skeletons with other keypoints.
    """
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: this is no XML file ({one_line(error)}): export the task again") from error
    if root.tag != "annotations":
        raise InputError(f"{path}: this is no XML file of CVAT: export the task as `CVAT for images 1.1`")
    if root.find("track") is not None:
        raise InputError(
            f"{path}: this is CVAT's format for videos: export the task as `CVAT for images 1.1`"
        )
    photos = []
    for image in root.iter("image"):
        size = image.get("width"), image.get("height")
        size_wh = (int(size[0]), int(size[1])) if size[0] and size[1] else None
        name = image.get("name", "")
        boxes = {
            box.get("group_id"): box for box in image.findall("box") if box.get("group_id") not in (None, "0")
        }
        people = [
            _read_person(skeleton, boxes, sent, path, name)
            for skeleton in image.findall("skeleton")
            if skeleton.get("label") == sent.category[1]
        ]
        others = [each for each in image.findall("skeleton") if each.get("label") != sent.category[1]]
        if others:
            raise InputError(
                f"{path}: {name}: a skeleton has the label {others[0].get('label')!r}, but "
                f"{sent.category[1]!r} went out: give it that label"
            )
        photos.append(LabelledPhoto(name, size_wh, people))
    refuse_repeated_photos(path, photos)
    return Labels(bare_skeleton(sent.skeleton.names), sent.category, photos)


def _read_person(
    skeleton: ElementTree.Element,
    boxes: dict[str | None, ElementTree.Element],
    sent: Labels,
    path: Path,
    photo: str,
) -> LabelledPerson:
    points = skeleton.findall("points")
    names = [point.get("label", "") for point in points]
    where = Path(f"{path}: {photo}")
    # An element that a labeller removed is a keypoint that is not labelled.
    absent = [name for name in sent.skeleton.names if name not in names]
    order = order_of_names(where, [*names, *absent], sent.skeleton.names)
    box, person_id = boxes.get(skeleton.get("group_id")), None
    try:
        rows = [_read_point(point) for point in points] + [(0.0, 0.0, 0.0)] * len(absent)
        corners = (
            [float(box.get(corner, "")) for corner in ("xtl", "ytl", "xbr", "ybr")] if box is not None else []
        )
    except ValueError as error:
        raise InputError(f"{path}: {photo}: {one_line(error)}: correct this skeleton") from error
    for attribute in skeleton.findall("attribute"):
        if attribute.get("name") == PERSON_ID:
            person_id = as_person_id(attribute.text)
    box_xywh = None
    if corners:
        box_xywh = np.array([*corners[:2], corners[2] - corners[0], corners[3] - corners[1]])
    return LabelledPerson(np.array(rows, np.float64)[order], box_xywh, person_id)


def _read_point(point: ElementTree.Element) -> tuple[float, float, float]:
    x, _, y = point.get("points", "").partition(",")
    v = 0.0 if point.get("outside") == "1" else 1.0 if point.get("occluded") == "1" else 2.0
    return float(x), float(y), v
