"""The Mixup branch: Equation 4, its layers, views and passes (docs/methods.md 9, rows 13 to 19)."""

import copy

import pytest
import torch

from semipose.configs.load import InputError
from semipose.models.codecs.heatmap import heatmap_loss, warp
from semipose.pipelines.masking.masks import draw_order
from semipose.training.methods.consistency import augment, strong_view, what_to_mix
from semipose.training.methods.mixup import draw_alpha, mix, mix_labels
from tests.training.tiny import LATE, K, make_batches, make_method


def example(seed: int, *, weights: bool) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    predicted, target = torch.rand(2, 6, K, 4, 3, generator=generator, dtype=torch.float64)
    shape = (6, K, 1, 1) if seed % 2 else (6, K, 4, 3)
    weight = (
        (torch.rand(shape, generator=generator) > 0.4).double()
        if weights
        else torch.ones(6, 1, 1, 1).double()
    )
    alpha = torch.rand((), generator=generator, dtype=torch.float64)
    return predicted.requires_grad_(), target, weight, alpha, torch.randperm(6, generator=generator)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_equation_4_as_two_losses_and_as_one_mixed_target_have_equal_gradients(
    seed: int, weights: bool
) -> None:
    predicted, target, weight, alpha, partners = example(seed, weights=weights)

    def squared(towards: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((predicted - towards) ** 2 * by).mean()

    two = alpha * squared(target, weight) + (1 - alpha) * squared(target[partners], weight[partners])
    (by_two,) = torch.autograd.grad(two, predicted)
    mixed, total = mix_labels(target, weight, alpha, partners)
    (by_one,) = torch.autograd.grad(0.5 * ((predicted - mixed) ** 2 * total).mean(), predicted)
    assert torch.allclose(by_two, by_one, atol=1e-15)


def test_where_all_count_the_target_is_the_mixed_heatmap() -> None:
    _, target, weight, alpha, partners = example(0, weights=False)
    mixed, total = mix_labels(target, weight, alpha, partners)
    assert torch.allclose(mixed, mix(target, alpha, partners))
    assert torch.allclose(total, torch.ones_like(total))


def test_a_label_that_nobody_trusts_stays_out() -> None:
    _, target, _, alpha, partners = example(1, weights=False)
    mixed, total = mix_labels(target, torch.zeros(6, K, 1, 1), alpha, partners)
    assert not total.any()
    assert torch.isfinite(mixed).all()


@pytest.mark.parametrize("views", ["weak", "strong", "masked"])
def test_the_branch_mixes_the_views_of_the_recipe_with_their_own_labels(views: str) -> None:
    method = make_method(paths=[[{"name": "joint_cutout"}]], mixup={"layers": ["input"], "views": views})
    unlabelled = make_batches()[1]
    labels = method.labels(unlabelled)
    view = strong_view(method.cfg, unlabelled, labels, 4)
    masked, _ = augment(method.cfg.paths[0], view.scene, method.random_state)
    images, target, weights = what_to_mix(views, unlabelled, labels, view, masked)
    expected = {"weak": unlabelled.weak, "strong": unlabelled.strong, "masked": masked}[views]
    assert images is expected
    moved, inside = warp(labels.heatmaps, unlabelled.strong_from_weak, 4)
    assert torch.equal(target, labels.heatmaps if views == "weak" else moved)
    assert torch.equal(
        weights.expand_as(target), (1 if views == "weak" else inside) * torch.ones_like(target)
    )


def test_one_layer_a_step_or_a_pass_for_each() -> None:
    for passes, expected in (("one", 1), ("all", 2)):
        method = make_method(mixup={"layers": ["input", "head.final"], "passes": passes})
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        images, target = torch.randn(4, 3, 64, 48), torch.rand(4, K, 16, 12)
        method.network.register_forward_hook(counted)
        method.mixup.loss(images, target, torch.ones(4, 1, 1, 1))
        assert count == expected


def test_passes_for_every_layer_are_averaged() -> None:
    """Not summed: the weight of the branch means the same with one pass and with several."""
    settings = {"layers": ["input", "head.final"], "passes": "all"}
    method = make_method(mixup=settings)
    images, target = torch.randn(4, 3, 64, 48), torch.rand(4, K, 16, 12)
    twin, state = copy.deepcopy(method.network), method.rank_state()
    loss, _ = method.mixup.loss(images, target, torch.ones(4, 1, 1, 1))
    method.load_rank_state(state)
    losses = []
    for layer in settings["layers"]:
        alpha = draw_alpha(0.75, generator=method.random_state.generator)
        partners = draw_order(1, 4, generator=method.random_state.generator)[0]
        predicted = (
            twin(mix(images, alpha, partners)) if layer == "input" else mix(twin(images), alpha, partners)
        )
        losses.append(heatmap_loss(predicted, mix(target, alpha, partners)))
    assert torch.isclose(loss, sum(losses) / 2)


def test_layers_are_drawn_equally_often() -> None:
    method = make_method(mixup={"layers": ["input", "backbone.layer1", "head.final"]})
    taken = [method.random_state.one_of(3) for _ in range(900)]
    assert all(240 < taken.count(layer) < 360 for layer in range(3))


def test_mixing_before_the_linear_last_layer_mixes_the_heatmaps() -> None:
    method = make_method(mixup={"layers": ["head.final"], "weight": 1.0})
    twin = copy.deepcopy(method.network)
    images, target = torch.randn(4, 3, 64, 48), torch.rand(4, K, 16, 12)
    state = method.rank_state()
    loss, alpha = method.mixup.loss(images, target, torch.ones(4, 1, 1, 1))
    method.load_rank_state(state)
    method.random_state.one_of(1)
    assert torch.equal(alpha, draw_alpha(0.75, generator=method.random_state.generator))
    partners = draw_order(1, 4, generator=method.random_state.generator)[0]
    expected = heatmap_loss(mix(twin(images), alpha, partners), mix(target, alpha, partners))
    assert torch.isclose(loss, expected)


def test_an_unknown_layer_is_refused_with_near_names() -> None:
    with pytest.raises(InputError, match=r"no layer 'backbone.layr3'.*backbone\.layer3"):
        make_method(mixup={"layers": ["backbone.layr3"]})


def test_networks_of_a_method_are_mixed_apart() -> None:
    """The hooks of one network of a pair leave the other alone."""
    method = make_method("dual", mixup={"layers": ["backbone.layer3"]})
    one, two = method.first_mixup.mixers, method.second_mixup.mixers
    assert one["backbone.layer3"] is not two["backbone.layer3"]
    assert torch.isfinite(method(*make_batches(), LATE).loss)


@pytest.mark.parametrize("layer", ["backbone.layer2.0", "backbone.layer1.0.body", "head.laterals.0"])
def test_a_layer_that_features_go_past_is_refused(layer: str) -> None:
    with pytest.raises(InputError, match=rf"only some of the features .* enter '{layer}'"):
        make_method(mixup={"layers": [layer]})
