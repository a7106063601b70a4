"""Files in the form in which annotation programs write them go through as they are.

Each is made here, by what the program's own exporter does; none is a copy.
"""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.categories import CATEGORY_ID_ADDED, READ_TOGETHER
from semipose.sharding.annotations.formats.coco_rows import (
    ABSOLUTE_NAME,
    NESTED,
    NO_SIZE,
    NULL_KEYPOINTS,
    SIZE_ADDED,
)
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.rows import NUMBER_SPELLING
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings

POINTS = [[20.5, 30.0, 2], [60.0, 31.5, 2], [0, 0, 0], [55.25, 80.0, 1]]
FLAT = [number for point in POINTS for number in point]
NAMES = ["left_eye", "right_eye", "nose", "tail"]
SIZE_WH = (120, 100)


@pytest.fixture
def read(tmp_path):
    """Reads a file beside photos a.jpg, b.jpg and labeled-data/clip/img1.png."""
    photos = tmp_path / "photos"
    (photos / "labeled-data" / "clip").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "labeled-data/clip/img1.png"):
        Image.new("RGB", SIZE_WH).save(photos / name)

    def read(content, images=photos, **settings):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content))
        annotations = CocoStyleFormat(annotations=path, images=images, **settings).read()
        return annotations, {finding.fault.what: finding for finding in annotations.findings}

    return read


def image(number=1, name="a.jpg", **changes):
    return {"id": number, "file_name": name, "width": SIZE_WH[0], "height": SIZE_WH[1], **changes}


def thing(number=1, **changes):
    row = {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 20, 60, 70],
        "area": 2000,
        "iscrowd": 0,
    }
    return {**row, "keypoints": FLAT, "num_keypoints": 3, **changes}


def category(number=1, name="cat", **changes):
    return {"id": number, "name": name, "keypoints": NAMES, "skeleton": [[1, 2]], **changes}


def content(images=None, annotations=None, categories=None, **others):
    return {
        "images": images or [image()],
        "annotations": annotations or [thing()],
        "categories": [category()] if categories is None else categories,
        **others,
    }


def assert_is_read(annotations, count=1):
    """The people have the joints of POINTS."""
    annotations.findings.raise_errors()
    assert len(annotations.persons) == count
    for person in annotations.persons:
        np.testing.assert_array_equal(person.keypoints, np.array(POINTS, np.float32))
        assert person.source_size_wh == SIZE_WH


class TestExports:
    def test_cvat(self, read):
        """Its exporter (datumaro's) gives labels without keypoints empty lists, and rows attributes."""
        labels = [category(1, "car", keypoints=[], skeleton=[]), category(2, "cat", supercategory="")]
        row = thing(
            category_id=2, segmentation=[], area=4200.0, attributes={"occluded": False, "track_id": 0}
        )
        image_row = image(license=0, flickr_url="", coco_url="", date_captured=0)
        info = {
            "contributor": "",
            "date_created": "",
            "description": "",
            "url": "",
            "version": "",
            "year": "",
        }
        licenses = [{"name": "", "id": 0, "url": ""}]
        annotations, found = read(content([image_row], [row], labels, info=info, licenses=licenses))
        assert_is_read(annotations)
        assert annotations.skeleton.names == tuple(NAMES)
        assert found == {}

    def test_label_studio(self, read):
        """Whole numbers, ids from 0, no area; rectangles beside keypoints are categories of their own."""
        points = [20, 30, 2, 60, 32, 2, 0, 0, 0, 55, 80, 2]
        row = thing(0, image_id=0, category_id=1, keypoints=points, bbox=[20, 30, 40, 50])
        del row["area"]
        labels = [
            {"id": 0, "name": "box"},
            {"id": 1, "name": "default", "supercategory": "default", "keypoints": NAMES, "skeleton": []},
        ]
        box = {
            "id": 1,
            "image_id": 0,
            "category_id": 0,
            "segmentation": [],
            "bbox": [1, 2, 3, 4],
            "ignore": 0,
        }
        annotations, found = read(content([image(0)], [row, {**box, "iscrowd": 0, "area": 12}], labels))
        annotations.findings.raise_errors()
        np.testing.assert_array_equal(annotations.persons[0].keypoints.ravel(), points)
        assert Counter({what: len(each.ids) for what, each in found.items()}) == {
            "another category": 1,
            "area missing, taken as 0.53 of the box": 1,
        }

    def test_roboflow(self, read):
        """A category of all categories comes first; photos have another name in extra."""
        labels = [
            {"id": 0, "name": "cats", "supercategory": "none"},
            category(1, "cat", supercategory="cats"),
        ]
        photo = image(0, license=1, date_captured="2026-01-01T00:00:00+00:00", extra={"name": "my a.jpg"})
        annotations, found = read(content([photo], [thing(0, image_id=0, segmentation=[])], labels))
        assert_is_read(annotations)
        assert found == {}

    def test_deeplabcut(self, read):
        """Nested keypoints, absolute names of another machine, no area."""
        row = thing(keypoints=POINTS, individual="animal", individual_id=0)
        del row["area"]
        name = "/somewhere/else/project/labeled-data/clip/img1.png"
        labels = [{"id": 1, "name": "animals", "supercategory": "animal", "keypoints": NAMES}]
        annotations, found = read(content([image(name=name)], [row], labels))
        assert_is_read(annotations)
        assert annotations.persons[0].file_name == "labeled-data/clip/img1.png"
        assert list(found) == [ABSOLUTE_NAME.what, NESTED, "area missing, taken as 0.53 of the box"]

    def test_deeplabcut_with_parts_of_the_scene(self, read):
        """Its second category has keypoints of its own: which one is meant must be said."""
        parts = {"id": 2, "name": "unique_bodypart", "supercategory": "animal", "keypoints": ["corner"]}
        both = content(annotations=[thing(), thing(2, category_id=2, keypoints=[1, 2, 2])])
        both["categories"].append(parts)
        with pytest.raises(InputError, match=r"'cat' \(4 keypoints\), 'unique_bodypart' \(1 keypoints\)"):
            read(both)
        assert_is_read(read(both, category="cat")[0])

    def test_coco_annotator(self, read):
        """Colours, metadata and its own counts stand beside; a skeleton may count from 0."""
        label = category(color="#f00", metadata={}, keypoint_colors=["#f00"] * 4, skeleton=[[0, 2], [1, 2]])
        row = thing(isbbox=False, color="#f00", metadata={}, segmentation=[[1.0, 2, 3, 4, 5, 6]])
        photo = image(path="/datasets/mine/a.jpg", dataset_id=3, milliseconds=5, num_annotations=1)
        annotations, found = read(content([photo], [row], [label]))
        assert_is_read(annotations)
        assert annotations.skeleton.bones == ((0, 2), (1, 2))
        assert [each.fault.effect for each in found.values()] == ["corrected"]

    def test_mmpose_fixture_with_head_boxes_and_hands(self, read):
        row = thing(face_box=[1, 2, 3, 4], face_valid=True, face_kpts=[1, 2, 1], lefthand_valid=False)
        annotations, found = read(content(annotations=[row]))
        assert_is_read(annotations)
        assert found == {}


class TestSpellings:
    @pytest.mark.parametrize(
        ("keypoints", "spellings"),
        [
            (POINTS, [NESTED]),
            ([*POINTS[:2], None, POINTS[3]], [NESTED, NULL_KEYPOINTS]),
            ([*POINTS[:2], [None, None, 0], POINTS[3]], [NESTED, NULL_KEYPOINTS]),
            ([*FLAT[:6], None, None, 0, *FLAT[9:]], [NULL_KEYPOINTS]),
            ([*FLAT[:6], None, None, None, *FLAT[9:]], [NULL_KEYPOINTS]),
            ([str(number) for number in FLAT], [NUMBER_SPELLING]),
            ([list(map(str, point)) for point in POINTS], [NESTED, NUMBER_SPELLING]),
        ],
    )
    def test_of_keypoints(self, read, keypoints, spellings):
        annotations, found = read(content(annotations=[thing(keypoints=keypoints)]))
        assert_is_read(annotations)
        assert {what: each.ids for what, each in found.items()} == {what: [1] for what in spellings}

    def test_a_person_whose_keypoints_are_null_has_none(self, read):
        annotations, _ = read(content(annotations=[thing(), thing(2, keypoints=None)]))
        assert_is_read(annotations)
        assert annotations.findings.counts("dropped") == {"no labelled keypoints": 1}

    @pytest.mark.parametrize("keypoints", [[[1, 2]] * 4, [[1, 2, 2], 5, 6, 2], "1 2 2", {"nose": [1, 2, 2]}])
    def test_of_keypoints_that_could_mean_anything_stop(self, read, keypoints):
        annotations, _ = read(content(annotations=[thing(keypoints=keypoints)]))
        with pytest.raises(InputError, match="annotation 1: keypoints"):
            annotations.findings.raise_errors()

    @pytest.mark.parametrize("kind", [str, float])
    def test_of_ids_and_sizes(self, read, kind):
        spelt = content()
        for key in ("id", "width", "height"):
            spelt["images"][0][key] = kind(spelt["images"][0][key])
        for key in ("id", "image_id", "category_id", "area"):
            spelt["annotations"][0][key] = kind(spelt["annotations"][0][key])
        spelt["categories"][0]["id"] = kind(1)
        annotations, found = read(spelt)
        assert_is_read(annotations)
        assert [(each.fault.what, each.fault.subject, each.ids) for each in annotations.findings] == [
            (NUMBER_SPELLING, "image", [1]),
            (NUMBER_SPELLING, "annotation", [1]),
        ]
        assert found

    def test_ids_that_are_one_number_are_one_id(self, read):
        annotations, _ = read(content(annotations=[thing(), thing("01", area=1)]))
        with pytest.raises(InputError, match="annotation 1: two different rows have this annotation id"):
            annotations.findings.raise_errors()

    def test_ids_that_are_words_are_named_with_the_cure(self, read):
        annotations, _ = read(content([image("a")], [thing(image_id="a")]))
        with pytest.raises(InputError) as error:
            annotations.findings.raise_errors()
        lines = str(error.value).splitlines()
        assert len(lines) == 2, "the rows that name the image are not said to name another one"
        assert all(line.endswith("write whole numbers as ids") for line in lines)


def test_rows_of_an_image_that_cannot_be_read_are_not_said_to_name_another(read):
    annotations, found = read(content([image(width="wide")], [thing(), thing(2, image_id=3)]))
    assert [each.ids for each in found.values()] == [[1], [2]]
    with pytest.raises(InputError, match=r"annotation 2: it names an image .*\(image 3\)"):
        annotations.findings.raise_errors()


class TestPhotosWithoutSize:
    def test_have_the_size_of_the_photo(self, read):
        photos = [{"id": 1, "file_name": "a.jpg"}, image(2, "b.jpg", width=None, height=None)]
        annotations, found = read(content(photos, [thing(), thing(2, image_id=2)]))
        assert_is_read(annotations, 2)
        assert {what: each.ids for what, each in found.items()} == {SIZE_ADDED.what: [1, 2]}

    def test_that_are_absent_are_named_once(self, read):
        annotations, found = read(
            content([image(), {"id": 2, "file_name": "c.jpg"}], [thing(), thing(2, image_id=2)])
        )
        assert {what: each.ids for what, each in found.items()} == {NO_SIZE.what: [2]}
        with pytest.raises(
            InputError, match=r"image 2: no width and height, and the photo is absent \(c\.jpg\)"
        ):
            annotations.findings.raise_errors()


class TestAbsoluteNames:
    @pytest.mark.parametrize(
        ("names", "short"),
        [
            (["/x/y/a.jpg", "/x/y/b.jpg"], ["a.jpg", "b.jpg"]),
            (["C:\\data\\a.jpg", "C:\\data\\b.jpg"], ["a.jpg", "b.jpg"]),
            (["/x/a.jpg", "/x/labeled-data/clip/img1.png"], ["a.jpg", "labeled-data/clip/img1.png"]),
            (["/x/a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
            (["/x/a.jpg", "/x/gone.jpg"], ["a.jpg", "gone.jpg"]),
        ],
    )
    def test_lose_the_beginning_that_they_share(self, read, names, short):
        photos = [image(number, name) for number, name in enumerate(names, start=1)]
        annotations, _ = read(content(photos, [thing(), thing(2, image_id=2)]))
        assert [person.file_name for person in annotations.persons] == short

    @pytest.mark.parametrize("names", [["/x/c.jpg", "/y/a.jpg"], ["/x/../a.jpg", "/x/c.jpg"]])
    def test_stay_where_that_finds_no_photo(self, read, names):
        photos = [image(number, name) for number, name in enumerate(names, start=1)]
        annotations, found = read(content(photos, [thing(), thing(2, image_id=2)]))
        assert [person.file_name for person in annotations.persons] == names
        assert found == {}


class TestCategories:
    TWO = (category(3, "cat"), category(5, "cow"))

    def rows(self, *ids):
        return [thing(number, category_id=id) for number, id in enumerate(ids, start=1)]

    def test_that_share_their_keypoints_are_read_together(self, read):
        annotations, found = read(content(annotations=self.rows(3, 5, 3), categories=self.TWO))
        assert_is_read(annotations, 3)
        assert [person.category_id for person in annotations.persons] == [3, 5, 3]
        assert found[READ_TOGETHER.what].ids == ["cat", "cow"]

    def test_are_chosen_by_a_list_of_names(self, read):
        three = [*self.TWO, category(6, "bird", keypoints=["beak"])]
        written = content(annotations=self.rows(3, 5, 6), categories=three)
        annotations, found = read(written, category=("cow", "cat"))
        assert [person.category_id for person in annotations.persons] == [3, 5]
        assert list(found) == ["another category"]
        assert (
            read(written, category="bird", keypoints=("a", "b", "c", "d"))[0].persons[0].category_id is None
        )
        with pytest.raises(InputError, match=r"'cow' \(4 keypoints\), 'bird' \(1 keypoints\)"):
            read(written, category=("cow", "bird"))
        with pytest.raises(InputError, match=r"source.category names 'pig', but .*'cat', 'cow', 'bird'"):
            read(written, category=("cow", "pig"))

    def test_person_alone_is_read_where_it_is_among_them(self, read):
        people = [*self.TWO, category(1, "person")]
        assert len(read(content(annotations=self.rows(1, 3, 5), categories=people))[0].persons) == 1

    def test_of_rows_that_say_none_is_the_only_one(self, read):
        row = thing()
        del row["category_id"]
        annotations, found = read(content(annotations=[row]))
        assert_is_read(annotations)
        assert found[CATEGORY_ID_ADDED.what].ids == [1]
        _, found = read(content(annotations=[row], categories=self.TWO))
        assert "no category_id, although the file lists several categories" in found

    def test_that_are_not_listed_are_named(self, read):
        _, found = read(content(annotations=self.rows(0, 0, *range(100, 120))))
        named = {what: len(each.ids) for what, each in found.items()}
        assert named["category_id 0 is not listed in `categories` (which has 1)"] == 2
        assert named["other ids that `categories` does not list"] == 13
        assert len(named) == 9

    @pytest.mark.parametrize(
        ("categories", "words"),
        [
            ([category("one")], "category 'cat' has the id 'one': give it a whole number"),
            ([{"name": "cat", "keypoints": NAMES}], "category 'cat' has no id: give it"),
            ([category(1, "cat"), category(1, "cow")], "the categories 'cat', 'cow' have the same id, 1"),
            (
                [category(1), category(2, keypoints=["a"])],
                r"'cat' \(4 keypoints\), 'cat' \(1 keypoints\) have different keypoints",
            ),
            (
                [category(1, keypoints=[]), category(2, "cow", keypoints=None)],
                "none of its 2 categories .*source",
            ),
            ([], "`categories` is empty"),
        ],
    )
    def test_that_are_faulty_are_named(self, read, categories, words):
        with pytest.raises(InputError, match=words) as error:
            read({**content(), "categories": categories})
        assert "\n" not in str(error.value)

    def test_listed_twice_are_one(self, read):
        assert_is_read(read(content(categories=[category(), category()]))[0])

    def test_for_each_joint_are_no_people(self, read):
        labels = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
        row = thing()
        del row["keypoints"]
        with pytest.raises(
            InputError, match=r"'tail'\) has `keypoints`, nor has any annotation: .*each joint"
        ):
            read(content(annotations=[row], categories=labels))


class TestBonesOfOtherKeypoints:
    def test_that_are_in_the_recipe_are_kept(self, read):
        wide = category(
            keypoints=[*NAMES, "left_toe", "right_toe"], skeleton=[[1, 2], [2, 3], [4, 5], [4, 6]]
        )
        annotations, found = read(content(categories=[wide]), keypoints=tuple(NAMES))
        assert_is_read(annotations)
        assert annotations.skeleton.bones == ((0, 1), (1, 2))
        assert found == {}

    def test_rows_that_hold_others_say_how_to_name_them(self, read):
        annotations, _ = read(content(categories=[category(keypoints=[*NAMES, "toe"])]))
        with pytest.raises(InputError, match=r"list of 15 numbers \(found 12\): .*source\.keypoints"):
            annotations.findings.raise_errors()

    def test_names_of_the_recipe_may_be_translations(self, read):
        annotations, _ = read(content(), keypoints=("œil gauche", "œil droit", "nez", "queue"))
        assert annotations.skeleton.bones == ((0, 1),)
        assert annotations.skeleton.flip_pairs == ((0, 1),)


def test_a_build_names_pairs_and_sigmas_and_keeps_the_category_of_each(read, tmp_path):
    two = [category(3, "cat"), category(5, "cow")]
    read(content(annotations=[thing(1, category_id=3), thing(2, category_id=5)], categories=two))
    source = CocoStyleFormat(annotations=tmp_path / "mine.json", images=tmp_path / "photos")
    settings = BuildSettings(source=source, output=tmp_path / "out", workers=1)
    console = Console(file=io.StringIO(), width=200)
    first = build(settings, console=console)
    assert "│ mirror pairs " in console.file.getvalue()
    assert "left_eye/right_eye" in console.file.getvalue()
    assert (
        "published: left_eye 0.025, right_eye 0.025, nose 0.026; by default: tail 0.05"
        in console.file.getvalue()
    )
    truth = json.loads((tmp_path / "out" / "ground_truth.json").read_text())
    assert [(row["category_id"], row["source_category_id"]) for row in truth["annotations"]] == [
        (1, 3),
        (1, 5),
    ]
    read(content(annotations=[thing(1, category_id=3), thing(2, category_id=3)], categories=two))
    with pytest.raises(InputError, match="made from other annotations"):
        build(settings, console=console)
    assert first.problems[READ_TOGETHER.what] == 2
