"""`pose("photo.jpg")`: the people of photos as arrays, pictures, COCO and CSV."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semipose
from semipose.configs.errors import InputError
from semipose.predict.boxes import WholePhotos
from semipose.predict.predictor import Frame, Predictor
from semipose.predict.sources import Boxes
from tests.semipose.models import image_model, person_model

BOXES = [[5, 5, 40, 60], [20, 10, 30, 50]]


@pytest.fixture(scope="module")
def pose() -> Predictor:
    return Predictor(person_model(), people=WholePhotos(), batch_size=3)


def test_a_path_an_array_and_a_pil_image_give_the_same_people(pose, write_photo, tmp_path) -> None:
    path = write_photo(tmp_path / "a.png")
    pixels = np.asarray(Image.open(path))
    people = [pose(path, boxes=BOXES), pose(pixels, boxes=BOXES), pose(Image.open(path), boxes=BOXES)]
    people += pose([str(path), pixels], boxes=[BOXES, BOXES])
    for other in people[1:]:
        assert np.array_equal(other.xy, people[0].xy)
    assert people[0].xy.shape == (2, 5, 2)
    assert people[0].peaks.shape == (2, 5)
    assert people[0].boxes.tolist() == BOXES
    assert people[0].names[0] == "nose"


def test_one_person_is_found_alike_alone_and_in_any_batch(pose, write_photo, tmp_path) -> None:
    """Batches are filled across photos; the first and the last photo have no people at all."""
    photos = [write_photo(tmp_path / f"{i}.png", seed=i) for i in range(6)]
    boxes = [[], BOXES, BOXES[:1], BOXES * 2, BOXES[:1], []]
    together = pose(photos, boxes=boxes)
    assert [len(people) for people in together] == [0, 2, 1, 4, 1, 0]
    for photo, of_photo, people in zip(photos, boxes, together, strict=True):
        for i, box in enumerate(of_photo):
            alone = pose(photo, boxes=[box])
            assert np.allclose(people.xy[i], alone.xy[0], atol=1e-3)
            assert np.allclose(people.peaks[i], alone.peaks[0], atol=1e-4)


def test_without_boxes_people_are_found_as_the_settings_say(pose, write_photo, tmp_path) -> None:
    people = pose(write_photo(tmp_path / "a.png", 60, 80))
    assert people.boxes.tolist() == [[0, 0, 59, 79]]


def test_a_photo_moved_in_a_larger_one_moves_its_keypoints(pose, write_photo, tmp_path) -> None:
    """Geometry end to end: what surrounds the box beyond its margin has no say in where points are."""
    pixels = np.asarray(Image.open(write_photo(tmp_path / "a.png", 200, 200)))
    wide = np.zeros((300, 340, 3), np.uint8)
    wide[70:270, 90:290] = pixels
    box = np.array([80.0, 80.0, 40.0, 40.0])
    here, there = pose(pixels, boxes=[box]), pose(wide, boxes=[box + np.array([90, 70, 0, 0])])
    assert np.allclose(here.xy + np.array([90, 70]), there.xy, atol=1e-3)


def test_exif_turns_a_photo_before_its_boxes_count(pose, write_photo, tmp_path) -> None:
    stored = Image.open(write_photo(tmp_path / "a.png", 60, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    stored.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned = pose(tmp_path / "turned.png", boxes=BOXES)
    assert turned.size_wh == (60, 80)
    assert np.array_equal(turned.xy, pose(stored, boxes=BOXES).xy)
    assert np.array_equal(turned.xy, pose(Image.open(tmp_path / "turned.png"), boxes=BOXES).xy)


@pytest.mark.parametrize("num_keypoints", [1, 4, 17, 133])
def test_any_number_of_keypoints_is_predicted_drawn_and_written(num_keypoints, write_photo, tmp_path) -> None:
    pose = Predictor(person_model(num_keypoints))
    people = pose(write_photo(tmp_path / "a.jpg", 300, 200), boxes=BOXES)
    assert people.xy.shape == (2, num_keypoints, 2)
    picture = people.draw(tmp_path / "out.webp")
    assert Image.open(tmp_path / "out.webp").size == (picture.shape[1], picture.shape[0])
    assert len(people.to_csv().splitlines()) == 1 + 2 * num_keypoints
    assert len(people.to_coco()["annotations"][0]["keypoints"]) == 3 * num_keypoints


def test_coco_and_csv_hold_the_same_numbers(pose, write_photo, tmp_path) -> None:
    people = pose(write_photo(tmp_path / "a.png"), boxes=BOXES)
    coco = json.loads(json.dumps(people.to_coco()))
    rows = list(csv.DictReader(io.StringIO(people.to_csv(tmp_path / "a.csv"))))
    assert (tmp_path / "a.csv").read_text().splitlines()[
        0
    ] == "file,frame,time_s,person,track,keypoint,x,y,peak"
    points = [[float(row["x"]), float(row["y"])] for row in rows]
    flat = [keypoint for person in coco["annotations"] for keypoint in person["keypoints"]]
    assert points == np.reshape(flat, (-1, 3))[:, :2].tolist()
    assert np.allclose(np.reshape(points, (2, 5, 2)), people.xy, atol=6e-4)
    seen = np.reshape(flat, (2, 5, 3))[..., 2]
    assert (seen == np.where(people.peaks >= 0.2, 2, 0)).all()
    (category,) = coco["categories"]
    assert (category["id"], category["name"]) == (7, "dancer")
    assert {person["category_id"] for person in coco["annotations"]} == {7}


def test_of_two_people_in_one_place_a_file_keeps_one_and_a_call_both(pose, write_photo, tmp_path) -> None:
    from semipose.predict.predictor import Frame
    from semipose.predict.sources import Boxes

    pixels = np.asarray(Image.open(write_photo(tmp_path / "a.png")))
    twice = np.array([BOXES[0], BOXES[0]], np.float64)
    assert len(pose(pixels, boxes=twice)) == 2
    (people,) = pose.predict([Frame(pixels, {}, Boxes(twice, np.array([0.5, 0.9])))])
    assert len(people) == 1
    assert people.scores[0] == pytest.approx(0.9 * pose(pixels, boxes=twice[:1]).scores[0])


@pytest.mark.parametrize("family", ["dekr", "ae", "cid"])
def test_detector_free_models_need_no_boxes(family, write_photo, tmp_path) -> None:
    """Photos of several sizes in one batch; the surest person first; points inside the photo's reach."""
    pose = Predictor(image_model(family), batch_size=2, min_score=0.0)
    photos = [write_photo(tmp_path / f"{i}.png", 90 + 40 * i, 100, seed=i) for i in range(3)]
    found = pose(photos)
    assert sum(map(len, found)) > 0
    for photo, people in zip(photos, found, strict=True):
        assert (np.diff(people.scores) <= 0).all()
        assert people.boxes.shape == (len(people), 4)
        assert np.isfinite(people.xy).all()
        people.draw()
        assert people.size_wh == Image.open(photo).size
    scores = np.concatenate([people.scores for people in found])
    limit = float(np.median(scores))
    surer = Predictor(image_model(family), batch_size=2, min_score=limit)(photos)
    assert sum(map(len, surer)) == (scores >= limit).sum()


@pytest.mark.parametrize(
    ("photo", "why"),
    [
        (np.zeros((4, 4), np.uint8), "must be an array"),
        (np.zeros((4, 4, 3), np.float32), "must be an array"),
        (np.zeros((0, 4, 3), np.uint8), "must be an array"),
        ("nowhere.jpg", "there is no such photo"),
    ],
)
def test_what_is_no_photo_is_one_sentence(pose, photo, why) -> None:
    with pytest.raises(InputError, match=why):
        pose(photo)


@pytest.mark.parametrize("boxes", [[[1, 2, 3]], [[1, 2, 0, 4]], [[1, 2, float("nan"), 4]], "box"])
def test_boxes_that_are_none_are_one_sentence(pose, boxes) -> None:
    with pytest.raises(InputError, match="boxes must be"):
        pose(np.zeros((50, 50, 3), np.uint8), boxes=boxes)


def test_a_given_box_outside_the_photo_is_one_sentence(pose) -> None:
    """Leaving it out would move the rows of the others."""
    with pytest.raises(InputError, match=r"row 1\) is outside the photo, which has 60 x 50 pixels"):
        pose(np.full((50, 60, 3), 9, np.uint8), boxes=[[5, 5, 20, 20], [100, 100, 10, 10]])


def test_what_a_detector_finds_outside_the_photo_is_left_out(pose) -> None:
    boxes = Boxes(np.array([[100.0, 100, 10, 10], [5, 5, 20, 20]]), np.ones(2))
    (people,) = pose.predict([Frame(np.full((50, 50, 3), 9, np.uint8), {"file_name": "a.png"}, boxes)])
    assert people.boxes.tolist() == [[5, 5, 20, 20]]


def test_a_picture_goes_into_a_new_folder_by_its_suffix(pose, write_photo, tmp_path) -> None:
    people = pose(write_photo(tmp_path / "a.png"), boxes=BOXES)
    for name, kind in (("a.webp", "WEBP"), ("a.png", "PNG"), ("a.JPG", "JPEG")):
        people.draw(tmp_path / "new" / name)
        assert Image.open(tmp_path / "new" / name).format == kind
    with pytest.raises(InputError, match=r"a\.xyz: a picture is written as \.webp, \.png or \.jpg"):
        people.draw(tmp_path / "a.xyz")
    assert not (tmp_path / "a.xyz").exists()


def test_weights_that_are_not_finite_are_named(write_photo, tmp_path) -> None:
    model = person_model()
    model.network.head.final.weight.data[:] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        Predictor(model)(write_photo(tmp_path / "a.png"), boxes=BOXES)


def test_supervision_gets_the_same_keypoints_or_a_sentence(pose, write_photo, tmp_path, monkeypatch) -> None:
    people = pose(write_photo(tmp_path / "a.png"), boxes=BOXES)
    try:
        import supervision
    except ImportError:
        with pytest.raises(InputError, match=r"pip install 'semipose\[supervision\]'"):
            people.to_supervision()
        return
    keypoints = people.to_supervision()
    assert isinstance(keypoints, supervision.KeyPoints)
    assert np.array_equal(keypoints.xy, people.xy)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="not installed"):
        people.to_supervision()


def test_three_lines_from_a_run_to_keypoints(run_folder: Path, write_photo, tmp_path) -> None:
    photos = [write_photo(tmp_path / f"{i}.png", seed=i) for i in range(3)]
    pose = semipose.load(run_folder, people="whole", device="cpu", min_peak=0.3)
    people = pose(photos[0])
    assert people.xy.shape == (1, 14, 2)
    assert people.min_peak == 0.3
    assert [each.file_name for each in pose.stream(tmp_path)] == ["0.png", "1.png", "2.png"]
    again = semipose.load(run_folder / "model", people="whole", decode="dark")(photos[0])
    assert again.xy.shape == people.xy.shape
    assert not np.array_equal(again.xy, people.xy)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"people": "everyone"}, "there is no 'everyone': take one of auto"),
        ({"network": "other"}, "no network 'other': choose"),
        ({"device": "cuda:77"}, "cannot be used here"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(run_folder, settings, why) -> None:
    with pytest.raises(InputError, match=why):
        semipose.load(run_folder, **settings)
