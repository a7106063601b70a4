"""`data.sources`: people labelled by a model, or of another data set, beside the labelled ones."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from rich.console import Console

from semipose.configs.load import InputError
from semipose.models.net import PoseNet
from semipose.pipelines.batch import LabelledBatch
from semipose.pipelines.loader import labelled_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.views import ViewSettings
from semipose.sharding.annotations.flip_pairs import places_of
from semipose.sharding.annotations.formats.coco_style import CocoStyleFormat
from semipose.sharding.build import BuildSettings, build
from semipose.teach.command import teach
from semipose.teach.settings import TeachSettings
from semipose.training.label_sources import LabelSource, with_sources
from semipose.training.run import run
from semipose.training.settings import RunSettings
from tests.training.tiny import CODEC, make_batches, make_network

QUIET = Console(quiet=True)
MakeRun = Callable[..., RunSettings]


class Endless:
    """Gives one batch again and again, and counts how often."""

    def __init__(self, batch: LabelledBatch) -> None:
        self.batch, self.taken = batch, 0

    def __next__(self) -> LabelledBatch:
        self.taken += 1
        return self.batch


def source(weight: float = 1.0, *, hands_over: bool = False, people: int = 3) -> LabelSource:
    batch, _ = make_batches(seed=1)
    cut = LabelledBatch(batch.image[:people], batch.points_xy[:people], 0.5 * batch.visible[:people])
    return LabelSource(Endless(cut), weight, hands_over)  # type: ignore[arg-type]


def loss_of(network: PoseNet, batch: LabelledBatch) -> torch.Tensor:
    return CODEC.supervised_loss(network(batch.image), batch)


@pytest.fixture
def taught(drawn_shards: Path, tmp_path: Path) -> Path:
    """The drawn train people as a file of results labels them: the truth, moved by a pixel, half sure."""
    truth = json.loads((drawn_shards / "train" / "ground_truth.json").read_bytes())
    rows = []
    for row in truth["annotations"]:
        points = np.array(row["keypoints"], float).reshape(-1, 3)
        points[:, 0] += 1
        points[:, 2] = np.where(points[:, 2] > 0, 0.5, 0.0)
        kept = {"image_id": row["image_id"], "bbox": row["bbox"], "score": 1.0, "category_id": 1}
        rows.append({**kept, "keypoints": points.ravel().tolist()})
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    output = tmp_path / "taught"
    teach(str(results), drawn_shards / "train", output, TeachSettings(licence="MIT"), QUIET)
    return output


def test_the_loss_of_a_joined_batch_is_that_of_the_labelled_people_plus_the_weighted_ones_of_the_sources():
    labelled, _ = make_batches()
    one, other = source(0.7), source(2.0, people=2)

    joined = with_sources(labelled, [one, other], unlabelled_share=0.0)

    network = make_network().eval()  # with running statistics the people of a batch do not affect each other
    losses = [loss_of(network, each) for each in (labelled, one.loader.batch, other.loader.batch)]  # type: ignore[attr-defined]
    expected = losses[0] + 0.7 * losses[1] + 2.0 * losses[2]
    torch.testing.assert_close(loss_of(network, joined), expected)


def test_a_source_that_hands_over_fades_as_the_unlabelled_losses_rise_and_is_not_read_any_more_at_the_end():
    labelled, _ = make_batches()
    fading = source(2.0, hands_over=True)

    shares = [fading.weight_in(share) for share in (0.0, 0.25, 1.0)]

    assert shares == [2.0, 1.5, 0.0]
    assert with_sources(labelled, [fading], 1.0) is labelled
    assert fading.loader.taken == 0  # type: ignore[attr-defined]
    assert source(2.0).weight_in(1.0) == 2.0


def test_a_confidence_is_the_weight_of_its_keypoint(taught: Path):
    views = ViewSettings(size_hw=(64, 48))

    batch = next(labelled_loader(open_split(taught), views, batch_size=24, seed=0))

    assert set(batch.visible.unique().tolist()) <= {0.0, 0.5}


def test_keypoints_of_a_source_are_found_by_their_names_in_any_order_and_spelling(drawn_shards: Path):
    split, views = open_split(drawn_shards / "train"), ViewSettings(size_hw=(64, 48))
    names = split.skeleton.names
    wanted = [name.replace("left_", "L_") for name in reversed(names)]
    wanted[3] = "tail"
    as_stored = next(labelled_loader(split, views, batch_size=16, seed=3))

    mapped = next(labelled_loader(split, views, batch_size=16, seed=3, places=places_of(wanted, names)))

    others = [place for place in range(len(names)) if place != 3]
    torch.testing.assert_close(mapped.points_xy[:, others], as_stored.points_xy.flip(1)[:, others])
    torch.testing.assert_close(mapped.visible[:, others], as_stored.visible.flip(1)[:, others])
    assert not mapped.visible[:, 3].any()


def test_a_run_learns_from_a_source_in_its_burn_in_and_says_in_its_card_who_labelled_it(
    tiny_run: MakeRun, taught: Path
):
    cfg = tiny_run(
        "everything", f"data.sources=[{{shards: {taught}, batch: 4, hand_over: true}}]", "method.burn_in=0.5"
    )

    job = run(cfg, resume=False)

    card = json.loads((Path(cfg.output) / "card.json").read_bytes())
    assert card["sources"][0]["teacher"]["model"] == "results.json"
    assert card["sources"][0]["teacher"]["licence"] == "MIT"
    readme = (Path(cfg.output) / "model" / "README.md").read_text()
    assert "results.json" in readme
    assert "MIT" in readme
    assert job.step == cfg.steps


@pytest.mark.slow
def test_a_run_with_a_source_that_was_interrupted_ends_with_the_same_weights(tiny_run: MakeRun, taught: Path):
    words = (f"data.sources=[{{shards: {taught}, batch: 4}}]",)
    whole = tiny_run("everything", *words)
    ended = run(whole, resume=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    half = replace(whole, output=str(taught.parent / "half"))
    shutil.copytree(whole.output, half.output)
    shutil.rmtree(Path(half.output) / "checkpoints" / "step-00000006")
    (Path(half.output) / "scores.json").unlink()

    resumed = run(half, resume=False)

    for name, weight in ended.method.state_dict().items():
        assert torch.equal(weight, resumed.method.state_dict()[name]), name


def test_the_shards_of_a_source_may_move_but_not_change(
    tiny_run: MakeRun, taught: Path, drawn_shards: Path, capsys: pytest.CaptureFixture[str]
):
    words = "data.sources=[{shards: %s, batch: 4}]"
    run(tiny_run("supervised", words % taught, "steps=1"), resume=False)
    moved = taught.rename(taught.with_name("moved"))
    job = run(tiny_run("supervised", words % moved, "steps=2"), resume=True)
    assert job.step == 2
    assert f"data.sources.0.shards moved from {taught} to {moved}" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"people who are trained on as a source are not those of the run"):
        run(tiny_run("supervised", words % (drawn_shards / "val"), "steps=3"), resume=True)


def test_a_source_that_never_counts_is_said_at_the_start(
    tiny_run: MakeRun, taught: Path, capsys: pytest.CaptureFixture[str]
):
    cfg = tiny_run(
        "everything",
        f"data.sources=[{{shards: {taught}, hand_over: true}}]",
        "method.burn_in=0",
        "method.ramp_up=0",
    )

    run(cfg, resume=False)

    assert "never counts" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("keypoints: [tail]", "has no keypoint tail"),
        ("batch: 0", "batch"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(tiny_run: MakeRun, taught: Path, words: str, message: str):
    with pytest.raises(InputError, match=message):
        run(tiny_run("supervised", f"data.sources=[{{shards: {taught}, {words}}}]"), resume=False)


def test_some_keypoints_come_from_a_model_and_others_from_the_user_in_one_run(
    tiny_run: MakeRun, drawn_shards: Path, tmp_path: Path
):
    """The user labelled two keypoints, another set has the rest: the network learns all of them."""
    content = json.loads((drawn_shards / "train" / "ground_truth.json").read_bytes())
    names = content["categories"][0]["keypoints"]
    own, rest = names[-2:], names[:-2]

    def shards(folder: str, kept: list[str], more: list[str]) -> Path:
        places = [names.index(name) for name in kept]
        rows = [
            {**row, "keypoints": np.reshape(row["keypoints"], (-1, 3))[places].ravel().tolist()}
            for row in content["annotations"]
        ]
        file = tmp_path / f"{folder}.json"
        category = {"id": 1, "name": "person", "keypoints": kept}
        file.write_text(json.dumps({**content, "annotations": rows, "categories": [category]}))
        source = CocoStyleFormat(annotations=file, images=drawn_shards / "train-coco" / "images")
        settings = BuildSettings(
            source=source, output=tmp_path / folder, more_keypoints=tuple(more), workers=1
        )
        build(settings, console=QUIET)
        return settings.output

    mine, others = shards("mine", own, rest), shards("others", rest, [])
    cfg = tiny_run("supervised", f"data.sources=[{{shards: {others}, batch: 4}}]", "steps=2")
    cfg = replace(cfg, data=replace(cfg.data, train=str(mine), val=str(mine)))

    job = run(cfg, resume=False)

    assert job.skeleton.names == (*own, *rest)
    batch = with_sources(next(job.labelled), job.sources, 0.0)
    is_learned = batch.visible.sum(1) > 0
    labelled = batch.visible[: cfg.labelled_batch]
    assert is_learned.all()
    assert not labelled[:, 2:].any()
    assert not batch.visible[cfg.labelled_batch :, :2].any()
    assert batch.visible[cfg.labelled_batch :, 2:].any(dim=0).all()
