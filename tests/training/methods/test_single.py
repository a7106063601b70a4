"""The step of `single`: what enters the loss, when, and what leaves no trace."""

import copy

import pytest
import torch
from torch import nn

from semipose.models.codecs.heatmap import decode, encode, heatmap_loss, warp
from semipose.training.methods.consistency import augment, strong_view
from semipose.training.methods.method import Method, Progress
from tests.training.tiny import (
    CODEC,
    LATE,
    SIGMA,
    SKELETON,
    K,
    assert_average_follows,
    make_batches,
    make_method,
)

PARTS = {
    "none": [],
    "cutout": [{"name": "joint_cutout"}],
    "adaptive": [{"name": "adaptive_masks"}],
    "joco": [{"name": "cut_occlude"}, {"name": "cutout"}],
}


def test_burn_in_is_the_supervised_step() -> None:
    method = make_method(burn_in=0.1)
    labelled, _ = make_batches()
    twin = copy.deepcopy(method.network)
    last_of_it, after = Progress(step=9, total_steps=100), Progress(step=10, total_steps=100)
    assert not method.wants_unlabelled(last_of_it)
    assert method.wants_unlabelled(after)
    result = method(labelled, None, last_of_it)
    assert result.loss == CODEC.supervised_loss(twin(labelled.image), labelled)
    assert set(result.terms.by_name()) == {"loss", "loss_supervised"}


def test_ramp_rises_by_a_line_after_the_burn_in() -> None:
    cfg = make_method(burn_in=0.1, ramp_up=0.03).cfg
    ramps = [cfg.ramp(Progress(step, 100)) for step in (0, 9, 10, 11, 12, 13, 99)]
    assert ramps == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert make_method().cfg.ramp(Progress(0, 100)) == 1


@pytest.mark.parametrize("name", ["single", "double_match"])
def test_a_burn_in_and_a_ramp_longer_than_the_run_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"burn_in 0\.7 and ramp_up 0\.6 are more than the whole run together"
    ):
        make_method(name, burn_in=0.7, ramp_up=0.6)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    method = make_method(weight=0.7, mixup={"layers": ["input"], "weight": 0.4}, ramp_up=0.01)
    for step, ramp in ((0, 0.5), (5, 1.0)):
        terms = method(*make_batches(), Progress(step=step, total_steps=100)).terms.by_name()
        total = terms["loss_supervised"] + ramp * (0.7 * terms["loss_unlabelled"] + 0.4 * terms["loss_mixed"])
        assert torch.isclose(terms["loss"], total)


def test_without_parts_the_strong_loss_is_consistency_with_the_warped_teacher() -> None:
    method = make_method(paths=[[]], mixup=None, weight=1.0)
    labelled, unlabelled = make_batches()
    twin = copy.deepcopy(method.network)
    CODEC.supervised_loss(twin(labelled.image), labelled)  # the published order: labelled, weak, strong
    heatmaps = twin(unlabelled.weak).detach()
    target, inside = warp(heatmaps, unlabelled.strong_from_weak, 4)
    expected = heatmap_loss(twin(unlabelled.strong), target, inside)
    terms = method(labelled, unlabelled, LATE).terms.by_name()
    assert torch.isclose(terms["loss_unlabelled"], expected)
    assert "loss_mixed" not in terms
    moved = [m.running_mean for m in method.network.modules() if isinstance(m, nn.BatchNorm2d)]
    alike = [m.running_mean for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(a, b) for a, b in zip(moved, alike, strict=True))


def test_paths_are_summed_and_run_one_after_the_other_on_one_strong_view() -> None:
    """MultiAugs: sum, not mean; batch statistics of each path's own (docs/methods.md 5)."""
    method = make_method(paths=[[], [], []], mixup=None)
    labelled, unlabelled = make_batches()
    twin = copy.deepcopy(method.network)
    CODEC.supervised_loss(twin(labelled.image), labelled)
    target, inside = warp(twin(unlabelled.weak).detach(), unlabelled.strong_from_weak, 4)
    losses = [heatmap_loss(twin(unlabelled.strong), target, inside) for _ in range(3)]
    terms = method(labelled, unlabelled, LATE).terms.by_name()
    assert torch.isclose(terms["loss_unlabelled"], sum(losses))
    assert torch.equal(method.network.backbone.stem[0].bn.running_mean, twin.backbone.stem[0].bn.running_mean)


def test_parts_see_the_teachers_peaks_and_where_they_are() -> None:
    """What decides how many masks a person gets, and where they lie."""
    method = make_method()
    unlabelled = make_batches()[1]
    labels = method.labels(unlabelled)
    scene = strong_view(method.cfg, unlabelled, labels, 4).scene
    flat = labels.heatmaps.flatten(2)
    cells = flat.argmax(dim=-1)
    assert torch.equal(scene.peaks, flat.amax(dim=-1))
    assert torch.equal(scene.points_weak, torch.stack((cells % 12, cells // 12), dim=-1) * 4.0)
    assert torch.equal(scene.strong, unlabelled.strong)
    assert torch.equal(scene.strong_from_weak, unlabelled.strong_from_weak)
    assert len(scene.peaks.unique()) > 1


def test_an_averaged_teacher_follows_every_update() -> None:
    method = make_method(teacher={"name": "ema"})
    assert_average_follows(method, method.network, method.networks()["average"])


@pytest.mark.parametrize(("outside", "is_partial"), [("ignore", True), ("background", False)])
def test_cells_beyond_the_weak_view_are_ignored_or_background(outside: str, is_partial: bool) -> None:
    method = make_method(outside=outside)
    unlabelled = make_batches()[1]
    weights = strong_view(method.cfg, unlabelled, method.labels(unlabelled), 4).weights
    assert (0 < weights.mean() < 1) == is_partial


def test_the_teacher_may_answer_for_the_mirror_image_too() -> None:
    method = make_method(ensemble={"flip": True}, mixup=None, teacher={"name": "ema"})
    unlabelled = make_batches()[1]
    answer = method.teacher.average.module
    mirrored = unlabelled.weak.flip(-1)
    shifted = torch.cat((mirrored[..., 3:], torch.zeros_like(mirrored[..., :3])), dim=-1)
    exchanged = answer(shifted)[:, list(SKELETON.flip_order)].flip(-1)
    expected = (answer(unlabelled.weak) + exchanged) / 2
    assert torch.allclose(method.labels(unlabelled).heatmaps, expected, atol=1e-4)


def test_labels_with_a_low_peak_do_not_count() -> None:
    method = make_method(paths=[[]], mixup=None)
    unlabelled = make_batches()[1]
    peaks = method.labels(unlabelled).heatmaps.amax(dim=(2, 3))
    bound = float(peaks.median())
    method = make_method(paths=[[]], mixup=None, min_peak=bound)
    labels = method.labels(unlabelled)
    assert torch.equal(labels.joint_weights, (labels.heatmaps.amax(dim=(2, 3)) > bound).float())
    assert 0.3 < labels.joint_weights.mean() < 0.7
    weights = strong_view(method.cfg, unlabelled, labels, 4).weights
    assert torch.equal(weights.amax(dim=(2, 3)) > 0, labels.joint_weights > 0)


@pytest.mark.parametrize(("statistics", "moves"), [("all", True), ("plain", False)])
def test_masked_and_mixed_passes_move_the_batch_statistics_or_leave_them(
    statistics: str, moves: bool
) -> None:
    method = make_method(statistics=statistics)
    unlabelled = make_batches()[1]
    labels = method.labels(unlabelled)
    norm = method.network.backbone.stem[0].bn
    before, momentum = norm.running_mean.clone(), norm.momentum
    method.student_losses(method.network, method.mixup, unlabelled, labels)
    assert torch.equal(norm.running_mean, before) != moves
    assert norm.momentum == momentum
    method.labels(unlabelled)  # the weak views move them in any case
    assert not torch.equal(norm.running_mean, before)


def test_labels_may_be_gaussians_at_the_peaks_of_the_heatmaps() -> None:
    method = make_method(labels="keypoints", mixup=None)
    labels = method.labels(make_batches()[1])
    points, _ = decode(labels.heatmaps, 4, sigma=SIGMA)
    expected, _ = encode(points, torch.ones(4, K), (16, 12), stride=4, sigma=SIGMA)
    assert torch.allclose(labels.target, expected, atol=1e-5)
    assert (labels.target.amax(dim=(2, 3)) > 0.9).all()
    plain = make_method(mixup=None).labels(make_batches()[1])
    assert plain.target is plain.heatmaps


def test_a_heatmap_without_a_peak_is_no_gaussian_in_the_corner() -> None:
    heatmaps = torch.full((1, 2, 16, 12), -0.1)
    heatmaps[0, 1, 8, 6] = 0.5
    target = make_method("single", labels="keypoints").pseudo_labels(heatmaps).target
    assert not target[0, 0].any()
    assert target[0, 1].argmax() == 8 * 12 + 6


def test_no_gradient_reaches_the_network_through_the_teacher() -> None:
    method = make_method(mixup=None, weight=1.0)
    labelled, unlabelled = make_batches()
    assert not method.labels(unlabelled).heatmaps.requires_grad
    assert not method(labelled, unlabelled, LATE).terms.by_name()["loss_unlabelled"].requires_grad


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("layers", [[], ["input"], ["backbone.layer3"], ["input", "head.final"]])
@pytest.mark.parametrize("teacher", ["shared", "ema", "previous_epoch"])
def test_every_combination_learns_from_both_batches(parts: str, layers: list[str], teacher: str) -> None:
    mixup = {"layers": layers} if layers else None
    method = make_method(paths=[PARTS[parts]], mixup=mixup, teacher={"name": teacher})
    labelled, unlabelled = make_batches()
    result = method(labelled, unlabelled, LATE)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(p.grad is not None for p in method.network.parameters())
    assert {"teacher_peak", "teacher_cells", "loss_unlabelled"} <= set(result.terms.by_name())
    method.after_update(LATE)


def test_parts_change_only_what_the_student_sees() -> None:
    method = make_method(paths=[[{"name": "joint_cutout", "count": 5}]])
    unlabelled = make_batches()[1]
    before = unlabelled.strong.clone()
    scene = strong_view(method.cfg, unlabelled, method.labels(unlabelled), 4).scene
    images, _ = augment(method.cfg.paths[0], scene, method.random_state)
    assert torch.equal(unlabelled.strong, before)
    changed = (images != before).all(dim=1).flatten(1).float().mean(dim=1)
    assert torch.all(changed > 0)
    assert torch.all(images[images != before] == 0)  # the mean colour, normalised


def test_ranks_draw_other_masks_but_take_the_same_branch() -> None:
    def drawn(method: Method) -> tuple[list[int], torch.Tensor]:
        assert method.random_state
        branch = [method.random_state.one_of(2) for _ in range(40)]
        return branch, torch.rand(4, generator=method.random_state.generator)

    (branch_0, numbers_0), (branch_1, numbers_1) = (drawn(make_method(seed=3, rank=rank)) for rank in (0, 1))
    assert branch_0 == branch_1
    assert not torch.equal(numbers_0, numbers_1)


@pytest.mark.parametrize("teacher", ["shared", "ema", "previous_epoch"])
def test_inspecting_leaves_no_trace(teacher: str) -> None:
    plain, inspected = (make_method(teacher={"name": teacher}) for _ in range(2))
    labelled, unlabelled = make_batches()
    seen = inspected.inspect(unlabelled)
    assert list(seen.augmented) == ["path 1", "mixed"]
    assert all(images.shape == unlabelled.strong.shape for images in seen.augmented.values())
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


def test_the_mixture_that_is_shown_is_half_each_person_and_half_the_next() -> None:
    method = make_method(mixup={"layers": ["input"], "views": "weak"})
    _, unlabelled = make_batches()
    mixed = method.inspect(unlabelled).augmented["mixed"]
    following = unlabelled.weak[[1, 2, 3, 0]]
    assert torch.allclose(mixed, (unlabelled.weak + following) / 2, atol=1e-6)
