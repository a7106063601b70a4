"""Mixup: the distribution of alpha, the partners, the mix, and the hook that mixes features."""

import copy
import pickle

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from semipose.configs.load import InputError
from semipose.pipelines.masking.masks import draw_order
from semipose.training.methods.mixup import FeatureMixer, draw_alpha, mix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Branches(nn.Module):
    """A stage that takes and gives several resolutions as a list, like HRNet's."""

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        return [2 * branch for branch in branches]


class SmallNet(nn.Module):
    """Image -> features -> heatmaps, with a named stage between."""

    def __init__(self, stage: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = stage or nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.stage(self.stem(images))


def make_batch() -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(4, 3, 8, 6, generator=seeded(1))
    return images, torch.tensor(0.3), torch.tensor([2, 0, 3, 1])


@pytest.mark.parametrize("a", [0.2, 0.75, 1.0, 2.0])
def test_alpha_follows_the_symmetric_beta_law(a: float) -> None:
    generator = seeded()
    alphas = torch.stack([draw_alpha(a, generator=generator) for _ in range(4000)])
    assert alphas.mean().item() == pytest.approx(0.5, abs=0.02)
    assert alphas.var().item() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.06)
    assert stats.kstest(alphas.double().numpy(), stats.beta(a, a).cdf).pvalue > 0.01


def test_alpha_is_one_finite_number_and_repeats() -> None:
    first, again = (draw_alpha(0.75, generator=seeded(5)) for _ in range(2))
    assert first.shape == ()
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    generator = seeded()
    extremes = torch.stack([draw_alpha(a, generator=generator) for a in (1e-3, 1e3) for _ in range(300)])
    assert extremes.isfinite().all()
    assert ((extremes >= 0) & (extremes <= 1)).all()


@pytest.mark.parametrize("a", [0.0, -1.0, float("nan")])
def test_alpha_refuses_what_is_no_beta_law(a: float) -> None:
    with pytest.raises(ValueError, match="needs a > 0"):
        draw_alpha(a, generator=seeded())


def test_partners_are_a_uniform_permutation() -> None:
    generator = seeded()
    partners = torch.stack([draw_order(1, 4, generator=generator)[0] for _ in range(3000)])
    assert torch.equal(partners.sort(dim=1).values, torch.arange(4).expand(3000, 4))
    shares = torch.stack([(partners == sample).float().mean(dim=0) for sample in range(4)])
    assert (shares - 0.25).abs().max() < 0.04


def test_mix_weighs_itself_and_its_partner() -> None:
    x = torch.tensor([[0.0], [10.0], [100.0]])
    mixed = mix(x, torch.tensor(0.75), torch.tensor([1, 2, 0]))
    assert mixed.flatten().tolist() == [2.5, 32.5, 75.0]


def test_half_precision_is_mixed_with_the_exact_alpha() -> None:
    x = torch.tensor([[1.0], [0.0]]).bfloat16()
    alpha = torch.tensor(0.7012)
    mixed = mix(x, alpha, torch.tensor([1, 0]))
    assert torch.equal(mixed, torch.stack([alpha, 1 - alpha])[:, None].bfloat16())


def test_mixed_target_has_the_gradient_of_the_two_losses() -> None:
    """docs/methods.md 9, row 19."""
    draws = seeded()
    answer = torch.randn(4, 3, 8, 6, generator=draws, dtype=torch.float64, requires_grad=True)
    heatmaps = torch.rand(4, 3, 8, 6, generator=draws, dtype=torch.float64)
    alpha, partners = draw_alpha(0.75, generator=draws).double(), torch.tensor([2, 0, 3, 1])
    own = ((answer - heatmaps) ** 2).sum()
    partner = ((answer - heatmaps[partners]) ** 2).sum()
    (two_losses,) = torch.autograd.grad(alpha * own + (1 - alpha) * partner, answer)
    (one_target,) = torch.autograd.grad(((answer - mix(heatmaps, alpha, partners)) ** 2).sum(), answer)
    assert (two_losses - one_target).abs().max() < 1e-12
    assert two_losses.abs().max() > 1


def test_layer_is_mixed_inside_the_context_only() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    plain = net(images)
    mixer = FeatureMixer(net, "stage")
    assert torch.equal(net(images), plain)
    with mixer.mixing(alpha, partners):
        mixed = net(images)
    assert torch.equal(mixed, net.stage(mix(net.stem(images), alpha, partners)))
    assert not torch.allclose(mixed, plain)
    assert torch.equal(net(images), plain)


def test_inner_layer_can_be_named() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    with FeatureMixer(net, "stage.1").mixing(alpha, partners):
        mixed = net(images)
    assert torch.equal(mixed, net.stage[1](mix(net.stem(images).relu(), alpha, partners)))


def test_every_branch_of_a_list_is_mixed() -> None:
    _, alpha, partners = make_batch()
    net = nn.Sequential(Branches())
    branches = [torch.randn(4, channels, generator=seeded(channels)) for channels in (2, 5)]
    with FeatureMixer(net, "0").mixing(alpha, partners):
        mixed = net(branches)
    for ours, branch in zip(mixed, branches, strict=True):
        assert torch.equal(ours, 2 * mix(branch, alpha, partners))


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_copy_of_the_network_is_never_mixed(when: str) -> None:
    """An EMA teacher is a deep copy of the network; mixing the student must leave it alone."""
    images, alpha, partners = make_batch()
    net = SmallNet()
    plain = net(images)
    mixer = FeatureMixer(net, "stage")
    teacher = copy.deepcopy(net)
    with mixer.mixing(alpha, partners):
        if when == "inside":
            teacher = copy.deepcopy(net)
        assert torch.equal(teacher(images), plain)
        assert not torch.equal(net(images), plain)
    assert torch.equal(teacher(images), plain)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_network_and_mixer_works_by_itself(duplicate) -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    mixer = FeatureMixer(net, "stage")
    net_copy, mixer_copy = duplicate((net, mixer))
    with mixer_copy.mixing(alpha, partners):
        mixed = net_copy(images)
        assert not torch.equal(net(images), mixed)
    with mixer.mixing(alpha, partners):
        assert torch.equal(net(images), mixed)


def test_gradients_flow_to_both_partners() -> None:
    images, alpha, _ = make_batch()
    images.requires_grad_()
    net = SmallNet()
    with FeatureMixer(net, "stage").mixing(alpha, torch.tensor([2, 0, 3, 1])):
        net(images)[0].sum().backward()
    assert [bool(gradient.any()) for gradient in images.grad] == [True, False, True, False]


def test_mixed_and_plain_pass_compile_to_one_graph_each() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    mixer = FeatureMixer(net, "stage")
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for step in range(3):
        weight = alpha + 0.1 * step
        torch.testing.assert_close(compiled(images), net(images))
        with mixer.mixing(weight, partners.roll(step)):
            mixed = compiled(images)
        with mixer.mixing(weight, partners.roll(step)):
            torch.testing.assert_close(mixed, net(images))
    assert counter.frame_count == 2


def test_mixing_that_reaches_no_forward_pass_is_an_error() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    mixer = FeatureMixer(net, "stage")
    with (
        pytest.raises(RuntimeError, match="no forward pass called layer 'stage'"),
        mixer.mixing(alpha, partners),
    ):
        net.stem(images)


def test_mixing_inside_mixing_is_an_error() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    mixer = FeatureMixer(net, "stage")
    with mixer.mixing(alpha, partners):
        with pytest.raises(RuntimeError, match="already being mixed"), mixer.mixing(alpha, partners):
            net(images)
        mixed = net(images)  # still mixed, once
    assert torch.equal(mixed, net.stage(mix(net.stem(images), alpha, partners)))


def test_an_error_inside_leaves_the_mixer_idle() -> None:
    images, alpha, partners = make_batch()
    net = SmallNet()
    plain = net(images)
    mixer = FeatureMixer(net, "stage")
    with pytest.raises(ZeroDivisionError), mixer.mixing(alpha, partners):
        raise ZeroDivisionError
    assert torch.equal(net(images), plain)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("stagee", "^method.mixup.layers: .*no layer 'stagee': .* for instance stage"),
        ("", "no layer '': .* for instance stem, stage"),
        ("conv_of_nothing", "for instance "),
    ],
)
def test_unknown_layer_lists_near_names(layer: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        FeatureMixer(SmallNet(), layer)
