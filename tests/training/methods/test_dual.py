"""The step of `dual` against a plain computation (docs/methods.md 3.3)."""

import copy

import torch

from semipose.models.codecs.heatmap import heatmap_loss, warp
from semipose.training.methods.consistency import strong_view
from semipose.training.methods.method import Progress
from tests.training.tiny import (
    CODEC,
    LATE,
    NET,
    assert_average_follows,
    make_batches,
    make_method,
)


def test_the_loss_is_cross_teaching_with_half_the_supervised_losses() -> None:
    method = make_method("dual", paths=[[]])
    labelled, unlabelled = make_batches()
    one, two = copy.deepcopy(method.first), copy.deepcopy(method.second)
    supervised = [CODEC.supervised_loss(net(labelled.image), labelled) for net in (one, two)]
    of_one, of_two = one(unlabelled.weak).detach(), two(unlabelled.weak).detach()
    total = 0.5 * (supervised[0] + supervised[1])
    for student, teacher in ((one, of_two), (two, of_one)):
        target, inside = warp(teacher, unlabelled.strong_from_weak, 4)
        total = total + heatmap_loss(student(unlabelled.strong), target, inside)
    result = method(labelled, unlabelled, LATE)
    assert torch.isclose(result.loss, total)
    for net, twin in ((method.first, one), (method.second, two)):
        for name, value in net.state_dict().items():
            assert torch.equal(value, twin.state_dict()[name]), name


def test_averages_teach_each_other_on_a_ramp() -> None:
    method = make_method("dual", paths=[[]], teacher={"name": "ema"}, ramp_up=0.2)
    labelled, unlabelled = make_batches()
    one, two = copy.deepcopy(method.first), copy.deepcopy(method.second)
    with torch.no_grad():  # averages that are not the networks, each its own
        for factor, teacher in ((0.9, method.first_teacher), (1.2, method.second_teacher)):
            teacher.networks()["average"].head.final.weight.mul_(factor)
    of_one, of_two = (
        copy.deepcopy(teacher.networks()["average"])(unlabelled.weak).detach()
        for teacher in (method.first_teacher, method.second_teacher)
    )
    total = 0.5 * sum(CODEC.supervised_loss(net(labelled.image), labelled) for net in (one, two))
    for student, label in ((one, of_two), (two, of_one)):
        target, inside = warp(label, unlabelled.strong_from_weak, 4)
        total = total + 5 / 21 * heatmap_loss(student(unlabelled.strong), target, inside)
    assert torch.isclose(method(labelled, unlabelled, Progress(4, 100)).loss, total)


def test_the_averages_of_both_networks_follow_every_update() -> None:
    method = make_method("dual", teacher={"name": "ema"})
    averages = method.networks()
    assert_average_follows(method, method.first, averages["average_1"])
    assert_average_follows(method, method.second, averages["average_2"])


def test_the_gradient_of_a_network_is_that_of_its_own_terms() -> None:
    method = make_method("dual", paths=[[]])
    labelled, unlabelled = make_batches()
    one, of_two = copy.deepcopy(method.first), copy.deepcopy(method.second)(unlabelled.weak).detach()
    with torch.no_grad():  # the batch statistics move on as in the step
        one(labelled.image)
        one(unlabelled.weak)
    target, inside = warp(of_two, unlabelled.strong_from_weak, 4)
    loss = 0.5 * CODEC.supervised_loss(one(labelled.image), labelled) + heatmap_loss(
        one(unlabelled.strong), target, inside
    )
    loss.backward()
    method(labelled, unlabelled, LATE).loss.backward()
    for own, plain in zip(method.first.parameters(), one.parameters(), strict=True):
        assert torch.allclose(own.grad, plain.grad, atol=1e-7)


def test_each_network_is_masked_at_the_keypoints_of_the_other() -> None:
    method = make_method("dual", paths=[[{"name": "joint_cutout", "count": 5}]])
    unlabelled = make_batches()[1]
    of_first, of_second = method.labels(unlabelled)
    scene = strong_view(method.cfg, unlabelled, of_second, 4).scene
    cells = of_second.heatmaps.flatten(2).argmax(dim=-1)
    expected = torch.stack((cells % 12, cells // 12), dim=-1) * 4.0
    assert torch.equal(scene.points_weak, expected)
    assert not torch.equal(of_first.heatmaps, of_second.heatmaps)


def test_the_networks_start_different() -> None:
    method = make_method("dual")
    for (name, one), two in zip(method.first.named_parameters(), method.second.parameters(), strict=True):
        if one.ndim > 1:
            assert not torch.equal(one, two), name


def test_the_second_network_may_be_another() -> None:
    other = {"backbone": {"name": "light", "stem_channels": 4, "channels": [4, 8, 8], "blocks": [1, 1, 1]}}
    method = make_method("dual", second_net={**other, "head": {"name": "pyramid", "width": 8}})
    assert method.second.backbone.channels == (4, 8, 8)
    assert method.first.backbone.channels == NET.backbone.channels
    assert torch.isfinite(method(*make_batches(), LATE).loss)


def test_burn_in_is_both_supervised_steps() -> None:
    method = make_method("dual", burn_in=0.05)
    labelled, _ = make_batches()
    twins = [copy.deepcopy(net) for net in (method.first, method.second)]
    expected = sum(CODEC.supervised_loss(net(labelled.image), labelled) for net in twins) / 2
    assert not method.wants_unlabelled(Progress(4, 100))
    assert torch.isclose(method(labelled, None, Progress(4, 100)).loss, expected)


def test_networks_and_their_ensemble_are_scored_apart() -> None:
    method = make_method("dual", teacher={"name": "ema"})
    assert list(method.networks()) == ["network_1", "network_2", "average_1", "average_2"]
    assert method.ensembles() == {"both": ("network_1", "network_2")}


def test_two_paths_are_multiaugs_dual() -> None:
    method = make_method("dual", paths=[[], []])
    labelled, unlabelled = make_batches()
    terms = method(labelled, unlabelled, LATE).terms.by_name()
    total = terms["loss_supervised"] + terms["loss_unlabelled_1"] + terms["loss_unlabelled_2"]
    assert torch.isclose(terms["loss"], total)
