import torch
from torch import nn

from semipose.training.teacher import AverageTeacherSettings, SharedTeacherSettings


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()


def test_the_shared_teacher_is_the_network_in_train_mode_without_gradient() -> None:
    network = make_network()
    images = torch.randn(2, 3, 4, 4)
    before = network[1].running_mean.clone()
    heatmaps = SharedTeacherSettings().build(network)(images, network)
    assert not heatmaps.requires_grad
    assert torch.equal(heatmaps, network(images).detach())  # batch statistics, not running ones
    assert not torch.equal(network[1].running_mean, before)  # which move, as published


def test_the_average_stays_in_eval_mode_and_out_of_the_optimiser() -> None:
    network = make_network()
    teacher = AverageTeacherSettings(momentum=0.9).build(network)
    teacher.train()
    images = torch.randn(2, 3, 4, 4)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    heatmaps = teacher(images, network)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(heatmaps, make_network().eval()(images))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_the_average_is_the_plain_mean_while_warm_then_decays_by_its_momentum() -> None:
    network = nn.Linear(1, 1, bias=False)
    teacher = AverageTeacherSettings(momentum=0.75).build(network)
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
    teacher = AverageTeacherSettings(momentum=0.5).build(network)
    teacher.update(network, 1)
    network[1].running_mean += 1
    for update in range(2, 5):
        teacher.update(network, update)
    mean = teacher.networks()["average"][1].running_mean
    assert torch.all((mean > 0.5) & (mean < 1))
