"""A run ends with its model folder, which answers as the run's networks do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semipose.configs.load import InputError
from semipose.models.model_folder import read_model
from semipose.training import evaluate
from semipose.training.run import run
from semipose.training.settings import RunSettings

MakeRun = Callable[..., RunSettings]
FILES = ("README.md", "card.json", "config.json", "model.safetensors", "recipe.yaml", "scores.json")


def assert_same_networks(folder: Path, method: Any) -> None:
    for name, network in method.networks().items():
        model = read_model(folder, "cpu", network=name)
        state = model.network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items()), name


def test_a_run_ends_with_its_networks_and_what_is_known_of_them(tiny_run: MakeRun) -> None:
    job = run(tiny_run("everything", "heatmap.decode=dark"), resume=False)
    folder = job.folder / "model"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "average.safetensors"])
    assert_same_networks(folder, job.method)
    config = read_model(job.folder, "cpu").config
    assert config.network == "network"
    assert (config.size_hw, config.heatmap, config.border) == ((64, 48), job.cfg.heatmap, "mean")
    assert (config.category_id, config.category_name) == (1, "person")
    assert (config.provenance.method, config.provenance.step) == ("single", 6)
    assert config.skeleton == job.skeleton
    assert config.crop == config.person_crop == job.val_split.manifest.crop
    scores = json.loads((folder / "scores.json").read_text())
    last = json.loads((job.folder / "scores.json").read_text())["last"]
    assert (scores["step"], scores["scores"]) == (last["step"], last["scores"])
    assert (scores["decode"], scores["flip_test"], scores["boxes"]) == ("dark", False, "annotated")
    assert json.loads((folder / "card.json").read_text())["labelled"]["people"] == 10
    assert (folder / "recipe.yaml").read_text() == (job.folder / "recipe.yaml").read_text()
    assert f"{100 * last['scores']['network']['AP']:.1f}" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_resumed_run_writes_the_model_of_the_whole_run(tiny_run: MakeRun, tmp_path: Path) -> None:
    """To the byte, in the place of the earlier one."""
    whole = run(tiny_run("everything"), resume=False).folder
    first = run(tiny_run("everything", f"output={tmp_path / 'again'}"), resume=False).folder
    shutil.rmtree(first / "checkpoints" / "step-00000006")
    (first / "scores.json").unlink()
    (first / "model" / "model.safetensors").write_bytes(b"")
    run(tiny_run("everything", f"output={first}"), resume=True)
    for name in ("model.safetensors", "average.safetensors", "config.json", "scores.json"):
        assert (first / "model" / name).read_bytes() == (whole / "model" / name).read_bytes(), name


def test_the_model_is_there_before_the_run_counts_as_finished(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed between the two writes the model again."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("semipose.training.loop.write_run_model", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_run("supervised"), resume=False)
    assert not (Path(tiny_run("supervised").output) / "model").exists()
    job = run(tiny_run("supervised"), resume=False)
    assert_same_networks(job.folder / "model", job.method)


def test_scoring_writes_the_model_of_a_run_that_has_none(tiny_run: MakeRun) -> None:
    """Runs of older versions, and runs that have not ended; a named checkpoint gets a folder of its own."""
    job = run(tiny_run("everything"), resume=False)
    expected = (job.folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(job.folder / "model")
    with pytest.raises(InputError, match=r"no model folder yet.*semipose evaluate"):
        read_model(job.folder, "cpu")
    evaluate.main([str(job.folder)])
    assert (job.folder / "model" / "model.safetensors").read_bytes() == expected
    scores = json.loads((job.folder / "evaluation" / "scores.json").read_text())["scores"]
    assert read_model(job.folder, "cpu").scores["scores"] == scores
    evaluate.main([str(job.folder), "checkpoint=3"])
    early = read_model(job.folder / "evaluation" / "step-00000003", "cpu")
    assert early.config.provenance.step == 3
    assert (job.folder / "model" / "model.safetensors").read_bytes() == expected
    evaluate.main([str(job.folder), "heatmap.decode=dark"])
    assert read_model(job.folder, "cpu").config.heatmap.decode == "shift"


def test_pseudo_labels_give_the_student_as_the_product(tiny_run: MakeRun) -> None:
    job = run(tiny_run("supervised", "method={name: pseudo_label}"), resume=False)
    assert list(read_model(job.folder, "cpu").config.networks) == ["student", "teacher"]
    assert_same_networks(job.folder / "model", job.method)


def test_two_networks_keep_their_own_architecture(tiny_run: MakeRun) -> None:
    second = "{backbone: {name: timm, model: test_vit}, head: {name: deconv, width: 8}}"
    words = (f"method={{name: dual, second_net: {second}}}", "steps=2")
    job = run(tiny_run("supervised", *words), resume=False)
    assert_same_networks(job.folder / "model", job.method)
    assert read_model(job.folder, "cpu", "network_2").config.net.backbone.name == "timm"
