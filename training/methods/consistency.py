"""What the consistency methods share: a teacher labels the weak views, and a student learns from the labels.

The student learns on strong paths (several in MultiAugs, docs/methods.md 5; one in the other methods) and on
mixtures.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import HeatmapCodec, find_peaks, warp
from semipose.models.net import FeatureNet
from semipose.pipelines.batch import UnlabelledBatch
from semipose.pipelines.geometry import apply
from semipose.pipelines.strong import StrongAugmentation
from semipose.pipelines.strong.joint_cutout import AdaptiveMasks
from semipose.pipelines.strong.scene import Scene
from semipose.training.methods.method import (
    Ingredients,
    Inspection,
    Method,
    OptionNames,
    Progress,
    TeacherHealth,
    Terms,
)
from semipose.training.methods.mixup import MixupBranch, MixupSettings
from semipose.training.methods.ramp import RampSettings
from semipose.training.methods.random_state import RandomState
from semipose.training.teacher import EnsembleSettings, SharedTeacherSettings, TeacherSettings

StrongPath = tuple[StrongAugmentation, ...]


@settings
class ConsistencySettings(RampSettings):
    """Consistency between a weak and several strong views of the unlabelled people."""

    teacher: TeacherSettings = SharedTeacherSettings()
    """The network that labels the weak views."""
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    """The copies of a weak view over which the teacher's heatmaps are averaged (published: the view
    alone)."""
    paths: Annotated[tuple[StrongPath, ...], Field(min_length=1)] = ((AdaptiveMasks(),),)
    """The strong paths. Each is a list of augmentations that are applied to the strong view in order; `[[]]`
    is one path that shows the strong view unchanged."""
    mixup: MixupSettings | None = None
    """The Mixup branch; null: none."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the sum of the paths' losses."""
    labels: Literal["heatmaps", "keypoints"] = "heatmaps"
    """What the student's target is: the teacher's heatmaps (published), or a Gaussian at each of their
    peaks, read by the quarter shift. The target is made in the weak view and warped into the strong one, so a
    Gaussian keeps its size in relation to the person."""
    min_peak: Annotated[float, Field(ge=0)] = 0.0
    """Only pseudo labels whose peak is above this count (published: 0.1 in SSPCM); with 0 all of them
    count."""
    statistics: Literal["all", "plain"] = "all"
    """Which passes update the networks' running batch statistics: `all` (published), or with `plain` only
    those of the labelled and the weak views, which resemble the views that are scored."""
    outside: Literal["ignore", "background"] = "ignore"
    """How cells of the strong view that the weak view does not show count: `ignore` gives them no weight,
    `background` teaches that no keypoint is there (published)."""

    uses_unlabelled = True
    uses_every_parameter = True
    kinds = ("person",)
    options = OptionNames("method.min_peak", "method.burn_in", "method.weight")

    @property
    def mixup_weight(self) -> float:
        """lambda_m; 0 without the branch."""
        return self.mixup.weight if self.mixup else 0.0

    def mixup_branch(self, network: FeatureNet, ingredients: Ingredients) -> MixupBranch | None:
        """The Mixup branch of a student, if the recipe has one."""
        if self.mixup is None:
            return None
        return MixupBranch(self.mixup, ingredients.codec, network, ingredients.random_state)


@dataclass(frozen=True)
class PseudoLabels:
    """A teacher's labels of the weak views of N people."""

    heatmaps: torch.Tensor
    """(N, K, h, w), no gradient."""
    points_hm: torch.Tensor
    """(N, K, 2) heatmap px: the highest cells of the heatmaps."""
    peaks: torch.Tensor
    """(N, K): the values there."""
    target: torch.Tensor
    """(N, K, h, w): the target, still in the weak view."""
    joint_weights: torch.Tensor
    """(N, K): 0 for keypoints that do not count."""


@dataclass(frozen=True)
class StrongView:
    """The pseudo labels in the strong view, and the scene that the augmentations read."""

    scene: Scene
    target: torch.Tensor
    """(N, K, h, w)."""
    weights: torch.Tensor
    """(N, K, h, w): the weight of each cell's squared error."""


class StudentLosses(NamedTuple):
    """The losses of one student on the unlabelled people, not yet weighted, and the terms for the report."""

    unlabelled: torch.Tensor
    """L_u, the sum over the strong paths."""
    mixed: torch.Tensor | float
    """L_m; 0 without the branch."""
    terms: Terms
    """The losses of the branches, the health of the teacher, and what the augmentations tell."""


class ConsistencyMethod(Method):
    """A method in which teachers label weak views, and students learn from strong views and mixtures."""

    random_state: RandomState
    cfg: ConsistencySettings

    def __init__(self, cfg: ConsistencySettings, ingredients: Ingredients) -> None:
        super().__init__(ingredients.random_state)
        self.cfg = cfg
        self.codec: HeatmapCodec = ingredients.codec

    def unlabelled_share(self, progress: Progress) -> float:
        """The ramp: 0 in the burn-in, then rising to 1."""
        return self.cfg.ramp(progress)

    def pseudo_labels(self, heatmaps: torch.Tensor) -> PseudoLabels:
        """Labels from the teacher's heatmaps (N, K, h, w)."""
        (points_hm, peaks), target = find_peaks(heatmaps), heatmaps
        if self.cfg.labels == "keypoints":
            points_weak, _ = self.codec.decode(heatmaps, "shift")
            size_hw = (heatmaps.shape[-2], heatmaps.shape[-1])
            target, _ = self.codec.targets(points_weak, peaks > 0, size_hw)
        counted = peaks > self.cfg.min_peak if self.cfg.min_peak > 0 else torch.ones_like(peaks)
        return PseudoLabels(heatmaps, points_hm, peaks, target, counted.float())

    def student_losses(
        self,
        network: FeatureNet,
        mixup: MixupBranch | None,
        unlabelled: UnlabelledBatch,
        labels: PseudoLabels,
    ) -> StudentLosses:
        """L_u and L_m of `network`, with a teacher's labels of the weak views.

        All paths start from the same strong view. They run one after the other, each with its own batch
        statistics, and the mixture runs last.
        """
        cfg = self.cfg
        view = strong_view(cfg, unlabelled, labels, self.codec.stride)
        losses, path_images = [], []
        shown: dict[str, torch.Tensor] = {}
        loss_mixed: torch.Tensor | float = 0.0
        with keeping_statistics(network) if cfg.statistics == "plain" else nullcontext():
            for number, path in enumerate(cfg.paths, start=1):
                images, path_terms = augment(path, view.scene, self.random_state)  # Algorithm 1
                losses.append(self.codec.loss(network(images), view.target, view.weights))
                path_images.append(images)
                mark = "" if len(cfg.paths) == 1 else f"_path{number}"
                shown |= {f"{name}{mark}": term for name, term in path_terms.items()}
            loss_unlabelled = torch.stack(losses).sum()
            parts = {"loss_unlabelled": loss_unlabelled.detach()}
            if mixup is not None:
                first = path_images[0]
                images, target, weights = what_to_mix(mixup.cfg.views, unlabelled, labels, view, first)
                loss_mixed, shown["alpha"] = mixup.loss(images, target, weights)  # Equation 4
                parts["loss_mixed"] = loss_mixed.detach()
        return StudentLosses(loss_unlabelled, loss_mixed, Terms(parts, {"": health_of(labels)}, shown))

    def inspect_student(
        self, mixup: MixupBranch | None, unlabelled: UnlabelledBatch, labels: PseudoLabels
    ) -> Inspection:
        """What a student sees of `unlabelled`; advances the random state."""
        view = strong_view(self.cfg, unlabelled, labels, self.codec.stride)
        images = [augment(path, view.scene, self.random_state)[0] for path in self.cfg.paths]
        augmented = {f"path {number}": shown for number, shown in enumerate(images, start=1)}
        if mixup is not None:
            to_mix, _, _ = what_to_mix(mixup.cfg.views, unlabelled, labels, view, images[0])
            augmented["mixed"] = mixup.example(to_mix)
        return Inspection(
            weak=unlabelled.weak,
            strong=unlabelled.strong,
            augmented=augmented,
            heatmaps=labels.heatmaps,
            target=view.target,
            points_weak=view.scene.points_weak,
            points_strong=apply(unlabelled.strong_from_weak, view.scene.points_weak),
        )


def strong_view(
    cfg: ConsistencySettings, unlabelled: UnlabelledBatch, labels: PseudoLabels, stride: int
) -> StrongView:
    """Warp a teacher's heatmaps into the strong views. stride: view px between two heatmap cells."""
    target, inside = warp(labels.target, unlabelled.strong_from_weak, stride)
    weights = labels.joint_weights[:, :, None, None]
    weights = weights * inside if cfg.outside == "ignore" else weights.expand_as(target)
    scene = Scene(unlabelled.strong, labels.peaks, labels.points_hm * stride, unlabelled.strong_from_weak)
    return StrongView(scene, target, weights)


def augment(
    path: StrongPath, scene: Scene, random_state: RandomState
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The strong views (N, 3, H, W) after the augmentations of one path, and its terms for the report."""
    images = scene.strong.clone()
    terms: dict[str, torch.Tensor] = {}
    for augmentation in path:
        images, augmentation_terms = augmentation.apply(images, scene, random_state.generator)
        terms |= augmentation_terms
    return images, terms


def what_to_mix(
    views: Literal["weak", "strong", "masked"],
    unlabelled: UnlabelledBatch,
    labels: PseudoLabels,
    view: StrongView,
    first: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (N, 3, H, W), target and weights to mix. first: the images of the first path."""
    if views == "weak":
        return unlabelled.weak, labels.target, labels.joint_weights[:, :, None, None]
    return first if views == "masked" else unlabelled.strong, view.target, view.weights


@contextmanager
def keeping_statistics(network: nn.Module) -> Iterator[None]:
    """Inside, the running batch statistics of `network` stay unchanged."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def health_of(labels: PseudoLabels) -> TeacherHealth:
    """A teacher's mean peak, its share of keypoints that count, and its share of cells above 0.1."""
    return TeacherHealth(
        peak=labels.peaks.mean(),
        trusted_share=labels.joint_weights.mean(),
        cells=(labels.heatmaps > 0.1).float().mean(),
    )
