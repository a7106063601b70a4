"""Runs that start from a trained network: every method, resumed runs, and what the card says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import InputError
from semipose.models.model_folder import read_model
from semipose.models.net import FeatureNet
from semipose.pipelines.loader import ProcessInfo
from semipose.sharding.annotations.skeleton import LSP_14
from semipose.training.build import build_method
from semipose.training.run import run
from semipose.training.settings import RunSettings
from tests.training.tiny import METHODS

MakeRun = Callable[..., RunSettings]


@pytest.fixture
def first(tiny_run: MakeRun, tmp_path: Path) -> Path:
    return run(tiny_run("supervised", "steps=2", f"output={tmp_path / 'first'}"), resume=False).folder


@pytest.mark.parametrize("method", METHODS)
def test_every_network_and_teacher_of_a_method_starts_from_it(
    first: Path, tiny_run: MakeRun, method: str
) -> None:
    cfg = tiny_run("supervised", f"method={json.dumps(METHODS[method])}", f"net.start_from={first}")
    made = build_method(cfg, LSP_14, ProcessInfo())
    expected = read_model(first, "cpu").network.state_dict()
    networks = [module for module in made.modules() if isinstance(module, FeatureNet)]
    assert networks
    for network in networks:
        state = network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.items())
        assert network.start.source == str(first)


def test_the_card_the_line_and_the_model_say_what_was_taken(
    first: Path, tiny_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    job = run(tiny_run("everything", "steps=2", f"net.start_from={first}"), resume=False)
    assert f"started from {first} (2 steps): " in capsys.readouterr().out
    (start,) = json.loads((job.folder / "card.json").read_text())["start_from"]
    assert (start["source"], start["steps"], start["new_keypoints"]) == (str(first), 2, [])
    assert start["keypoints"] == {name: name for name in job.skeleton.names}
    config = read_model(job.folder, "cpu").config
    assert config.provenance.weights == "the trained network 'first'"
    assert config.net.start_from is None


def test_a_resumed_run_does_not_read_it_again(first: Path, tiny_run: MakeRun, tmp_path: Path) -> None:
    """It is gone; the resumed run repeats the uninterrupted one, and its card keeps what was taken."""
    words = ("steps=4", "checkpoint_every=2", f"net.start_from={first}")
    whole = run(tiny_run("everything", *words), resume=False)
    again = tmp_path / "again"
    shutil.copytree(whole.folder, again)
    shutil.rmtree(again / "checkpoints" / "step-00000004")
    for path in (first, again / "model"):
        shutil.rmtree(path)
    (again / "scores.json").unlink()
    resumed = run(tiny_run("everything", *words, f"output={again}"), resume=True)
    states = zip(whole.method.state_dict().items(), resumed.method.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in states)
    for name in ("model.safetensors", "config.json"):
        assert (again / "model" / name).read_bytes() == (whole.folder / "model" / name).read_bytes()
    cards = [json.loads((folder / "card.json").read_text()) for folder in (again, whole.folder)]
    assert cards[0]["start_from"] == cards[1]["start_from"] != []


def test_what_a_run_starts_from_cannot_change_within_it(first: Path, tiny_run: MakeRun) -> None:
    run(tiny_run("supervised", "steps=2", f"net.start_from={first}"), resume=False)
    with pytest.raises(
        InputError, match=r"net\.start_from was .* and is null: this cannot change within a run"
    ):
        run(tiny_run("supervised", "steps=4"), resume=True)


def test_two_networks_that_start_alike_are_named(first: Path, tiny_run: MakeRun, capsys: Any) -> None:
    method = f"method={json.dumps(METHODS['dual'])}"
    run(tiny_run("supervised", method, "steps=1", f"net.start_from={first}"), resume=False)
    assert "note: net.start_from: both networks start from the same weights" in capsys.readouterr().out


def test_a_recipe_that_asks_for_both_is_refused_in_a_line(first: Path, tiny_run: MakeRun) -> None:
    with pytest.raises(InputError) as caught:
        tiny_run("supervised", f"net.start_from={first}", "net.weights=some.pth")
    assert "start_from and weights both say" in str(caught.value)
    assert "\n" not in str(caught.value)
