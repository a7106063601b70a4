from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from semipose.pipelines.loader import ProcessInfo
from semipose.training import checkpoint
from semipose.training.build import steps_per_epoch
from semipose.training.run import run
from semipose.training.settings import RunSettings
from semipose.training.teacher import AverageTeacherSettings, SharedTeacherSettings


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()


def test_the_shared_teacher_is_the_network_in_train_mode_without_gradient() -> None:
    network = make_network()
    images = torch.randn(2, 3, 4, 4)
    before = network[1].running_mean.clone()
    heatmaps = SharedTeacherSettings().build(network, 1)(images, network)
    assert not heatmaps.requires_grad
    assert torch.equal(heatmaps, network(images).detach())  # batch statistics, not running ones
    assert not torch.equal(network[1].running_mean, before)  # which move, as published


def test_the_average_stays_in_eval_mode_and_out_of_the_optimiser() -> None:
    network = make_network()
    teacher = AverageTeacherSettings(momentum=0.9).build(network, 1)
    teacher.train()
    images = torch.randn(2, 3, 4, 4)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    heatmaps = teacher(images, network)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(heatmaps, make_network().eval()(images))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_the_average_is_the_plain_mean_while_warm_then_decays_by_its_momentum() -> None:
    network = nn.Linear(1, 1, bias=False)
    teacher = AverageTeacherSettings(momentum=0.75).build(network, 1)
    weights, average = [], None
    for update in range(1, 12):
        with torch.no_grad():
            network.weight.fill_(float(update * update))
        weights.append(float(update * update))
        teacher.update(network, update)
        average = teacher.networks()["average"].weight.item()
        if update <= 4:
            assert abs(average - sum(weights) / len(weights)) < 1e-4 * average, update
            expected = average
        else:
            expected = 0.75 * expected + 0.25 * weights[-1]
            assert abs(average - expected) < 1e-4 * expected, update


def test_buffers_are_averaged_too() -> None:
    network = make_network()
    teacher = AverageTeacherSettings(momentum=0.5).build(network, 1)
    teacher.update(network, 1)
    network[1].running_mean += 1
    for update in range(2, 5):
        teacher.update(network, update)
    mean = teacher.networks()["average"][1].running_mean
    assert torch.all((mean > 0.5) & (mean < 1))


def test_the_epochs_of_a_run_are_those_of_its_people(tiny_run: Callable[..., RunSettings]) -> None:
    """24 unlabelled people in batches of 4 are 6 steps, so the copy of the first epoch is that of step 6."""
    teacher = "method.teacher={name: previous_epoch}"
    folder = run(tiny_run("everything", teacher, "steps=8", "checkpoint_every=1"), resume=False).folder
    states = {step: checkpoint.load(checkpoint.step_folder(folder, step)).shared for step in (5, 6, 8)}
    copies, networks = (
        {step: _weights(state, prefix) for step, state in states.items()}
        for prefix in ("teacher.previous.", "network.")
    )
    assert not torch.equal(copies[5], networks[5])
    assert torch.equal(copies[6], networks[6])
    assert torch.equal(copies[8], networks[6])
    assert not torch.equal(copies[8], networks[8])
    triple = run(
        tiny_run("everything", "method={name: triple}", "steps=1", f"output={folder}-triple"), resume=False
    )
    assert triple.method.epoch_steps == 6


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "batches", "processes", "expected"),
    [
        (1_000, 149_813, (32, 32), 1, 4_682),  # COCO with 1,000 labels (docs/methods.md 1.3)
        (1_000, 149_813, (32, 32), 4, 1_171),
        (22_000, 10_000, (32, 32), 1, 688),
        (100, 300, (4, 8), 1, 38),
        (100, None, (4, 8), 1, 25),
    ],
)
def test_an_epoch_shows_every_person_once(
    labelled: int, unlabelled: int | None, batches: tuple[int, int], processes: int, expected: int
) -> None:
    cfg = SimpleNamespace(labelled_batch=batches[0], unlabelled_batch=batches[1])
    splits = [
        None if count is None else SimpleNamespace(num_samples=count) for count in (labelled, unlabelled)
    ]
    assert steps_per_epoch(cfg, *splits, ProcessInfo(world_size=processes)) == expected  # type: ignore[arg-type]


def _weights(state: Any, prefix: str) -> torch.Tensor:
    values = state["method"]
    names = sorted(name for name in values if name.startswith(prefix) and name.endswith("weight"))
    return torch.cat([values[name].flatten() for name in names])
