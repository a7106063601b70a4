"""The demo, of people and of whole photos: its commands fit the recipes, and its table is theirs."""

import json
from pathlib import Path

import pytest

from semipose.configs.load import load
from semipose.sharding.settings import BuildSettings
from semipose.training import demo
from semipose.training.settings import load_run

KINDS = pytest.mark.parametrize("kind", demo.DEMOS)
SCORES = {"AP": 0.12341, "AP50": 0.4, "AR": 0.2, "AP75": 0.1}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """The commands of a demo in an empty folder, each of which leaves what the real one leaves."""
    monkeypatch.chdir(tmp_path)
    called: list[tuple[str, ...]] = []

    def call(*words: str) -> None:
        called.append(words)
        if words[0] == "training/run.py":
            folder = Path(next(word for word in words if word.startswith("output=")).removeprefix("output="))
            folder.mkdir(parents=True)
            is_supervised = "supervised" in words[2]
            unlabelled = None if is_supervised else {"people": 1000}
            card = {"labelled": {"people": 100}, "unlabelled": unlabelled, "steps": 2500}
            (folder / "card.json").write_text(json.dumps(card))
            scores = {"last": {"scores": {"network": SCORES, "average": {}}}}
            (folder / "scores.json").write_text(json.dumps(scores))

    monkeypatch.setattr(demo, "call", call)
    return called


@KINDS
def test_it_shards_and_trains_by_recipes_that_fit_together(
    kind: str, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.demo(demo.DemoSettings(kind=kind, seed=3))  # type: ignore[arg-type]
    monkeypatch.chdir(demo.ROOT)
    train, val = (load(BuildSettings, Path(recipe)) for _, recipe in commands[:2])
    assert train.kind == val.kind == kind
    for (_, protocol, method, *words), is_plain in zip(commands[2:], (True, False), strict=True):
        cfg = load_run([Path(protocol), Path(method)], words)
        assert (cfg.kind, cfg.seed) == (kind, 3)
        assert (cfg.data.train, cfg.data.val) == (str(train.output), str(val.output))
        assert (cfg.method.name == "supervised") == is_plain
        assert cfg.method.uses_unlabelled != is_plain
        if kind == "image" and not is_plain:
            assert cfg.method.use == "both"  # type: ignore[union-attr]


@KINDS
def test_the_table_and_the_summary_hold_what_the_runs_left(
    kind: str, commands: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = demo.DEMOS[kind].folder
    stale = folder / "supervised" / "checkpoints"
    stale.mkdir(parents=True)
    demo.demo(demo.DemoSettings(kind=kind))  # type: ignore[arg-type]
    assert not stale.exists()  # a run of the demo never continues an older one
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert [(row["labelled"], row["unlabelled"], row["steps"]) for row in rows] == [
        (100, 0, 2500),
        (100, 1000, 2500),
    ]
    assert {row["AP"] for row in rows} == {0.1234}
    shown = capsys.readouterr().out
    assert shown.count("12.3") == 2
    assert f"pictures: {folder / 'supervised' / 'pictures'}" in shown


@pytest.mark.slow
def test_a_command_that_fails_ends_the_demo_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.call("training/run.py", "no-such-recipe.yaml")
    assert ended.value.code == 2
    assert "no-such-recipe.yaml" in capfd.readouterr().err
