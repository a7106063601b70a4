"""MPII: the list, and the original MATLAB file made anew with its quirks."""

import json

import numpy as np
import pytest
import scipy.io

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.formats.mpii import MpiiFormat
from semipose.sharding.annotations.skeleton import MPII_16


def joints_of(seed: int) -> np.ndarray:
    return np.round(np.random.default_rng(seed).random((16, 2)) * 300 + 50, 1)


def row(file_name: str, seed: int, **changes):
    made = {"image": file_name, "center": [200.0 + seed, 150.0], "scale": 1.5}
    return {**made, "joints": joints_of(seed).tolist(), "joints_vis": [1] * 16, **changes}


@pytest.fixture
def read_rows(tmp_path):
    def read(rows, **settings):
        path = tmp_path / "train.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return MpiiFormat(annotations=path, images=tmp_path, **settings).read()

    return read


class TestList:
    def test_counts_from_0_in_a_lowered_square(self, read_rows):
        person = read_rows([row("a.jpg", 1)]).persons[0]
        centre, side = np.array([201 - 1, 150 + 15 * 1.5 - 1]), 300
        assert person.box_xywh == pytest.approx((*(centre - side / 2), side, side))
        assert person.area == pytest.approx(AREA_OF_BOX * side**2)
        np.testing.assert_allclose(person.keypoints[:, :2], joints_of(1) - 1, rtol=1e-6)
        assert (person.keypoints[:, 2] == 2).all()
        assert (person.source_size_wh, person.head_xywh) == (None, None)

    def test_unlabelled_joints_become_zeros(self, read_rows):
        joints = joints_of(1)
        joints[4] = (-1, -1)
        flags = [1] * 16
        flags[4] = flags[9] = 0
        keypoints = (
            read_rows([row("a.jpg", 1, joints=joints.tolist(), joints_vis=flags)]).persons[0].keypoints
        )
        assert keypoints[[4, 9]].tolist() == [[0, 0, 0]] * 2
        assert keypoints[:, 2].tolist() == [2.0 * flag for flag in flags]

    def test_persons_of_one_photo_stand_together(self, read_rows):
        annotations = read_rows([row("b.jpg", 1), row("a.jpg", 2), row("b.jpg", 3)])
        facts = [(person.id, person.image_id, person.file_name) for person in annotations.persons]
        assert facts == [(1, 1, "b.jpg"), (3, 1, "b.jpg"), (2, 2, "a.jpg")]
        assert annotations.skeleton is MPII_16

    def test_test_split_has_unlabelled_persons(self, read_rows):
        bare = {key: value for key, value in row("a.jpg", 1).items() if not key.startswith("joints")}
        annotations = read_rows([bare])
        assert not annotations.persons[0].keypoints.any()
        assert annotations.persons[0].keypoints.shape == (16, 3)

    def test_persons_without_a_place_are_dropped(self, read_rows):
        rows = [row("a.jpg", 1, center=[-1, -1]), row("b.jpg", 2, scale=-1), row("c.jpg", 3)]
        annotations = read_rows(rows)
        assert [person.id for person in annotations.persons] == [3]
        assert annotations.findings.counts("dropped") == {"no centre or no scale": 2}
        assert [photo.file_name for photo in annotations.empty_photos] == ["a.jpg", "b.jpg"]

    def test_head_boxes_go_by_the_row(self, read_rows, tmp_path):
        heads = np.array(
            [[[10, 40, 70], [20, 50, 80]], [[31, 61, 91], [42, 72, np.nan]]]
        )  # corner, xy, person
        scipy.io.savemat(tmp_path / "gt_valid.mat", {"headboxes_src": heads})
        rows = [row("b.jpg", 1), row("a.jpg", 2), row("b.jpg", 3)]
        persons = read_rows(rows, head_boxes=tmp_path / "gt_valid.mat").persons
        assert {p.id: p.head_xywh for p in persons} == {1: (9, 19, 21, 22), 2: (39, 49, 21, 22), 3: None}

    def test_head_boxes_of_another_split(self, read_rows, tmp_path):
        scipy.io.savemat(tmp_path / "gt.mat", {"headboxes_src": np.zeros((2, 2, 5))})
        with pytest.raises(
            InputError, match=r"gt\.mat: headboxes_src has the shape \(2, 2, 5\), but train\.json"
        ):
            read_rows([row("a.jpg", 1)], head_boxes=tmp_path / "gt.mat")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"joints": [[1, 2]] * 15}, "person in row 2: joints and joints_vis must be 16 pairs"),
            ({"joints": [[1, 2, 3]] * 16}, "person in row 2: joints and joints_vis must be 16 pairs"),
            ({"joints_vis": [1] * 14}, "person in row 2: joints and joints_vis must be 16 pairs"),
            ({"joints_vis": None}, "person in row 2: joints and joints_vis must be 16 pairs"),
            ({"joints_vis": [2] * 16}, "person in row 2: joints_vis is not 0 or 1"),
            ({"center": [1]}, "person in row 2: center must be two numbers"),
            ({"scale": "big"}, "person in row 2: scale: expected `float`, got `str`"),
            ({"image": None}, "person in row 2: image: expected `str`, got `null`"),
        ],
    )
    def test_faults_name_file_and_row(self, read_rows, changes, words):
        annotations = read_rows([row("a.jpg", 1), row("b.jpg", 2, **changes)])
        with pytest.raises(InputError, match=words) as error:
            annotations.findings.raise_errors()
        assert "train.json: " in str(error.value)
        assert "\n" not in str(error.value)

    def test_other_files(self, read_rows):
        with pytest.raises(InputError, match=r"train\.json: this is not MPII's list of persons"):
            read_rows({"images": []})
        with pytest.raises(InputError, match="no whole JSON"):
            read_rows('[{"image": ')


def cells(items: list[dict]) -> np.ndarray:
    """A MATLAB struct array of structs with equal fields."""
    array = np.empty((1, len(items)), dtype=[(key, object) for key in items[0]])
    for index, item in enumerate(items):
        array[0, index] = tuple(item.values())
    return array


NOTHING = np.zeros((0, 0))


def points(ids, visible=lambda index: index % 2, **changes):
    joints = np.vstack([joints_of(7), [[1, 1]]])
    made = [
        {"x": joints[i, 0], "y": joints[i, 1], "id": float(i), "is_visible": visible(i), **changes}
        for i in ids
    ]
    return {"point": cells(made)}


def rect(place=(200.0, 150.0), scale=1.5, annopoints=NOTHING, head=(10.0, 20.0, 31.0, 42.0)):
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), head or [NOTHING] * 4, strict=True)),
        "scale": NOTHING if scale is None else scale,
        "objpos": NOTHING if place is None else {"x": place[0], "y": place[1]},
        "annopoints": annopoints,
    }


def photo(name, annorect=NOTHING):
    return {"image": {"name": name}, "annorect": annorect, "frame_sec": NOTHING}


@pytest.fixture
def mat(tmp_path):
    """People alone and together, with fields that are empty or absent; one photo of the test split."""
    photos = [
        photo(
            "a.jpg", cells([rect(annopoints=points(range(16))), rect(place=None, annopoints=points([1, 2]))])
        ),
        photo("test.jpg", {"scale": 2.0, "objpos": {"x": 50.0, "y": 60.0}}),
        photo("b.jpg", rect(annopoints=points([3], visible=lambda _: "0"), head=None)),
        photo("nobody.jpg"),
        photo("c.jpg", cells([rect(annopoints=points(range(8, 12), visible=visibility)), rect(scale=None)])),
        photo("unplaced.jpg", {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}),
        photo("jointless.jpg", rect()),
    ]
    flags = [1, 0, 1, 1, 1, 1, 1]
    release = {"annolist": cells(photos), "img_train": flags, "version": "12"}
    path = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(path, {"RELEASE": release})
    return path


def visibility(index: int):
    return {8: NOTHING, 9: "", 10: "1", 11: True}[index]


class TestMat:
    def test_train_takes_every_person_with_place_scale_and_joints(self, mat, tmp_path):
        annotations = MpiiFormat(annotations=mat, images=tmp_path, split="train").read()
        facts = [(person.id, person.image_id, person.file_name) for person in annotations.persons]
        assert facts == [(1, 1, "a.jpg"), (4, 3, "b.jpg"), (5, 5, "c.jpg")]
        assert annotations.findings.counts("dropped") == {"no centre or no scale": 3, "no joints": 1}
        empty = [(photo.id, photo.file_name) for photo in annotations.empty_photos]
        assert empty == [(4, "nobody.jpg"), (6, "unplaced.jpg"), (7, "jointless.jpg")]

    def test_numbers_count_from_0(self, mat, tmp_path):
        person = MpiiFormat(annotations=mat, images=tmp_path, split="train").read().persons[0]
        np.testing.assert_allclose(person.keypoints[:, :2], joints_of(7) - 1, rtol=1e-6)
        assert person.box_xywh == pytest.approx((49, 150 + 22.5 - 1 - 150, 300, 300))
        assert person.head_xywh == (9, 19, 21, 22)

    def test_visibility_in_all_its_forms(self, mat, tmp_path):
        first, second, third = MpiiFormat(annotations=mat, images=tmp_path, split="train").read().persons
        assert first.keypoints[:, 2].tolist() == [1, 2] * 8
        assert second.keypoints[3, 2] == 1
        assert not np.delete(second.keypoints, 3, axis=0).any()
        assert third.keypoints[:, 2].tolist() == [0] * 8 + [2] * 4 + [0] * 4
        assert second.head_xywh is None

    def test_test_split_has_unlabelled_persons(self, mat, tmp_path):
        annotations = MpiiFormat(annotations=mat, images=tmp_path, split="test").read()
        (person,) = annotations.persons
        assert (person.id, person.image_id, person.file_name) == (3, 2, "test.jpg")
        assert person.box_xywh == pytest.approx((49 - 200, 60 + 30 - 1 - 200, 400, 400))
        assert not person.keypoints.any()
        assert annotations.empty_photos == ()

    def test_a_bad_point_names_the_person(self, tmp_path):
        bad = photo("a.jpg", rect(annopoints=points([1, 16])))
        release = {"annolist": cells([bad, photo("b.jpg")]), "img_train": [1, 0]}
        scipy.io.savemat(tmp_path / "bad.mat", {"RELEASE": release})
        annotations = MpiiFormat(annotations=tmp_path / "bad.mat", images=tmp_path, split="train").read()
        with pytest.raises(InputError, match=r"bad\.mat: person 1: a point needs x, y and an id in 0\.\.15"):
            annotations.findings.raise_errors()

    def test_other_files(self, tmp_path):
        def read(name):
            MpiiFormat(annotations=tmp_path / name, images=tmp_path, split="train").read()

        with pytest.raises(InputError, match=r"none\.mat: the annotations cannot be read"):
            read("none.mat")
        scipy.io.savemat(tmp_path / "else.mat", {"joints": [1]})
        with pytest.raises(InputError, match=r"else\.mat: this is no MATLAB file with `RELEASE`"):
            read("else.mat")
        release = {"annolist": cells([photo("a.jpg"), photo("b.jpg")]), "img_train": [1, 0, 1]}
        scipy.io.savemat(tmp_path / "cut.mat", {"RELEASE": release})
        with pytest.raises(InputError, match=r"cut\.mat: RELEASE has 2 photos and 3 marks of the split"):
            read("cut.mat")


def test_settings_that_do_not_fit_the_file(tmp_path):
    for name, settings, words in (
        ("a.mat", {}, "set split to train or test"),
        ("a.json", {"split": "train"}, "one split already"),
        ("a.mat", {"split": "train", "head_boxes": tmp_path / "gt.mat"}, "its own head boxes"),
    ):
        with pytest.raises(ValueError, match=words):
            MpiiFormat(annotations=tmp_path / name, images=tmp_path, **settings)


def test_real_list(shared_data):
    folder = shared_data / "mpii"
    path = folder / "mpii_hrnet_list.json"
    annotations = MpiiFormat(annotations=path, images=folder / "images").read()
    annotations.findings.raise_errors()
    rows = json.loads(path.read_text())
    assert [person.file_name for person in annotations.persons] == [row["image"] for row in rows]
    assert annotations.photos.absent(row["image"] for row in rows) == set()
    for person, listed in zip(annotations.persons, rows, strict=True):
        labelled = np.array(listed["joints_vis"]) > 0
        np.testing.assert_array_equal(person.keypoints[:, 2] > 0, labelled)
        expected = np.array(listed["joints"])[labelled] - 1
        np.testing.assert_allclose(person.keypoints[labelled, :2], expected, atol=1e-3)
        assert person.box_xywh[2:] == (200 * listed["scale"],) * 2
