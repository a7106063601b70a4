import numpy as np
import pytest
import torch

from semipose.models.codecs.heatmap import heatmap_loss


def test_equals_a_plain_loop_of_the_published_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.rand(3, 5, 4, 6, generator=generator) for _ in range(2))
    joints = torch.rand(3, 5, generator=generator)
    cells = torch.rand(3, 1, 4, 6, generator=generator)
    expected = 0.0  # the published kernel weighs the error before it is squared
    for k in range(5):
        errors = [
            (joints[n, k] * cells[n, 0, y, x] * (predicted[n, k, y, x] - target[n, k, y, x])).item() ** 2
            for n in range(3)
            for y in range(4)
            for x in range(6)
        ]
        expected += 0.5 * float(np.mean(errors)) / 5
    assert torch.isclose(
        heatmap_loss(predicted, target, (joints[:, :, None, None] * cells).square()), torch.tensor(expected)
    )


def test_an_unlabelled_keypoint_gives_no_gradient_but_counts_in_the_divisor() -> None:
    predicted = torch.ones(1, 2, 2, 2, requires_grad=True)
    target = torch.zeros(1, 2, 2, 2)
    loss = heatmap_loss(predicted, target, torch.tensor([[1.0, 0.0]])[:, :, None, None])
    loss.backward()
    assert loss.item() == 0.25
    assert predicted.grad is not None
    assert predicted.grad[0, 1].abs().max() == 0


@pytest.mark.parametrize("is_weighted", [False, True])
def test_gradient_is_that_of_the_formula(is_weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.rand(3, 5, 4, 6, generator=generator) for _ in range(2))
    weights = torch.rand(3, 5, 1, 1, generator=generator) if is_weighted else None
    one, other = (predicted.clone().requires_grad_() for _ in range(2))
    (3.0 * heatmap_loss(one, target, weights)).backward()
    squared = (other - target).square() if weights is None else (other - target).square() * weights
    (3.0 * 0.5 * squared.mean()).backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_half_precision_predictions_are_scored_in_float32() -> None:
    predicted = torch.full((1, 1, 2, 2), 0.1, dtype=torch.bfloat16)
    loss = heatmap_loss(predicted, torch.zeros(1, 1, 2, 2))
    assert loss.dtype == torch.float32
    assert torch.isclose(loss, 0.5 * predicted.float().square().mean())
