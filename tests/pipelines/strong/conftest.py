"""A scene whose pixels say where they come from."""

from collections.abc import Callable

import pytest
import torch

from semipose.pipelines.strong import Scene


@pytest.fixture
def coordinate_scene() -> Callable[..., Scene]:
    """`coordinate_scene(N, K, size_hw)`: pixel (column, row) of strong view n is (column, row, n).

    All joints respond equally; they lie anywhere in the weak view, of which the strong one is a copy unless
    `strong_from_weak` (N, 2, 3) says otherwise.
    """

    def make(
        num_samples: int = 4,
        num_keypoints: int = 17,
        size_hw: tuple[int, int] = (64, 48),
        *,
        strong_from_weak: torch.Tensor | None = None,
        points_weak: torch.Tensor | None = None,
        seed: int = 0,
    ) -> Scene:
        height, width = size_hw
        draws = torch.Generator().manual_seed(seed)
        if strong_from_weak is None:
            strong_from_weak = torch.eye(2, 3).repeat(num_samples, 1, 1)
        if points_weak is None:
            points_weak = torch.rand(num_samples, num_keypoints, 2, generator=draws)
            points_weak = points_weak * torch.tensor([width - 1.0, height - 1.0])
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        strong = torch.stack((columns, rows, torch.zeros_like(rows))).float().repeat(num_samples, 1, 1, 1)
        strong[:, 2] = torch.arange(num_samples)[:, None, None]
        return Scene(
            strong.contiguous(memory_format=torch.channels_last),
            torch.ones(num_samples, num_keypoints),
            points_weak,
            strong_from_weak,
        )

    return make
