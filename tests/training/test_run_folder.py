"""The folder of a run: who may write into it, what a killed run leaves, whether a run starts or goes on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from semipose.configs.load import InputError, dump
from semipose.training import checkpoint
from semipose.training.run import main
from semipose.training.run_folder import (
    LOCK_NAME,
    begun_recipe,
    find_start,
    held,
    is_held,
    refuse_odd_folder,
    refuse_other_settings,
)
from semipose.training.settings import RunSettings

MakeRun = Callable[..., RunSettings]


@pytest.fixture
def cfg(tiny_run: MakeRun) -> RunSettings:
    """A run of which steps 1 and 2 are saved."""
    cfg = tiny_run("supervised")
    for step in (1, 2):
        checkpoint.save(Path(cfg.output), step, shared={}, rank_state={})
    (Path(cfg.output) / "recipe.yaml").write_text(dump(cfg))
    return cfg


def damage(cfg: RunSettings, *steps: int) -> None:
    for step in steps:
        (checkpoint.step_folder(Path(cfg.output), step) / "shared.pt").unlink()


def start(cfg: RunSettings, *, is_changed: bool = False) -> tuple[Path | None, list[str]]:
    said: list[str] = []
    return find_start(cfg, is_changed=is_changed, say=said.append), said


def test_a_run_goes_on_from_the_newest_intact_checkpoint(cfg: RunSettings) -> None:
    folder = Path(cfg.output)
    assert start(cfg) == (checkpoint.step_folder(folder, 2), [])
    damage(cfg, 2)
    found, said = start(cfg)
    assert found == checkpoint.step_folder(folder, 1)
    assert len(said) == 1
    assert "shared.pt is missing" in said[0]


def test_without_an_intact_checkpoint_it_starts_from_step_0(cfg: RunSettings) -> None:
    folder = Path(cfg.output)
    (folder / "scores.json").write_text("{}")
    for _ in range(2):  # a second time too, when names of damaged ones are taken
        checkpoint.save(folder, 2, shared={}, rank_state={})
        damage(cfg, 2)
        if checkpoint.step_folder(folder, 1).exists():
            damage(cfg, 1)
        found, said = start(cfg)
        assert found is None
        assert "starts from step 0" in said[-1]
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "damaged-step-00000001",
            "damaged-step-00000002",
        ]
    assert start(cfg) == (None, [])
    assert not (folder / "scores.json").exists()


def test_a_run_of_other_settings_is_refused_and_they_are_named(cfg: RunSettings, tiny_run: MakeRun) -> None:
    other = tiny_run("supervised", "optim.lr=0.5", "seed=7", "loader.threads=2", "report_every=9")
    with pytest.raises(InputError) as caught:
        find_start(other, is_changed=False, say=pytest.fail)
    assert "(seed=0 instead of 7, optim.lr=0.001 instead of 0.5)" in str(caught.value)
    assert str(caught.value).endswith("choose another output=")  # --resume refuses another seed
    with pytest.raises(InputError, match=r'\(method.name="supervised" instead of "single"\)'):
        find_start(tiny_run("everything"), is_changed=False, say=pytest.fail)
    damage(cfg, 1, 2)
    with pytest.raises(InputError, match="other settings"):  # nothing of another run is moved
        find_start(other, is_changed=False, say=pytest.fail)
    assert start(other, is_changed=True)[0] is None


def test_only_a_folder_in_which_a_run_has_begun_can_be_continued(
    tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.parent.mkdir()
    recipe.write_text(dump(tiny_run("supervised")))
    with pytest.raises(InputError, match="no run has begun in this folder"):
        begun_recipe(recipe.parent)
    for trace in (LOCK_NAME, "card.json"):  # of a run that was killed before its first checkpoint
        (recipe.parent / trace).touch()
        assert begun_recipe(recipe.parent) == recipe
        (recipe.parent / trace).unlink()
    model = recipe.parent / "model"
    model.mkdir()
    for name in ("recipe.yaml", "card.json", "config.json"):
        (model / name).write_text(recipe.read_text())
    with pytest.raises(InputError, match="model folder and not a run: give the folder of its run, "):
        begun_recipe(model)
    monkeypatch.chdir(model)
    with pytest.raises(InputError, match=f"give the folder of its run, {recipe.parent}"):
        begun_recipe(Path())
    recipe.unlink()
    with pytest.raises(InputError, match="give the folder of the run"):
        begun_recipe(model)


def test_a_continued_run_without_a_checkpoint_says_that_it_starts_again(tiny_run: MakeRun) -> None:
    cfg = tiny_run("supervised")
    assert start(cfg) == (None, [])
    assert start(cfg, is_changed=True)[1] == [
        f"{cfg.output}: there is no checkpoint, so the run starts from step 0"
    ]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"[]", b"a: b"])
def test_checkpoints_of_an_unknown_run_are_refused(cfg: RunSettings, content: bytes | None) -> None:
    recipe = Path(cfg.output) / "recipe.yaml"
    recipe.unlink()
    if content is not None:
        recipe.write_bytes(content)
    with pytest.raises(
        InputError, match=r"holds checkpoints of an unknown run: put its .*\(.*recipe\.yaml"
    ) as error:
        start(cfg)
    assert len(str(error.value).splitlines()) == 1


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder):
        assert is_held(folder)
        (folder / "recipe.yaml").touch()
        with pytest.raises(InputError, match="another run is training in this folder"), held(folder):
            pytest.fail("two runs are in one folder")
    assert not is_held(folder)
    with held(folder):
        pass


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    strays = [
        "scores.json.123.tmp",
        "index/rank-0/labelled-a.idx.4.tmp",
        "pictures/views-00000000.png.99999.tmp",
        "model.7.tmp/config.json",
        "checkpoints/step-00000004.tmp/shared.pt",
        "checkpoints/step-00000002.old.tmp/shared.pt",
    ]
    kept = [
        *("notes.tmp", "backup.1.tmp", "pictures/mine.png.1.tmp", "checkpoints/mine.tmp", "log.txt"),
        *("evaluation/scores.json.123.tmp", "checkpoints/step-00000002/shared.pt"),
    ]
    for name in strays + kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with held(folder):
        left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {*kept, LOCK_NAME}
    assert not list(folder.glob("checkpoints/step-*.tmp"))


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError), held(tmp_path / "a" / "run"):
        raise InputError("bad")
    assert os.listdir(tmp_path / "a") == []


def test_a_run_is_not_spread_over_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", "/", "..", str(tmp_path)):
        with pytest.raises(InputError, match="current folder"):
            refuse_odd_folder(Path(name))
    refuse_odd_folder(Path("mine"))
    (tmp_path / LOCK_NAME).touch()
    refuse_odd_folder(Path())  # the folder of a run, from which it is gone on with


def finish(cfg: RunSettings) -> None:
    last = {"step": cfg.steps, "scores": {"network": {"AP": 0.5}}}
    scores = {"metric": "AP", "last": last, "best": last, "history": [last]}
    (Path(cfg.output) / "scores.json").write_text(json.dumps(scores))
    checkpoint.save(Path(cfg.output), cfg.steps, shared={}, rank_state={})


def test_resume_is_only_advised_where_it_is_possible(cfg: RunSettings, tiny_run: MakeRun) -> None:
    faster, longer = tiny_run("supervised", "optim.lr=0.5"), tiny_run("supervised", "steps=9")
    spaced = Path(cfg.output).with_name("my run")
    shutil.copytree(cfg.output, spaced)
    advice = f"continue that run with `semipose train --resume '{spaced}'`"
    with pytest.raises(InputError, match=advice):
        refuse_other_settings(tiny_run("supervised", "optim.lr=0.5", f"output={spaced}"))
    advice = f"continue that run with `semipose train --resume {cfg.output}`"
    for other in (faster, longer):
        with pytest.raises(InputError, match=advice):
            refuse_other_settings(other)
    finish(cfg)
    with pytest.raises(InputError, match=r"choose another output=$"):
        refuse_other_settings(faster)
    with pytest.raises(InputError, match=advice):
        refuse_other_settings(longer)


def test_changes_of_a_finished_run_are_named_and_refused(
    cfg: RunSettings, tiny_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(cfg)
    before = sorted(Path(cfg.output).rglob("*"))
    for words, said in (
        (["optim.lr=0.5", "report_every=9"], "steps are trained, so a change of optim.lr, report_every has"),
        (["seed=7"], "seed was 0 and is 7: this cannot change within a run"),
        (["views.labelled.scale_sd=0.5"], "views.labelled.scale_sd was 0.25 and is 0.5: this cannot change"),
    ):
        with pytest.raises(SystemExit):
            main(["--resume", cfg.output, *words])
        assert said in capsys.readouterr().err
    main(["--resume", cfg.output])
    assert "run is finished: all 6 steps are trained and scored" in capsys.readouterr().out
    assert {path.name for path in Path(cfg.output).rglob("*")} - {path.name for path in before} <= {LOCK_NAME}


def test_a_run_is_continued_in_its_own_folder_alone(
    cfg: RunSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--resume", cfg.output, f"output={tmp_path / 'other'}"])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: output: --resume continues a run in its own folder")
    assert f"net.start_from={cfg.output}" in said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "names", [["photo.jpg"], ["scores.json"], ["recipe.yaml"], ["pictures"], ["a.1.tmp", "card.json"]]
)
def test_a_run_is_never_written_among_other_files(names: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("a: b")
    assert not is_held(folder)  # as a sweep asks; it leaves no trace
    with pytest.raises(InputError, match=rf"mine: the folder holds something else \({names[0]}"):
        refuse_odd_folder(folder)
    assert sorted(os.listdir(folder)) == sorted(names)
    (folder / LOCK_NAME).touch()  # beside the files of a run there may be others
    refuse_odd_folder(folder)


def test_a_run_may_begin_where_only_a_sweep_or_a_killed_run_was(cfg: RunSettings, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    refuse_odd_folder(folder)
    folder.mkdir()
    for name in ("sweep.lock", "log.txt"):
        refuse_odd_folder(folder)
        (folder / name).touch()
    refuse_odd_folder(folder)
    refuse_odd_folder(Path(cfg.output))  # a copy of a run without its lock
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: this is a file"):
        refuse_odd_folder(tmp_path / "file")
