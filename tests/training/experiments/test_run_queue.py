"""The queue: order, what is skipped, resumed, reported and shared, and how it stops. A stand-in trains."""

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from semipose.configs.load import CONFIGS, InputError, dump, load
from semipose.training import sweep as sweep_command
from semipose.training.experiments import run_queue
from semipose.training.experiments.run_queue import Worker, claim, work
from semipose.training.experiments.sweep_plan import SweepSettings, as_name, plan, short_names
from semipose.training.run_folder import held
from semipose.training.settings import RunSettings
from semipose.training.sweep import sweep

# Takes run.py's words, keeps checkpoints and scores.json as run.py does, goes on from them, saves on SIGTERM.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
recipe = {"base": str(Path(words[0]).resolve())}
for word in words[1:]:
    keys, value = word.split("=", 1)
    node = recipe
    for key in keys.split(".")[:-1]:
        node = node.setdefault(key, {})
    node[keys.split(".")[-1]] = json.loads(value)
folder = Path(recipe["output"])
(folder / "recipe.yaml").write_text(json.dumps(recipe))
saved = [int(path.name[5:]) for path in (folder / "checkpoints").glob("step-????????")]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
locked = any(os.readlink(f"/proc/self/fd/{fd}").endswith("sweep.lock") for fd in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{fd}"))
with (folder.parent / "journal.txt").open("a") as journal:
    how = "resumed" if saved else "started"
    journal.write(f"{folder.name} {how}{' with lock' if locked else ''}\\n")
if "broken" in folder.name:
    print("error: something is broken")
    sys.exit(2)
done = max(saved, default=0)
while done < recipe["steps"] and not stop:
    time.sleep(float(os.environ.get("STEP_S", 0)))
    done += 1
(folder / "checkpoints" / f"step-{done:08d}").mkdir(parents=True)
if done == recipe["steps"]:
    people = {"people": 10, "ids_sha256": "0" * 64}
    card = {"protocol": "own", "networks": 1, "ensembles": {}, "labelled": people, "val": people}
    card["processes"] = 1
    (folder / "card.json").write_text(json.dumps(card))
    last = {"step": done, "scores": {"network": {"PCK": 0.5}}}
    scores = {"metric": "PCK", "last": last, "best": last, "history": [last]}
    (folder / "scores.json").write_text(json.dumps(scores))
"""
Make = Callable[..., SweepSettings]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make("a", "b", seeds=(0,))`: a sweep of recipes of these names by the stand-in, three steps a run."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(run_queue, "RUN_SCRIPT", stand_in)

    def settings(*names: str, **changes) -> SweepSettings:
        for name in names:
            method = "{name: single}" if name == "single" else "{name: supervised}"
            text = f"output: x\ndata: {{train: a, val: b}}\nmethod: {method}\noptim: {{lr: {len(name)}e-3}}\n"
            (tmp_path / f"{name}.yaml").write_text(text)
        recipes = tuple(str(tmp_path / f"{name}.yaml") for name in names)
        given = {"set": {"steps": 3}, "seeds": (0, 1), **changes}
        return SweepSettings(output=str(tmp_path / "out"), protocols=recipes, **given)

    return settings


def journal(tmp_path: Path) -> list[str]:
    path = tmp_path / "out" / "journal.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_the_queue_is_worked_off_seed_by_seed_and_ends_with_a_table(make, tmp_path, capsys):
    sweep(make("supervised", "single"))
    names = ("supervised-seed0", "single-seed0", "supervised-seed1", "single-seed1")
    assert journal(tmp_path) == [f"{name} started with lock" for name in names]
    assert "| supervised | 1 | 0, 1 | 50.0 ± 0.0 |" in (tmp_path / "out" / "compare.md").read_text()
    assert "4 of 4 runs are finished" in capsys.readouterr().out
    sweep(make("supervised", "single"))
    assert len(journal(tmp_path)) == 4


def test_values_are_combined_and_name_the_folders(make, tmp_path):
    vary = {"method.mixup.beta": (0.2, 0.75), "method.paths.0": ([], [{"name": "joint_cutout"}])}
    items = plan(make("single", vary=vary, seeds=(5,)))
    assert [item.folder.name for item in items] == [
        "single-beta=0.2-paths.0=empty-seed5",
        "single-beta=0.2-paths.0=name_joint_cutout-seed5",
        "single-beta=0.75-paths.0=empty-seed5",
        "single-beta=0.75-paths.0=name_joint_cutout-seed5",
    ]
    last = items[-1].cfg
    assert (last.seed, last.steps, last.method.mixup.beta) == (5, 3, 0.75)
    assert last.method.paths[0][0].name == "joint_cutout"
    assert last.output == str(tmp_path / "out" / items[-1].folder.name)


@pytest.mark.parametrize("share", [False, True])
def test_every_seed_can_draw_labelled_people_of_its_own(tmp_path, share):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {train: a, val: b}\n")
    of_people = {"protocols": (str(path),), "set": {"data.labelled": 5}}
    given = {"protocols": ("scenes",)} if share else of_people
    cfg = SweepSettings(output="out", seeds=(0, 3), labelled_by_seed=True, **given)
    chosen = [(item.cfg.seed, item.cfg.data.subset_seed, item.cfg.data.fold) for item in plan(cfg)]
    assert chosen == ([(0, None, 0), (3, None, 3)] if share else [(0, 0, 0), (3, 3, 0)])
    assert all(f"seed={item.cfg.seed}" in item.words for item in plan(cfg))
    with pytest.raises(InputError, match=r"labelled_by_seed: protocol 'own' labels all people of a, .* set"):
        plan(replace(cfg, protocols=(str(path),), set={}))
    with pytest.raises(InputError, match=r"labelled_by_seed: set or vary has data\.subset_seed too: remove"):
        plan(replace(cfg, **of_people, vary={"data.subset_seed": (1, 2)}))


def test_every_network_can_start_from_the_run_of_its_seed(tmp_path):
    path = tmp_path / "dual.yaml"
    path.write_text("data: {train: a, val: b}\nmethod: {name: dual}\n")
    first, second = ({"start_from": f"runs/{name}-seed{{seed}}", "pretrained": False} for name in "ab")
    given = {"net": first, "method.second_net": second}
    cfg = SweepSettings(output="out", protocols=(str(path),), set=given, seeds=(3, 40))
    starts = [(each.cfg.net.start_from, each.cfg.method.second_net.start_from) for each in plan(cfg)]
    assert starts == [("runs/a-seed3", "runs/b-seed3"), ("runs/a-seed40", "runs/b-seed40")]


def test_keys_are_named_by_their_shortest_own_end():
    keys = ["a.paths.0.0.count", "b.x", "c.x", "a.paths.1"]
    assert short_names(keys) == {
        "a.paths.0.0.count": "count",
        "b.x": "b.x",
        "c.x": "c.x",
        "a.paths.1": "paths.1",
    }
    assert as_name({"name": "ema", "momentum": 0.9}) == "name_ema_momentum_0.9"
    assert [as_name(value) for value in ("a/b", None, -1e-3, [])] == ["a_b", "null", "-0.001", "empty"]


def test_every_method_is_run_by_every_protocol_in_folders_of_their_names(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("base: 'CONFIGS/protocols/drawn-50.yaml'\n".replace("CONFIGS", str(CONFIGS)))
    protocols = ("drawn-100", str(own))
    items = plan(
        SweepSettings(output="out", protocols=protocols, methods=("single_cutout", "best"), seeds=(0,))
    )
    assert [str(item.folder.relative_to("out")) for item in items] == [
        "drawn-100/single_cutout-seed0",
        "mine/single_cutout-seed0",
        "drawn-100/best-seed0",
        "mine/best-seed0",
    ]
    assert [Path(word).name for word in items[0].words[:2]] == ["drawn-100.yaml", "single_cutout.yaml"]
    assert [item.cfg.data.labelled for item in items] == [100, 50, 100, 50]
    (alone,) = plan(SweepSettings(output="out", protocols=("drawn-100",), methods=("best",), seeds=(0,)))
    assert alone.folder == Path("out/best-seed0")


def test_published_scores_stay_with_unchanged_recipes_alone():
    def scores(**changes: Any) -> list[str]:
        cfg = SweepSettings(output="o", protocols=("coco-1k",), methods=("adaptive",), seeds=(0,), **changes)
        return [item.cfg.published.get("coco-1k", "") for item in plan(cfg)]

    assert scores() == scores(set={"data.train": "elsewhere", "precision": "bf16"}) == ["AP 42.9"]
    assert scores(vary={"method.paths.0.0.max_masks": (None, 6)}) == ["AP 42.9", ""]
    assert scores(set={"steps": 100}) == scores(set={"data.labelled": 500}) == [""]


def test_a_run_with_a_checkpoint_goes_on(make, tmp_path):
    (item,) = plan(make("a", seeds=(0,)))
    (item.folder / "checkpoints" / "step-00000002").mkdir(parents=True)
    as_json = {"base": item.words[0], "steps": 3, "output": str(item.folder)}
    (item.folder / "recipe.yaml").write_text(json.dumps(as_json))
    sweep(make("a", seeds=(0,)))
    assert journal(tmp_path) == ["a-seed0 resumed with lock"]
    assert item.is_done


def test_what_a_killed_first_save_left_is_no_checkpoint(make, tmp_path, capsys):
    (item,) = plan(make("a", seeds=(0,)))
    (item.folder / "checkpoints" / "step-00000002.tmp").mkdir(parents=True)
    sweep(make("a", seeds=(0,)))
    assert journal(tmp_path) == ["a-seed0 started with lock"]
    assert "a-seed0: starts" in capsys.readouterr().out


def test_a_run_that_was_killed_between_its_scores_and_its_network_is_not_finished(make, tmp_path):
    """As earlier versions wrote them, scores first."""
    sweep(make("a", seeds=(0,)))
    checkpoints = tmp_path / "out" / "a-seed0" / "checkpoints"
    (checkpoints / "step-00000003").rename(checkpoints / "step-00000003.tmp")
    (checkpoints / "step-00000002").mkdir()
    sweep(make("a", seeds=(0,)))
    assert journal(tmp_path) == ["a-seed0 started with lock", "a-seed0 resumed with lock"]


def test_a_failed_run_is_reported_and_the_queue_continues(make, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        sweep(make("broken", "a", seeds=(0,)))
    assert left.value.code == 1
    assert [line.split()[0] for line in journal(tmp_path)] == ["broken-seed0", "a-seed0"]
    folder = tmp_path / "out" / "broken-seed0"
    said = capsys.readouterr().out
    assert f"{folder} failed, see {folder / 'log.txt'}: error: something is broken" in said
    assert "1 of 2 runs are finished" in said


@pytest.mark.slow
def test_when_time_is_up_the_run_saves_and_the_next_sweep_finishes_it(make, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_S", "0.2")
    sweep(make("a", seeds=(0, 1), set={"steps": 1000}, minutes=5 / 60))
    assert [line.split()[0] for line in journal(tmp_path)] == ["a-seed0"]
    (saved,) = (tmp_path / "out" / "a-seed0" / "checkpoints").iterdir()
    assert 0 < int(saved.name.removeprefix("step-")) < 50
    monkeypatch.setenv("STEP_S", "0")
    sweep(make("a", seeds=(0,), set={"steps": 1000}))
    assert journal(tmp_path)[1:] == ["a-seed0 resumed with lock"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_run_and_the_queue(make, tmp_path, monkeypatch, number):
    monkeypatch.setenv("STEP_S", "0.05")
    before = signal.getsignal(number)

    def interrupt() -> None:
        while not journal(tmp_path):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    sweep(make("a", set={"steps": 1000}))
    assert len(journal(tmp_path)) == 1
    assert list((tmp_path / "out" / "a-seed0" / "checkpoints").iterdir())
    assert signal.getsignal(number) == before


def test_a_run_that_another_process_trains_is_left_alone(make, tmp_path):
    """Those of another sweep, or of somebody who trains in that folder without one."""
    folder = tmp_path / "out" / "a-seed0"
    for hold in (claim, held):
        with hold(folder):
            sweep(make("a"))
        assert [line.split()[0] for line in journal(tmp_path)] == ["a-seed1"]


def test_sweeps_side_by_side_share_the_queue(make, tmp_path, monkeypatch):
    monkeypatch.setenv("STEP_S", "0.05")
    items = plan(make("a", "bb", "ccc"))
    both = [threading.Thread(target=work, args=(items, Worker(None))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(timeout=60)
    assert sorted(line.split()[0] for line in journal(tmp_path)) == sorted(i.folder.name for i in items)
    assert all(item.is_done for item in items)


def test_the_lock_is_free_after_its_holder(tmp_path):
    with claim(tmp_path / "run") as first, claim(tmp_path / "run") as second:
        assert first is not None
        assert second is None
    with claim(tmp_path / "run") as lock:
        assert lock is not None
        with (tmp_path / "run" / "sweep.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_of_other_settings_is_refused_before_anything_starts(make, tmp_path):
    sweep(make("a", seeds=(0,)))
    with pytest.raises(InputError, match=r"a-seed0: was run with steps=3 instead of 4: remove it") as error:
        sweep(make("a", seeds=(0, 1), set={"steps": 4}))
    assert "seed=" not in str(error.value)
    assert len(journal(tmp_path)) == 1


def test_all_problems_of_the_recipes_are_listed_at_once(make, tmp_path):
    with pytest.raises(InputError) as error:
        plan(make("a", "a", set={"stps": 3}, vary={"optim.lr": (-1.0,)}))
    said = str(error.value)
    assert "did you mean 'steps'" in said
    assert "optim.lr: expected a number > 0" in said
    with pytest.raises(InputError, match="two runs have the same folder"):
        plan(make("a", "a"))


def test_a_sweep_is_a_recipe(tmp_path):
    text = (
        "output: runs/x\nprotocols: [a.yaml]\nvary: {method.paths.0.0.max_masks: [6, 8]}\nset: {steps: 5}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    cfg = load(SweepSettings, tmp_path / "s.yaml", ["seeds=[0]", "minutes=5"])
    assert cfg.vary == {"method.paths.0.0.max_masks": (6, 8)}
    assert (cfg.set, cfg.seeds, cfg.minutes) == ({"steps": 5}, (0,), 5.0)


@pytest.mark.slow
def test_real_runs(tiny_run: Callable[..., RunSettings], tmp_path: Path, monkeypatch) -> None:
    for module in (run_queue, sweep_command):
        monkeypatch.setattr(module, "console", Console(quiet=True))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump(tiny_run("supervised", "steps=2", "checkpoint_every=1")))
    cfg = SweepSettings(output=str(tmp_path / "out"), protocols=(str(recipe),), seeds=(3,))
    sweep(cfg)
    (item,) = plan(cfg)
    assert item.is_done
    assert "| tiny | 1 | 3 |" in (tmp_path / "out" / "compare.md").read_text()
    assert "2/2" in (item.folder / "log.txt").read_text()
