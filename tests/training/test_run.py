"""Whole runs on small drawn people: resume, labels that must not leak, faults of the input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from semipose.configs.load import InputError, dump, load
from semipose.sharding.annotations.formats.coco import CocoFormat
from semipose.sharding.build import BuildSettings, build
from semipose.training import run as run_module
from semipose.training.run import main, run
from semipose.training.settings import RunSettings, load_run

ROOT = Path(__file__).resolve().parents[2]
MakeRun = Callable[..., RunSettings]
Metrics = Callable[[Path], dict[int, dict[str, Any]]]


@pytest.mark.parametrize("method", ["supervised", "everything"])
def test_resumed_equals_uninterrupted(
    method: str, tiny_run: MakeRun, metrics: Metrics, tmp_path: Path
) -> None:
    whole = run(tiny_run(method), resume=False)
    expected, folder = metrics(whole.folder), tmp_path / "again"
    shutil.copytree(whole.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    (folder / "scores.json").unlink()

    again = run(tiny_run(method, f"output={folder}"), resume=True)

    assert sorted(expected) == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in expected.values()] == pytest.approx([1e-3] * 4 + [1e-4, 1e-5])
    assert metrics(folder) == expected
    states = zip(whole.method.state_dict().items(), again.method.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)
    assert (folder / "scores.json").read_text() == (whole.folder / "scores.json").read_text()


def test_the_optimiser_is_the_published_one_and_moves_before_the_teacher(tiny_run: MakeRun) -> None:
    """docs/methods.md 6. After one update an average is the network as that update left it."""
    job = run(tiny_run("everything", "steps=1", "method.burn_in=0.0"), resume=False)
    (group,) = job.optimizer.param_groups
    values = {key: group[key] for key in ("betas", "eps", "weight_decay", "amsgrad")}
    assert values == {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    assert isinstance(getattr(job.optimizer, "optimizer", job.optimizer), torch.optim.Adam)
    network, average = (job.method.networks()[name].state_dict() for name in ("network", "average"))
    assert all(torch.equal(value, average[name]) for name, value in network.items())


def test_the_rate_runs_through_its_schedule_in_each_training_of_pseudo_label(
    tiny_run: MakeRun, metrics: Metrics
) -> None:
    folder = run(tiny_run("supervised", "method={name: pseudo_label}"), resume=False).folder
    assert [row["lr"] for row in metrics(folder).values()] == pytest.approx([1e-3, 1e-3, 1e-5] * 2)


def test_scorings_and_checkpoints_as_shares_of_the_run(tiny_run: MakeRun, tmp_path: Path) -> None:
    """Also of a run that was resumed between two of them."""
    words = ("steps=7", "evaluate_every=0.5", "checkpoint_every=0.25")
    folder = run(tiny_run("supervised", *words), resume=False).folder
    saved = [path.name for path in sorted((folder / "checkpoints").iterdir())]
    assert saved == [f"step-{step:08d}" for step in (2, 4, 6, 7)]
    scores = (folder / "scores.json").read_text()
    assert [row["step"] for row in json.loads(scores)["history"]] == [4, 7]
    for name in ("step-00000006", "step-00000007"):
        shutil.rmtree(folder / "checkpoints" / name)
    run(tiny_run("supervised", *words), resume=False)
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == saved
    assert (folder / "scores.json").read_text() == scores


def test_a_copied_run_goes_on_in_its_own_folder(tiny_run: MakeRun, tmp_path: Path) -> None:
    """Its recipe still names the folder that it was copied from, whose newer checkpoint is another run's."""
    folder, copied = run(tiny_run("supervised", "steps=3"), resume=False).folder, tmp_path / "copy"
    shutil.copytree(folder, copied)
    main(["--resume", str(copied), "steps=4"])
    assert (copied / "checkpoints" / "step-00000004").is_dir()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000003"]
    assert load(RunSettings, copied / "recipe.yaml").output == str(copied)


def test_hidden_labels_change_no_loss(
    tiny_run: MakeRun, metrics: Metrics, drawn_shards: Path, tmp_path: Path
) -> None:
    """The same photos and boxes, other keypoints for everybody beyond the ten labelled people."""
    source = drawn_shards / "train-coco"
    content = json.loads((source / "annotations.json").read_text())
    for row in content["annotations"][10:]:
        row["keypoints"] = [1.0, 1.0, 2] * (len(row["keypoints"]) // 3)
    poisoned = tmp_path / "poisoned.json"
    poisoned.write_text(json.dumps(content))
    build(
        BuildSettings(
            source=CocoFormat(annotations=poisoned, images=source / "images"),
            output=tmp_path / "poisoned",
            samples_per_shard=9,
        ),
        console=Console(quiet=True),
    )
    clean = run(tiny_run("everything", "steps=4"), resume=False)
    other = run(
        tiny_run(
            "everything", "steps=4", f"data.train={tmp_path / 'poisoned'}", f"output={tmp_path / 'other'}"
        ),
        resume=False,
    )
    assert metrics(clean.folder) == metrics(other.folder)


def test_a_run_leaves_the_files_that_the_readme_lists(tiny_run: MakeRun, drawn_shards: Path) -> None:
    folder = run(tiny_run("everything", "steps=2", "evaluate_every=1"), resume=False).folder
    card = json.loads((folder / "card.json").read_text())
    assert card["labelled"]["people"] == 10
    assert card["unlabelled"]["people"] == 24
    assert len(card["labelled"]["ids_sha256"]) == 64
    scores = json.loads((folder / "scores.json").read_text())
    assert [row["step"] for row in scores["history"]] == [1, 2]
    assert set(scores["last"]["scores"]) == {"network", "average"}
    assert {"AP", "AP50", "AR", "PCK"} <= set(scores["last"]["scores"]["network"])
    sheets = {path.name for path in (folder / "pictures").iterdir()}
    assert sheets == {f"{kind}-{step:08d}.png" for kind in ("views", "predictions") for step in (0, 1, 2)}
    assert list((folder / "tensorboard").glob("events*"))


@pytest.mark.slow
def test_precision_and_memory_order_are_settings(
    tiny_run: MakeRun, fresh_accelerate: Callable[[], None], tmp_path: Path
) -> None:
    common = ("steps=3", "method.burn_in=0.0")
    plain = run(tiny_run("everything", *common), resume=False)
    fresh_accelerate()
    half = run(tiny_run("everything", *common, "precision=bf16", f"output={tmp_path / 'h'}"), resume=False)
    fresh_accelerate()
    ordinary = run(
        tiny_run("everything", *common, "channels_last=false", f"output={tmp_path / 'o'}"), resume=False
    )
    weights = [
        torch.cat([p.detach().flatten() for p in job.method.network.parameters()])
        for job in (plain, half, ordinary)
    ]
    assert all(w.dtype == torch.float32 and torch.isfinite(w).all() for w in weights)
    assert not torch.equal(weights[0], weights[1])
    assert torch.allclose(weights[0], weights[1], atol=2e-2)
    assert torch.allclose(weights[0], weights[2], atol=1e-2)


@pytest.mark.slow
def test_compiled_networks_learn_the_same(tiny_run: MakeRun, metrics: Metrics, tmp_path: Path) -> None:
    plain = run(tiny_run("everything", "steps=4"), resume=False)
    compiled = run(
        tiny_run("everything", "steps=4", "compile=true", f"output={tmp_path / 'c'}"), resume=False
    )
    losses = [
        [row["loss"] for row in metrics(job.folder).values() if "loss" in row] for job in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_sigterm_saves_and_exits_well_and_kill_9_leaves_a_resumable_run(
    tiny_run: MakeRun, metrics: Metrics, tmp_path: Path
) -> None:
    cfg = tiny_run("everything", "steps=100000", "checkpoint_every=2", "keep_checkpoints=2")
    recipe = tmp_path / "long.yaml"
    recipe.write_text(dump(cfg))
    folder = Path(cfg.output)
    command = [sys.executable, str(ROOT / "training" / "run.py")]

    first = subprocess.Popen([*command, str(recipe)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(folder / "checkpoints" / "step-00000004")
    first.send_signal(signal.SIGKILL)
    first.wait()

    second = subprocess.Popen([*command, "--resume", str(folder)], stdout=subprocess.DEVNULL)
    wait_for(folder / "checkpoints" / "step-00000008")
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 0
    steps = sorted(metrics(folder))
    assert steps == list(range(1, steps[-1] + 1))
    assert (folder / "checkpoints" / f"step-{steps[-1]:08d}").is_dir()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.train=nowhere"], ["nowhere", "no such folder", "semipose shards RECIPE"]),
        (["data.labelled=25"], ["data.labelled = 25", "24 samples", "lower data.labelled"]),
        (["net.head.widht=8"], ["net.head.widht", "did you mean 'width'"]),
        (["steps=0", "optim.lr=-1"], ["steps", "optim.lr"]),
        (["data.subset_seed=-1"], ["data.subset_seed", "a whole number >= 0 or null"]),
        (
            ["seed=9223372036854775808"],
            ["seed", "a whole number >= -281474976710656 <= 281474976710656"],
        ),
        (["loader.threads=5000", "loader.prefetch=100000"], ["threads", "<= 512", "prefetch", "<= 128"]),
        (["labelled_batch=1000000"], ["labelled_batch", "a whole number >= 1 <= 16384"]),
        (["views.size_hw=[100000,96]"], ["views.size_hw", "<= 4096"]),
        (["method={name: single, mixup: {layers: [backbone.layr3]}}"], ["backbone.layer3"]),
    ],
)
def test_bad_input_is_one_clear_sentence_and_code_2(
    overrides: list[str],
    words: list[str],
    tiny_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised")))
    with pytest.raises(SystemExit) as stopped:
        main([str(recipe), *overrides])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_damaged_shard_is_named_before_training(
    tiny_run: MakeRun, drawn_shards: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(drawn_shards / "train", shards)
    tar = sorted(shards.glob("*.tar"))[1]
    tar.write_bytes(tar.read_bytes()[:-2000])
    with pytest.raises(InputError, match=tar.name):
        run(tiny_run("supervised", f"data.train={shards}"), resume=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused(tiny_run: MakeRun) -> None:
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        run(tiny_run("supervised", "precision=fp16"), resume=False)


def test_a_finished_run_is_left_as_it_is(
    tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its shards are gone: a batch system may repeat the command for ever."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised", "steps=1")))
    main([str(recipe)])
    before = contents(tmp_path / "run")
    (tmp_path / "run" / "card.json.123.tmp").touch()
    for words in ([str(recipe)], [str(recipe), "report_every=2"], ["--resume", str(tmp_path / "run")]):
        main(words)
        assert "run is finished: all 1 steps are trained and scored" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(recipe), "optim.lr=0.5"])
    assert "optim.lr=0.001 instead of 0.5" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_starts_a_run_and_goes_on_with_it(
    tiny_run: MakeRun, metrics: Metrics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_run("supervised", "steps=2", "checkpoint_every=1")))
    folder = tmp_path / "run"
    main([str(recipe)])
    expected, scores = metrics(folder), (folder / "scores.json").read_text()
    for damaged in ([2], [1, 2]):
        for step in damaged:
            (folder / "checkpoints" / f"step-{step:08d}" / "shared.pt").write_bytes(b"PK")
        (folder / "checkpoints" / "step-00000003.tmp").mkdir()
        main([str(recipe)])
        said = capsys.readouterr().out
        assert ("so the run starts from step 0; the damaged ones are now called" in said) == (
            damaged == [1, 2]
        )
        assert (f"resumed from {folder / 'checkpoints' / 'step-00000001'}" in said) == (damaged == [2])
        assert metrics(folder) == expected
        assert (folder / "scores.json").read_text() == scores
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == [f"{kind}step-0000000{i}" for kind in ("damaged-", "") for i in (1, 2)]
    shutil.rmtree(folder / "checkpoints")
    (folder / "scores.json").unlink()
    main(["--resume", str(folder)])
    assert metrics(folder) == expected


def test_a_checkpoint_of_another_architecture_is_refused(tiny_run: MakeRun) -> None:
    run(tiny_run("supervised", "steps=1"), resume=False)
    with pytest.raises(InputError, match=r"net\.head\.width was 8 and is 12: this cannot change"):
        run(tiny_run("supervised", "steps=2", "net.head.width=12"), resume=True)


def test_resuming_other_data_is_refused(tiny_run: MakeRun) -> None:
    run(tiny_run("supervised", "steps=1"), resume=False)
    with pytest.raises(InputError, match=r"run: data\.labelled was 10 and is 11: this cannot change"):
        run(tiny_run("supervised", "steps=2", "data.labelled=11"), resume=True)
    with pytest.raises(InputError, match=r"run: views\.labelled\.scale_sd was [0-9.]+ and is 0\.125: this"):
        run(tiny_run("supervised", "steps=2", "views.labelled.scale_sd=0.125"), resume=True)


def test_resuming_to_fewer_steps_is_refused_and_changes_nothing(tiny_run: MakeRun) -> None:
    folder = run(tiny_run("supervised", "steps=2"), resume=False).folder
    before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(InputError, match="steps: 1 are fewer than the 2"):
        run(tiny_run("supervised", "steps=1"), resume=True)
    assert (folder / "recipe.yaml").read_bytes() == before


@pytest.mark.parametrize("evaluate_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(
    evaluate_every: int, tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a report or a scoring, whose keypoints would be no numbers, comes first."""
    monkeypatch.setattr(run_module, "build_method", broken(run_module.build_method))
    cfg = tiny_run("supervised", "report_every=2", "checkpoint_every=100", f"evaluate_every={evaluate_every}")
    with pytest.raises(InputError, match=r"loss is not finite from step 1.*no checkpoint was saved yet"):
        run(cfg, resume=False)
    assert not (Path(cfg.output) / "checkpoints").exists()


def broken(build_method: Callable[..., Any]) -> Callable[..., Any]:
    def build_broken(*args: Any, **kwargs: Any) -> Any:
        method = build_method(*args, **kwargs)
        with torch.no_grad():
            next(iter(method.parameters())).fill_(float("inf"))
        return method

    return build_broken


def wait_for(path: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.05)


def test_a_run_without_a_folder_has_one_by_protocol_and_method(tmp_path):
    data = "data: {train: a, val: b}\n"
    (tmp_path / "mine.yaml").write_text(data)
    (tmp_path / "named.yaml").write_text(f"{data}protocol: named\n")
    (tmp_path / "gentle.yaml").write_text("method: {name: single}\n")
    (tmp_path / "extra.yaml").write_text("steps: 5\n")

    def folder(*names: str, words: tuple[str, ...] = ()) -> str:
        return load_run([tmp_path / f"{name}.yaml" for name in names], words).output

    assert folder("named", "gentle") == "runs/named/gentle"
    assert folder("mine", "gentle", "extra") == "runs/own/gentle"
    assert folder("mine") == "runs/own/mine"
    assert folder("named") == "runs/named/supervised"
    assert folder("named", "gentle", words=("output=there", "seed=3")) == "there"
