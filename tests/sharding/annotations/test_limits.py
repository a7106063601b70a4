"""Numbers that no shard can hold: builds stop at them, and verify passes what builds make, by one rule."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.aic import AicFormat
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.formats.lsp import LspFormat
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.annotations.limits import REACH
from semipose.sharding.annotations.skeleton import CROWDPOSE_14
from semipose.sharding.build import build
from semipose.sharding.check.report import check
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.settings import BuildSettings

WIDTH, HEIGHT = 200, 150
ODD = (1e9, -1e9, 1e39, -1e39, 1e200, 1e300, 1e-46, 1e-50, -0.0, 3.4028235e38)
EDGES = (
    (1 + REACH) * WIDTH,
    np.nextafter((1 + REACH) * WIDTH, np.inf),
    -REACH * WIDTH,
    -REACH * WIDTH - 0.01,
)


def shared_folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / "images").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(tmp_path / "images" / name, quality=90)
    return tmp_path / "images"


def spoilt_list(count: int, place: int, value: float, *, third: float) -> list[float]:
    """x, y, flag of so many joints about the middle of the photo, one number replaced."""
    numbers = [number for joint in range(count) for number in (60.0 + 3 * joint, 50.0 + 2 * joint, third)]
    numbers[place] = value
    return numbers


def coco(tmp_path: Path, value: float, where: str, *, names: tuple[str, ...] = ()) -> CocoFormat:
    """COCO's form; where: the number that is odd."""
    images = shared_folder(tmp_path, "1.jpg")
    category = {"id": 1, "name": "person", "keypoints": list(names or "abcde")}
    count = len(category["keypoints"])
    row: dict[str, Any] = {"id": 7, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 900.0}
    row |= {"bbox": [50.0, 40.0, 60.0, 50.0], "keypoints": spoilt_list(count, 0, 60, third=2)}
    crowd = row | {"id": 8, "iscrowd": 1}
    if where == "joint":
        row["keypoints"] = spoilt_list(count, 3, value, third=2)
    elif where == "unlabelled joint":
        row["keypoints"] = spoilt_list(count, 3, value, third=2)
        row["keypoints"][5] = 0
    elif where == "area":
        row["area"] = value
    elif where == "crowd":
        crowd["bbox"] = [1.0, 1.0, value, 50.0]
    elif where == "joint of a crowd":
        crowd["keypoints"] = spoilt_list(count, 3, value, third=2)
    else:
        row["bbox"][["x", "y", "width", "height"].index(where)] = value
    photo = {"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}
    (tmp_path / "coco.json").write_text(
        json.dumps({"images": [photo], "annotations": [row, crowd], "categories": [category]})
    )
    return CocoFormat(annotations=tmp_path / "coco.json", images=images)


def crowdpose(tmp_path: Path, value: float, where: str) -> CrowdPoseFormat:
    made = coco(tmp_path, value, where, names=CROWDPOSE_14.names)
    return CrowdPoseFormat(annotations=made.annotations, images=made.images)


def detected(tmp_path: Path, value: float, where: str) -> CocoFormat:
    made = coco(tmp_path, 60.0, "joint")
    box = [50.0, 40.0, 60.0, 50.0]
    score = 0.5
    if where == "score":
        score = value
    else:
        box[["x", "y", "width", "height"].index(where)] = value
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 1, "bbox": box, "score": score}]))
    boxes = Detections(results=tmp_path / "boxes.json")
    return CocoFormat(annotations=made.annotations, images=made.images, boxes=boxes)


def aic(tmp_path: Path, value: float, where: str) -> AicFormat:
    images = shared_folder(tmp_path, "a.jpg")
    box = [50.0, 40.0, 110.0, 90.0]
    joints = spoilt_list(14, 3, value if where == "joint" else 60, third=1)
    if where != "joint":
        box[["x", "y", "right", "bottom"].index(where)] = value
    row = {"image_id": "a", "keypoint_annotations": {"human1": joints}, "human_annotations": {"human1": box}}
    (tmp_path / "aic.json").write_text(json.dumps([row]))
    return AicFormat(annotations=tmp_path / "aic.json", images=images)


def mpii(tmp_path: Path, value: float, where: str) -> MpiiFormat:
    images = shared_folder(tmp_path, "m.jpg")
    joints = [[60.0 + 3 * joint, 50.0 + 2 * joint] for joint in range(16)]
    row: dict[str, Any] = {"image": "m.jpg", "center": [90.0, 70.0], "scale": 0.4, "joints": joints}
    row["joints_vis"] = [1] * 16
    if where == "joint":
        joints[1][0] = value
    elif where == "centre":
        row["center"][0] = value
    else:
        row["scale"] = value
    (tmp_path / "mpii.json").write_text(json.dumps([row]))
    return MpiiFormat(annotations=tmp_path / "mpii.json", images=images)


def lsp(tmp_path: Path, value: float, where: str) -> LspFormat:
    images = shared_folder(tmp_path, "im00001.jpg")
    joints = np.array(spoilt_list(14, 3, value if where == "joint" else 60, third=1)).reshape(14, 3, 1)
    if where == "unlabelled joint":
        joints[1] = [[value], [value], [0]]
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    return LspFormat(joints=tmp_path / "joints.mat", images=images)


PLACES = {
    coco: ("joint", "unlabelled joint", "area", "crowd", "joint of a crowd", "x", "y", "width", "height"),
    crowdpose: ("joint", "width"),
    detected: ("x", "y", "width", "height", "score"),
    aic: ("joint", "x", "right", "bottom"),
    mpii: ("joint", "centre", "scale"),
    lsp: ("joint", "unlabelled joint"),
}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Many small builds: nothing here is about a power loss."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def outcome(settings: BuildSettings) -> str:
    """The sentence with which a build stops; empty where verify passes what it made."""
    quiet = Console(quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            build(settings, console=quiet)
        except InputError as error:
            return str(error)
    verify(VerifySettings(verify=settings.output, workers=1), console=quiet)
    return ""


@pytest.mark.parametrize(
    ("make", "where"), [(make, where) for make, places in PLACES.items() for where in places]
)
def test_builds_stop_at_what_verify_would_refuse(
    tmp_path: Path, make: Callable[..., Any], where: str
) -> None:
    stopped = 0
    values = (*ODD, *EDGES) if make is not lsp else (*ODD, *EDGES, np.inf, -np.inf, np.nan)
    person: dict[str, Any] = {"kind": "person"}
    image: dict[str, Any] = {"kind": "image", "crop": WholePhoto()}
    for number, value in enumerate(values):
        has_images = make is not detected and value in (-1e9, 1e200, EDGES[1])
        for kind in (person, image) if has_images else (person,):
            output = tmp_path / f"{kind['kind']}{number}"
            source = make(tmp_path, value, where)
            told = outcome(BuildSettings(source=source, output=output, workers=1, **kind))
            assert "\n" not in told, (value, told)
            stopped += bool(told)
    harmless = {(coco, "x"), (lsp, "unlabelled joint"), (detected, "score"), (coco, "joint of a crowd")}
    assert stopped or (make, where) in harmless


@pytest.mark.parametrize(
    ("make", "where", "value", "words"),
    [
        (
            coco,
            "joint",
            1e39,
            r"coco\.json: annotation 7: a number that float32 cannot hold \(b at \(inf, 52\)\)",
        ),
        (
            coco,
            "joint",
            1e9,
            r"annotation 7: labelled joint more than 2 photos' sizes .*\(b at \(1000000000, 52\)",
        ),
        (coco, "area", 1e300, r"annotation 7: a number that float32 .*area 1e\+300"),
        (coco, "crowd", 1e200, r"coco\.json: annotation 8: a number that float32 cannot hold"),
        (detected, "width", 1e200, r"coco\.json: detected box 1: a number that float32 cannot hold"),
        (lsp, "joint", np.inf, r"joints\.mat: annotation 1: a number .*\(right_knee at \(inf, 52\)\)"),
        (lsp, "joint", 1e9, r"im00001\.jpg: annotation 1: labelled joint more than .*\(joint 2 at"),
        (aic, "joint", 1e39, r"aic\.json: annotation 1: a number that float32 cannot hold"),
        (mpii, "scale", 1e200, r"mpii\.json: annotation 1: a number that float32 cannot hold"),
    ],
)
def test_file_and_record_are_named(
    tmp_path: Path, make: Callable[..., Any], where: str, value: float, words: str
) -> None:
    settings = BuildSettings(source=make(tmp_path, value, where), output=tmp_path / "out", workers=1)
    with pytest.raises(InputError, match=rf"{words}.*: correct (the number|it), or remove the row"):
        build(settings, console=Console(quiet=True))
    with pytest.raises(InputError, match="faults stop this build"):
        check(settings, console=Console(quiet=True))


def test_a_crowd_with_another_number_of_keypoints_stops(tmp_path: Path) -> None:
    made = coco(tmp_path, 1.0, "joint")
    content = json.loads(made.annotations.read_text())
    del content["annotations"][1]["keypoints"][-3:]
    made.annotations.write_text(json.dumps(content))
    told = outcome(BuildSettings(source=made, output=tmp_path / "out", workers=1))
    assert "annotation 8: keypoints must be a list of 15 numbers (found 12)" in told
