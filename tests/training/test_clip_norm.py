"""Gradients that are too long are shortened before the update, and the report says how long they were."""

import pytest
import torch
from accelerate import Accelerator

from semipose.training.loop import train_step
from semipose.training.methods.method import Progress
from semipose.training.settings import OptimSettings
from tests.training.tiny import make_batches, make_method


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_the_update_is_that_of_the_shortened_gradient(share: float) -> None:
    """One step of plain gradient descent with a rate of 1 moves the weights by the gradient itself."""

    def step(clip_norm: float | None) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        method = make_method("supervised")
        before = torch.nn.utils.parameters_to_vector(method.parameters())
        optimizer = torch.optim.SGD(method.parameters())
        optim = OptimSettings(lr=1.0, clip_norm=clip_norm)
        accelerator = Accelerator(cpu=True)
        labelled = make_batches()[0]
        terms = train_step(method, method, optimizer, accelerator, optim, labelled, None, Progress(0, 100))
        return torch.nn.utils.parameters_to_vector(method.parameters()) - before, terms.by_name()

    free, terms = step(None)
    assert "gradient_norm" not in terms
    length = free.norm()
    moved, terms = step(float(share * length))
    torch.testing.assert_close(terms["gradient_norm"], length, rtol=1e-4, atol=0)
    torch.testing.assert_close(moved, free * min(1.0, share), rtol=1e-3, atol=1e-7)
