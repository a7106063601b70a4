"""A run that continues with other settings: which changes are refused, printed, recorded and shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from semipose.configs.load import InputError
from semipose.configs.schema import plain
from semipose.sharding.annotations.formats.drawn import DrawnFormat
from semipose.sharding.build import build
from semipose.sharding.settings import BuildSettings
from semipose.training.experiments.tables import CompareSettings, read_all, report
from semipose.training.resume import Resumed, compare_settings
from semipose.training.run import run
from semipose.training.settings import RunSettings, load_run

MakeRun = Callable[..., RunSettings]

REFUSED = {
    "data.labelled=11": "data.labelled was 10 and is 11",
    "data.subset_seed=1": "data.subset_seed was null and is 1",
    "data.cache=host": "data.cache was none and is host",
    "data.unlabelled=x": "data.unlabelled was null and is x",
    "metric=PCK": "metric was AP and is PCK",
    "protocol=coco-1k": "protocol was own and is coco-1k",
    "seed=1": "seed was 0 and is 1",
    "labelled_batch=5": "labelled_batch was 4 and is 5",
    "loader.shuffle_buffer=9": "loader.shuffle_buffer was 16 and is 9",
    "views.labelled.scale_sd=0.125": "views.labelled.scale_sd was 0.25 and is 0.125",
    "views.size_hw=[64,64]": "views.size_hw was [64, 48] and is [64, 64]",
    "evaluation.flip_test=true": "evaluation.flip_test was false and is true",
    "heatmap.decode=dark": "heatmap.decode was shift and is dark",
    "net.head.width=12": "net.head.width was 8 and is 12",
    "net.backbone={name: resnet}": "net.backbone.name was light and is resnet",
    "method={name: dual}": "method.name was supervised and is dual",
}
RECORDED = {
    "optim.lr=1e-5": "optim.lr 0.001 to 0.00001",
    "optim.schedule={name: cosine}": "optim.schedule.name milestones to cosine",
    "precision=bf16": "precision no to bf16",
    "heatmap.sigma=1.5": "heatmap.sigma 2.0 to 1.5",
    "evaluate_every=7": "evaluate_every 100 to 7",
    "loader.threads=2": "loader.threads 1 to 2",
}


def files(folder: Path) -> dict[str, bytes]:
    """The content of a run's folder, without the lists of samples, which every start writes anew."""
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in found.items() if name.parts[0] != "index"}


@pytest.mark.parametrize(("word", "sentence"), REFUSED.items())
def test_settings_that_make_another_run_are_refused_by_their_name(
    word: str, sentence: str, tiny_run: MakeRun
) -> None:
    with pytest.raises(InputError) as error:
        Resumed(tiny_run("supervised", word, "optim.lr=2.0"), plain(tiny_run("supervised")))
    assert str(error.value).startswith(f"{tiny_run('supervised').output}: {sentence}: this cannot change")


def test_what_a_checkpoint_cannot_be_read_without_is_refused_by_its_name(tiny_run: MakeRun) -> None:
    was = plain(tiny_run("everything"))
    with pytest.raises(InputError, match=r"method\.teacher\.name was ema and is shared: "):
        Resumed(tiny_run("everything", "method.teacher={name: shared}"), was)
    dual = "method={name: dual, second_net: %s}"
    with pytest.raises(InputError, match=r"method\.second_net was null and is \{.*\.\.\.: "):
        Resumed(
            tiny_run("supervised", dual % "{pretrained: false}"), plain(tiny_run("supervised", dual % "null"))
        )


@pytest.mark.parametrize(("key", "value", "was"), [("name", "fixed", "mixture"), ("length", "512", "2048")])
def test_thresholds_with_other_buffers_are_refused_by_their_name(key: str, value: str, was: str) -> None:
    recipe = Path(__file__).parents[2] / "configs/protocols/coco-photos.yaml"
    words = ["method.name=detector_free", "output=run"]
    before, after = (
        load_run([recipe], [*words, *more]) for more in ([], [f"method.thresholds.{key}={value}"])
    )
    with pytest.raises(InputError, match=rf"method\.thresholds\.{key} was {was} and is {value}: "):
        Resumed(after, plain(before))


def test_the_shards_of_a_source_may_move(tiny_run: MakeRun) -> None:
    was, now = (plain(tiny_run("supervised", f"data.sources=[{{shards: {name}}}]")) for name in "ab")
    changes = compare_settings(was, now)
    assert not changes.refused
    assert [change.setting for change in changes.recorded] == ["data.sources.0.shards"]
    heavier = plain(tiny_run("supervised", "data.sources=[{shards: a, weight: 2}]"))
    assert [change.setting for change in compare_settings(was, heavier).refused] == ["data.sources.0.weight"]


def test_all_other_changes_are_printed_and_recorded_with_their_step(tiny_run: MakeRun) -> None:
    told: list[str] = []
    was = plain(tiny_run("supervised"))
    resumed = Resumed(tiny_run("supervised", *RECORDED, "output=moved"), was)
    record = resumed.record(12, told.append)
    assert len(told) == 1
    assert told[0].startswith("changed since step 12: ")
    assert set(told[0].removeprefix("changed since step 12: ").split(", ")) == set(RECORDED.values())
    assert {"step": 12, "setting": "optim.lr", "was": 0.001, "now": 1e-5} in record
    assert {entry["setting"] for entry in record} == {each.partition(" ")[0] for each in RECORDED.values()}


def test_the_record_grows_and_follows_a_fall_back(tiny_run: MakeRun, tmp_path: Path) -> None:
    """A kill after the card was written repeats a change; a damaged checkpoint makes it begin earlier."""
    (tmp_path / "run").mkdir()
    card = {"changes": [{"step": 12, "setting": "optim.lr", "was": 0.001, "now": 0.002}]}
    (tmp_path / "run" / "card.json").write_text(json.dumps(card))
    was = plain(tiny_run("supervised"))
    resumed = Resumed(tiny_run("supervised", "optim.lr=0.002"), was)
    assert resumed.record(12, print) == card["changes"]
    unchanged = Resumed(tiny_run("supervised"), was)
    assert [each["step"] for each in unchanged.record(20, print)] == [12]
    assert [each["step"] for each in unchanged.record(9, print)] == [9]


def test_an_exchanged_part_is_named_once_and_equal_settings_are_no_change(tiny_run: MakeRun) -> None:
    was, now = plain(tiny_run("supervised")), plain(tiny_run("everything"))
    assert [each.setting for each in compare_settings(was, now).refused] == ["method.name"]
    assert compare_settings(was, plain(tiny_run("supervised"))).refused == ()


def test_a_resumed_run_with_changes_says_so_in_card_output_and_table(
    tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_run = run(tiny_run("supervised", f"output={tmp_path / 'runs' / 'a-seed0'}"), resume=False).folder
    changed = f"output={tmp_path / 'runs' / 'a-seed1'}"
    run(tiny_run("supervised", "steps=3", "seed=1", changed), resume=False)
    words = ("seed=1", changed, "optim.lr=1e-5", "report_every=2")
    capsys.readouterr()
    folder = run(tiny_run("supervised", *words), resume=True).folder
    told = capsys.readouterr().out
    assert "changed since step 3: optim.lr 0.001 to 0.00001, steps 3 to 6, report_every 1 to 2" in told
    assert told.count("shares of the run") == 1
    run(tiny_run("supervised", *words), resume=True)
    assert "changed" not in capsys.readouterr().out
    changes = json.loads((folder / "card.json").read_text())["changes"]
    assert [(each["step"], each["setting"]) for each in changes] == [
        *((3, "optim.lr"), (3, "steps"), (3, "report_every"))
    ]
    assert "changes" not in json.loads((plain_run / "card.json").read_text())
    report(read_all([tmp_path / "runs"]), CompareSettings(), tmp_path / "runs", Console(quiet=True))
    text = (tmp_path / "runs" / "compare.md").read_text()
    names = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| a")]
    mark = "(changed since step 3: optim.lr 0.001 to 0.00001, steps 3 to 6)"
    assert sorted(mark in name for name in names) == [False, True]


@pytest.fixture
def begun(tiny_run: MakeRun, drawn_shards: Path, tmp_path: Path) -> Callable[..., Any]:
    """A run of one step on copies of the shards, and how it goes on with other settings."""
    for name in ("train", "val"):
        shutil.copytree(drawn_shards / name, tmp_path / name)
    words = (f"data.train={tmp_path / 'train'}", f"data.val={tmp_path / 'val'}")
    run(tiny_run("everything", "steps=1", "evaluate_every=1", *words), resume=False)

    def go_on(*more: str) -> Path:
        return run(tiny_run("everything", "steps=2", "evaluate_every=1", *words, *more), resume=True).folder

    return go_on


def other_people(folder: Path, seed: int) -> Path:
    """As many drawn people as those that are scored, with the same ids: others."""
    shutil.rmtree(folder, ignore_errors=True)
    source = DrawnFormat(folder=folder.with_name(f"{folder.name}-{seed}-coco"), people=12, seed=seed)
    build(BuildSettings(source=source, output=folder, workers=1), console=Console(quiet=True))
    return folder


def test_shards_that_moved_are_the_same_people(
    begun: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val"):
        (tmp_path / name).rename(tmp_path / f"{name}-moved")
    folder = begun(f"data.train={tmp_path / 'train-moved'}", f"data.val={tmp_path / 'val-moved'}")
    assert f"data.val moved from {tmp_path / 'val'} to {tmp_path / 'val-moved'}" in capsys.readouterr().out
    history = json.loads((folder / "scores.json").read_text())["history"]
    assert [row["step"] for row in history] == [1, 2]
    assert [each["setting"] for each in json.loads((folder / "card.json").read_text())["changes"]] == [
        "steps"
    ]


@pytest.mark.parametrize("is_same_folder", [False, True])
def test_other_people_are_never_scored_in_one_history(
    is_same_folder: bool, begun: Callable[..., Path], tmp_path: Path
) -> None:
    before = files(tmp_path / "run")
    others = other_people(tmp_path / ("val" if is_same_folder else "others"), seed=5)
    sentence = "who are scored are not those of the run so far"
    cause = f"{others} was built again" if is_same_folder else f"and are in {others}"
    with pytest.raises(InputError, match=f"{sentence} .*{cause}.*`semipose evaluate`"):
        begun(f"data.val={others}")
    assert files(tmp_path / "run") == before


def test_other_people_are_never_trained_on_in_one_run(begun: Callable[..., Path], tmp_path: Path) -> None:
    before = files(tmp_path / "run")
    others = other_people(tmp_path / "others", seed=6)
    with pytest.raises(InputError, match="who are trained on with labels are not those of the run so far"):
        begun(f"data.train={others}")
    assert files(tmp_path / "run") == before


def test_a_run_whose_card_does_not_say_what_the_folders_held_goes_on(
    begun: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "run" / "card.json"
    card = json.loads(path.read_text())
    for role in ("labelled", "unlabelled", "val"):
        card[role] = {key: card[role][key] for key in ("folder", "people", "ids_sha256")}
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match="who are scored are not those of the run so far"):
        begun(f"data.val={other_people(tmp_path / 'others', seed=5)}")
    begun()
    assert "content_sha256" in json.loads(path.read_text())["val"]
