"""The command that scores a run, and what scores.json says."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from semipose.configs.load import InputError, dump
from semipose.pipelines.source import open_split
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.annotations.formats.folder import FolderFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.sharding.store.files import file_sha256
from semipose.sharding.store.manifest import read_manifest, write_manifest
from semipose.training import checkpoint, evaluate
from semipose.training.experiments.runs import read_run
from semipose.training.predict import Predictions
from semipose.training.run import run
from semipose.training.settings import RunSettings

MakeRun = Callable[..., RunSettings]


def scored(folder: Path, *overrides: str, into: str = "") -> dict[str, Any]:
    evaluate.main([str(folder), *overrides])
    return json.loads((folder / "evaluation" / into / "scores.json").read_text())


@pytest.fixture
def finished(tiny_run: MakeRun) -> Path:
    """A run of two steps."""
    return run(tiny_run("supervised", "steps=2"), resume=False).folder


def test_the_command_scores_a_run_as_the_run_did(tiny_run: MakeRun) -> None:
    folder = run(tiny_run("everything", "steps=2"), resume=False).folder
    content = scored(folder)
    assert content["checkpoint"] == "step-00000002"
    assert content["scores"] == json.loads((folder / "scores.json").read_text())["last"]["scores"]
    assert (content["people"], content["boxes"], content["flip_test"]) == (12, "annotated", False)
    rows = json.loads((folder / "evaluation" / "network-predictions.json").read_text())
    assert len(rows) == 12
    assert len(rows[0]["keypoints"]) == 3 * 14


@pytest.mark.usefixtures("fresh_accelerate")
def test_mixed_precision_is_scored_as_the_run_did(tiny_run: MakeRun) -> None:
    folder = run(tiny_run("supervised", "steps=2", "precision=bf16"), resume=False).folder
    in_run = json.loads((folder / "scores.json").read_text())["last"]["scores"]
    assert scored(folder)["scores"] == in_run
    rows = (folder / "evaluation" / "network-predictions.json").read_text()
    scored(folder, "precision=no")
    assert (folder / "evaluation" / "network-predictions.json").read_text() != rows


def test_overrides_reach_the_scoring(finished: Path, drawn_shards: Path) -> None:
    plain = scored(finished)
    rows = (finished / "evaluation" / "network-predictions.json").read_text()
    flipped = scored(finished, "evaluation.flip_test=true", "heatmap.decode=dark")
    assert (flipped["flip_test"], flipped["decode"], plain["decode"]) == (True, "dark", "shift")
    assert (finished / "evaluation" / "network-predictions.json").read_text() != rows
    other = scored(finished, f"data.val={drawn_shards / 'train'}", into="train")
    assert (plain["people"], other["people"]) == (12, 24)
    assert json.loads((finished / "evaluation" / "scores.json").read_text()) == flipped
    named = scored(finished, f"data.val={drawn_shards / 'train'}", "checkpoint=2", into="train/step-00000002")
    assert named == other


def test_evaluations_of_different_people_never_overwrite_each_other(
    finished: Path, drawn_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four sets that are all named `val`, one of them the run's own, by every kind of address."""
    own = scored(finished)
    source = DrawnFormat(folder=drawn_shards / "train-coco", people=24, seed=1)
    for name, keep in (("b", 5), ("c", 7)):
        settings = BuildSettings(source=source, output=tmp_path / name / "val", limit=keep, workers=1)
        build(settings, console=Console(quiet=True))
    shutil.copytree(drawn_shards / "val", tmp_path / "copy" / "val")
    shutil.copytree(drawn_shards / "train", tmp_path / "step-00000002")

    def people_by_folder() -> dict[str, int]:
        files = sorted((finished / "evaluation").rglob("scores.json"))
        found = [path for path in files if path.parent.name != "model"]
        return {
            str(path.parent.relative_to(finished / "evaluation")): json.loads(path.read_text())["people"]
            for path in found
            if path.parent.name != "model"  # of a named checkpoint, with a copy of its scores
        }

    hashed = {name: f"val-{open_split(tmp_path / name / 'val').content_sha256[:8]}" for name in "bc"}
    expected = {".": 12, "val": 5, hashed["c"]: 7}
    for address in (f"{tmp_path / 'b/val'}", f"{tmp_path / 'c/val'}/", f"{tmp_path / 'copy/val'}"):
        evaluate.main([str(finished), f"data.val={address}"])
    assert people_by_folder() == expected
    for name in "bc":
        evaluate.main([str(finished), f"data.val=pipe:cat {tmp_path / name}/val/{{file}}"])
        with monkeypatch.context() as here:
            here.chdir(tmp_path / name / "val")
            evaluate.main([str(finished), "data.val=."])
    assert people_by_folder() == expected
    evaluate.main([str(finished), f"data.val={tmp_path / 'c/val'}", "checkpoint=2"])
    evaluate.main([str(finished), "checkpoint=2"])
    evaluate.main([str(finished), f"data.val={tmp_path / 'step-00000002'}"])
    of_train = f"step-00000002-{open_split(drawn_shards / 'train').content_sha256[:8]}"
    steps = {f"{hashed['c']}/step-00000002": 7, "step-00000002": 12, of_train: 24}
    assert people_by_folder() == {**expected, **steps}
    assert json.loads((finished / "evaluation" / "scores.json").read_text()) == {
        **own,
        "val": str(tmp_path / "copy" / "val"),
    }


def test_scores_of_a_set_that_was_built_anew_do_not_overwrite_those_of_the_old_one(
    finished: Path, drawn_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = shutil.copytree(drawn_shards / "train", tmp_path / "mine")
    evaluate.main([str(finished), f"data.val={shards}"])
    assert f'"written": "{finished / "evaluation" / "mine"}"' in capsys.readouterr().out
    shutil.rmtree(shards)
    source = DrawnFormat(folder=drawn_shards / "train-coco", people=24, seed=1)
    build(BuildSettings(source=source, output=shards, limit=5, workers=1), console=Console(quiet=True))
    evaluate.main([str(finished), f"data.val={shards}"])
    found = {path.parent.name for path in (finished / "evaluation").rglob("scores.json")}
    assert found == {"mine", f"mine-{open_split(shards).content_sha256[:8]}"}


def test_evaluations_of_older_versions_are_known_by_their_address(finished: Path, drawn_shards: Path) -> None:
    """Neither their cards nor their scores say what was in the folder."""
    card = json.loads((finished / "card.json").read_text())
    del card["val"]["content_sha256"]
    (finished / "card.json").write_text(json.dumps(card))
    assert scored(finished)["people"] == 12
    old = scored(finished, f"data.val={drawn_shards / 'train'}", into="train")
    del old["val_sha256"]
    path = finished / "evaluation" / "train" / "scores.json"
    path.write_text(json.dumps({**old, "scores": {}}))
    assert scored(finished, f"data.val={drawn_shards / 'train'}", into="train")["scores"] == old["scores"]
    path.write_text(json.dumps({**old, "val": "elsewhere/train"}))
    name = f"train-{open_split(drawn_shards / 'train').content_sha256[:8]}"
    assert scored(finished, f"data.val={drawn_shards / 'train'}", into=name)["people"] == 24
    assert json.loads(path.read_text())["val"] == "elsewhere/train"


def test_a_named_checkpoint_is_scored_apart_from_the_newest(tiny_run: MakeRun) -> None:
    cfg = tiny_run("supervised", "steps=3", "evaluate_every=1", "checkpoint_every=1")
    folder = run(cfg, resume=False).folder
    in_run = json.loads((folder / "scores.json").read_text())
    in_run["history"][1]["scores"]["network"]["AP"] = 0.9  # the best of the three, which are all 0
    (folder / "scores.json").write_text(json.dumps(in_run))
    assert scored(folder)["step"] == 3
    newest = [folder / "scores.json", *(folder / "evaluation").iterdir()]
    before, in_table = [path.read_bytes() for path in newest], read_run(folder)
    predictions = set()
    for asked, step in (("1", 1), ("best", 2), ("3", 3)):
        evaluate.main([str(folder), f"checkpoint={asked}"])
        own = folder / "evaluation" / f"step-{step:08d}"
        content = json.loads((own / "scores.json").read_text())
        assert (content["step"], content["checkpoint"]) == (step, own.name)
        assert content["scores"]["network"]["PCK"] == in_run["history"][step - 1]["scores"]["network"]["PCK"]
        predictions.add((own / "network-predictions.json").read_bytes())
    assert len(predictions) == 3
    assert [path.read_bytes() for path in newest] == before
    assert read_run(folder) == in_table


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("7", "the run keeps no checkpoint of that step, in {}: choose among 1, 2"),
        ("1", "step-00000001 is damaged (shared.pt is missing), in {}: choose among 1, 2"),
        ("best", "the run has scored none of the checkpoints that it keeps, in {}: choose among 1, 2"),
        ("first", "expected 'newest' or 'best' or a whole number >= 1, found the text 'first'"),
    ],
)
def test_a_checkpoint_that_cannot_be_scored_is_one_sentence(
    asked: str, sentence: str, tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, shared={}, rank_state={})
    (checkpoint.step_folder(tmp_path, 1) / "shared.pt").unlink()
    (tmp_path / "recipe.yaml").write_text(dump(tiny_run("supervised")))
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path), f"checkpoint={asked}"])
    error = capsys.readouterr().err
    assert sentence.format(tmp_path) in error
    assert error.count("\n") == 1


def test_a_run_without_checkpoints_says_so(
    tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump(tiny_run("supervised")))
    for word, sentence in (("newest", "holds no intact checkpoint"), ("3", f"in {tmp_path}: it keeps none")):
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path), f"checkpoint={word}"])
        assert sentence in capsys.readouterr().err


def test_checkpoints_that_a_training_removes_meanwhile_are_passed_over(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that saves often and keeps one: the newest goes while it is compared, and while it is read."""
    cfg = tiny_run("supervised", "steps=3", "checkpoint_every=1")
    folder = run(cfg, resume=False).folder
    real = {"damage": checkpoint.damage, "load_shared": checkpoint.load_shared}
    going = {"damage": 3, "load_shared": 2}

    def remove_first(what: str) -> Any:
        def work(path: Path) -> Any:
            if path.name == f"step-{going[what]:08d}":
                shutil.rmtree(path)
            return real[what](path)

        return work

    for what in real:
        monkeypatch.setattr(checkpoint, what, remove_first(what))
    assert scored(folder)["step"] == 1
    assert capsys.readouterr().err == (
        f"note: {folder} has no intact checkpoint of its last step, 3, so step 1 is scored\n"
    )


def test_keypoints_that_are_not_finite_are_named_with_their_network_and_photo(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a network whose weights are finite, such as one that overflows in half precision."""
    real = evaluate.predict

    def overflowing(*args: Any, **options: Any) -> dict[str, Predictions]:
        found = real(*args, **options)
        found["network"].points_xy[3:] = np.nan
        return found

    monkeypatch.setattr(evaluate, "predict", overflowing)
    with pytest.raises(SystemExit):
        evaluate.main([str(finished)])
    error = capsys.readouterr().err
    path = checkpoint.step_folder(finished, 2)
    assert (
        f"error: {path}: network: the keypoints of 9 of 12 people are not finite numbers (first in " in error
    )
    assert "checkpoint=STEP" in error


def test_a_note_counts_people_beyond_the_twenty_that_are_scored(
    finished: Path, drawn_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((drawn_shards / "train-coco" / "annotations.json").read_text())
    for row in content["annotations"]:
        row["image_id"] = 1
    (tmp_path / "many.json").write_text(json.dumps(content))
    source = CocoFormat(annotations=tmp_path / "many.json", images=drawn_shards / "train-coco" / "images")
    build(BuildSettings(source=source, output=tmp_path / "many", workers=1), console=Console(quiet=True))
    scored(finished, f"data.val={tmp_path / 'many'}", into="many")
    assert "4 of the 24 people who are scored are beyond the 20 in a photo" in capsys.readouterr().err


def test_evaluate_names_scored_photos_that_the_run_was_trained_on(
    finished: Path, drawn_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its start, a run says so only of its own val set."""
    scored(finished, f"data.val={drawn_shards / 'train'}", into="train")
    told = capsys.readouterr().err
    assert "5 of 14 photos of the people who are scored are also trained on" in told
    scored(finished, into="")
    assert "trained on too" not in capsys.readouterr().err


def test_a_run_keeps_its_best_checkpoint_beside_the_last(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth step scores best of all, and left no checkpoint."""
    found = iter([0.1, 0.5, 0.3, 0.4, 0.9, 0.2])
    monkeypatch.setattr(evaluate, "score_all", lambda *_: {"network": {"AP": next(found)}})
    cfg = tiny_run("supervised", "evaluate_every=1", "checkpoint_every=2", "keep_checkpoints=1")
    folder = run(cfg, resume=False).folder
    assert checkpoint.kept_steps(folder) == [2, 6]
    assert json.loads((folder / "scores.json").read_text())["best"]["step"] == 5


def test_networks_and_ensembles_are_scored_separately(tiny_run: MakeRun, monkeypatch: Any) -> None:
    method = type(evaluate.build_method(*build_arguments(tiny_run)))
    monkeypatch.setattr(method, "ensembles", lambda self: {"twice": ("network", "network")})
    folder = run(tiny_run("supervised", "steps=2"), resume=False).folder
    in_run = json.loads((folder / "scores.json").read_text())["last"]["scores"]
    assert list(in_run) == ["network", "twice"]
    content = scored(folder)
    assert content["scores"] == in_run
    names = sorted(path.name for path in (folder / "evaluation").glob("*-predictions.json"))
    assert names == ["network-predictions.json", "twice-predictions.json"]


def build_arguments(tiny_run: MakeRun) -> tuple[Any, ...]:
    cfg = tiny_run("supervised")
    return cfg, evaluate.open_split(cfg.data.val).skeleton, evaluate.ProcessInfo()


@pytest.mark.parametrize(
    ("words", "sentence"), [([], "RUN_DIR is missing"), (["/nowhere"], "so it is no run")]
)
def test_the_command_names_what_is_missing(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(words)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_metric_that_the_people_cannot_give_stops_before_the_first_step(tiny_run: MakeRun) -> None:
    with pytest.raises(InputError, match=r"metric: PCKh needs .*head boxes.*: take metric=AP") as error:
        run(tiny_run("supervised", "metric=PCKh"), resume=False)
    assert "\n" not in str(error.value)


def test_a_metric_that_the_people_cannot_give_stops_the_command(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate.main([str(finished), "metric=AIC"])
    assert "metric: AIC needs AI Challenger's 14 keypoints" in capsys.readouterr().err
    assert not (finished / "evaluation").exists()


def test_people_without_annotations_are_predicted_and_not_scored(
    finished: Path, tmp_path: Path, drawn_shards: Path
) -> None:
    coco = drawn_shards / "val-coco"
    source = FolderFormat(images=coco / "images", skeleton=str(coco / "annotations.json"))
    settings = BuildSettings(source=source, output=tmp_path / "photos", workers=1)
    build(settings, console=Console(quiet=True))
    content = scored(finished, f"data.val={tmp_path / 'photos'}", into="photos")
    assert (content["scores"], content["boxes"]) == ({}, "given")
    rows = json.loads((finished / "evaluation" / "photos" / "network-predictions.json").read_text())
    photos = json.loads((tmp_path / "photos" / "ground_truth.json").read_text())["images"]
    assert len(rows) == content["people"] == len(photos) > 1
    assert {row["image_id"] for row in rows} == {photo["id"] for photo in photos}


def test_people_with_other_keypoints_are_refused(
    finished: Path, tmp_path: Path, drawn_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(drawn_shards / "val", tmp_path / "other")
    truth, manifest = other / "ground_truth.json", read_manifest(other)
    names = ("tail", *manifest.skeleton.names[1:])
    content = json.loads(truth.read_text())
    content["categories"][0]["keypoints"] = names
    truth.write_text(json.dumps(content))
    skeleton = dataclasses.replace(manifest.skeleton, names=names)
    agreeing = {"skeleton": skeleton, "ground_truth_sha256": file_sha256(truth)}
    write_manifest(other, dataclasses.replace(manifest, **agreeing))
    with pytest.raises(SystemExit):
        evaluate.main([str(finished), f"data.val={other}"])
    assert "has other keypoints than" in capsys.readouterr().err


def test_best_is_by_the_product_network() -> None:
    history = [
        {"step": step, "scores": {"network": {"AP": ap}, "average": {"AP": 1 - ap}}}
        for step, ap in ((1, 0.2), (2, 0.5), (3, 0.4))
    ]
    summary = evaluate.summary(history, "AP")
    assert summary["last"]["step"] == 3
    assert summary["best"]["step"] == 2
