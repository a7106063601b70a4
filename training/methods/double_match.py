"""Double match: consistency of the heatmaps and of an intermediate feature.

This is the feature loss of DoubleMatch (Wallin et al., ICPR 2022) made dense, as the paper of adaptive
masking compares with it (Meng et al., arXiv 2404.14835, Figure 6, "DM"). The teacher's features of the weak
view are warped into the strong view; there, in each cell, a projection of the student's features must point
in the same direction. The loss covers all cells that both views show, whatever the heatmaps say there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import warp
from semipose.models.net import FeatureNet
from semipose.pipelines.batch import LabelledBatch, UnlabelledBatch
from semipose.training.methods.consistency import ConsistencySettings
from semipose.training.methods.method import Ingredients, Progress, StepResult, Terms, loss_terms, named_layer
from semipose.training.methods.single import Single

PROBE_PX = 64


@settings
class DoubleMatchSettings(ConsistencySettings):
    """Consistency of heatmaps and of features between the weak and the strong views."""

    name: Literal["double_match"] = "double_match"
    layer: str = "backbone"
    """The module whose output is matched; if it has several maps, the coarsest one."""
    feature_weight: Annotated[float, Field(ge=0)] = 1e-3
    """Weight of the feature loss. Its values are between 0 and 2; those of a heatmap loss are about 0.001."""

    num_networks = 1
    uses_every_parameter = False  # the projection is not used before the burn-in ends

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ensemble.scales[0] != 1:
            raise ValueError(
                "ensemble.scales must begin with 1.0, because the features of that view are matched"
            )

    def build(self, ingredients: Ingredients) -> "DoubleMatch":
        """The method. Raises InputError if the network has no such layer."""
        return DoubleMatch(self, ingredients)


class DoubleMatch(Single):
    """L = L_s + ramp (lambda_u L_u + lambda_m L_m + lambda_f L_f)."""

    def __init__(self, cfg: DoubleMatchSettings, ingredients: Ingredients) -> None:
        super().__init__(cfg, ingredients)
        self.feature_weight = cfg.feature_weight
        self.student_tap = FeatureTap(self.network, cfg.layer)
        own = self.teacher.source(self.network)
        self.teacher_tap = self.student_tap if own is self.network else FeatureTap(own, cfg.layer)
        channels, self.feature_stride = feature_layout(self.network, self.student_tap, cfg.layer)
        self.projection = nn.Conv2d(channels, channels, 1).to(next(self.network.parameters()).device)

    def forward(
        self, labelled: LabelledBatch, unlabelled: UnlabelledBatch | None, progress: Progress
    ) -> StepResult:
        """One step of `single`, with the features of its passes matched."""
        cfg = self.cfg
        loss = loss_supervised = self.codec.supervised_loss(self.network(labelled.image), labelled)  # L_s
        terms = Terms({})
        if unlabelled is not None:
            with self.teacher_tap.listening() as weak_features:
                labels = self.labels(unlabelled)
            with self.student_tap.listening() as strong_features:
                student = self.student_losses(self.network, self.mixup, unlabelled, labels)
            loss_feature = self.feature_loss(weak_features[0], strong_features, unlabelled)
            loss_unlabelled = cfg.weight * student.unlabelled + cfg.mixup_weight * student.mixed
            loss_unlabelled = loss_unlabelled + self.feature_weight * loss_feature
            loss = loss_supervised + cfg.ramp(progress) * loss_unlabelled
            terms = student.terms | Terms({"loss_feature": loss_feature.detach()})
        return StepResult(loss, loss_terms(loss, supervised=loss_supervised) | terms)

    def feature_loss(
        self, weak: torch.Tensor, strong: list[torch.Tensor], unlabelled: UnlabelledBatch
    ) -> torch.Tensor:
        """L_f: one minus the mean cosine over the paths and over the cells that both views show.

        weak: (N, C, h', w') without gradient. strong: maps of that shape, one per pass, the paths first.
        """
        target, inside = warp(weak, unlabelled.strong_from_weak, self.feature_stride)
        paths = strong[: len(self.cfg.paths)]
        cosines = [F.cosine_similarity(self.projection(path).float(), target, dim=1) for path in paths]
        shown = inside[:, 0]
        return 1 - (torch.stack(cosines).mean(dim=0) * shown).sum() / shown.sum().clamp_min(1)


class FeatureTap:
    """Records the output of one named layer, only inside `with tap.listening()`."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        self._heard: list[torch.Tensor] | None = None
        named_layer(network, layer, setting="method.layer").register_forward_hook(self._hear)

    @contextmanager
    def listening(self) -> Iterator[list[torch.Tensor]]:
        """The outputs (N, C, h', w') of the passes made inside, in order; the last one of several maps."""
        heard: list[torch.Tensor] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None

    def _hear(self, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if self._heard is not None:
            self._heard.append(output[-1] if isinstance(output, list | tuple) else output)

    def __getstate__(self) -> dict[str, Any]:
        """A copy records nothing."""
        return {"_heard": None}


@torch.no_grad()
def feature_layout(network: FeatureNet, tap: FeatureTap, layer: str) -> tuple[int, int]:
    """Number of channels of the maps that the tap records, and view px between two of their cells.

    Measured on a square that every stride divides: for other inputs a network rounds sizes up, so 144 px over
    5 cells would not give the true 32 px. Raises InputError if the layer gives no maps.
    """
    was_training = network.training
    with tap.listening() as heard:
        network.eval()(torch.zeros(1, 3, PROBE_PX, PROBE_PX, device=next(network.parameters()).device))
    network.train(was_training)
    if not heard or heard[0].ndim != 4:
        raise InputError(
            f"method.layer: '{layer}' gives no feature maps (N, C, h, w): name a module that does, such as "
            "backbone"
        )
    return heard[0].shape[1], PROBE_PX // heard[0].shape[-1]
