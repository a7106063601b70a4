"""Who labels the weak views: the trained network, its moving average, or its previous epoch.

An `Ensemble` averages a teacher's heatmaps over copies of a view, mirrored or enlarged. Data Distillation
(Radosavovic et al., CVPR 2018) does this with a frozen teacher; here any teacher can do it.
"""

import copy
from collections.abc import Callable
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from timm.utils import ModelEmaV3
from torch import nn

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import HeatmapCodec, warp
from semipose.models.net import FeatureNet
from semipose.pipelines.geometry import invert


class SharedTeacher(nn.Module):
    """The trained network itself in train mode, without gradient (docs/methods.md 3.2 and 9, row 12)."""

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:
        """(N, 3, H, W) images to (N, K, h, w) heatmaps; the pass updates the batch statistics."""
        return network(images)

    def source(self, network: nn.Module) -> nn.Module:
        """The module that gives the labels: `network` itself."""
        return network

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Nothing to do: the network is its own teacher."""

    def networks(self) -> dict[str, FeatureNet]:
        """Empty: it has no network of its own."""
        return {}


class AverageTeacher(nn.Module):
    """An exponential moving average of the network's parameters and buffers, in eval mode."""

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__()
        # With power 1 the average starts as the plain mean of all steps, and its decay rises to `momentum`.
        self.average = ModelEmaV3(network, decay=momentum, use_warmup=True, warmup_power=1.0)
        self.average.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:  # noqa: ARG002
        """(N, 3, H, W) images to (N, K, h, w) heatmaps of the average."""
        return self.average.module(images)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that gives the labels: the average."""
        return self.average.module

    def train(self, mode: bool = True) -> "AverageTeacher":  # noqa: ARG002
        """Stay in eval mode: the average's batch statistics are averages too."""
        return super().train(False)

    def update(self, network: nn.Module, updates_done: int) -> None:
        """Move the average towards `network` after its optimiser step `updates_done` (counted from 1)."""
        self.average.update(network, step=updates_done)

    def networks(self) -> dict[str, FeatureNet]:
        """The average, which can be scored like the network."""
        return {"average": cast(FeatureNet, self.average.module)}


class PreviousEpochTeacher(nn.Module):
    """The network as it was at the end of the previous epoch (SSPCM; docs/methods.md 4.1).

    In the first epoch it is the network with its initial weights. The copy runs in the mode that `network` is
    in when the teacher is made: in train mode, as published, or in eval mode if it copies an average.
    """

    def __init__(self, network: nn.Module, epoch_steps: int) -> None:
        super().__init__()
        self.epoch_steps = epoch_steps
        self.previous = copy.deepcopy(network).requires_grad_(False)
        self._is_trained = network.training

    @torch.no_grad()
    def forward(self, images: torch.Tensor, network: nn.Module) -> torch.Tensor:  # noqa: ARG002
        """(N, 3, H, W) images to (N, K, h, w) heatmaps of the copy, without gradient."""
        return self.previous(images)

    def train(self, mode: bool = True) -> "PreviousEpochTeacher":
        """Set the mode; the copy of an average stays in eval mode."""
        return super().train(mode and self._is_trained)

    def source(self, network: nn.Module) -> nn.Module:  # noqa: ARG002
        """The module that gives the labels: the copy."""
        return self.previous

    @torch.no_grad()
    def update(self, network: nn.Module, updates_done: int) -> None:
        """Copy `network` if its optimiser step number `updates_done` (counted from 1) ended an epoch."""
        if updates_done % self.epoch_steps == 0:
            source, own = network.state_dict(), self.previous.state_dict()
            for name, value in own.items():
                value.copy_(source[name])

    def networks(self) -> dict[str, FeatureNet]:
        """Empty: the copy is not scored."""
        return {}


@settings
class SharedTeacherSettings:
    """The trained network itself, without gradient and with batch norm in train mode (published)."""

    name: Literal["shared"] = "shared"

    def build(self, network: nn.Module, epoch_steps: int) -> SharedTeacher:  # noqa: ARG002
        """The teacher of `network`."""
        return SharedTeacher()


@settings
class AverageTeacherSettings:
    """An exponential moving average of the network, in eval mode."""

    name: Literal["ema"] = "ema"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Share of the average that each step keeps, once it has warmed up."""

    def build(self, network: nn.Module, epoch_steps: int) -> AverageTeacher:  # noqa: ARG002
        """The teacher of `network`, which starts as a copy of it."""
        return AverageTeacher(network, self.momentum)


@settings
class PreviousEpochTeacherSettings:
    """The network as it was at the end of the previous epoch."""

    name: Literal["previous_epoch"] = "previous_epoch"
    epoch_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps per epoch; null: as many as show every labelled and every unlabelled person or photo once."""

    def build(self, network: nn.Module, epoch_steps: int) -> PreviousEpochTeacher:
        """The teacher of `network`, which starts as a copy of it; `epoch_steps` if the settings have none."""
        return PreviousEpochTeacher(network, self.epoch_steps or epoch_steps)


TeacherSettings = Annotated[
    SharedTeacherSettings | AverageTeacherSettings | PreviousEpochTeacherSettings, Field(discriminator="name")
]


@settings
class EnsembleSettings:
    """Copies of the weak view whose heatmaps are averaged."""

    flip: bool = False
    """Add the mirror image of each copy."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """Factors by which the view is enlarged about its centre."""


class Ensemble(nn.Module):
    """Averages a teacher's heatmaps over copies of the views."""

    def __init__(self, cfg: EnsembleSettings, codec: HeatmapCodec, like: nn.Module) -> None:
        """`like`: a network on the device to use."""
        super().__init__()
        self.cfg = cfg
        self.stride = codec.stride
        order, device = codec.skeleton.flip_order, next(like.parameters()).device
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
