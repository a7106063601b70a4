"""The step of `triple` against plain computations (docs/methods.md 4)."""

import copy
import math
from typing import Any

import pytest
import torch

from semipose.models.codecs.heatmap import heatmap_loss, warp
from semipose.training.methods.method import Progress
from semipose.training.methods.triple import closest_pair_mean, position_inconsistency
from tests.training.tiny import CODEC, LATE, make_batches, make_method

PLAIN: dict[str, Any] = {"paths": [[]], "epoch_steps": 10, "min_peak": 0.0}


def random_heatmaps(count: int) -> list[torch.Tensor]:
    """Coarse values and a coarse grid, so that distances tie often."""
    generator = torch.Generator().manual_seed(count)
    return [torch.randint(0, 9, (6, 7, 5, 4), generator=generator).float() / 8 for _ in range(count)]


def plain_peak(heatmap: torch.Tensor) -> tuple[int, int]:
    """x, y of the first highest cell; (0, 0) where nothing is above 0."""
    best, place = 0.0, (0, 0)
    for y in range(heatmap.shape[0]):
        for x in range(heatmap.shape[1]):
            if heatmap[y, x] > best:
                best, place = float(heatmap[y, x]), (x, y)
    return place


def test_pair_choice_equals_the_loop_over_samples_and_joints() -> None:
    a, b, old_a, old_b = random_heatmaps(4)
    chosen = closest_pair_mean(a, b, old_a, old_b)
    winners = set()
    for n in range(len(a)):
        for j in range(a.shape[1]):
            pairs = [(a, b), (old_a, b), (a, old_b), (old_a, old_b)]
            distances = [math.dist(plain_peak(p[n, j]), plain_peak(q[n, j])) for p, q in pairs]
            winner = distances.index(min(distances))  # the first of equals
            winners.add(winner)
            p, q = pairs[winner]
            assert torch.equal(chosen[n, j], (p[n, j] + q[n, j]) / 2)
    assert winners == {0, 1, 2, 3}


def test_inconsistency_is_a_share_of_the_diagonal() -> None:
    a, b = torch.zeros(1, 2, 6, 8), torch.zeros(1, 2, 6, 8)
    a[0, 0, 0, 0], b[0, 0, 3, 4] = 1, 1  # 5 cells apart
    a[0, 1, 0, 0], b[0, 1, 5, 7] = 1, 1  # corner to corner: 8.6 cells
    found = position_inconsistency(a, b)[0]
    assert torch.allclose(found, torch.tensor([5 / 10, math.hypot(5, 7) / 10]))
    wide_a, wide_b = torch.zeros(1, 1, 1, 100), torch.zeros(1, 1, 1, 100)
    wide_a[..., 0], wide_b[..., 99] = 1, 1
    assert torch.isclose(position_inconsistency(wide_a, wide_b)[0, 0], torch.tensor(99 / math.hypot(1, 100)))


@pytest.mark.parametrize("teacher", ["shared", "ema"])
@pytest.mark.parametrize(("step", "ramp"), [(9, 10 / 21), (10, 11 / 21)])
def test_the_loss_before_and_after_the_first_epoch(step: int, ramp: float, teacher: str) -> None:
    """The copies agree with each other, so that theirs is the closest pair wherever the teachers differ."""
    method = make_method("triple", **PLAIN, ramp_up=0.2, teacher={"name": teacher})
    labelled, unlabelled = make_batches()
    old_a, old_b = method.previous_a.previous, method.previous_b.previous
    old_b.load_state_dict(old_a.state_dict())
    a, b, student = (copy.deepcopy(net) for net in (method.a, method.b, method.network))
    supervised = [CODEC.supervised_loss(net(labelled.image), labelled) for net in (a, b, student)]
    weak = unlabelled.weak
    teachers = (a, b) if teacher == "shared" else tuple(copy.deepcopy(each).eval() for each in (a, b))
    if teacher == "ema":  # what a batch did to the statistics is not in the averages yet
        for average, net in zip(teachers, (method.a, method.b), strict=True):
            average.load_state_dict(net.state_dict())
    of_a, of_b = (each(weak).detach() for each in teachers)
    corrected = mean = (of_a + of_b) / 2
    if step >= 10:
        before = [copy.deepcopy(each)(weak).detach() for each in (old_a, old_b)]
        corrected = closest_pair_mean(of_a, of_b, *before)
        differs = (corrected != mean).flatten(2).any(dim=2)
        assert differs.float().mean() > 0.5
        assert torch.equal(corrected[differs], before[0][differs])
    total = 0.5 * sum(supervised)
    for net, label in ((a, of_b), (b, of_a), (student, corrected)):
        target, inside = warp(label, unlabelled.strong_from_weak, 4)
        total = total + ramp * heatmap_loss(net(unlabelled.strong), target, inside)
    assert torch.isclose(method(labelled, unlabelled, Progress(step, 100)).loss, total)


def test_averaged_teachers_are_compared_with_their_own_averages_of_the_epoch_before() -> None:
    method = make_method("triple", **{**PLAIN, "epoch_steps": 3}, teacher={"name": "ema", "momentum": 0.9})
    pairs = [
        (method.a, method.labeller_a, method.previous_a.previous),
        (method.b, method.labeller_b, method.previous_b.previous),
    ]
    for net, labeller, previous in pairs:
        average = labeller.networks()["average"]
        (name, weight), *_ = net.named_parameters()
        seen = []
        for step in range(5):
            with torch.no_grad():
                weight.add_(step + 1)
            seen.append(weight.detach().clone())
            method.after_update(Progress(step, 100))
            expected = torch.stack(seen).mean(dim=0)  # a plain mean while the average is warm
            assert torch.allclose(average.get_parameter(name), expected, atol=1e-5), step
            if step == 2:
                kept = expected
        assert torch.allclose(previous.get_parameter(name), kept, atol=1e-5)
        assert not previous.training
        assert not average.training


def test_the_copies_of_trained_teachers_answer_in_train_mode() -> None:
    method = make_method("triple", **PLAIN)
    method.eval()
    method.train()
    assert method.previous_a.previous.training
    averaged = make_method("triple", **PLAIN, teacher={"name": "ema"})
    averaged.train()
    assert not averaged.previous_a.previous.training
    for each in (method.previous_a, averaged.previous_a):
        assert not any(p.requires_grad for p in each.parameters())


def test_a_teacher_that_is_itself_a_copy_of_the_epoch_before_is_refused() -> None:
    with pytest.raises(ValueError, match="previous_epoch would give labels from the same copies"):
        make_method("triple", teacher={"name": "previous_epoch"})


def test_keypoints_count_by_the_mean_peak_of_both_teachers() -> None:
    method = make_method("triple", **{**PLAIN, "min_peak": 0.1})
    of_a, of_b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    of_a[0, :, 1, 1] = torch.tensor([0.3, 0.15, 0.5])
    of_b[0, :, 2, 1] = torch.tensor([0.0, 0.04, 0.5])
    assert method.joint_weights(of_a, of_b).tolist() == [[1, 0, 1]]


def test_inconsistent_keypoints_are_left_out_or_weighed_down() -> None:
    of_a, of_b = torch.zeros(1, 2, 8, 6), torch.zeros(1, 2, 8, 6)
    of_a[0, 0, 0, 0], of_b[0, 0, 7, 5] = 0.9, 0.5  # 8.6 of 10 cells apart
    of_a[0, 1, 3, 3], of_b[0, 1, 3, 4] = 0.9, 0.9  # 1 of 10
    weights = make_method("triple", **PLAIN, max_inconsistency=0.6).joint_weights(of_a, of_b)
    assert weights.tolist() == [[0, 1]]
    share = math.hypot(7, 5) / 10
    by_position = make_method("triple", **PLAIN, weigh_by_position=True).joint_weights(of_a, of_b)
    assert torch.allclose(by_position, torch.tensor([[(1 - share) ** 2, 0.9**2]]))
    by_peak = make_method("triple", **PLAIN, weigh_by_peak=True).joint_weights(of_a, of_b)
    assert torch.allclose(by_peak, torch.tensor([[0.6**2, 1.0]]))


def test_the_copies_are_the_teachers_of_the_end_of_the_last_epoch() -> None:
    method = make_method("triple", **PLAIN)
    began = {name: value.clone() for name, value in method.a.state_dict().items()}
    snapshots = {}
    for step in range(23):
        with torch.no_grad():
            for tensor in method.a.state_dict().values():
                tensor.add_(1)
        method.after_update(Progress(step, 100))
        snapshots[step] = {name: value.clone() for name, value in method.a.state_dict().items()}
        last_end = (step + 1) // 10 * 10 - 1
        expected = snapshots.get(last_end, began)
        copied = method.previous_a.previous.state_dict()
        assert all(torch.equal(copied[name], value) for name, value in expected.items()), step


def test_the_copies_learn_nothing_and_sit_in_the_checkpoint() -> None:
    method = make_method("triple", **PLAIN)
    assert not any(p.requires_grad for p in method.previous_a.parameters())
    assert {name for name in method.state_dict() if name.startswith("previous_a.previous.")}
    method(*make_batches(), LATE).loss.backward()
    assert all(p.grad is not None for net in (method.a, method.b, method.network) for p in net.parameters())


def test_the_teachers_may_be_larger_and_the_student_is_the_product() -> None:
    large = {"backbone": {"name": "light", "stem_channels": 12, "channels": [8, 16, 24], "blocks": [1, 1, 2]}}
    method = make_method("triple", **PLAIN, teacher_net={**large, "head": {"name": "pyramid", "width": 8}})
    assert method.a.backbone.channels == method.b.backbone.channels == (8, 16, 24)
    assert list(method.networks()) == ["student", "teacher_a", "teacher_b"]
    assert method.networks()["student"] is method.network
    assert method.ensembles() == {"teachers": ("teacher_a", "teacher_b")}
    assert torch.isfinite(method(*make_batches(), LATE).loss)


def test_averages_that_label_are_scored_too() -> None:
    method = make_method("triple", **PLAIN, teacher={"name": "ema", "momentum": 0.9})
    assert list(method.networks()) == ["student", "teacher_a", "teacher_b", "average_a", "average_b"]


def test_the_supervised_part_is_that_of_the_loss() -> None:
    """Equation: half the sum over the three networks; without unlabelled people it is all of the loss."""
    method = make_method("triple", **PLAIN)
    labelled, _ = make_batches()
    result = method(labelled, None, LATE)
    terms = result.terms.by_name()
    assert terms["loss_supervised"] == terms["loss"] == result.loss
    losses = [
        method.codec.supervised_loss(net(labelled.image), labelled)
        for net in (method.a, method.b, method.network)
    ]
    torch.testing.assert_close(terms["loss_supervised"], sum(losses).detach() / 2)


def test_the_second_teacher_may_start_elsewhere() -> None:
    other = {"backbone": {"name": "light", "stem_channels": 8, "channels": [8, 8, 16], "blocks": [1, 1, 1]}}
    method = make_method(
        "triple", **PLAIN, second_teacher_net={**other, "head": {"name": "pyramid", "width": 8}}
    )
    assert method.b.backbone.channels == (8, 8, 16)
    assert method.a.backbone.channels == method.network.backbone.channels != method.b.backbone.channels
