"""Users' own sets in COCO's form."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from semipose.configs.load import InputError, load
from semipose.sharding.annotations.boxes import AREA_OF_BOX
from semipose.sharding.annotations.checks import inspect_people
from semipose.sharding.annotations.formats.coco import EMPTY_BOX
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.own_rows import VISIBILITY_ADDED
from semipose.sharding.annotations.joint_boxes import JointBoxes, joint_box
from semipose.sharding.annotations.results import SHARE_BOX
from semipose.sharding.annotations.skeleton import DEFAULT_SIGMA
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings

HORSE = {
    "id": 7,
    "name": "horse",
    "keypoints": ["nose", "LEar", "REar", "tail"],
    "skeleton": [[1, 2], [1, 3]],
}


def content(*categories: dict, count: int = 4, number: type = float) -> dict:
    """The least that a file can say of two things with `count` keypoints, of the first category."""
    points = [number(each) for index in range(count) for each in (10 + index % 50, 20 + index % 60, 2)]
    thing = {"image_id": 1, "category_id": categories[0]["id"], "bbox": [5, 6, 41, 51], "keypoints": points}
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 90}],
        "annotations": [{"id": index, **thing} for index in (1, 2)],
        "categories": list(categories),
    }


NAMES = {
    1: ["nose"],
    4: ["a", "b", "left_hand", "right_hand"],
    21: [f"hand{i}" for i in range(21)],
    133: [f"{side}_hand{i}" for side in ("left", "right") for i in range(21)]
    + [f"face-{i}" for i in range(91)],
}
PAIRS = {1: 0, 4: 1, 21: 0, 133: 21}


@pytest.fixture
def read(tmp_path):
    def read(written, **settings):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(written))
        return CocoStyleFormat(annotations=path, images=tmp_path, **settings).read()

    return read


def test_what_is_missing_is_made_up_for(read):
    annotations = read(content(HORSE))
    annotations.findings.raise_errors()
    assert [person.id for person in annotations.persons] == [1, 2]
    assert annotations.persons[0].area == pytest.approx(AREA_OF_BOX * 41 * 51)
    assert annotations.skeleton.names == ("nose", "LEar", "REar", "tail")
    assert annotations.skeleton.flip_pairs == ((1, 2),)
    assert annotations.skeleton.bones == ((0, 1), (0, 2))
    assert annotations.skeleton.sigmas == (0.026, 0.035, 0.035, DEFAULT_SIGMA)


@pytest.mark.parametrize("iscrowd", [False, True, 0, 1, None])
def test_crowds_in_every_spelling(read, iscrowd):
    written = content(HORSE)
    written["annotations"][0]["iscrowd"] = iscrowd
    annotations = read(written)
    annotations.findings.raise_errors()
    assert [person.id for person in annotations.persons] == ([2] if iscrowd else [1, 2])


@pytest.mark.parametrize("number", [float, int])
@pytest.mark.parametrize("count", [1, 4, 21, 133])
def test_any_number_of_keypoints(read, count, number):
    category = {"id": 1, "name": "person", "keypoints": NAMES[count]}
    annotations = read(content(category, count=count, number=number))
    annotations.findings.raise_errors()
    assert annotations.persons[0].keypoints.shape == (count, 3)
    assert annotations.persons[0].keypoints[-1].tolist() == [10 + (count - 1) % 50, 20 + (count - 1) % 60, 2]
    assert len(annotations.skeleton.flip_pairs) == PAIRS[count]


class TestCategory:
    def test_is_named_where_several_have_keypoints(self, read):
        written = content(HORSE, {"id": 8, "name": "cow", "keypoints": ["nose"]})
        with pytest.raises(InputError, match=r"mine\.json: .*'horse' \(4 keypoints\), 'cow'.*category="):
            read(written)
        assert len(read(written, category="horse").persons) == 2
        assert read(written, category="cow").findings.counts("dropped") == {"another category": 2}

    def test_is_not_there(self, read):
        with pytest.raises(InputError, match=r"mine\.json: source.category names 'pig', .* 'horse'"):
            read(content(HORSE), category="pig")

    def test_only_one_has_keypoints(self, read):
        assert len(read(content(HORSE, {"id": 1, "name": "cart"})).persons) == 2

    def test_names_no_keypoints(self, read):
        bare = {"id": 7, "name": "horse"}
        with pytest.raises(InputError, match=r"mine\.json: category 'horse' names no keypoints: .*source"):
            read(content(bare))
        names = ("nose", "left_ear", "right_ear", "tail")
        assert read(content(bare), keypoints=names).skeleton.names == names


class TestOverrides:
    def test_take_the_place_of_what_the_file_says(self, read):
        skeleton = read(
            content(HORSE),
            keypoints=("n", "a", "b", "t"),
            flip_pairs=(("b", "a"),),
            bones=(("n", "t"), ("a", "b")),
            sigmas=(0.1, 0.2, 0.3, 0.4),
        ).skeleton
        assert skeleton.names == ("n", "a", "b", "t")
        assert skeleton.flip_pairs == ((2, 1),)
        assert skeleton.bones == ((0, 3), (1, 2))
        assert skeleton.sigmas == (0.1, 0.2, 0.3, 0.4)

    def test_bones_of_the_recipe_are_names_and_never_recounted(self, read):
        for bones in (
            [("LEar", "REar")],
            [("nose", "LEar"), ("nose", "REar")],
            [("LEar", "REar"), ("nose", "LEar")],
        ):
            found = read(content(HORSE), bones=tuple(bones)).skeleton
            assert [tuple(found.names[end] for end in bone) for bone in found.bones] == bones
        assert read(content(HORSE), bones=()).skeleton.bones == ()

    def test_one_sigma_for_all(self, read):
        assert read(content(HORSE), sigmas=0.07).skeleton.sigmas == (0.07,) * 4

    def test_no_flip_pairs_where_none_are_wanted(self, read):
        assert read(content(HORSE), flip_pairs=()).skeleton.flip_pairs == ()

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"sigmas": (0.1, 0.2)}, r"source\.sigmas has 2 numbers for 4 keypoints"),
            (
                {"flip_pairs": (("LEar", "ear"),)},
                r"source\.flip_pairs has 'ear', which is no keypoint: use one",
            ),
            ({"bones": (("LEar", "ear"),)}, r"source\.bones has 'ear', which is no keypoint"),
            ({"flip_pairs": (("LEar", "REar"), ("LEar", "tail"))}, "a keypoint is in two flip pairs"),
            ({"keypoints": ("a", "a", "b", "c")}, "keypoint names must be distinct"),
            (
                {"keypoints": ("LEar", "b", "c", "d")},
                "'LEar' has no partner on the other side: give `flip_pairs`",
            ),
        ],
    )
    def test_that_do_not_fit(self, read, settings, words):
        with pytest.raises(InputError, match=words) as error:
            read(content(HORSE), **settings)
        assert "mine.json" in str(error.value)
        assert "\n" not in str(error.value)

    def test_of_another_number_of_keypoints(self, read):
        annotations = read(content(HORSE), keypoints=("a", "b"), bones=())
        with pytest.raises(InputError, match=r"annotation 1: keypoints must be a list of 6 numbers"):
            annotations.findings.raise_errors()

    def test_a_sigma_that_is_none(self, tmp_path):
        with pytest.raises(ValidationError, match="greater than 0"):
            CocoStyleFormat(annotations=tmp_path, images=tmp_path, sigmas=0.0)


def test_recipe_takes_lists_for_all_of_them(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "source: {name: coco-style, annotations: a.json, images: photos, keypoints: [a, b],\n"
        "  flip_pairs: [[a, b]], bones: [[b, a]], sigmas: [0.1, 0.2]}\noutput: out\n"
    )
    source = load(BuildSettings, recipe).source
    assert source.flip_pairs == (("a", "b"),)
    assert source.sigmas == (0.1, 0.2)


def test_real_coco_file_reads_the_same(shared_data):
    folder = shared_data / "coco"
    path = folder / "annotations" / "person_keypoints_val2017_joined.json"
    annotations = CocoStyleFormat(annotations=path, images=folder).read()
    assert len(annotations.persons) == 619
    assert np.isfinite(annotations.persons[0].keypoints).all()


def joints(*points):
    """A row's keypoints; the four of `HORSE`."""
    return [float(number) for point in points for number in point]


class TestLabelledByPlace:
    """`labelled_by=place`: for files whose third number does not tell what is labelled."""

    @pytest.mark.parametrize(
        ("written_v", "v"), [((0, 0), (2, 2)), ((1, 2), (1, 2)), ((3, 0.87), (2, 2)), ((2, -1), (2, 2))]
    )
    def test_every_joint_with_a_place_is_labelled(self, read, written_v, v):
        written = content(HORSE)
        points = [(10, 20, written_v[0]), (0, 0, 2), (30, 0, written_v[1]), (-1, -1, 1)]
        written["annotations"][0]["keypoints"] = joints(*points)
        annotations = read(written, labelled_by="place")
        annotations.findings.raise_errors()
        expected = [[10, 20, v[0]], [0, 0, 0], [30, 0, v[1]], [0, 0, 0]]
        assert annotations.persons[0].keypoints.tolist() == expected

    @pytest.mark.parametrize("is_nested", [False, True])
    def test_no_third_number_is_needed(self, read, is_nested):
        written = content(HORSE)
        points = [[10.0, 20.0], [0.0, 0.0], [30.0, 0.0], [40.0, 50.0]]
        written["annotations"][0]["keypoints"] = points if is_nested else joints(*points)
        annotations = read(written, labelled_by="place")
        annotations.findings.raise_errors()
        assert annotations.persons[0].keypoints.tolist() == [
            [x, y, 2 if (x, y) != (0, 0) else 0] for x, y in points
        ]
        assert annotations.findings.counts("corrected")[VISIBILITY_ADDED.what] == 1
        with pytest.raises(InputError, match=r"without the third number: .*source\.labelled_by=place"):
            read(written).findings.raise_errors()

    def test_a_third_number_that_is_null_leaves_the_place(self, read):
        written = content(HORSE)
        points = [10, 20, None, None, None, None, 30, 0, None, 40, 50, 2]
        written["annotations"][0]["keypoints"] = points
        by_v, by_place = (read(written, labelled_by=how).persons[0].keypoints for how in ("v", "place"))
        assert by_v.tolist() == [[10, 20, 0], [0, 0, 0], [30, 0, 0], [40, 50, 2]]
        assert by_place.tolist() == [[10, 20, 2], [0, 0, 0], [30, 0, 2], [40, 50, 2]]

    def test_without_a_place_nobody_is_there(self, read):
        written = content(HORSE)
        written["annotations"][0]["keypoints"] = joints(*[(0, 0, 2)] * 4)
        annotations = read(written, labelled_by="place")
        assert [person.id for person in annotations.persons] == [2]
        assert annotations.findings.counts("dropped") == {"no labelled keypoints": 1}

    def test_is_what_the_notes_and_errors_name(self, read):
        written = content(HORSE)
        written["annotations"][0]["keypoints"] = joints((10, 20, 0), (11, 50, 0), (30, 30, 0), (40, 50, 0))
        annotations = read(written)
        inspect_people(annotations)
        cures = {each.fault.what: each.fault.cure for each in annotations.findings}
        assert (
            "source.labelled_by=place"
            in cures["coordinates are given, but no joint is labelled (v = 0 for all)"]
        )
        written["annotations"][0]["keypoints"][2] = 3
        with pytest.raises(InputError, match=r"annotation 1: .* not 0, 1 or 2: .*source\.labelled_by=place"):
            read(written).findings.raise_errors()


NO_BOXES = {
    "absent": None,
    "empty": [],
    "null": [None] * 4,
    "of no size": [30, 40, 0, 0],
    "a line": [30, 40, 20, 0],
    "-1": [-1] * 4,
}


class TestJointBoxes:
    """`joint_boxes`: boxes made from the joints, where they are missing or wrong."""

    POINTS = joints((20, 30, 2), (60, 30, 1), (20, 70, 2), (99, 89, 0))
    BOX = (16, 26, 48, 48)  # the labelled joints, grown by a tenth of 40

    @pytest.mark.parametrize("bbox", NO_BOXES.values(), ids=NO_BOXES)
    @pytest.mark.parametrize("area", [None, 0, 900.0])
    def test_in_place_of_what_is_missing(self, read, bbox, area):
        written = content(HORSE)
        written["annotations"][0].update(bbox=bbox, area=area, keypoints=self.POINTS)
        annotations = read(written, joint_boxes=JointBoxes(use="missing"))
        annotations.findings.raise_errors()
        first, second = annotations.persons
        assert first.box_xywh == pytest.approx(self.BOX)
        assert first.area == pytest.approx(area or AREA_OF_BOX * 49 * 49)
        assert second.box_xywh == (5, 6, 40, 50)
        assert annotations.findings.counts("corrected")["box made from the joints"] == 1

    def test_for_all(self, read):
        written = content(HORSE)
        for row in written["annotations"]:
            row.update(bbox=[1, 1, 2, 2], keypoints=self.POINTS)
        persons = read(written, joint_boxes=JointBoxes(use="always", margin=0.25, least_px=2)).persons
        assert [person.box_xywh for person in persons] == [pytest.approx((10, 20, 60, 60))] * 2

    def test_of_one_joint_is_of_the_least_size(self, read):
        written = content({**HORSE, "keypoints": ["tip"], "skeleton": []}, count=1)
        written["annotations"][0].update(bbox=[50, 40, 0, 0], area=0, keypoints=[50, 40, 2])
        annotations = read(written, joint_boxes=JointBoxes(use="missing", least_px=20))
        assert annotations.persons[0].box_xywh == pytest.approx((40, 30, 20, 20))
        (finding,) = [each for each in annotations.findings if "least_px" in each.fault.what]
        assert (finding.fault.effect, finding.ids) == ("kept", [1])

    def test_is_clipped_to_the_photo(self, read):
        written = content(HORSE)
        written["annotations"][0].update(
            bbox=None, keypoints=joints((0, 1, 2), (99, 89, 2), (5, 5, 2), (9, 9, 2))
        )
        annotations = read(written, joint_boxes=JointBoxes(use="missing"))
        assert annotations.persons[0].box_xywh == pytest.approx((0, 0, 99, 89))
        assert "box beyond the photo, clipped" not in annotations.findings.counts("corrected")

    def test_of_places_where_no_joint_is_labelled(self, read):
        written = content(HORSE)
        points = joints((20, 30, 0), (60, 30, 0), (20, 70, 0), (0, 0, 0))
        written["annotations"][0].update(bbox=None, keypoints=points)
        annotations = read(written, joint_boxes=JointBoxes(use="missing"))
        assert annotations.persons[0].box_xywh == pytest.approx(self.BOX)
        assert not annotations.persons[0].keypoints[:, 2].any()

    def test_a_row_without_joints_and_box_is_nobody(self, read):
        written = content(HORSE)
        written["annotations"][0].update(bbox=None, keypoints=[0] * 12)
        annotations = read(written)
        annotations.findings.raise_errors()
        assert annotations.findings.counts("dropped") == {"no labelled keypoints": 1}

    @pytest.mark.parametrize("bbox", NO_BOXES.values(), ids=NO_BOXES)
    def test_is_what_the_error_names(self, read, bbox, tmp_path):
        """Of missing boxes and of empty ones; nobody is then sent to and fro between box and area."""
        written = content(HORSE)
        for row in written["annotations"]:
            row.update(bbox=bbox, area=0)
        annotations = read(written)
        assert not annotations.persons
        settings = BuildSettings(source=annotations_source(tmp_path), output=tmp_path / "out", workers=1)
        with pytest.raises(InputError, match=r"source\.joint_boxes\.use=missing") as error:
            build(settings, console=Console(quiet=True))
        assert "area" not in str(error.value)

    @given(
        st.lists(st.tuples(*[st.floats(0, 90)] * 2), min_size=1, max_size=6),
        st.floats(0, 1),
        st.floats(2, 50),
    )
    def test_holds_its_joints_and_is_of_the_least_size(self, points, margin, least_px):
        x, y, width, height = joint_box(np.array(points), margin, least_px)
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        grow = max(margin * (high - low).max(), 0.5)
        assert (np.array([x, y]) <= low - grow + 1e-9).all()
        assert (np.array([x + width, y + height]) >= high + grow - 1e-9).all()
        assert min(width, height) >= least_px - 1e-9
        np.testing.assert_allclose([x + width / 2, y + height / 2], (low + high) / 2, atol=1e-9)


def annotations_source(folder):
    return CocoStyleFormat(annotations=folder / "mine.json", images=folder)


@pytest.mark.parametrize("area", [0, -1, 0.0])
def test_an_area_of_0_is_taken_from_the_box(read, area):
    written = content(HORSE)
    written["annotations"][0]["area"] = area
    annotations = read(written)
    assert [person.area for person in annotations.persons] == pytest.approx([AREA_OF_BOX * 41 * 51] * 2)
    assert annotations.findings.counts("corrected") == {
        "area not above 0, taken as 0.53 of the box": 1,
        "area missing, taken as 0.53 of the box": 1,
    }


def test_real_people_with_boxes_made_from_their_joints(shared_data):
    """Nothing of them looks wrong, and the boxes are about those that COCO's annotators drew."""
    folder = shared_data / "coco"
    path = folder / "annotations" / "person_keypoints_val2017_joined.json"
    plain = CocoStyleFormat(annotations=path, images=folder).read()
    annotations = CocoStyleFormat(
        annotations=path, images=folder, joint_boxes=JointBoxes(use="always")
    ).read()
    inspect_people(annotations)
    assert annotations.findings.counts("warned") == {}
    given = {person.id: np.array(person.box_xywh) for person in plain.persons}
    whole = [person for person in annotations.persons if (person.keypoints[:, 2] > 0).sum() > 14]
    errors = [np.abs(given[p.id] - p.box_xywh).max() / given[p.id][2:].max() for p in whole]
    assert len(whole) > 50
    assert np.median(errors) < 0.15


def test_boxes_in_shares_of_the_photo_are_named(read):
    written = content(HORSE)
    written["annotations"][0]["bbox"] = [0.05, 0.1, 0.4, 0.5]
    written["annotations"][1]["bbox"] = [50, 50, 0.4, 0.5]
    assert read(written).findings.counts("dropped") == {SHARE_BOX.what: 1, EMPTY_BOX.what: 1}
