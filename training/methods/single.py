"""Single: one network, weak view to strong view, with its masking policies and its Mixup branch.

Without masking it is the affine consistency of Xie et al. (ICCV 2021, "PoseCons"), with `fixed` masking their
Joint Cutout, with `adaptive` masking and the Mixup branch Meng et al. (arXiv 2404.14835).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

from configs.settings import settings
from models.heatmap import peak_points, warp
from models.net import PoseNet
from pipelines.batch import LabelledBatch, UnlabelledBatch
from pipelines.geometry import apply
from pipelines.masking.choice import draw_masks
from pipelines.masking.op import mask_keypoints
from pipelines.masking.policy import AdaptiveMasks, MaskingPolicy
from pipelines.mixing import FeatureMixer, draw_alpha, draw_partners, mix
from training.losses import heatmap_loss
from training.methods.method import Inspection, Method, Progress, StepResult
from training.methods.supervised import supervised_loss
from training.teacher import SharedTeacherSettings, TeacherSettings


@settings
class NoMixup:
    """No second strong branch."""

    name: Literal["none"] = "none"


@settings
class Mixup:
    """A branch that trains on mixtures of two unlabelled people (methods.md 9, rows 13 to 19)."""

    name: Literal["image", "feature", "random"] = "random"
    """What is mixed: the images, the features that enter `layer`, or per step one of the two at random."""
    layer: str = "backbone.layer3"
    """The module of the network whose input is mixed."""
    beta: Annotated[float, Field(gt=0)] = 0.75
    """Both parameters of the Beta distribution of alpha."""
    weight: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the branch in the loss (lambda_m)."""


@settings
class SingleSettings:
    """Consistency of one network between a weak and a strong view of the unlabelled people."""

    name: Literal["single"] = "single"
    teacher: TeacherSettings = SharedTeacherSettings()
    """Who labels the weak views."""
    masking: MaskingPolicy = AdaptiveMasks()
    """How many keypoints are masked in a strong view."""
    mixup: Annotated[NoMixup | Mixup, Field(discriminator="name")] = Mixup()
    """The second strong branch."""
    weight: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the strong branch in the loss (lambda_u)."""
    burn_in_steps: Annotated[int, Field(ge=0)] = 0
    """Steps on the labelled people alone before the unlabelled ones join."""
    ramp_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the weights of both branches rise from zero after the burn-in."""
    outside: Literal["ignore", "background"] = "ignore"
    """What cells of the strong view beyond the weak view count as: nothing, or empty (published)."""

    uses_unlabelled = True

    @property
    def settled_from_step(self) -> int:
        """The step from which the unlabelled losses have their full weights."""
        return self.burn_in_steps + self.ramp_steps

    def build(self, network: PoseNet, sigma: float, seed: int, rank: int) -> "Single":
        """The method around `network`; its random draws follow from `seed` and `rank`."""
        return Single(self, network, sigma, seed=seed, rank=rank)


@dataclass(frozen=True)
class StrongView:
    """The masked strong view with its pseudo labels, and what was done to it."""

    images: torch.Tensor
    """(N, 3, H, W), masked."""
    target: torch.Tensor
    """(N, K, h, w): the teacher's heatmaps, carried into the strong view."""
    cell_weights: torch.Tensor | None
    """(N, 1, h, w): 0 where the weak view shows nothing; None where every cell counts."""
    points_weak: torch.Tensor
    """(N, K, 2) weak view px: the teacher's keypoints."""
    counts: torch.Tensor
    """(N,): masked keypoints."""
    terms: dict[str, torch.Tensor]
    """Means for the report."""


class Single(Method):
    """L = L_s + ramp (lambda_u L_u + lambda_m L_m)."""

    def __init__(self, cfg: SingleSettings, network: PoseNet, sigma: float, *, seed: int, rank: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.network = network
        self.sigma = sigma
        self.teacher = cfg.teacher.build(network)
        self.mixer = feature_mixer(cfg.mixup, network)
        device = next(network.parameters()).device
        # Masks, partners and alpha differ between ranks and are drawn on the device; which branch to take is
        # decided by the host, equally on every rank.
        self.device_generator = torch.Generator(device).manual_seed(2 * (seed * 1009 + rank))
        self.host_generator = torch.Generator().manual_seed(2 * seed + 1)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step: labelled, weak (teacher), masked strong, mixed; in this order (methods.md 3.2)."""
        loss_supervised = supervised_loss(self.network, labelled, self.sigma)
        terms = {"loss_supervised": loss_supervised.detach()}
        ramp = self.ramp(progress.step)
        if unlabelled is None:
            return StepResult(loss_supervised, {"loss": loss_supervised.detach(), **terms})

        heatmaps = self.teacher(unlabelled.weak, self.network)
        strong = self.strong_view(unlabelled, heatmaps)
        loss_unlabelled = heatmap_loss(
            self.network(strong.images), strong.target, cell_weights=strong.cell_weights
        )
        loss = loss_supervised + ramp * self.cfg.weight * loss_unlabelled
        terms |= {"loss_unlabelled": loss_unlabelled.detach()} | teacher_terms(heatmaps) | strong.terms
        if isinstance(self.cfg.mixup, Mixup):
            loss_mixed, alpha = self.mixed_loss(self.cfg.mixup, unlabelled.weak, heatmaps)
            loss = loss + ramp * self.cfg.mixup.weight * loss_mixed
            terms |= {"loss_mixed": loss_mixed.detach(), "alpha": alpha}
        return StepResult(loss, {"loss": loss.detach(), **terms})

    def wants_unlabelled(self, progress: Progress) -> bool:
        """After the burn-in."""
        return self.ramp(progress.step) > 0

    def ramp(self, step: int) -> float:
        """Share of the unlabelled weights in `step`: 0 in the burn-in, then a line up to 1."""
        since = step - self.cfg.burn_in_steps
        if since < 0:
            return 0.0
        return min(1.0, (since + 1) / (self.cfg.ramp_steps + 1))

    def strong_view(self, unlabelled: UnlabelledBatch, heatmaps: torch.Tensor) -> StrongView:
        """Mask the strong views at the teacher's keypoints and carry its heatmaps into them."""
        points_weak = peak_points(heatmaps, self.network.stride)
        counts, terms = self.cfg.masking.counts(heatmaps)
        images = unlabelled.strong.clone()
        masks = draw_masks(
            points_weak,
            counts,
            unlabelled.strong_from_weak,
            view_hw=(images.shape[-2], images.shape[-1]),
            generator=self.device_generator,
        )
        mask_keypoints(
            images, masks.points_xy, masks.counts, masks.half_sizes, masks.order, images.new_zeros(3)
        )
        target, inside = warp(heatmaps, unlabelled.strong_from_weak, self.network.stride)
        cell_weights = inside if self.cfg.outside == "ignore" else None
        return StrongView(images, target, cell_weights, points_weak, counts, terms)

    def mixed_loss(
        self, cfg: Mixup, weak: torch.Tensor, heatmaps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_m: mixed images or features against equally mixed heatmaps (Eq. 4; methods.md 9, rows 16-19)."""
        alpha = draw_alpha(cfg.beta, generator=self.device_generator)
        partners = draw_partners(len(weak), generator=self.device_generator)
        if self.mixer is not None and self.takes_features(cfg):
            with self.mixer.mixing(alpha, partners):
                predicted = self.network(weak)
        else:
            predicted = self.network(mix(weak, alpha, partners))
        return heatmap_loss(predicted, mix(heatmaps, alpha, partners)), alpha

    def takes_features(self, cfg: Mixup) -> bool:
        """Whether this step mixes features: always, never, or by a fair coin of the host's generator."""
        if cfg.name == "random":
            return bool(torch.rand((), generator=self.host_generator) < 0.5)
        return cfg.name == "feature"

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        self.teacher.update(self.network, progress.step + 1)

    def networks(self) -> dict[str, PoseNet]:
        """The network, and the teacher's average where there is one."""
        return {"network": self.network, **self.teacher.networks()}

    @torch.no_grad()
    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection:
        """What the strong branch makes of `unlabelled`; draws and batch statistics are left as they were."""
        state, was_training = self.rank_state(), self.training
        self.eval()
        heatmaps = self.teacher(unlabelled.weak, self.network)
        strong = self.strong_view(unlabelled, heatmaps)
        mixed = None
        if isinstance(self.cfg.mixup, Mixup):
            alpha = draw_alpha(self.cfg.mixup.beta, generator=self.device_generator)
            partners = draw_partners(len(heatmaps), generator=self.device_generator)
            mixed = mix(unlabelled.weak, alpha, partners)
        self.train(was_training)
        self.load_rank_state(state)
        return Inspection(
            weak=unlabelled.weak,
            strong=unlabelled.strong,
            masked=strong.images,
            mixed=mixed,
            heatmaps=heatmaps,
            target=strong.target,
            points_weak=strong.points_weak,
            points_strong=apply(unlabelled.strong_from_weak, strong.points_weak),
            counts=strong.counts,
        )

    def rank_state(self) -> dict[str, torch.Tensor]:
        """The states of both generators."""
        return {"device": self.device_generator.get_state(), "host": self.host_generator.get_state()}

    def load_rank_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore both generators."""
        self.device_generator.set_state(state["device"].cpu())
        self.host_generator.set_state(state["host"].cpu())


def feature_mixer(cfg: NoMixup | Mixup, network: PoseNet) -> FeatureMixer | None:
    """The mixer at the recipe's layer, where the branch mixes features at all."""
    if isinstance(cfg, NoMixup) or cfg.name == "image":
        return None
    return FeatureMixer(network, cfg.layer)


def teacher_terms(heatmaps: torch.Tensor) -> dict[str, torch.Tensor]:
    """What tells a healthy teacher from a collapsing one: its mean peak, and its share of cells above 0.1."""
    return {
        "teacher_peak": heatmaps.float().amax(dim=(2, 3)).mean(),
        "teacher_cells": (heatmaps > 0.1).float().mean(),
    }
