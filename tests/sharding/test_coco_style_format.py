"""Users' own sets in COCO's form."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from configs.load import InputError, load
from sharding.boxes import AREA_OF_BOX
from sharding.formats.coco_style import CocoStyleFormat
from sharding.settings import BuildSettings
from sharding.skeleton import DEFAULT_SIGMA

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
    assert annotations.skeleton.sigmas == (0.026, DEFAULT_SIGMA, DEFAULT_SIGMA, DEFAULT_SIGMA)


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
        with pytest.raises(InputError, match=r"mine\.json: one with keypoints.*'horse', 'cow'.*category="):
            read(written)
        assert len(read(written, category="horse").persons) == 2
        assert read(written, category="cow").findings.counts("dropped") == {"another category": 2}

    def test_is_not_there(self, read):
        with pytest.raises(InputError, match=r"mine\.json: one named 'pig' is wanted .* 'horse'"):
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
                r"source\.flip_pairs has 'ear', which is no keypoint: take one",
            ),
            ({"bones": (("LEar", "ear"),)}, r"source\.bones has 'ear', which is no keypoint"),
            ({"flip_pairs": (("LEar", "REar"), ("LEar", "tail"))}, "stands in two flip pairs"),
            ({"keypoints": ("a", "a", "b", "c")}, "distinct keypoint names"),
            (
                {"keypoints": ("LEar", "b", "c", "d")},
                "'LEar' has no partner on the other side: say with `flip_pairs`",
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
