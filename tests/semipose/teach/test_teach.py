"""semipose teach: people of shards, labelled by a model."""

import io
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from semipose.configs.errors import InputError
from semipose.predict.predictor import Predictor
from semipose.sharding.annotations.detections import Detections
from semipose.sharding.annotations.flip_pairs import places_of
from semipose.sharding.annotations.skeleton import COCO_17
from semipose.sharding.build import build
from semipose.sharding.check.verify import VerifySettings, verify
from semipose.sharding.samples.crop import WholePhoto
from semipose.sharding.samples.person import decode_pose
from semipose.sharding.store.manifest import read_manifest
from semipose.teach.command import main, teach
from semipose.teach.settings import TeachSettings
from semipose.teach.teachers import ResultsTeacher, StoredPerson, load_teacher
from semipose.training.settings import load_run
from tests.semipose.models import image_model, person_model, write_folder
from tests.sharding.conftest import SmallSet
from tests.sharding.conftest import make_set as make_set  # a fixture
from tests.tars import stored_samples

QUIET = Console(quiet=True)
ROOT = Path(__file__).resolve().parents[3]
MakeSet = Callable[..., SmallSet]


@pytest.fixture
def small(make_set: MakeSet) -> SmallSet:
    return make_set()


@pytest.fixture
def shards(small: SmallSet, tmp_path: Path) -> Path:
    """Ten people of five photos in three shards."""
    build(small.settings(tmp_path / "train"), console=QUIET)
    return tmp_path / "train"


def poses(folder: Path) -> np.ndarray:
    """(N, K, 3) as they are stored."""
    return np.array([decode_pose(payloads["pose"], 17)[1] for _, payloads in stored_samples(folder)])


def results_of(small: SmallSet, *, confidence: float = 0.7, move_x: float = 3.0) -> list[dict[str, Any]]:
    """The annotations as a model would give them: all keypoints, moved, in another order of people."""
    rows = []
    for row in reversed(small.content["annotations"]):
        points = np.array(row["keypoints"], float).reshape(-1, 3)
        points[:, 0] += move_x
        points[:, 2] = confidence
        rows.append({"image_id": row["image_id"], "bbox": row["bbox"], "keypoints": points.ravel().tolist()})
    return rows


def write(path: Path, rows: Any) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def test_the_labels_of_a_network_are_what_it_predicts_for_each_stored_person(shards: Path, tmp_path: Path):
    model = person_model(17, COCO_17)
    run = write_folder(tmp_path / "run", model)
    cfg = TeachSettings(min_confidence=0.3, device="cpu", flip_test=False, batch_size=3)

    teach(str(run), shards, tmp_path / "taught", cfg, QUIET)

    predictor = Predictor(model, min_peak=0.0)
    for (_, payloads), labels in zip(stored_samples(shards), poses(tmp_path / "taught"), strict=True):
        box = np.frombuffer(payloads["pose"], "<f4", 4)
        answer = predictor(Image.open(io.BytesIO(payloads["jpg"])), boxes=[box.tolist()])
        is_labelled = answer.peaks[0] >= 0.3
        np.testing.assert_allclose(labels[is_labelled, :2], answer.xy[0][is_labelled], atol=0.02)
        np.testing.assert_allclose(labels[is_labelled, 2], answer.peaks[0][is_labelled].clip(0, 1), atol=1e-4)
        assert not labels[~is_labelled].any()


def test_results_reach_the_person_whose_box_they_have(small: SmallSet, shards: Path, tmp_path: Path):
    teach(write(tmp_path / "r.json", results_of(small)), shards, tmp_path / "taught", TeachSettings(), QUIET)

    truth = json.loads((tmp_path / "taught" / "ground_truth.json").read_bytes())
    before = json.loads((shards / "ground_truth.json").read_bytes())
    for key in ("id", "image_id", "bbox", "area"):
        assert [row[key] for row in truth["annotations"]] == [row[key] for row in before["annotations"]]
    annotated = {row["id"]: row for row in small.content["annotations"]}
    for row in truth["annotations"]:
        expected = np.array(annotated[row["id"]]["keypoints"], float).reshape(-1, 3)
        found = np.array(row["keypoints"]).reshape(-1, 3)
        np.testing.assert_allclose(found[:, :2], expected[:, :2] + [3, 0], atol=0.01)
        np.testing.assert_allclose(found[:, 2], 0.7, atol=1e-4)
        assert row["num_keypoints"] == 17


def test_a_person_without_a_row_that_overlaps_has_no_label(small: SmallSet, shards: Path, tmp_path: Path):
    rows = results_of(small)
    for row in rows[:3]:
        row["bbox"] = [500.0, 500.0, 10.0, 10.0]

    teach(write(tmp_path / "r.json", rows), shards, tmp_path / "taught", TeachSettings(), QUIET)

    assert (poses(tmp_path / "taught")[..., 2] > 0).any(axis=1).sum() == 7


def test_the_keypoints_file_of_a_prediction_is_read_with_its_peaks_and_file_names(
    small: SmallSet, shards: Path, tmp_path: Path
):
    rows = results_of(small)
    for row in rows:
        row["image_id"] += 1000  # as another file of the same photos counts them
        row["peaks"] = [0.25] * 17
    images = [{**image, "id": image["id"] + 1000} for image in small.content["images"]]
    file = {"images": images, "annotations": rows, "categories": small.content["categories"]}

    teach(write(tmp_path / "k.json", file), shards, tmp_path / "taught", TeachSettings(), QUIET)

    np.testing.assert_allclose(poses(tmp_path / "taught")[..., 2], 0.25)


def test_everything_but_the_labels_stays_and_the_folder_passes_its_own_check(
    small: SmallSet, shards: Path, tmp_path: Path
):
    output = tmp_path / "taught"
    cfg = TeachSettings(licence="apache-2.0", revision="v2", keypoints=("nose", "left_hip"))

    manifest = teach(write(tmp_path / "r.json", results_of(small)), shards, output, cfg, QUIET)

    before, after = stored_samples(shards), stored_samples(output)
    assert [key for key, _ in before] == [key for key, _ in after]
    for (_, old), (_, new) in zip(before, after, strict=True):
        assert old["jpg"] == new["jpg"]
        assert json.loads(old["json"]) == json.loads(new["json"])
        assert old["pose"][:16] == new["pose"][:16]
    verify(VerifySettings(verify=output, workers=1), console=QUIET)
    assert manifest.teacher is not None
    assert (manifest.teacher.model, manifest.teacher.licence, manifest.teacher.revision) == (
        *("r.json", "apache-2.0"),
        "v2",
    )
    assert manifest.teacher.keypoints == ("nose", "left_hip")
    assert read_manifest(output) == manifest
    assert read_manifest(shards).teacher is None


def test_boxes_of_a_detector_become_labelled_people(small: SmallSet, tmp_path: Path):
    boxes = [
        {"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.9}
        for row in small.content["annotations"]
    ]
    detected = Detections(results=Path(write(tmp_path / "boxes.json", boxes)))
    settings = small.settings(tmp_path / "detected", source=replace(small.source, boxes=detected))
    build(settings, console=QUIET)

    output = tmp_path / "taught"
    teach(write(tmp_path / "r.json", results_of(small)), settings.output, output, TeachSettings(), QUIET)

    truth = json.loads((output / "ground_truth.json").read_bytes())
    assert "detections" not in truth
    assert [row["num_keypoints"] for row in truth["annotations"]] == [17] * 10
    verify(VerifySettings(verify=output, workers=1), console=QUIET)


def test_a_command_that_was_killed_continues_and_makes_the_same_files(
    small: SmallSet, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results = write(tmp_path / "r.json", results_of(small))
    whole = teach(results, shards, tmp_path / "whole" / "taught", TeachSettings(), QUIET)
    label, seen = ResultsTeacher.label, []

    def dying(self: ResultsTeacher, people: Iterator[StoredPerson]) -> Iterator[np.ndarray]:
        for number, answer in enumerate(label(self, people)):
            if number == 5:
                raise KeyboardInterrupt
            seen.append(number)
            yield answer

    monkeypatch.setattr(ResultsTeacher, "label", dying)
    with pytest.raises(KeyboardInterrupt):
        teach(results, shards, tmp_path / "half" / "taught", TeachSettings(), QUIET)
    monkeypatch.setattr(ResultsTeacher, "label", label)

    assert not (tmp_path / "half" / "taught").exists()
    assert teach(results, shards, tmp_path / "half" / "taught", TeachSettings(), QUIET) == whole


def test_a_finished_folder_is_kept_and_one_of_other_labels_is_refused(
    small: SmallSet, shards: Path, tmp_path: Path
):
    results = write(tmp_path / "r.json", results_of(small))
    output = tmp_path / "taught"
    teach(results, shards, output, TeachSettings(), QUIET)
    before = (output / "dataset.json").stat().st_mtime_ns

    teach(results, shards, output, TeachSettings(), QUIET)

    assert (output / "dataset.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other annotations or settings"):
        teach(results, shards, output, TeachSettings(min_confidence=0.5), QUIET)
    with pytest.raises(InputError, match="other annotations or settings"):
        teach(results, shards, shards, TeachSettings(), QUIET)


def test_names_are_the_same_keypoint_in_any_spelling():
    assert places_of(["left_shoulder", "nose", "tail"], ["Nose", "R_Shoulder", "L_Shoulder"]) == [2, 0, None]
    assert places_of(["lknee"], ["right_knee", "left_knee"]) == [1]


def test_whole_photos_are_refused(small: SmallSet, tmp_path: Path):
    photos = tmp_path / "photos"
    build(small.settings(photos, kind="image", crop=WholePhoto()), console=QUIET)

    with pytest.raises(InputError, match="whole photos: build the shards again with kind=person"):
        teach(write(tmp_path / "r.json", results_of(small)), photos, tmp_path / "t", TeachSettings(), QUIET)


def test_a_model_of_whole_photos_is_refused(shards: Path, tmp_path: Path):
    run = write_folder(tmp_path / "run", image_model())

    with pytest.raises(InputError, match="give a model of single people"):
        teach(str(run), shards, tmp_path / "taught", TeachSettings(), QUIET)


@pytest.mark.parametrize(
    ("change", "cfg", "message"),
    [
        (lambda row: row["keypoints"].pop(), {}, "row 1 has 50 numbers for 16 keypoints"),
        (lambda row: row.pop("image_id"), {}, "row 1 names no photo"),
        (lambda row: row["keypoints"].__setitem__(2, -1.0), {}, "confidences below 0"),
        (lambda row: None, {"keypoints": ("tail",)}, "the shards have no tail"),
        (lambda row: None, {"names": tuple("abcdefghijklmnopq")}, "none of the keypoints of the shards"),
    ],
)
def test_results_that_cannot_be_used_are_refused_with_their_row(
    change: Callable[[dict[str, Any]], Any],
    cfg: dict[str, Any],
    message: str,
    small: SmallSet,
    shards: Path,
    tmp_path: Path,
):
    rows = results_of(small)
    change(rows[0])

    settings = TeachSettings(**{"names": COCO_17.names[:16] if "16" in message else None, **cfg})
    with pytest.raises(InputError, match=message):
        teach(write(tmp_path / "r.json", rows), shards, tmp_path / "taught", settings, QUIET)
    assert not (tmp_path / "taught").exists()


def test_results_of_other_photos_are_refused(small: SmallSet, shards: Path, tmp_path: Path):
    rows = [{**row, "image_id": row["image_id"] + 500} for row in results_of(small)]

    with pytest.raises(InputError, match=r"none of its 10 rows is of a photo of the shards \(such as 0"):
        teach(write(tmp_path / "r.json", rows), shards, tmp_path / "taught", TeachSettings(), QUIET)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda row: row.update(bbox=[150.0, 100.0, 9.0, 9.0]),
            "no box of the results overlaps that of a person in its photo by 30%: give results of the same",
        ),
        (
            lambda row: row.update(keypoints=[*row["keypoints"][:2], 0.2] * 17),
            "no keypoint has a confidence of 0.3 or more: lower min_confidence",
        ),
    ],
)
def test_results_that_label_nobody_are_refused_and_leave_nothing(
    change: Callable[[dict[str, Any]], Any], why: str, small: SmallSet, shards: Path, tmp_path: Path
):
    rows = results_of(small)
    for row in rows:
        change(row)
    given = write(tmp_path / "r.json", rows)

    with pytest.raises(InputError) as error:
        teach(given, shards, tmp_path / "taught", TeachSettings(min_confidence=0.3), QUIET)
    assert str(error.value).startswith(f"r.json: nobody is labelled: {why}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "set", "train"]


def test_the_command_line_says_how_to_use_what_it_made(
    small: SmallSet, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    taught = tmp_path / "taught [it's mine]"
    main([write(tmp_path / "r.json", results_of(small)), str(shards), str(taught)])

    said = capsys.readouterr().out
    assert "10 people labelled by r.json: 170 of 170 keypoints, mean confidence 0.70" in said
    (word,) = shlex.split(said.partition("use them in a run with ")[2].splitlines()[0])
    cfg = load_run([ROOT / "configs/protocols/own.yaml", ROOT / "configs/methods/supervised.yaml"], [word])
    assert [source.shards for source in cfg.data.sources] == [str(taught)]
    with pytest.raises(SystemExit):
        main(["only-one"])
    assert "give a teacher, a folder of shards and the folder to make" in capsys.readouterr().err


def test_vitpose_labels_each_person_as_the_library_itself_does(tmp_path: Path):
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    names = ["Nose", "L_Eye", "R_Eye", "L_Hip", "R_Hip"]
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=32, num_hidden_layers=2, num_attention_heads=2, out_indices=[2]
    )
    config = transformers.VitPoseConfig(
        backbone_config=backbone,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    network = transformers.VitPoseForPoseEstimation(config).eval()
    prepare = transformers.VitPoseImageProcessor(size={"height": 64, "width": 48})
    network.save_pretrained(tmp_path / "vitpose")
    prepare.save_pretrained(tmp_path / "vitpose")
    rng, people = np.random.default_rng(0), []
    for number in range(3):
        jpg = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (80 + number, 70, 3), dtype=np.uint8)).save(jpg, "JPEG")
        box_xywh = np.array([10.0 + number, 12.0, 40.0, 50.0])
        people.append(StoredPerson(number, number, "a.jpg", jpg.getvalue(), box_xywh, np.eye(2, 3)))

    teacher = load_teacher(
        f"vitpose:{tmp_path / 'vitpose'}", COCO_17, [], TeachSettings(device="cpu", batch_size=2)
    )
    labels = list(teacher.label(people))

    assert teacher.names == tuple(names)
    assert teacher.model == "vitpose:vitpose"
    answers = []
    for batch in (people[:2], people[2:]):  # of the same size: a random network's peaks are hardly peaks
        boxes = [[person.box_xywh.tolist()] for person in batch]
        inputs = prepare([person.pixels for person in batch], boxes=boxes, return_tensors="pt")
        with torch.inference_mode():
            answers += prepare.post_process_pose_estimation(network(**inputs), boxes=boxes)
    for found, (answer,) in zip(labels, answers, strict=True):
        np.testing.assert_allclose(found[:, :2], answer["keypoints"], atol=1e-3)
        np.testing.assert_allclose(found[:, 2], answer["scores"], atol=1e-4)
