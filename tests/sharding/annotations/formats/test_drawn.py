"""Drawn people: the same for the same seed, true to their flags, readable as COCO."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from semipose.configs.load import InputError, load
from semipose.sharding.annotations.drawing.body import draw_body
from semipose.sharding.annotations.drawing.paint import draw_wardrobe, paint_body
from semipose.sharding.annotations.drawing.scene import KEYPOINTS, Scene, draw_scene
from semipose.sharding.annotations.formats.drawn import DrawnFormat, draw_scenes
from semipose.sharding.annotations.skeleton import LSP_14
from semipose.sharding.build import BuildSettings

ROOT = Path(__file__).resolve().parents[4]


def scenes_of(count: int, *, num_people: int, occluded: bool) -> list[Scene]:
    return [
        draw_scene(np.random.default_rng(i), size_wh=(192, 160), num_people=num_people, occluded=occluded)
        for i in range(count)
    ]


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_equal_settings_give_equal_files_and_seeds_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        DrawnFormat(folder=tmp_path / name, people=12, seed=seed).read()
    first, second, other = (digest(tmp_path / name) for name in "abc")
    assert first == second
    assert not set(first.values()) & set(other.values())


def test_reads_as_coco_with_the_wanted_people(tmp_path: Path) -> None:
    found = DrawnFormat(folder=tmp_path / "people", people=25, seed=1).read()
    assert found.skeleton == LSP_14
    assert len(found.persons) == 25
    assert list(found.findings) == []
    assert [path.name for path in tmp_path.iterdir()] == ["people"]
    for person in found.persons:
        photo = cv2.imdecode(np.frombuffer(found.photos.read(person.file_name), np.uint8), cv2.IMREAD_COLOR)
        assert photo.shape == (160, 192, 3)
        assert (person.keypoints[:, :2] >= 0).all()
        assert (person.keypoints[:, :2] <= (191, 159)).all()


def test_is_drawn_once_and_refuses_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "people"
    DrawnFormat(folder=folder, people=3).read()
    stamp = (folder / "annotations.json").stat().st_mtime_ns
    DrawnFormat(folder=folder, people=3).read()
    assert (folder / "annotations.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match=r"people.*not what these settings draw.*source\.folder"):
        DrawnFormat(folder=folder, people=4).read()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="mine"):
        DrawnFormat(folder=tmp_path / "mine").read()
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("semipose.sharding.annotations.formats.drawn.cv2.imencode", fail)
    with pytest.raises(KeyboardInterrupt):
        DrawnFormat(folder=tmp_path / "people", people=3).read()
    assert list(tmp_path.iterdir()) == []


KILLER = """
import json, signal, sys
from pathlib import Path
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from tests.killing import run_and_die

folder, start = Path(sys.argv[1]), sys.argv[2]
if start == "an empty folder":
    folder.mkdir(parents=True)
kills = 0
while run_and_die(lambda: DrawnFormat(folder=folder, people=5, seed=3).read(), kills) == -signal.SIGKILL:
    kills += 1
print(kills)
"""


@pytest.mark.parametrize("start", ["absent", "an empty folder"])
def test_killed_at_any_moment_it_is_drawn_anew_and_nothing_is_left(tmp_path: Path, start: str) -> None:
    """Run n is killed before its file operation n, and the next one meets what it left."""
    folder = tmp_path / "here" / "people"
    command = [sys.executable, "-c", KILLER, str(folder), start]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
    DrawnFormat(folder=tmp_path / "undisturbed", people=5, seed=3).read()
    assert digest(folder) == digest(tmp_path / "undisturbed")
    assert [path.name for path in folder.parent.iterdir()] == ["people"]


def test_two_builds_of_one_source_draw_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "people"
    code = (
        "import sys, time; from pathlib import Path\n"
        "import semipose.sharding.annotations.formats.drawn as drawn\n"
        "real = drawn._draw\n"
        "def draw(*args): print('drawing', flush=True); sys.stdin.read(1); real(*args)\n"
        "drawn._draw = draw; drawn.DrawnFormat(folder=Path(sys.argv[1]), people=3).read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        first.stdout.readline()
        second = threading.Thread(target=DrawnFormat(folder=folder, people=3).read)
        second.start()
        second.join(0.5)
        assert second.is_alive(), "it did not wait"
        first.stdin.close()
        second.join(60)
    assert not second.is_alive()
    assert first.returncode == 0
    assert "people: waiting for another build" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_a_link_is_drawn_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "people").symlink_to(tmp_path / "disk" / "empty")
    DrawnFormat(folder=tmp_path / "people", people=3).read()
    assert (tmp_path / "people").is_symlink()
    assert len(digest(tmp_path / "disk" / "empty")) > 1


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(
        InputError, match=r"people: it cannot be written \(No space left .*\): make room on that"
    ):
        DrawnFormat(folder=tmp_path / "people", people=3).read()
    assert list(tmp_path.iterdir()) == []


def test_shares_of_crowded_pictures_follow_the_settings(tmp_path: Path) -> None:
    for share in (0.0, 1.0):
        cfg = DrawnFormat(folder=tmp_path, people=20, seed=5, crowded=share)
        sizes = [len(scene.people) for scene in draw_scenes(cfg)]
        assert sum(sizes) == 20
        assert all(2 <= size <= 4 for size in sizes[:-1]) if share else set(sizes) == {1}


def test_numbers_of_people_follow_their_weights(tmp_path: Path) -> None:
    cfg = DrawnFormat(folder=tmp_path, people=400, seed=5, size_wh=(48, 48), people_weights=(3, 4, 3))
    sizes = [len(scene.people) for scene in draw_scenes(cfg)]
    assert sum(sizes) == 400
    assert np.bincount(sizes, minlength=4)[1:] / len(sizes) == pytest.approx([0.3, 0.4, 0.3], abs=0.1)
    for weights in ((1, 1, 1, 1, 1), (0, 0), ()):
        with pytest.raises(ValueError, match="people_weights: give at most 4 weights, one of them above 0"):
            DrawnFormat(folder=tmp_path, people_weights=weights)


def test_boxes_areas_and_flags_agree_with_the_silhouette() -> None:
    for scene in scenes_of(20, num_people=3, occluded=True):
        assert len(scene.people) == 3
        for person in scene.people:
            x, y, w, h = person.box_xywh
            assert x >= 0
            assert y >= 0
            assert x + w <= 192
            assert y + h <= 160
            assert 0 < person.area <= w * h
            assert set(np.unique(person.keypoints[:, 2])) <= {1, 2}
            seen = person.keypoints[person.keypoints[:, 2] == 2, :2]
            assert (seen > (x - 1.0, y - 1.0)).all()
            assert (seen < (x + w, y + h)).all()


def test_what_stands_in_front_hides_joints() -> None:
    def hidden(occluded: bool, num_people: int) -> float:
        people = [p for s in scenes_of(40, num_people=num_people, occluded=occluded) for p in s.people]
        return float(np.mean([person.keypoints[:, 2] == 1 for person in people]))

    alone, behind_things, in_a_crowd = hidden(False, 1), hidden(True, 1), hidden(False, 4)
    assert 0.02 < alone < 0.25  # by the person's own body
    assert behind_things > alone + 0.05
    assert in_a_crowd > alone + 0.05


def test_left_and_right_follow_the_direction_that_a_person_faces() -> None:
    facing, leftward = [], []
    for seed in range(200):
        body = draw_body(np.random.default_rng(seed))
        facing.append(body.facing)
        leftward.append(body.joints["left_shoulder"][0] - body.joints["right_shoulder"][0])
    front, away = np.array(facing) > 0.6, np.array(facing) < -0.6
    assert front.sum() > 80
    assert away.sum() > 25
    assert (np.array(leftward)[front] > 0).all()  # a person who faces the viewer has the left on the right
    assert (np.array(leftward)[away] < 0).all()


def test_face_shows_in_front_and_hair_behind() -> None:
    def share_of_skin(facing: float) -> float:
        rng = np.random.default_rng(0)
        while abs((body := draw_body(rng)).face_direction[2] - facing) > 0.1:
            pass
        placed = body.to_pixels(100, np.array([96.0, 80.0]))
        picture, labels = np.zeros((160, 192, 3), np.uint8), np.zeros((160, 192), np.uint8)
        wardrobe = draw_wardrobe(rng, 100)
        paint_body(picture, labels, placed, wardrobe, 0, rng)
        x, y = placed.joints["head"][:2].round().astype(int)
        patch = picture[y - 4 : y + 5, x - 4 : x + 5].astype(float)
        return float((np.abs(patch - wardrobe.skin).max(axis=2) < 3).mean())

    assert share_of_skin(0.95) > 0.1
    assert share_of_skin(-0.95) == 0.0


def test_names_of_the_keypoints_are_joints_of_the_body() -> None:
    body = draw_body(np.random.default_rng(0))
    assert set(KEYPOINTS) <= set(body.joints)


def test_a_scene_holds_one_to_four() -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        draw_scene(np.random.default_rng(0), size_wh=(192, 160), num_people=5, occluded=False)


def test_people_who_cannot_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person of the least height is wider than the picture."""
    monkeypatch.setattr("semipose.sharding.annotations.drawing.scene.MOST_TRIES", 20)
    with pytest.raises(InputError, match=r"source\.size_wh: a picture of 48x2000 px had no room"):
        DrawnFormat(folder=tmp_path / "drawn", people=1, crowded=0, size_wh=(48, 2000)).read()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["drawn", "drawn_val"])
def test_recipes_load(name: str) -> None:
    cfg = load(BuildSettings, ROOT / f"configs/shards/{name}.yaml")
    assert isinstance(cfg.source, DrawnFormat)


def test_annotations_are_plain_coco(tmp_path: Path) -> None:
    DrawnFormat(folder=tmp_path / "people", people=4).read()
    rows = json.loads((tmp_path / "people" / "annotations.json").read_text())
    assert rows["categories"][0]["keypoints"] == list(LSP_14.names)
    assert {"id", "image_id", "bbox", "area", "iscrowd", "keypoints", "num_keypoints"} <= set(
        rows["annotations"][0]
    )
