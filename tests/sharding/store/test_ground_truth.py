import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from semipose.configs.load import InputError
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.samples.plan import photo_tasks
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.ground_truth import GroundTruth, write_ground_truth


def average_precision(truth, predictions):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predictions), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def predictions_of(persons, noise_px, rng):
    rows = []
    for person in persons:
        keypoints = person.keypoints.astype(float)
        keypoints[:, :2] += rng.normal(0, noise_px, (17, 2)) * np.sqrt(person.area) / 100
        score = float(rng.random())
        rows.append(
            {
                "image_id": person.image_id,
                "category_id": 1,
                "keypoints": keypoints.ravel().tolist(),
                "score": score,
            }
        )
    return rows


@pytest.fixture(scope="module")
def val(shared_data, tmp_path_factory):
    path = shared_data / "coco" / "annotations" / "person_keypoints_val2017_joined.json"
    annotations = CocoFormat(annotations=path, images=path.parent).read()
    settings = BuildSettings(source=CocoFormat(annotations=path, images=path.parent), output=path.parent)
    stored = [(task, task.photo.size_wh) for task in photo_tasks(settings, annotations)]
    written = write_ground_truth(tmp_path_factory.mktemp("truth") / "truth.json", annotations, stored)
    return json.loads(path.read_text()), annotations, json.loads(written.read_text())


def test_truth_scores_one_against_itself(val):
    _, annotations, truth = val
    predictions = predictions_of(annotations.persons, 0.0, np.random.default_rng(0))
    assert average_precision(truth, predictions)[0] == pytest.approx(1.0)


def test_scores_equal_those_of_the_annotation_file(val):
    """Also where detections fall on crowds and unlabelled persons, which the file's score forgives."""
    annotated, annotations, truth = val
    predictions = predictions_of(annotations.persons, 8.0, np.random.default_rng(1))
    ours, theirs = average_precision(truth, predictions), average_precision(annotated, predictions)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert 0.2 < ours[0] < 0.9
    without = {
        **truth,
        "annotations": [row for row in truth["annotations"] if row["id"] in _kept(annotations)],
    }
    assert average_precision(without, predictions)[0] < ours[0], "the ignored rows must matter here"


def _kept(annotations):
    return {person.id for person in annotations.persons}


def test_what_is_read_is_what_was_written_and_people_are_found_by_their_ids(val, tmp_path):
    _, annotations, truth = val
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    read = GroundTruth.load(tmp_path / "truth.json", annotations.skeleton)
    assert (read.coco, read.is_detected) == (truth, False)
    backwards = annotations.persons[::-1]
    keypoints = read.keypoints_of([{"id": person.id} for person in backwards])
    np.testing.assert_allclose(keypoints, [person.keypoints for person in backwards], atol=1e-4)
    photo = backwards[0].image_id
    there = [person for person in annotations.persons if person.image_id == photo]
    (of_photo,) = read.keypoints_of_photos([{"ids": [person.id for person in there]}])
    np.testing.assert_allclose(of_photo, [person.keypoints for person in there], atol=1e-4)
    part = read.of_photos({photo})
    assert [image["id"] for image in part.images] == [photo]
    assert {row["image_id"] for row in part.annotations} == {photo}
    assert {row["id"] for row in part.scored} == {person.id for person in there}


def test_a_truth_that_scorers_could_not_read_is_refused(val, tmp_path):
    _, annotations, truth = val
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "images": truth["images"][1:]}))
    with pytest.raises(InputError, match=r"on a photo that `images` does not list"):
        GroundTruth.load(tmp_path / "truth.json", annotations.skeleton)
