"""From maps of whole photos to people in source pixels."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semipose.models.codecs.ae import AECodec, AESettings
from semipose.models.codecs.cid import CIDCodec, CIDSettings
from semipose.models.codecs.dekr import DEKRCodec, DEKRSettings
from semipose.models.codecs.instances import InstanceCodec
from semipose.pipelines.batch import EvalBatch
from semipose.sharding.annotations.skeleton import COCO_17
from semipose.training.predict import Predictions, join, predict
from semipose.training.scoring.metrics import coco_results
from tests.training.photos import MirrorOracle, PhotoOracle, batches_of, cards_of, truth_of

CODECS: dict[str, InstanceCodec] = {
    "ae": AECodec(AESettings(decode="dark"), COCO_17),
    "dekr": DEKRCodec(DEKRSettings(), COCO_17),
    "cid": CIDCodec(CIDSettings(), COCO_17),
}
TOLERANCE_CELLS = {"ae": 0.05, "dekr": 1e-3, "cid": 0.5**0.5}
"""How well each codec gives its own targets back: CID draws its Gaussians on the nearest cells, which are up
to half a cell away on both axes."""


def person(rng: np.random.Generator, centre_xy: tuple[float, float], size: float) -> np.ndarray:
    """Keypoints (17, 3) about a centre, two columns of them, each far from the others' of its name."""
    angles = np.arange(17) * 2 * np.pi / 17
    xy = np.array(centre_xy) + size / 2 * np.column_stack((np.cos(angles), np.sin(angles)))
    return np.column_stack((xy + rng.uniform(-1, 1, (17, 2)), np.full(17, 2.0))).astype(np.float32)


def some_photos() -> dict[str, Any]:
    """Four photos of several shapes with 2, 1, 0 and 3 people."""
    rng = np.random.default_rng(0)
    layout = [
        ((640, 480), [(150, 200), (450, 260)]),
        ((300, 400), [(150, 180)]),
        ((512, 256), []),
        ((960, 320), [(120, 160), (430, 150), (780, 170)]),
    ]
    return truth_of(
        [
            {"size_wh": size, "people": [person(rng, centre, 0.45 * min(size)) for centre in centres]}
            for size, centres in layout
        ]
    )


def predicted(
    truth: dict[str, Any], codec: InstanceCodec, *, batch_size: int = 4, **options: Any
) -> Predictions:
    oracle = MirrorOracle(truth, codec) if options.get("flip_test") else PhotoOracle(truth, codec)
    batches = oracle.watch(batches_of(truth, batch_size=batch_size, short_px=256))
    return predict({"net": oracle}, batches, codec=codec, **options)["net"]


def by_photo(people: Predictions) -> dict[int, list[np.ndarray]]:
    """The points of the people of each photo, by its id, from left to right."""
    photos: dict[int, list[np.ndarray]] = {record["image_id"]: [] for record in people.records}
    for record, points in zip(people.record_rows, people.points_xy, strict=True):
        photos[record["image_id"]].append(points)
    return {photo: sorted(found, key=lambda points: points[:, 0].mean()) for photo, found in photos.items()}


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_true_maps_come_back_as_the_annotated_people_of_every_photo(name: str, flip_test: bool) -> None:
    truth = some_photos()
    people = predicted(truth, CODECS[name], flip_test=flip_test)
    found = by_photo(people)
    assert [record["image_id"] for record in people.records] == [1, 2, 3, 4]
    assert {photo: len(rows) for photo, rows in found.items()} == {1: 2, 2: 1, 3: 0, 4: 3}
    assert people.kind == "image"
    assert people.points_xy.dtype == people.scores.dtype == np.float32
    for image in truth["images"]:
        annotated = [row["keypoints"] for row in truth["annotations"] if row["image_id"] == image["id"]]
        image_px = 4 * min(image["width"], image["height"]) / 256  # of a cell
        for points, row in zip(found[image["id"]], annotated, strict=True):
            away = np.linalg.norm(points - np.array(row).reshape(17, 3)[:, :2], axis=1)
            assert away.max() < TOLERANCE_CELLS[name] * image_px


@pytest.mark.parametrize("name", CODECS)
def test_a_photo_is_predicted_alike_alone_and_padded_in_a_batch(name: str) -> None:
    truth = some_photos()
    alone, together = (predicted(truth, CODECS[name], batch_size=size) for size in (1, 4))
    assert alone.samples.tolist() == together.samples.tolist() == [0, 0, 1, 3, 3, 3]
    np.testing.assert_allclose(alone.points_xy, together.points_xy, atol=0.05)
    np.testing.assert_allclose(alone.scores, together.scores, atol=1e-5)
    np.testing.assert_allclose(alone.peaks, together.peaks, atol=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_nobody_is_found_beside_a_photo(name: str) -> None:
    """A network says anything there: in training these cells do not count."""
    truth, codec = some_photos(), CODECS[name]
    plain = predicted(truth, codec)
    beyond = [row["id"] for row in truth["annotations"] if row["image_id"] == 4]
    shouting = some_photos()
    rng = np.random.default_rng(1)
    for image in shouting["images"][:3]:  # in views that are as wide as the last photo's, far right
        zoom = 256 / min(image["width"], image["height"])
        keypoints = person(rng, (650 / zoom, 128 / zoom), 100 / zoom)
        row = next(row for row in shouting["annotations"] if row["id"] == beyond[0])
        x0, y0 = keypoints[:, :2].min(0)
        (x1, y1) = keypoints[:, :2].max(0)
        new = {"id": 100 + image["id"], "image_id": image["id"], "keypoints": keypoints.ravel().tolist()}
        box = {"bbox": [x0, y0, x1 - x0, y1 - y0]}
        shouting["annotations"].append({**row, **new, **box})
    oracle = PhotoOracle(shouting, codec)
    batches = [
        EvalBatch(batch.image, batch.image_from_view, cards_of(shouting))
        for batch in batches_of(truth, batch_size=4, short_px=256)
    ]
    maps = []

    def network(images: torch.Tensor) -> Any:
        maps.append(oracle(images))
        return maps[-1]

    people = predict({"net": network}, oracle.watch(batches), codec=codec)["net"]
    assert (maps[0].heatmaps[:3, :, :, 150:].amax((1, 2, 3)) > 0.9).all()
    assert people.samples.tolist() == plain.samples.tolist()
    np.testing.assert_allclose(people.points_xy, plain.points_xy, atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_an_ensemble_of_two_is_decoded_from_merged_maps(name: str) -> None:
    truth, codec = some_photos(), CODECS[name]
    first, second = PhotoOracle(truth, codec), PhotoOracle(truth, codec)
    batches = list(batches_of(truth, batch_size=3, short_px=256))
    nets = {"a": first, "b": second}
    found = predict(nets, second.watch(first.watch(batches)), codec=codec, ensembles={"both": ("a", "b")})
    assert list(found) == ["a", "b", "both"]
    np.testing.assert_allclose(found["both"].points_xy, found["a"].points_xy, atol=1e-4)
    assert first.calls == second.calls == 2


@pytest.mark.parametrize("name", CODECS)
def test_nobody_and_no_photo_at_all(name: str) -> None:
    codec = CODECS[name]
    none = predict({"a": lambda images: images}, [], codec=codec)["a"]
    truth = truth_of([{"size_wh": (64, 64), "people": []}] * 3)
    nobody = predicted(truth, codec)
    for people, photos in ((none, 0), (nobody, 3)):
        assert len(people.records) == photos
        assert people.points_xy.shape == (0, 17, 2)
        assert people.kind == "image"
        assert coco_results(people, COCO_17) == []
    joined = join([none, nobody, predicted(some_photos(), codec), none])
    assert joined.samples.tolist() == [3, 3, 4, 6, 6, 6]
    assert len(joined.records) == 7


@pytest.mark.parametrize("name", ["ae", "dekr"])
def test_maps_that_are_not_finite_leave_rows_that_say_so(name: str) -> None:
    """They show nobody, which would otherwise be a score of 0 without a word."""
    truth, codec = some_photos(), CODECS[name]
    oracle = PhotoOracle(truth, codec)

    def overflowing(images: torch.Tensor) -> Any:
        maps = oracle(images)
        maps.heatmaps[1] = torch.nan
        return maps

    batches = oracle.watch(batches_of(truth, batch_size=4, short_px=256))
    people = predict({"net": overflowing}, batches, codec=codec)["net"]
    assert {people.records[i]["image_id"] for i in people.samples[np.isnan(people.peaks).all(1)]} == {2}


TWO_RANKS = """
import json, os
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tests.training.photos import PhotoOracle, batches_of
from tests.training.test_predict_photos import CODECS, some_photos
from semipose.training.predict import join, predict

torch.set_num_threads(1)  # a forked child cannot share the work among torch's threads
child = os.fork()
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
state, truth, codec = PartialState(cpu=True), some_photos(), CODECS["dekr"]
own = [slice(0, 1), slice(1, 3)][state.process_index]  # one photo for one rank and two for the other
oracle = PhotoOracle(truth, codec)
batches = list(batches_of(truth, batch_size=1, short_px=256))[own]
found = predict({"net": oracle}, oracle.watch(batches), codec=codec)
ranks = gather_object([found])
if state.is_main_process:
    people = join([rank["net"] for rank in ranks])
    rows = [[record["image_id"], points[0].tolist()]
            for record, points in zip(people.record_rows, people.points_xy)]
    print(json.dumps([[record["image_id"] for record in people.records], rows]))
    raise SystemExit(os.waitpid(child, 0)[1])
"""


@pytest.mark.slow
def test_two_ranks_give_each_photo_once() -> None:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = str(one.getsockname()[1])
    environment = {
        **{**os.environ, "OMP_NUM_THREADS": "1"},
        **{"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port},
    }
    said = subprocess.run(
        [sys.executable, "-c", TWO_RANKS],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    ).stdout
    photos, rows = json.loads(said)
    assert photos == [1, 2, 3]
    alone = predicted(some_photos(), CODECS["dekr"], batch_size=1)
    assert [photo for photo, _ in rows] == [1, 1, 2]
    np.testing.assert_allclose([point for _, point in rows], alone.points_xy[:3, 0], atol=1e-4)
