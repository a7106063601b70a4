"""Pseudo labels: train a teacher, freeze it, label the unlabelled people, train a student (PseudoPose).

With an ensemble over flips and scales this is Data Distillation (Radosavovic et al., CVPR 2018). The people
are labelled in each step instead of once into a file: the teacher sees the weak view, and the student sees
the strong view with the keypoints moved into it. If the weak view is only mirrored and the strong view is
drawn like the labelled one, this equals labelling each person once and training with the usual augmentation.
"""

from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import HeatmapCodec, find_peaks
from semipose.models.net import FeatureNet
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.geometry import apply
from semipose.training.methods.method import (
    Ingredients,
    Inspection,
    Method,
    OptionNames,
    Progress,
    StepResult,
    TeacherHealth,
    Terms,
    loss_terms,
)
from semipose.training.teacher import Ensemble, EnsembleSettings


@settings
class PseudoLabelSettings:
    """A teacher that was trained on the labelled people labels the others for a student."""

    name: Literal["pseudo_label"] = "pseudo_label"
    teacher_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the run that trains the teacher; the rest trains the student. Each of the two has the whole
    schedule of the learning rate."""
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    """The copies of a view over which the teacher's heatmaps are averaged (Data Distillation)."""
    min_peak: Annotated[float, Field(ge=0)] = 0.0
    """Only pseudo labels whose peak is above this count."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of the unlabelled people."""

    num_networks = 2
    uses_unlabelled = True
    uses_every_parameter = False
    kinds = ("person",)
    options = OptionNames("method.min_peak", "method.teacher_share", "method.weight")

    def settled_from(self, total_steps: int) -> int:
        """The step from which the student is trained."""
        return max(1, round(self.teacher_share * total_steps))

    def build(self, ingredients: Ingredients) -> "PseudoLabel":
        """The method."""
        return PseudoLabel(self, ingredients)


class PseudoLabel(Method):
    """First L = L_s of the teacher; then, with the teacher frozen, L = L_s + lambda_u L_u of the student."""

    def __init__(self, cfg: PseudoLabelSettings, ingredients: Ingredients) -> None:
        super().__init__()
        self.cfg = cfg
        self.codec: HeatmapCodec = ingredients.codec
        self.teacher = ingredients.make_network(None)
        self.network = ingredients.make_network(None)
        self.ensemble = Ensemble(cfg.ensemble, ingredients.codec, self.teacher)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step of the training of the teacher or of the student."""
        if not self.wants_unlabelled(progress):
            loss = self.codec.supervised_loss(self.teacher(labelled.image), labelled)
            return StepResult(loss, loss_terms(loss, supervised=loss))
        assert unlabelled is not None
        loss_supervised = self.codec.supervised_loss(self.network(labelled.image), labelled)
        heatmaps = self.label(unlabelled.weak)
        target, weights = self.target(unlabelled, heatmaps)
        predicted = self.network(unlabelled.strong)
        loss_unlabelled = self.codec.loss(predicted, target, weights[:, :, None, None])
        loss = loss_supervised + self.cfg.weight * loss_unlabelled
        terms = loss_terms(loss, supervised=loss_supervised, unlabelled=loss_unlabelled)
        health = TeacherHealth(peak=heatmaps.amax(dim=(2, 3)).mean(), trusted_share=weights.mean())
        return StepResult(loss, terms | Terms({}, {"": health}))

    @torch.no_grad()
    def label(self, weak: torch.Tensor) -> torch.Tensor:
        """The frozen teacher's heatmaps (N, K, h, w) of weak views, averaged over the ensemble's copies."""
        self.teacher.eval()
        return self.ensemble(self.teacher, weak)

    def target(
        self, unlabelled: UnlabelledBatch, heatmaps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussians (N, K, h, w) in the strong view at the keypoints of `heatmaps`, and weights (N, K)."""
        points_weak, peaks = self.codec.decode(heatmaps, "shift")  # as published
        points_strong = apply(unlabelled.strong_from_weak, points_weak)
        counted = peaks > self.cfg.min_peak
        size_hw = (heatmaps.shape[-2], heatmaps.shape[-1])
        return self.codec.targets(points_strong, counted, size_hw)

    def unlabelled_share(self, progress: Progress) -> float:
        """0 until the teacher is trained, then 1."""
        return float(progress.step >= self.cfg.settled_from(progress.total_steps))

    def rate_position(self, progress: Progress) -> Progress:
        """The position within the training of the teacher, or of the student."""
        first_steps = self.cfg.settled_from(progress.total_steps)
        if progress.step < first_steps:
            return Progress(progress.step, first_steps)
        return Progress(progress.step - first_steps, progress.total_steps - first_steps)

    def networks(self) -> dict[str, FeatureNet]:
        """The student, which is the final network, and the teacher."""
        return {"student": self.network, "teacher": self.teacher}

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection:
        """The teacher's labels and the student's target."""
        with self.without_trace():
            heatmaps = self.label(unlabelled.weak)
            points_weak = find_peaks(heatmaps).points_hm * self.codec.stride
            return Inspection(
                weak=unlabelled.weak,
                strong=unlabelled.strong,
                augmented={},
                heatmaps=heatmaps,
                target=self.target(unlabelled, heatmaps)[0],
                points_weak=points_weak,
                points_strong=apply(unlabelled.strong_from_weak, points_weak),
            )
