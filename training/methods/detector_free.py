"""Detector-free: an averaged teacher's heatmaps and people of whole photos teach a student.

After Wang et al. (Machine Intelligence Research 2025), of which only the abstract is public: one network,
bottom-up (`ae`) or single-stage (`dekr`, `cid`), is trained end to end, without a detector, by the
consistency of heatmaps and by people that the teacher found. All constants are ours.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.models.codecs.instances import InstanceCodec
from semipose.models.net import FeatureNet
from semipose.pipelines.batch import LabelledPhotos, UnlabelledBatch
from semipose.pipelines.people import People, PhotoFrame
from semipose.pipelines.strong import Colour, StrongAugmentation
from semipose.pipelines.strong.scene import Scene
from semipose.training.methods.consistency import augment
from semipose.training.methods.method import (
    Ingredients,
    Method,
    OptionNames,
    PhotoInspection,
    Progress,
    StepResult,
    TeacherHealth,
    TeacherLabels,
    Terms,
    loss_terms,
)
from semipose.training.methods.pseudo_people import (
    GateSettings,
    PseudoPeople,
    in_strong_view,
    is_inside,
    pseudo_people,
    scene_of,
)
from semipose.training.methods.ramp import RampSettings
from semipose.training.methods.random_state import RandomState
from semipose.training.methods.thresholds import MixtureSettings, ThresholdSettings
from semipose.training.teacher import AverageTeacherSettings, TeacherSettings

ACTIVE = 0.1
"""Cells of a heatmap above this show a keypoint."""


@settings
class DetectorFreeSettings(RampSettings):
    """Consistency of heatmaps and pseudo people on unlabelled whole photos."""

    name: Literal["detector_free"] = "detector_free"
    burn_in: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ramp_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    teacher: TeacherSettings = AverageTeacherSettings(momentum=0.999)
    """The network that labels the weak views."""
    use: Literal["heatmaps", "instances", "both"] = "both"
    """What teaches the student: the teacher's heatmaps, the people that it found, or both."""
    heatmap_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the heatmap loss of the unlabelled photos."""
    instance_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the losses that say which keypoints of the unlabelled photos are one person's."""
    background_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of heatmap cells of the unlabelled photos where the target shows no keypoint."""
    thresholds: ThresholdSettings = MixtureSettings()
    """From which score on the teacher's people are kept, and below which they are dropped."""
    gates: GateSettings = field(default_factory=GateSettings)
    """Which of the teacher's keypoints and people count, whatever their score."""
    path: tuple[StrongAugmentation, ...] = (Colour(),)
    """The augmentations of the strong view, in order."""
    passes: Literal["joint", "separate"] = "joint"
    """Labelled and strong views in one pass of the student, with common batch statistics, or in two."""

    num_networks = 1
    uses_unlabelled = True
    uses_every_parameter = True
    kinds = ("image",)
    options = OptionNames(
        "method.gates.min_confidence and (with method.thresholds.name=fixed) method.thresholds.high",
        "method.burn_in",
        "method.heatmap_weight and method.instance_weight",
    )

    def build(self, ingredients: Ingredients) -> "DetectorFree":
        """The method."""
        return DetectorFree(self, ingredients)


class Labels(NamedTuple):
    """What a teacher makes of the unlabelled photos, carried into the strong view."""

    warped: list[tuple[Tensor, Tensor]]
    """For each resolution, its heatmaps (N, C, h, w), and the cells (N, 1, h, w) that both views show
    and that are inside the photo."""
    pseudo: PseudoPeople
    """The teacher's people, in the weak view."""
    kept: People
    """The people who teach the student."""
    ignored: People
    """People who may be there: heatmaps are neither taught nor untaught around them."""
    scene: Scene
    """For the augmentations."""
    health: TeacherHealth
    terms: dict[str, Tensor]
    """What else is shown of them."""


class DetectorFree(Method):
    """L = L_s + ramp (lambda_h L_h + lambda_i L_i)."""

    random_state: RandomState
    labelled_people: Tensor
    labelled_photos: Tensor

    def __init__(self, cfg: DetectorFreeSettings, ingredients: Ingredients) -> None:
        super().__init__(ingredients.random_state)
        self.cfg = cfg
        self.codec: InstanceCodec = ingredients.codec
        self.network = ingredients.make_network(None)
        self.teacher = cfg.teacher.build(self.network, ingredients.epoch_steps)
        device = next(self.network.parameters()).device
        self.thresholds = cfg.thresholds.build().to(device)
        for name in ("labelled_people", "labelled_photos"):  # of this process, for `people_inflation`
            self.register_buffer(name, torch.zeros((), dtype=torch.int64, device=device))

    def forward(
        self, labelled: LabelledPhotos, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step: weak views (teacher), then labelled and strong views (student)."""
        cfg, codec = self.cfg, self.codec
        self.count_people(labelled)
        if unlabelled is None:
            supervised = codec.supervised_losses(self.network(labelled.image), labelled)
            loss = sum_of(supervised)  # L_s
            return StepResult(loss, loss_terms(loss, **{"supervised": loss} | supervised))
        labels = self.labels(unlabelled)
        strong, _ = augment(cfg.path, labels.scene, self.random_state)
        of_labelled, of_strong = self.student(labelled.image, strong)
        supervised = codec.supervised_losses(of_labelled, labelled)
        loss_supervised = sum_of(supervised)  # L_s
        targets = self.people_targets(labels.kept, of_strong)
        loss_heatmaps = self.heatmap_loss(of_strong, targets, labels)  # L_h
        loss_instances = self.instance_loss(of_strong, targets, labels)  # L_i
        loss_unlabelled = cfg.heatmap_weight * loss_heatmaps + cfg.instance_weight * loss_instances
        loss = loss_supervised + cfg.ramp(progress) * loss_unlabelled
        losses = {"unlabelled_heatmaps": loss_heatmaps, "unlabelled_instances": loss_instances}
        shown = labels.terms | {"student_mass": student_mass(of_strong.heatmaps, *labels.warped[0])}
        terms = loss_terms(loss, **{"supervised": loss_supervised} | supervised | losses)
        return StepResult(loss, terms | Terms({}, {"": labels.health}, shown))

    def student(self, labelled: Tensor, strong: Tensor) -> tuple[Any, Any]:
        """The student's maps of labelled and strong views (N, 3, H, W)."""
        if self.cfg.passes == "separate":
            return self.network(labelled), self.network(strong)
        return self.codec.split(self.network(torch.cat((labelled, strong))), len(labelled))

    def people_targets(self, people: People, maps: Any) -> Any:
        """The codec's targets of people, for maps of that size; None where people do not teach."""
        return None if self.cfg.use == "heatmaps" else self.codec.targets(people, map_hw(maps))

    def heatmap_loss(self, of_strong: Any, targets: Any, labels: Labels) -> Tensor:
        """L_h, summed over resolutions: the student's heatmaps against what the teacher saw and found."""
        predicted = self.codec.heatmaps(of_strong)
        taught = self.heatmap_targets(of_strong, targets, labels)
        losses = [self.codec.soft_loss(maps, *level) for maps, level in zip(predicted, taught, strict=True)]
        return torch.stack(losses).sum()

    def heatmap_targets(self, of_strong: Any, targets: Any, labels: Labels) -> list[tuple[Tensor, Tensor]]:
        """For each resolution, what heatmaps are taught and the weights of their cells, (N, C, h, w)."""
        if targets is None:
            return [heatmap_target(self.cfg, soft, inside) for soft, inside in labels.warped]
        codec, ignored = self.codec, self.people_targets(labels.ignored, of_strong)
        levels = zip(
            labels.warped,
            codec.target_heatmaps(targets, of_strong),
            codec.target_heatmaps(ignored, of_strong),
            strict=True,
        )
        return [
            heatmap_target(self.cfg, soft, inside, of_kept, of_ignored)
            for (soft, inside), of_kept, of_ignored in levels
        ]

    def instance_loss(self, of_strong: Any, targets: Any, labels: Labels) -> Tensor:
        """L_i: the family's own loss that says which keypoints are one person's, for the people kept."""
        if targets is None:
            return torch.zeros_like(of_strong.heatmaps[0, 0, 0, 0])
        return sum_of(self.codec.instance_losses(of_strong, targets, labels.warped[0][1]))

    @torch.no_grad()
    def labels(self, unlabelled: UnlabelledBatch) -> Labels:
        """The teacher's heatmaps and people of the weak views, in the strong view.

        The codec `ae` groups people on the host, for which it copies its candidates there once.
        """
        cfg, codec = self.cfg, self.codec
        answer, pseudo = self.teacher_people(unlabelled.weak, unlabelled.weak_frame)
        high, low = self.thresholds(pseudo.score)
        keep, ignore = pseudo.decide(high, low)
        kept, ignored = in_strong_view(cfg.gates, pseudo, keep, ignore, unlabelled, self.codec.stride)
        terms = pseudo.terms(keep, ignore) | {"tau_high": high, "tau_low": low}
        terms["people_inflation"] = (
            terms["kept_people"] * self.labelled_photos / self.labelled_people.clamp(min=1)
        )
        health = TeacherHealth(
            peak=answer.heatmaps.amax((2, 3)).mean(),
            trusted_share=terms.pop("trusted_share"),
            cells=(answer.heatmaps > ACTIVE).float().mean(),
        )
        warped = codec.warp(answer, unlabelled.strong_from_weak)
        if unlabelled.strong_frame is not None:
            on_photo = unlabelled.strong_frame.shows(map_hw(answer), codec.stride).float()
            warped = [
                (soft, inside * F.interpolate(on_photo, inside.shape[-2:], mode="nearest"))
                for soft, inside in warped
            ]
        return Labels(warped, pseudo, kept, ignored, scene_of(pseudo, unlabelled), health, terms)

    def teacher_people(self, views: Tensor, frame: PhotoFrame | None) -> tuple[Any, PseudoPeople]:
        """The teacher's maps of views (N, 3, H, W) and of their mirror images, merged, and its people."""
        codec = self.codec
        both = torch.cat((views, codec.mirror_images(views)))
        plain, mirrored = codec.split(self.teacher(both, self.network), len(views))
        answers = plain, codec.mirror(mirrored)
        answer = codec.merge(*answers)
        if frame is not None:  # what a network says beside a photo means nothing
            answer = codec.restrict(answer, frame.shows(map_hw(answer), codec.stride))
        return answer, pseudo_people(self.cfg.gates, codec, *answers, answer)

    def find_people(self, views: Tensor, frame: PhotoFrame) -> TeacherLabels:
        """Which people the teacher finds in plain views, and who would be kept."""
        with self.without_trace():
            _, pseudo = self.teacher_people(views, frame)
            kept, _ = pseudo.decide(*self.thresholds(pseudo.score))
            found = pseudo.people
            return TeacherLabels(
                points_xy=found.points_xy,
                was_found=found.confidence > 0,
                is_trusted=pseudo.keypoints,
                score=pseudo.score,
                exists=found.exists,
                is_kept=kept,
            )

    def count_people(self, labelled: LabelledPhotos) -> None:
        """Count the labelled people who could be kept if they were the teacher's."""
        height, width = labelled.image.shape[-2:]
        people = labelled.people
        is_seen = people.marked & is_inside(people.points_xy, (height, width))
        least = self.cfg.gates.least_keypoints(is_seen.shape[-1])
        self.labelled_people += (is_seen.sum(-1) >= least).sum()
        self.labelled_photos += len(labelled.image)

    def unlabelled_share(self, progress: Progress) -> float:
        """The ramp: 0 in the burn-in, then rising to 1."""
        return self.cfg.ramp(progress)

    def after_update(self, progress: Progress) -> None:
        """Update the teacher."""
        self.teacher.update(self.network, progress.step + 1)

    def networks(self) -> dict[str, FeatureNet]:
        """The network, and the teacher's own if it has one."""
        return {"network": self.network, **self.teacher.networks()}

    def inspect(self, unlabelled: UnlabelledBatch) -> PhotoInspection:
        """The teacher's people of the weak views, and what the student is taught and answers."""
        with self.without_trace():
            labels = self.labels(unlabelled)
            strong, _ = augment(self.cfg.path, labels.scene, self.random_state)
            answer = self.network(strong)
            targets = self.people_targets(labels.kept, answer)
            target, weights = self.heatmap_targets(answer, targets, labels)[0]
            found, pseudo = labels.pseudo.people, labels.pseudo
            corners = found.points_xy.new_zeros(*found.exists.shape, 4, 2)
            return PhotoInspection(
                weak=unlabelled.weak,
                strong=strong,
                found=People(found.points_xy, pseudo.keypoints.float(), found.exists, corners),
                scores=pseudo.score,
                kept=labels.kept,
                ignored=labels.ignored,
                target=target,
                weights=weights.expand_as(target),
                answer=answer.heatmaps,
            )


def heatmap_target(
    cfg: DetectorFreeSettings,
    soft: Tensor,
    inside: Tensor,
    of_kept: Tensor | None = None,
    of_ignored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what heatmaps of the strong view should be and the weights of their cells, (N, C, h, w).

    soft: the teacher's, warped; of_kept, of_ignored: drawn at the keypoints of people, above 0 only near
    them; None where people do not teach. Where the teacher is sure, drawn Gaussians restore the full height
    that warped ones lose. Near people who are ignored, cells count only as those of the warped heatmaps do,
    and not where nobody is kept.
    """
    target, is_foreground = soft, F.max_pool2d((soft > ACTIVE).float(), 3, stride=1, padding=1)
    if of_kept is not None:
        near_kept = (of_kept > 0).float()
        if cfg.use == "instances":
            target, is_foreground = of_kept, near_kept
        else:
            target, is_foreground = torch.maximum(soft, of_kept), torch.maximum(is_foreground, near_kept)
    weights = inside * (is_foreground + cfg.background_weight * (1 - is_foreground))
    if of_kept is not None and of_ignored is not None:
        weights = torch.where((of_ignored > 0) & (of_kept <= 0), 0.0, weights)
    return target, weights


def student_mass(student: Tensor, teacher: Tensor, inside: Tensor) -> Tensor:
    """Return how many active cells the student has for each of the teacher's in the strong view.

    It is 0 if the teacher has none: then it teaches nothing.
    """
    of_student, of_teacher = (((maps > ACTIVE) * inside).sum() for maps in (student.detach(), teacher))
    return torch.where(of_teacher > 0, of_student / of_teacher.clamp(min=1), 0.0)


def map_hw(maps: Any) -> tuple[int, int]:
    """Return the size (h, w) of maps."""
    return maps.heatmaps.shape[-2], maps.heatmaps.shape[-1]


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of losses."""
    return torch.stack(list(losses.values())).sum()
