"""Nothing that masks or mixes reads a number back to the host (it would stop a GPU's queue each step)."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipelines.masking.choice import draw_masks
from pipelines.masking.op import mask_keypoints
from pipelines.masking.policy import AdaptiveMasks, FixedMasks, NoMasks
from pipelines.mixing import draw_alpha, draw_partners, mix

POLICIES = [NoMasks(), FixedMasks(), AdaptiveMasks()]


def mask_and_mix(policy, generator: torch.Generator, views: list[torch.Tensor]) -> torch.Tensor:
    heatmaps, points_weak, strong, strong_from_weak, fill = views
    counts, _ = policy.counts(heatmaps)
    masks = draw_masks(points_weak, counts, strong_from_weak, (64, 48), generator=generator)
    mask_keypoints(strong, *masks, fill)
    alpha = draw_alpha(0.75, generator=generator)
    return mix(strong, alpha, draw_partners(len(strong), generator=generator))


def make_views() -> list[torch.Tensor]:
    shapes = [(4, 17, 16, 12), (4, 17, 2), (4, 3, 64, 48), (4, 2, 3), (3,)]
    return [torch.ones(shape) for shape in shapes]


@pytest.mark.parametrize("policy", POLICIES)
def test_step_runs_on_tensors_without_numbers(policy) -> None:
    """Fake tensors have shapes only: whoever asks one for its number gets an error."""
    generator = torch.Generator().manual_seed(0)
    with FakeTensorMode() as fake:
        views = [fake.from_tensor(view) for view in make_views()]
        with pytest.raises(DataDependentOutputException):
            views[0].sum().item()
        assert mask_and_mix(policy, generator, views).shape == (4, 3, 64, 48)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", POLICIES)
def test_step_does_not_wait_for_the_gpu(policy) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    views = [view.cuda() for view in make_views()]
    mask_and_mix(policy, generator, views)  # compiles the kernel
    with contextlib.ExitStack() as stack:
        torch.cuda.set_sync_debug_mode("error")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        mask_and_mix(policy, generator, views)
