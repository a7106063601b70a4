"""People as a prediction folder holds them, drawn for tests, and the commands without their processes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from semipose.configs.load import load
from semipose.label.merge import receive
from semipose.label.out import send
from semipose.label.settings import InSettings, OutSettings
from semipose.sharding.annotations.skeleton import COCO_17, Skeleton, to_category
from tests.semipose.models import skeleton_of

SIX = Skeleton(
    names=("wrist_left", "wrist_right", "hip_left", "hip_right", "head", "racket tip"),
    flip_pairs=((0, 1), (2, 3)),
    bones=((0, 2), (1, 3), (2, 3)),
    sigmas=(0.05,) * 6,
)
SKELETONS = {1: skeleton_of(1), 6: SIX, 17: COCO_17}
FORMATS = ("coco", "cvat", "label-studio", "yolo")
EXPORTS = {"coco": "annotations.json", "cvat": "annotations.xml", "label-studio": "export.json", "yolo": ""}
"""What each format's `label out` writes that `label in` reads; Label Studio exports another file."""


def write_predictions(folder: Path, skeleton: Skeleton = COCO_17, *, seed: int = 0) -> Path:
    """A folder with keypoints.json and photos: photos of three, one and no person, with ids out of order."""
    rng = np.random.default_rng(seed)
    names = ["a.png", "clip/b_0001.png", "clip/b_0002.png", "empty.png"]
    images, rows = [], []
    ids = iter([41, 7, 19, 3, 23, 30])
    for number, (name, count) in enumerate(zip(names, (3, 1, 2, 0), strict=True), start=1):
        width, height = 331 + number, 207
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for person in range(count):
            x, y, w, h = 10.25 + 100 * person, 20.5, 90.125, 150.75
            points = rng.uniform((x + 5, y + 5), (x + w - 5, y + h - 5), (skeleton.num_keypoints, 2)).round(3)
            v = rng.choice([0, 1, 2], skeleton.num_keypoints, p=[0.2, 0.3, 0.5])
            v[0] = 2
            keypoints = np.column_stack([points, v])
            rows.append(
                {
                    "id": next(ids),
                    "image_id": number,
                    "category_id": 7,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "num_keypoints": int((v > 0).sum()),
                    "keypoints": [
                        int(n) if k % 3 == 2 else n for k, n in enumerate(keypoints.ravel().tolist())
                    ],
                    "peaks": rng.uniform(0, 1, skeleton.num_keypoints).round(4).tolist(),
                    "score": 0.5,
                }
            )
    category = to_category(skeleton, category_id=7, name="dancer")
    (folder / "keypoints.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": [category]})
    )
    return folder


def send_out(source: Path, output: Path, *words: str) -> Path:
    """`semipose label out`; returns the folder."""
    cfg = load(OutSettings, None, [f"output={output}", *words])
    return send(source, cfg, Console(quiet=True))


def bring_in(export: Path, into: Path, *words: str) -> tuple[dict[str, Any], str]:
    """`semipose label in`; returns the merged file and what was printed."""
    text = io.StringIO()
    cfg = load(InSettings, None, [f"into={into}", *words])
    receive(export, cfg, Console(file=text, width=200))
    return json.loads(into.read_bytes()), text.getvalue()


def export_of(folder: Path, kind: str) -> Path:
    """What the tool exports of a folder of `label out`, if nobody changed anything."""
    if kind == "label-studio":  # predictions that a labeller submitted as they are
        tasks = json.loads((folder / "tasks.json").read_bytes())
        for number, task in enumerate(tasks, start=1):
            result = task["predictions"][0]["result"]
            task |= {
                "id": number,
                "annotations": [{"id": 90 + number, "was_cancelled": False, "result": result}],
            }
        (folder / "export.json").write_text(json.dumps(tasks))
    return folder / EXPORTS[kind]


def people_of(coco: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The annotations of each photo by its name, by x of the box."""
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    people: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for row in coco["annotations"]:
        people[names[row["image_id"]]].append(row)
    return {name: sorted(rows, key=lambda row: row["bbox"][0]) for name, rows in people.items()}
