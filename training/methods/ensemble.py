"""Labels from several copies of a view, mirrored or enlarged, whose heatmaps are warped back and averaged.

Data Distillation (Radosavovic et al., CVPR 2018) does this with a frozen teacher; here any teacher can do it.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from configs.settings import settings
from models.codecs.heatmap import warp
from pipelines.geometry import invert
from training.methods.method import Ingredients


@settings
class EnsembleSettings:
    """Copies of the weak view whose heatmaps are averaged."""

    flip: bool = False
    """Add the mirror image of each copy."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Factors by which the view is enlarged about its centre."""


class Ensemble(nn.Module):
    """Averages a teacher's heatmaps over copies of the views."""

    def __init__(self, cfg: EnsembleSettings, ingredients: Ingredients, like: nn.Module) -> None:
        """`like`: a network on the device to use."""
        super().__init__()
        self.cfg = cfg
        self.stride = ingredients.codec.stride
        order, device = ingredients.codec.skeleton.flip_order, next(like.parameters()).device
        flip_order = torch.tensor(order, device=device)
        self.register_buffer("flip_order", flip_order, persistent=False)
        self.flip_order: torch.Tensor

    @torch.no_grad()
    def forward(self, answer: Callable[[torch.Tensor], torch.Tensor], weak: torch.Tensor) -> torch.Tensor:
        """Heatmaps (N, K, h, w) of weak views (N, 3, H, W); `answer` gives the heatmaps of one copy."""
        if self.cfg == EnsembleSettings():
            return answer(weak)
        total, shares = torch.zeros((), device=weak.device), torch.zeros((), device=weak.device)
        for scale in self.cfg.scales:
            for is_mirrored in (False, True) if self.cfg.flip else (False,):
                copy_from_weak = copy_matrix(weak, self.stride, scale, is_mirrored)
                heatmaps = answer(warp(weak, copy_from_weak, 1)[0])
                if is_mirrored:
                    heatmaps = heatmaps[:, self.flip_order]
                back, inside = warp(heatmaps, invert(copy_from_weak), self.stride)
                total, shares = total + back * inside, shares + inside
        return total / shares.clamp_min(1)


def copy_matrix(views: torch.Tensor, stride: int, scale: float, is_mirrored: bool) -> torch.Tensor:
    """(N, 2, 3), px: the matrix from views (N, 3, H, W) to copies that are enlarged by `scale` and mirrored.

    The mirror axis is the middle of the heatmap's cells, so that cells fall on cells.
    """
    height, width = views.shape[-2:]
    x_mid, y_mid = (width - stride) / 2, (height - stride) / 2
    x_scale = -scale if is_mirrored else scale
    copy_from_view = torch.zeros(len(views), 2, 3, device=views.device)
    # Filled on the device: a matrix of host numbers would have to be copied, and the copy waited for.
    copy_from_view[:, 0, 0].fill_(x_scale)
    copy_from_view[:, 0, 2].fill_(x_mid - x_scale * x_mid)
    copy_from_view[:, 1, 1].fill_(scale)
    copy_from_view[:, 1, 2].fill_(y_mid - scale * y_mid)
    return copy_from_view
