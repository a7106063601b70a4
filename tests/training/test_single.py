"""The step of `single`: what enters the loss, when, and what leaves no trace."""

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from models.backbones.light import LightSettings
from models.heads.pyramid import PyramidSettings
from models.heatmap import warp
from models.net import NetSettings, build_net
from pipelines.batch import LabelledBatch, UnlabelledBatch
from training.losses import heatmap_loss
from training.methods import MethodSettings
from training.methods.method import Method, Progress
from training.methods.supervised import supervised_loss

K, SIZE_HW, SIGMA = 5, (64, 48), 1.5
LATE = Progress(step=99, total_steps=100)


def make_method(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(0)
    net = NetSettings(
        backbone=LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1)),
        head=PyramidSettings(width=8, convolutions=1),
    )
    cfg = TypeAdapter(MethodSettings).validate_python({"name": "single", **changes}, strict=False)
    return cfg.build(build_net(net, K), SIGMA, seed=seed, rank=0).train()


def make_batches(seed: int = 0) -> tuple[LabelledBatch, UnlabelledBatch]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 4, 3, *SIZE_HW, generator=generator)
    points = torch.rand(4, K, 2, generator=generator) * torch.tensor([48.0, 64.0])
    turn = torch.tensor([[0.9, -0.3, 9.0], [0.3, 0.9, -4.0]]).repeat(4, 1, 1)
    return LabelledBatch(images[0], points, torch.ones(4, K)), UnlabelledBatch(images[1], images[2], turn)


def test_burn_in_is_the_supervised_step() -> None:
    method = make_method(burn_in_steps=10)
    labelled, _ = make_batches()
    twin = copy.deepcopy(method.network)
    last_of_it, after = Progress(step=9, total_steps=100), Progress(step=10, total_steps=100)
    assert not method.wants_unlabelled(last_of_it)
    assert method.wants_unlabelled(after)
    result = method(labelled, None, last_of_it)
    assert result.loss == supervised_loss(twin, labelled, SIGMA)
    assert set(result.terms) == {"loss", "loss_supervised"}


def test_ramp_rises_by_a_line_after_the_burn_in() -> None:
    method = make_method(burn_in_steps=10, ramp_steps=3)
    assert [method.ramp(step) for step in (0, 9, 10, 11, 12, 13, 99)] == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert make_method().ramp(0) == 1


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = make_method(weight=0.7, mixup={"name": "image", "weight": 0.4}, ramp_steps=1)
    for step, ramp in ((0, 0.5), (5, 1.0)):
        terms = method(*make_batches(), Progress(step=step, total_steps=100)).terms
        total = terms["loss_supervised"] + ramp * (0.7 * terms["loss_unlabelled"] + 0.4 * terms["loss_mixed"])
        assert torch.isclose(terms["loss"], total)


def test_without_masks_the_strong_loss_is_consistency_with_the_warped_teacher() -> None:
    method = make_method(masking={"name": "none"}, mixup={"name": "none"}, weight=1.0)
    labelled, unlabelled = make_batches()
    twin = copy.deepcopy(method.network)
    supervised_loss(twin, labelled, SIGMA)  # the published order: labelled, weak, strong
    heatmaps = twin(unlabelled.weak).detach()
    target, inside = warp(heatmaps, unlabelled.strong_from_weak, 4)
    expected = heatmap_loss(twin(unlabelled.strong), target, cell_weights=inside)
    terms = method(labelled, unlabelled, LATE).terms
    assert torch.isclose(terms["loss_unlabelled"], expected)
    assert "loss_mixed" not in terms
    moved = [m.running_mean for m in method.network.modules() if isinstance(m, nn.BatchNorm2d)]
    alike = [m.running_mean for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(a, b) for a, b in zip(moved, alike, strict=True))


@pytest.mark.parametrize(("outside", "has_weights"), [("ignore", True), ("background", False)])
def test_cells_beyond_the_weak_view_are_ignored_or_background(outside: str, has_weights: bool) -> None:
    method = make_method(outside=outside)
    unlabelled = make_batches()[1]
    strong = method.strong_view(unlabelled, method.network(unlabelled.weak))
    assert (strong.cell_weights is not None) == has_weights
    if strong.cell_weights is not None:
        assert 0 < strong.cell_weights.mean() < 1


def test_no_gradient_reaches_the_network_through_the_teacher() -> None:
    method = make_method(mixup={"name": "none"}, weight=1.0)
    labelled, unlabelled = make_batches()
    with torch.no_grad():
        heatmaps = method.teacher(unlabelled.weak, method.network)
    strong = method.strong_view(unlabelled, heatmaps)
    assert not strong.target.requires_grad
    assert not method(labelled, unlabelled, LATE).terms["loss_unlabelled"].requires_grad


@pytest.mark.parametrize("masking", ["none", "fixed", "adaptive"])
@pytest.mark.parametrize("mixup", ["none", "image", "feature", "random"])
@pytest.mark.parametrize("teacher", ["shared", "ema"])
def test_every_combination_learns_from_both_batches(masking: str, mixup: str, teacher: str) -> None:
    method = make_method(masking={"name": masking}, mixup={"name": mixup}, teacher={"name": teacher})
    labelled, unlabelled = make_batches()
    result = method(labelled, unlabelled, LATE)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(p.grad is not None for p in method.network.parameters())
    assert {"teacher_peak", "teacher_cells", "loss_unlabelled"} <= set(result.terms)
    method.after_update(LATE)


def test_masks_change_only_the_strong_image_that_the_student_sees() -> None:
    method = make_method(masking={"name": "fixed", "count": 5})
    unlabelled = make_batches()[1]
    before = unlabelled.strong.clone()
    strong = method.strong_view(unlabelled, method.network(unlabelled.weak))
    assert torch.equal(unlabelled.strong, before)
    changed = (strong.images != before).all(dim=1).flatten(1).float().mean(dim=1)
    assert torch.all(changed > 0)
    assert torch.all(strong.images[strong.images != before] == 0)  # the mean colour, normalised


def test_random_mixup_takes_images_and_features_equally_often() -> None:
    method = make_method()
    taken = [method.takes_features(method.cfg.mixup) for _ in range(600)]
    assert 240 < sum(taken) < 360


def test_ranks_draw_other_masks_but_take_the_same_branch() -> None:
    def drawn(method: Method) -> tuple[list[bool], torch.Tensor]:
        branch = [method.takes_features(method.cfg.mixup) for _ in range(40)]
        return branch, torch.rand(4, generator=method.device_generator)

    cfg, network = make_method().cfg, make_method().network
    ranks = [cfg.build(network, SIGMA, seed=3, rank=rank) for rank in (0, 1)]
    (branch_0, numbers_0), (branch_1, numbers_1) = map(drawn, ranks)
    assert branch_0 == branch_1
    assert not torch.equal(numbers_0, numbers_1)


@pytest.mark.parametrize("teacher", ["shared", "ema"])
def test_inspecting_leaves_no_trace(teacher: str) -> None:
    plain, inspected = (make_method(teacher={"name": teacher}) for _ in range(2))
    labelled, unlabelled = make_batches()
    seen = inspected.inspect(unlabelled)
    assert seen.masked.shape == seen.mixed.shape == unlabelled.strong.shape
    assert inspected.network.training
    for step in (50, 51):
        progress = Progress(step=step, total_steps=100)
        assert plain(labelled, unlabelled, progress).loss == inspected(labelled, unlabelled, progress).loss


def test_teacher_and_student_sit_in_the_state() -> None:
    method = make_method(teacher={"name": "ema"})
    assert list(method.networks()) == ["network", "average"]
    names = set(method.state_dict())
    assert all(f"network.{name}" in names for name in method.network.state_dict())
    assert any(name.startswith("teacher.") for name in names)
