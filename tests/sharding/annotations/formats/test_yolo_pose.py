"""Ultralytics' YOLO-pose folders, in the forms that its documentation and its exporters use."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semipose.configs.load import InputError
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.category import UNMIRRORED
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.yolo_pose import CORNER, NO_LABELS, REPEATED, YoloPoseFormat
from semipose.sharding.annotations.joint_boxes import JointBoxes
from semipose.sharding.annotations.skeleton import COCO_17, to_category

SIZE_WH = (200, 100)
NAMES = ["nose", "left_eye", "right_eye"]
LINE = "0 0.5 0.4 0.25 0.5 0.5 0.2 2 0.55 0.15 1 0.0 0.0 0"
"""Box x 75, y 15, w 50, h 50; nose at (100, 20), left eye at (110, 15), no right eye."""
DATA = {"path": "../datasets/mine", "train": "images/train", "val": "images/val", "kpt_shape": [3, 3]}
DATA |= {"flip_idx": [0, 2, 1], "names": {0: "cat"}, "kpt_names": {0: NAMES}}


@pytest.fixture
def folder(tmp_path):
    """Photos 1.jpg and 2.jpg for training and 3.jpg for validation, the first and the last with labels."""
    for split, number in (("train", 1), ("train", 2), ("val", 3)):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE_WH).save(tmp_path / "images" / split / f"{number}.jpg")
    (tmp_path / "labels/train/1.txt").write_text(LINE + "\n")
    (tmp_path / "labels/val/3.txt").write_text(f"{LINE}\n{LINE.replace('0.5 ', '0.6 ', 1)}\n")
    return tmp_path


@pytest.fixture
def read(folder):
    def read(changes=None, *, without=(), **settings):
        content = {key: value for key, value in {**DATA, **(changes or {})}.items() if key not in without}
        (folder / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
        annotations = YoloPoseFormat(data=folder / "data.yaml", **settings).read()
        return annotations, {finding.fault.what: finding for finding in annotations.findings}

    return read


def label(folder, *lines):
    (folder / "labels/train/1.txt").write_text("\n".join(lines))


def test_shares_become_pixels(read):
    annotations, found = read()
    annotations.findings.raise_errors()
    (person,) = annotations.persons
    assert person.keypoints.tolist() == [[100, 20, 2], [pytest.approx(110), 15, 1], [0, 0, 0]]
    assert person.box_xywh == pytest.approx(
        (75, 15, 49, 49)
    )  # a pixel short, as the published readers of COCO
    assert person.area == pytest.approx(AREA_OF_BOX * 50 * 50)
    assert (person.id, person.image_id, person.file_name, person.source_size_wh) == (1, 1, "1.jpg", SIZE_WH)
    assert [(photo.id, photo.file_name) for photo in annotations.empty_photos] == [(2, "2.jpg")]
    assert annotations.skeleton.names == tuple(NAMES)
    assert annotations.skeleton.flip_pairs == ((1, 2),)
    assert {what: each.ids for what, each in found.items()} == {NO_LABELS.what: ["2.jpg"]}


def test_each_split_has_its_own_photos(read):
    annotations, _ = read(split="val")
    assert [person.file_name for person in annotations.persons] == ["3.jpg", "3.jpg"]
    with pytest.raises(InputError, match="there is no `test`, only train, val: choose another"):
        read(split="test")


def test_a_set_made_from_coco_gives_the_people_of_coco(tmp_path, make_set):
    """x / width and (x + w / 2) / width, as Ultralytics' converter writes them."""
    small = make_set(photos=4)
    truth = small.source.read()
    rows: dict[int, list[str]] = {}
    for row in small.content["annotations"]:
        x, y, w, h = row["bbox"]
        points = np.array(row["keypoints"]).reshape(-1, 3) / [200, 150, 1]
        numbers = [(x + w / 2) / 200, (y + h / 2) / 150, w / 200, h / 150, *points.ravel()]
        rows.setdefault(row["image_id"], []).append(" ".join(["0", *(f"{number:.8f}" for number in numbers)]))
    (small.folder / "labels").mkdir()
    for number, lines in rows.items():
        (small.folder / "labels" / f"{number:012d}.txt").write_text("\n".join(lines))
    flip_idx = list(COCO_17.flip_order)
    content = {
        "train": "images",
        "val": "images",
        "names": ["person"],
        "kpt_shape": [17, 3],
        "flip_idx": flip_idx,
    }
    (small.folder / "data.yaml").write_text(json.dumps(content))
    annotations = YoloPoseFormat(data=small.folder / "data.yaml").read()
    assert annotations.skeleton == COCO_17
    assert list(annotations.findings) == []
    for person, expected in zip(annotations.persons, truth.persons, strict=True):
        np.testing.assert_allclose(person.keypoints, expected.keypoints, atol=1e-3)
        np.testing.assert_allclose(person.box_xywh, expected.box_xywh, atol=1e-3)
        assert person.file_name == expected.file_name
    assert isinstance(small.source, CocoFormat)


class TestTwoNumbersAKeypoint:
    def test_all_are_visible_but_negative_ones_and_the_corner(self, folder, read):
        label(folder, "0 0.5 0.4 0.25 0.5 0.5 0.2 -0.1 -0.1 0 0")
        annotations, found = read({"kpt_shape": [3, 2]})
        assert annotations.persons[0].keypoints.tolist() == [[100, 20, 2], [0, 0, 0], [0, 0, 0]]
        assert len(found[CORNER.what].ids) == 1


class TestWhereThePhotosAre:
    @pytest.mark.parametrize(
        "changes",
        [
            {"path": None},
            {"path": "."},
            {"path": "/another/machine/mine"},
            {"train": "../images/train"},
            {"train": ["images/train"]},
            {"train": "./images/train/"},
        ],
    )
    def test_of_one_folder(self, read, changes):
        annotations, _ = read(changes)
        assert [person.file_name for person in annotations.persons] == ["1.jpg"]

    def test_path_below_the_file_and_absolute_path(self, folder, read):
        (folder / "mine").mkdir()
        for kind in ("images", "labels"):
            (folder / kind).rename(folder / "mine" / kind)
        for path in ("mine", "../datasets/mine", str(folder / "mine")):
            assert len(read({"path": path})[0].persons) == 1

    def test_roboflow_has_a_folder_of_both_for_each_split(self, folder, read):
        for kind in ("images", "labels"):
            (folder / "valid").mkdir(exist_ok=True)
            (folder / kind / "val").rename(folder / "valid" / kind)
        changes = {"val": "../valid/images", "roboflow": {"license": "CC BY 4.0"}, "nc": 1, "names": ["cat"]}
        annotations, _ = read(changes, without=("path", "kpt_names"), split="val")
        assert len(annotations.persons) == 2
        assert (
            len(read({**changes, "valid": changes["val"]}, without=("path", "val"), split="val")[0].persons)
            == 2
        )

    def test_of_several_folders(self, read):
        annotations, _ = read({"train": ["images/train", "images/val"]})
        assert [person.file_name for person in annotations.persons] == [
            "train/1.jpg",
            "val/3.jpg",
            "val/3.jpg",
        ]

    @pytest.mark.parametrize("start", ["./", "", "{folder}/", "/another/machine/"])
    def test_of_a_list(self, folder, read, start):
        lines = [start.format(folder=folder) + name for name in ("images/val/3.jpg", "images/train/1.jpg")]
        (folder / "train.txt").write_text("\n".join([*lines, lines[0], ""]))
        annotations, _ = read({"train": "train.txt"})
        annotations.findings.raise_errors()
        assert [Path(person.file_name).name for person in annotations.persons] == ["3.jpg", "3.jpg", "1.jpg"]
        assert [person.image_id for person in annotations.persons] == [1, 1, 2]

    def test_a_photo_of_a_list_that_is_absent_stops(self, folder, read):
        (folder / "train.txt").write_text("./images/train/1.jpg\n./images/train/9.jpg\n")
        annotations, _ = read({"train": "train.txt"})
        with pytest.raises(InputError, match=r"the photo is absent \(9\.jpg\)"):
            annotations.findings.raise_errors()

    def test_labels_are_beside_photos_that_are_in_no_images_folder(self, folder, read):
        (folder / "images/train").rename(folder / "pictures")
        (folder / "labels/train/1.txt").rename(folder / "pictures/1.txt")
        assert len(read({"train": "pictures"})[0].persons) == 1

    def test_the_last_images_of_a_path_counts(self, folder, read):
        inner = folder / "images/more/images"
        inner.mkdir(parents=True)
        (folder / "images/more/labels").mkdir()
        (folder / "images/train/1.jpg").rename(inner / "1.jpg")
        (folder / "labels/train/1.txt").rename(folder / "images/more/labels/1.txt")
        assert len(read({"train": "images/more/images"})[0].persons) == 1

    def test_a_link_to_the_photos_keeps_its_labels(self, folder, read):
        (folder / "images/train").rename(folder / "elsewhere")
        (folder / "images/train").symlink_to(folder / "elsewhere")
        assert len(read()[0].persons) == 1

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"train": "images/gone"}, "'images/gone' is neither at .*gone nor at"),
            ({"train": "labels/train"}, "there are no photos"),
        ],
    )
    def test_that_are_nowhere_are_named(self, read, changes, words):
        with pytest.raises(InputError, match=words):
            read(changes)

    def test_no_labels_at_all_stop_with_the_place_where_they_should_be(self, folder, read):
        (folder / "labels/train/1.txt").unlink()
        with pytest.raises(
            InputError, match=r"none of the 2 photos has a file of labels: put that of .*labels/train/1\.txt"
        ):
            read()


class TestKeypointNames:
    @pytest.mark.parametrize("names", [{0: NAMES}, [NAMES], NAMES, {"0": NAMES}])
    def test_in_every_form(self, read, names):
        assert read({"kpt_names": names})[0].skeleton.names == tuple(NAMES)
        assert read({"keypoint_names": names}, without=("kpt_names",))[0].skeleton.names == tuple(NAMES)

    def test_are_numbered_where_nothing_names_them(self, read):
        skeleton = read(without=("kpt_names",))[0].skeleton
        assert skeleton.names == ("keypoint_0", "keypoint_1", "keypoint_2")
        assert skeleton.flip_pairs == ((1, 2),)

    def test_of_the_recipe_come_first(self, read):
        names = ("tip", "left_wing", "right_wing")
        skeleton = read(keypoints=names, bones=(("tip", "left_wing"),), sigmas=0.1)[0].skeleton
        assert (skeleton.names, skeleton.bones, skeleton.sigmas) == (names, ((0, 1),), (0.1,) * 3)

    def test_no_flip_idx_is_noted_if_names_give_no_pairs(self, read):
        assert read(without=("flip_idx",))[0].skeleton.flip_pairs == ((1, 2),)
        assert UNMIRRORED.what in read(without=("flip_idx", "kpt_names"))[1]
        assert UNMIRRORED.what not in read({"flip_idx": [0, 1, 2]}, without=("kpt_names",))[1]

    def test_flip_idx_against_the_names_stops(self, read):
        annotations, _ = read({"flip_idx": [1, 0, 2]})
        with pytest.raises(InputError, match="keypoint nose/left_eye: `flip_pairs` contradicts the names"):
            annotations.findings.raise_errors()


class TestClasses:
    def test_share_their_keypoints_and_are_read_together(self, folder, read):
        label(folder, LINE, "1" + LINE[1:])
        for names in (["cat", "dog"], {0: "cat", 1: "dog"}):
            annotations, _ = read({"names": names}, without=("kpt_names",))
            assert [person.category_id for person in annotations.persons] == [0, 1]
        assert len(read({"names": names}, without=("kpt_names",), category="dog")[0].persons) == 1

    def test_without_names_are_numbered(self, read):
        assert len(read({"nc": 1}, without=("names", "kpt_names"))[0].persons) == 1
        assert len(read(without=("names",))[0].persons) == 1


class TestFaults:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (
                "0 0.5 0.4 0.25 0.5",
                r"1\.txt:2: a line must be 14 numbers .class, box and 3 times x, y, v. .found 5.*kpt",
            ),
            (LINE.replace("0.55", "left"), r"1\.txt:2: the line holds something that is no number"),
            (LINE.replace("0.55", "nan"), "the line holds something that is no number"),
            ("0.5" + LINE[1:], "the line holds something that is no number .class 0.5"),
            ("3" + LINE[1:], "class that `names` does not have .class 3"),
            (LINE.replace("0.55", "110"), "coordinates above 1, where they are shares .*found 110.*divide x"),
            (LINE.replace("0.25 0.5 0.5", "25 0.5 0.5"), "coordinates above 1"),
            (LINE.replace(" 2 ", " 5 "), "third number is not 0, 1 or 2"),
        ],
    )
    def test_of_a_line_name_the_file_and_line(self, folder, read, line, words):
        label(folder, LINE.replace("0.5", "0.45", 1), line)
        annotations, _ = read()
        with pytest.raises(InputError, match=words):
            annotations.findings.raise_errors()

    def test_lines_that_come_again_are_one(self, folder, read):
        label(folder, LINE, "", LINE)
        annotations, found = read()
        assert len(annotations.persons) == 1
        assert found[REPEATED.what].ids == [str(folder / "labels/train/1.txt:3")]

    def test_rounding_beyond_the_edge_is_taken(self, folder, read):
        label(folder, LINE.replace("0.55", "1.004"))
        read()[0].findings.raise_errors()

    def test_an_empty_file_of_labels_is_a_photo_without_people(self, folder, read):
        (folder / "labels/train/2.txt").write_text("\n")
        annotations, found = read()
        assert [photo.file_name for photo in annotations.empty_photos] == ["2.jpg"]
        assert found == {}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"kpt_shape": None}, "there is no kpt_shape, so this is a set of boxes"),
            ({"kpt_shape": [3]}, r"kpt_shape is \[3\]"),
            ({"kpt_shape": [3, 4]}, r"kpt_shape is \[3, 4\]"),
            ({"kpt_shape": [4, 3], "flip_idx": None}, "kpt_shape has 4 keypoints, but 3 have names"),
            ({"flip_idx": [0, 2]}, r"flip_idx is \[0, 2\], but must name each of the 3 keypoints"),
            ({"flip_idx": [1, 3, 2]}, "but must name each of the 3 keypoints"),
            ({"flip_idx": [1, 2, 0]}, "flip_idx mirrors keypoint 0 into 1, but that one into 2"),
            ({"names": "cat"}, "names is 'cat', but must be a list or a mapping"),
            ({"kpt_names": {"cat": NAMES}}, "kpt_names has a key that is no number"),
        ],
    )
    def test_of_data_yaml_are_one_sentence(self, read, changes, words):
        with pytest.raises(InputError, match=words) as error:
            read(changes)
        assert str(error.value).count("\n") == 0
        assert "data.yaml: " in str(error.value)

    @pytest.mark.parametrize(
        ("text", "words"),
        [("a: [", "this is no YAML file"), ("- 1", "no data.yaml of Ultralytics"), (None, "cannot be read")],
    )
    def test_of_the_file_itself(self, tmp_path, text, words):
        path = tmp_path / "data.yaml"
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=words) as error:
            YoloPoseFormat(data=path).read()
        assert str(error.value).count("\n") == 0


def test_photos_that_exif_turns_are_labelled_upright(folder, read):
    """Ultralytics reads the size after EXIF, and turns the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE_WH[::-1]).save(folder / "images/train/1.jpg", exif=exif)
    (person,) = read()[0].persons
    assert person.source_size_wh == SIZE_WH
    assert person.keypoints[0].tolist() == [100, 20, 2]


def test_coco_names_have_coco_bones(folder, read):
    line = " ".join(["0 0.5 0.5 0.5 0.5", *["0.5 0.5 2"] * 17])
    label(folder, line)
    shape = {"kpt_shape": [17, 3], "flip_idx": list(COCO_17.flip_order)}
    assert read(shape, without=("kpt_names",))[0].skeleton == COCO_17
    assert to_category(COCO_17)["keypoints"] == list(read(shape, without=("kpt_names",))[0].skeleton.names)


class TestRows:
    """The settings for rows that say too little, as coco-style has them; notes and errors name them so."""

    def test_labelled_by_place(self, read, folder):
        label(folder, LINE.replace(" 2 ", " 0 ").replace(" 1 ", " 0 "))
        annotations, _ = read()
        inspect_people(annotations)
        (warning,) = annotations.findings.warnings()
        assert "give source.labelled_by=place to take them" in warning
        (person,) = read(labelled_by="place")[0].persons
        assert person.keypoints.tolist() == [[100, 20, 2], [pytest.approx(110), 15, 2], [0, 0, 0]]

    def test_boxes_made_from_the_joints(self, read, folder):
        label(folder, LINE.replace("0.25 0.5 ", "0 0 ", 1))
        annotations, found = read()
        assert not annotations.persons
        assert "(source.joint_boxes.use=missing)" in found["box empty or outside the photo"].cure
        (person,) = read(joint_boxes=JointBoxes(use="missing", least_px=20))[0].persons
        assert person.box_xywh == pytest.approx((95, 7.5, 20, 20))
        assert person.area == pytest.approx(AREA_OF_BOX * 21 * 21)
