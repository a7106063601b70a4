"""Triple: two teachers that teach each other, and a student of both (SSPCM, Huang et al., CVPR 2023).

The step is that of docs/methods.md 4.1 with the corrections of 4.4: the student learns the mean of both
teachers while there is no previous epoch, and the teachers' copies of the previous epoch stay on the device.
If averages of the teachers give the labels (`teacher: ema`), the copies are copies of these averages, so that
two periods of one teacher are compared and not two kinds of network.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import find_peaks
from semipose.models.net import FeatureNet, NetSettings
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.pipelines.strong.cut_occlude import CutOcclude
from semipose.training.methods.consistency import (
    ConsistencyMethod,
    ConsistencySettings,
    PseudoLabels,
    StrongPath,
)
from semipose.training.methods.method import (
    Ingredients,
    Inspection,
    Progress,
    StepResult,
    Terms,
    loss_terms,
)
from semipose.training.teacher import Ensemble, PreviousEpochTeacher


@settings
class TripleSettings(ConsistencySettings):
    """Two teachers and a student; its labels are corrected by the teachers' position inconsistency."""

    name: Literal["triple"] = "triple"
    paths: Annotated[tuple[StrongPath, ...], Field(min_length=1)] = ((CutOcclude(),),)
    """The strong paths of all three networks."""
    min_peak: Annotated[float, Field(ge=0)] = 0.1
    """Keypoints count if the mean of both teachers' peaks is above this."""
    teacher_net: NetSettings | None = None
    """The network of both teachers, if it differs from the student's; null: `net`."""
    second_teacher_net: NetSettings | None = None
    """The network of the second teacher, if it starts from other weights; null: that of the first one."""
    epoch_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps per epoch; the teachers are copied at the end of each epoch, and the copies label in the next
    one. null: as many as show every labelled and every unlabelled person once."""
    max_inconsistency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keypoints count only if the teachers' positions differ by less than this share of the heatmap's
    diagonal (published as 0.6, but switched off in every released recipe); null: they all count."""
    weigh_by_position: bool = False
    """Weight each keypoint by one minus the distance between the teachers' positions, as such a share."""
    weigh_by_peak: bool = False
    """Weight each keypoint by one minus the difference between the teachers' peaks."""

    num_networks = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher.name == "previous_epoch":
            raise ValueError(
                "teacher.name previous_epoch would give labels from the same copies that triple compares the "
                "teachers with: use shared (published) or ema"
            )

    def build(self, ingredients: Ingredients) -> "Triple":
        """The method."""
        return Triple(self, ingredients)


class Triple(ConsistencyMethod):
    """L = (L_sA + L_sB + L_sS) / 2 + ramp (L_A + L_B + L_S).

    L_A is computed with B's labels, L_B with A's, and L_S with the corrected ones.
    """

    cfg: TripleSettings

    def __init__(self, cfg: TripleSettings, ingredients: Ingredients) -> None:
        super().__init__(cfg, ingredients)
        self.network = ingredients.make_network(None)
        self.a = ingredients.make_network(cfg.teacher_net)
        self.b = ingredients.make_network(cfg.second_teacher_net or cfg.teacher_net)
        self.epoch_steps = cfg.epoch_steps or ingredients.epoch_steps
        self.labeller_a = cfg.teacher.build(self.a, self.epoch_steps)
        self.labeller_b = cfg.teacher.build(self.b, self.epoch_steps)
        self.ensemble = Ensemble(cfg.ensemble, ingredients.codec, self.network)
        self.previous_a = PreviousEpochTeacher(self.labeller_a.source(self.a), self.epoch_steps)
        self.previous_b = PreviousEpochTeacher(self.labeller_b.source(self.b), self.epoch_steps)
        trained = (self.a, self.b, self.network)
        self.mixups = tuple(cfg.mixup_branch(network, ingredients) for network in trained)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step: labelled, weak and strong views, the teachers before the student."""
        cfg, trained = self.cfg, (self.a, self.b, self.network)
        supervised = torch.stack(
            [self.codec.supervised_loss(network(labelled.image), labelled) for network in trained]
        )
        loss = loss_supervised = 0.5 * supervised.sum()
        terms = Terms({})
        if unlabelled is not None:
            of_a, of_b, corrected = self.labels(unlabelled, progress)
            taught = zip(trained, self.mixups, (of_b, of_a, corrected), strict=True)
            for number, (network, mixup, labels) in enumerate(taught, start=1):
                student = self.student_losses(network, mixup, unlabelled, labels)
                loss_student = cfg.weight * student.unlabelled + cfg.mixup_weight * student.mixed
                loss = loss + cfg.ramp(progress) * loss_student
                terms |= student.terms.marked(f"_{number}")
        return StepResult(loss, loss_terms(loss, supervised=loss_supervised) | terms)

    def labels(
        self, unlabelled: UnlabelledBatch, progress: Progress
    ) -> tuple[PseudoLabels, PseudoLabels, PseudoLabels]:
        """The labels of A, those of B, and the corrected ones, all with the same weights of the keypoints."""
        answer, weak = self.ensemble, unlabelled.weak
        of_a = answer(lambda views: self.labeller_a(views, self.a), weak)
        of_b = answer(lambda views: self.labeller_b(views, self.b), weak)
        if progress.step < self.epoch_steps:
            corrected = 0.5 * (of_a + of_b)
        else:
            before_a = answer(lambda views: self.previous_a(views, self.a), weak)
            before_b = answer(lambda views: self.previous_b(views, self.b), weak)
            corrected = closest_pair_mean(of_a, of_b, before_a, before_b)
        weights = self.joint_weights(of_a, of_b)
        first, second, third = (
            replace(self.pseudo_labels(heatmaps), joint_weights=weights)
            for heatmaps in (of_a, of_b, corrected)
        )
        return first, second, third

    def joint_weights(self, of_a: torch.Tensor, of_b: torch.Tensor) -> torch.Tensor:
        """(N, K): the weight of each keypoint, from the teachers' heatmaps (N, K, h, w)."""
        cfg = self.cfg
        peaks_a, peaks_b = find_peaks(of_a).peaks, find_peaks(of_b).peaks
        weights = (0.5 * (peaks_a + peaks_b) > cfg.min_peak).float()
        inconsistency = position_inconsistency(of_a, of_b)
        if cfg.max_inconsistency is not None:
            weights = weights * (inconsistency < cfg.max_inconsistency)
        # Squared, because the published kernel applies the weight before it squares the error.
        if cfg.weigh_by_position:
            weights = weights * (1 - inconsistency).square()
        if cfg.weigh_by_peak:
            weights = weights * (1 - (peaks_a - peaks_b).abs()).clamp_min(0).square()
        return weights

    def after_update(self, progress: Progress) -> None:
        """Update the labellers, and at the end of an epoch their copies."""
        done = progress.step + 1
        self.labeller_a.update(self.a, done)
        self.labeller_b.update(self.b, done)
        self.previous_a.update(self.labeller_a.source(self.a), done)
        self.previous_b.update(self.labeller_b.source(self.b), done)

    def networks(self) -> dict[str, FeatureNet]:
        """The student, which is the final network, both teachers, and their averages if these label."""
        averages = {f"{name}_a": net for name, net in self.labeller_a.networks().items()}
        averages |= {f"{name}_b": net for name, net in self.labeller_b.networks().items()}
        return {"student": self.network, "teacher_a": self.a, "teacher_b": self.b, **averages}

    def ensembles(self) -> dict[str, tuple[str, ...]]:
        """The mean heatmaps of the teachers."""
        return {"teachers": ("teacher_a", "teacher_b")}

    def inspect(self, unlabelled: UnlabelledBatch) -> Inspection:
        """What the student sees, with the mean of the teachers as its labels."""
        with self.without_trace():
            labels = self.labels(unlabelled, Progress(step=0, total_steps=1))[2]
            return self.inspect_student(self.mixups[2], unlabelled, labels)


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(N, K): the distances between points (N, K, 2)."""
    return torch.linalg.vector_norm(one - other, dim=-1)


def position_inconsistency(of_a: torch.Tensor, of_b: torch.Tensor) -> torch.Tensor:
    """PIS (N, K): min(d, D - 1) / D, with the peaks' distance d and the heatmap's diagonal D, in cells."""
    height, width = of_a.shape[-2:]
    diagonal = (height**2 + width**2) ** 0.5
    apart = distance(find_peaks(of_a).points_hm, find_peaks(of_b).points_hm)
    return apart.clamp_max(diagonal - 1) / diagonal


def closest_pair_mean(
    of_a: torch.Tensor, of_b: torch.Tensor, before_a: torch.Tensor, before_b: torch.Tensor
) -> torch.Tensor:
    """For each keypoint, the mean heatmap of the pair, one of A's and one of B's, whose peaks are closest.

    All are (N, K, h, w). The pairs are (A, B), (A', B), (A, B'), (A', B'); the first of equally close ones
    wins.
    """
    points_a, points_b = find_peaks(of_a).points_hm, find_peaks(of_b).points_hm
    previous_a, previous_b = find_peaks(before_a).points_hm, find_peaks(before_b).points_hm
    distances = (
        distance(points_a, points_b),
        distance(previous_a, points_b),
        distance(points_a, previous_b),
        distance(previous_a, previous_b),
    )
    # argmin returns the first of equal values
    closest = torch.stack(distances).argmin(dim=0)[..., None, None]
    chosen_a = torch.where(closest % 2 == 1, before_a, of_a)
    chosen_b = torch.where(closest >= 2, before_b, of_b)
    return 0.5 * (chosen_a + chosen_b)
