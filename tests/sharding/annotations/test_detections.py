"""A detector's boxes on annotated photos: what becomes a sample, what stays the truth."""

import json
from typing import ClassVar

import numpy as np
import pytest

from semipose.configs.load import InputError
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.annotations.formats.crowdpose import CrowdPoseFormat
from semipose.sharding.annotations.skeleton import COCO_17, to_category
from semipose.sharding.build import build
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.settings import BuildSettings
from tests.sharding.test_round_trips import samples_of


def box(image_id, *numbers, score=0.9, **more):
    return {"image_id": image_id, "bbox": list(numbers), "score": score, "category_id": 1, **more}


ROWS = [
    box(3, 10.5, 20, 40, 60, score=0.25),
    box(1, -20, 15, 90, 120),  # reaches beyond the photo
    box(3, 60, 30, 50, 70, score=0.75),
    box(2, 5, 5, 20, 20, category_id=2),
    box(2, 5, 5, 20, 20, score=0.01),
]


@pytest.fixture
def small(make_set):
    return make_set(photos=4)


@pytest.fixture
def found(small, tmp_path):
    """`found(rows, min_score=0.1)`: the set with these boxes."""

    def make(rows=ROWS, **settings):
        path = tmp_path / "found.json"
        path.write_text(json.dumps(rows))
        boxes = Detections(results=path, **settings)
        return CocoFormat(annotations=small.annotations, images=small.images, boxes=boxes)

    return make


class TestRead:
    def test_a_person_is_a_box(self, found):
        annotations = found(min_score=0.1).read()
        facts = [(p.id, p.image_id, p.box_xywh, p.score) for p in annotations.persons]
        assert facts == [
            (1, 3, (10.5, 20, 40, 60), 0.25),
            (3, 3, (60, 30, 50, 70), 0.75),
            (2, 1, (-20, 15, 90, 120), 0.9),
        ]
        assert all(not person.keypoints.any() for person in annotations.persons)
        assert annotations.persons[0].source_size_wh == (200, 150)

    def test_the_annotated_persons_stay_what_they_were(self, found, small):
        annotations = found().read()
        plain = small.source.read()
        assert [p.id for p in annotations.annotated] == [p.id for p in plain.persons]
        assert plain.annotated is None
        assert [photo.id for photo in annotations.empty_photos] == [4]

    def test_boxes_below_the_score_and_of_other_things_are_left_out(self, found):
        assert len(found().read().persons) == 4
        assert len(found(min_score=0.1).read().persons) == 3
        assert [p.image_id for p in found(category=2).read().persons] == [2]

    def test_boxes_without_a_photo_or_outside_it_are_dropped_and_counted(self, found):
        rows = [*ROWS, box(99, 1, 1, 5, 5), box(1, 300, 10, 50, 50), box(1, 10, 10, 0, 5)]
        annotations = found(rows).read()
        assert len(annotations.persons) == 4
        assert annotations.findings.counts("dropped") == {
            "box of a photo that the annotations do not list": 1,
            "box empty or outside the photo": 2,
            "box of another category than source.boxes.category": 1,
        }

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            (box(1, 1, 2, 3), r"annotations\.json: box of found\.json in row 2: bbox must be 4 numbers"),
            ({"image_id": 1, "bbox": [1, 2, 3, 4]}, r"box of found\.json in row 2: .*`score`"),
            (box([1], 1, 2, 3, 4), r"box of found\.json in row 2: image_id: expected `int"),
        ],
    )
    def test_a_faulty_row_is_named(self, found, row, words):
        with pytest.raises(InputError, match=words):
            found([ROWS[0], row]).read().findings.raise_errors()

    def test_boxes_of_another_split_are_refused(self, found):
        with pytest.raises(
            InputError, match=r"found\.json: none of its boxes belongs to a photo of .*same split"
        ):
            found([box(77, 1, 2, 30, 40)]).read()

    def test_another_file_is_refused(self, found):
        with pytest.raises(InputError, match="this is not a list of COCO results"):
            found({"annotations": []}).read()

    def test_whole_photos_have_annotated_people_alone(self, found, tmp_path):
        with pytest.raises(ValueError, match=r"leave out source\.boxes"):
            BuildSettings(source=found(), output=tmp_path / "x", kind="image", crop=WholePhoto())


def truth_of(folder):
    return json.loads((folder / "ground_truth.json").read_text())


class TestBuild:
    def test_samples_carry_box_and_score(self, found, tmp_path, quiet):
        output = tmp_path / "shards"
        build(BuildSettings(source=found(min_score=0.1), output=output, workers=1), console=quiet)
        samples = list(samples_of(output))
        assert [(card["id"], card["image_id"], card["score"]) for card, *_ in samples] == [
            (1, 3, 0.25),
            (3, 3, 0.75),
            (2, 1, 0.9),
        ]
        for (card, box_xywh, keypoints, _), row in zip(samples, (ROWS[0], ROWS[2], ROWS[1]), strict=True):
            matrix = np.array(card["image_from_stored"])
            corner = matrix[:, :2] @ box_xywh[:2] + matrix[:, 2]
            np.testing.assert_allclose(
                [*corner, *(matrix[[0, 1], [0, 1]] * box_xywh[2:])], row["bbox"], atol=0.05
            )
            assert not keypoints.any()

    def test_the_truth_is_that_of_all_photos(self, found, small, tmp_path, quiet):
        small.content["annotations"][0].update(iscrowd=1)  # on photo 1
        small.save()
        output = tmp_path / "shards"
        build(BuildSettings(source=found(min_score=0.1), output=output, workers=1), console=quiet)
        truth = truth_of(output)
        assert [row["id"] for row in truth["detections"]] == [1, 3, 2]
        assert sorted(row["id"] for row in truth["images"]) == [1, 2, 3, 4]
        plain = BuildSettings(source=small.source, output=tmp_path / "plain", workers=1)
        build(plain, console=quiet)
        expected = truth_of(tmp_path / "plain")
        assert "detections" not in expected
        assert sorted(truth["annotations"], key=lambda row: row["id"]) == sorted(
            expected["annotations"], key=lambda row: row["id"]
        )
        assert {row["iscrowd"] for row in truth["annotations"]} == {0, 1}

    def test_with_a_limit_the_truth_is_that_of_the_photos_stored(self, found, tmp_path, quiet):
        output = tmp_path / "shards"
        build(BuildSettings(source=found(), output=output, workers=1, limit=2), console=quiet)
        truth = truth_of(output)
        assert [row["id"] for row in truth["images"]] == [3]
        assert {row["image_id"] for row in truth["annotations"]} == {3}

    def test_absent_photos_do_not_count_where_they_are_skipped(self, found, small, tmp_path, quiet):
        for number in (1, 4):  # one with a box and one without
            (small.images / f"{number:012d}.jpg").unlink()
        settings = {"source": found(), "workers": 1, "missing_images": "skip"}
        build(BuildSettings(output=tmp_path / "shards", **settings), console=quiet)
        assert sorted(row["id"] for row in truth_of(tmp_path / "shards")["images"]) == [2, 3]

    def test_verify_knows_them(self, found, tmp_path, quiet):
        output = tmp_path / "shards"
        build(BuildSettings(source=found(), output=output, workers=1), console=quiet)
        verify(VerifySettings(verify=output, workers=1), console=quiet)
        truth = truth_of(output)
        truth["detections"][1]["score"] = 0.5
        (output / "ground_truth.json").write_text(json.dumps(truth))
        with pytest.raises(InputError, match="2 faults"):  # the hash of the file, and the score
            verify(VerifySettings(verify=output, workers=1), console=quiet)

    def test_other_scores_are_other_shards(self, found, tmp_path, quiet):
        output = tmp_path / "shards"
        build(BuildSettings(source=found(), output=output, workers=1), console=quiet)
        rows = [{**ROWS[0], "score": 0.26}, *ROWS[1:]]
        with pytest.raises(InputError, match="other annotations or settings"):
            build(BuildSettings(source=found(rows), output=output, workers=1), console=quiet)


def test_own_data_takes_them_too(small, found):
    boxes = found().boxes
    source = CocoStyleFormat(annotations=small.annotations, images=small.images, boxes=boxes)
    assert len(source.read().persons) == 4


class TestListOfPhotos:
    """COCO's image_info files: photos and the names of the categories, without annotations or keypoints."""

    NAMES: ClassVar = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]

    @pytest.fixture
    def listed(self, small):
        def make(**changes):
            small.content = {
                "info": {},
                "images": small.content["images"],
                "categories": self.NAMES,
                **changes,
            }
            small.content = {key: value for key, value in small.content.items() if value is not None}
            small.save()

        return make

    @pytest.mark.parametrize("categories", [NAMES, [], None, [to_category(COCO_17)]])
    def test_people_are_the_boxes_with_coco_keypoints(self, found, listed, categories):
        annotated = found().read()
        listed(categories=categories)
        annotations = found().read()
        assert annotations.skeleton == COCO_17
        assert annotations.annotated == ()
        pairs = list(zip(annotations.persons, annotated.persons, strict=True))
        assert all(
            (a.id, a.image_id, a.box_xywh, a.score) == (b.id, b.image_id, b.box_xywh, b.score)
            for a, b in pairs
        )
        assert [photo.id for photo in annotations.empty_photos] == [4]

    def test_shards_have_the_ids_of_the_list_and_nobody_to_be_scored_by(
        self, found, listed, small, tmp_path, quiet
    ):
        for row in small.content["images"]:
            row["id"] += 580000
        listed()
        rows = [{**row, "image_id": row["image_id"] + 580000} for row in ROWS]
        output = tmp_path / "shards"
        build(BuildSettings(source=found(rows), output=output, workers=1), console=quiet)
        assert [card["image_id"] for card, *_ in samples_of(output)] == [580003, 580003, 580001, 580002]
        truth = truth_of(output)
        assert truth["annotations"] == []
        assert len(truth["detections"]) == 4
        assert sorted(row["id"] for row in truth["images"]) == [580001, 580002, 580003, 580004]
        verify(VerifySettings(verify=output, workers=1), console=quiet)

    def test_without_boxes_it_is_refused(self, listed, small):
        listed()
        with pytest.raises(
            InputError, match=r"`annotations`\): give that file, or .*source\.boxes\.results="
        ) as error:
            small.source.read()
        assert "\n" not in str(error.value)

    def test_of_other_keypoints_says_which(self, found, listed, small):
        listed()
        own = {"annotations": small.annotations, "images": small.images, "boxes": found().boxes}
        with pytest.raises(InputError, match=r"category 'person' names no keypoints: .*source\.keypoints"):
            CocoStyleFormat(**own).read()
        annotations = CocoStyleFormat(**own, keypoints=("head", "tail")).read()
        assert annotations.skeleton.names == ("head", "tail")
        assert annotations.persons[0].keypoints.shape == (2, 3)


def test_real_boxes_on_real_photos(shared_data, tmp_path, quiet):
    folder = shared_data / "crowdpose"
    boxes = Detections(results=folder / "test_crowdpose_det_AP_40.json", min_score=0.5)
    source = CrowdPoseFormat(
        annotations=folder / "test_crowdpose.json", images=folder / "images", boxes=boxes
    )
    annotations = source.read()
    assert len(annotations.annotated) == 4
    assert len(annotations.persons) >= 2
    output = tmp_path / "shards"
    build(BuildSettings(source=source, output=output, workers=1), console=quiet)
    assert all(card["score"] >= 0.5 for card, *_ in samples_of(output))
    assert [row["num_keypoints"] > 0 for row in truth_of(output)["annotations"]] == [True] * 4 + [False]
