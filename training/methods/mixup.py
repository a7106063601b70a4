"""The Mixup branch: mixtures of two unlabelled people against equally mixed pseudo labels.

Meng et al. (arXiv 2404.14835), Eq. 4; docs/methods.md 9, rows 13 to 19.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field

from configs.load import InputError
from configs.settings import settings
from models.codecs.heatmap import heatmap_loss
from models.net import PoseNet
from pipelines.mixing import FeatureMixer, draw_alpha, draw_partners, mix
from training.methods.random_state import RandomState

INPUT = "input"
PROBE_PX = 64


@settings
class MixupSettings:
    """A branch that trains on mixtures of two unlabelled people."""

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = (INPUT, "backbone.layer3")
    """Where to mix: `input` mixes the images; the name of a module mixes what enters that module."""
    passes: Literal["one", "all"] = "one"
    """`one`: each step mixes at one of the layers, drawn at random. `all`: each step makes one pass for each
    layer and averages their losses."""
    views: Literal["weak", "strong", "masked"] = "weak"
    """What is mixed: the weak views (as in Eq. 4), the strong views, or those of the first strong path."""
    beta: Annotated[float, Field(gt=0)] = 0.75
    """Both parameters of the Beta distribution that alpha is drawn from."""
    weight: Annotated[float, Field(ge=0)] = 0.7
    """Weight of the branch in the loss (lambda_m)."""


class MixupBranch:
    """Mixes the images or features of one student at the layers that the recipe names."""

    def __init__(self, cfg: MixupSettings, student: PoseNet, random_state: RandomState) -> None:
        self.cfg = cfg
        self.student = student
        self.random_state = random_state
        self.mixers = {layer: FeatureMixer(student, layer) for layer in cfg.layers if layer != INPUT}
        for layer in self.mixers:
            self._require_whole(layer)

    def loss(
        self, images: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_m, and the alpha that was drawn last.

        images: (N, 3, H, W). target: (N, K, h, w), their pseudo labels. weights: the weight of each cell's
        squared error, broadcastable to the target.
        """
        layers = self.cfg.layers
        if self.cfg.passes == "one":
            layers = (layers[self.random_state.one_of(len(layers))],)
        losses = []
        for layer in layers:
            alpha = draw_alpha(self.cfg.beta, generator=self.random_state.generator)
            partners = draw_partners(len(images), generator=self.random_state.generator)
            mixed_target, mixed_weights = mix_labels(target, weights, alpha, partners)
            predicted = self._predict(layer, images, alpha, partners)
            losses.append(heatmap_loss(predicted, mixed_target, mixed_weights))
        return torch.stack(losses).mean(), alpha

    def _predict(
        self, layer: str, images: torch.Tensor, alpha: torch.Tensor, partners: torch.Tensor
    ) -> torch.Tensor:
        if layer == INPUT:
            return self.student(mix(images, alpha, partners))
        with self.mixers[layer].mixing(alpha, partners):
            return self.student(images)

    @torch.no_grad()
    def _require_whole(self, layer: str) -> None:
        """Raise InputError if some features bypass the layer and stay unmixed although the target is mixed.

        With alpha 0 the heatmaps must equal the partner's; features that bypass the layer make them differ.
        """
        device = next(self.student.parameters()).device
        drawn = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, PROBE_PX, PROBE_PX, generator=drawn).to(device)
        was_training = self.student.training
        self.student.eval()
        own, swapped = self.student(images), torch.tensor([1, 0], device=device)
        mixed = self._predict(layer, images, images.new_tensor(0.0), swapped)
        self.student.train(was_training)
        partners = own[swapped]
        if (mixed - partners).abs().max() > 0.1 * (own - partners).abs().max():
            raise InputError(
                f"method.mixup.layers: only some of the features of the heatmaps enter '{layer}'; the others "
                "would stay unmixed: name a module that all of them enter, such as head, or input"
            )

    def example(self, images: torch.Tensor) -> torch.Tensor:
        """`images` (N, 3, H, W) mixed once, for the pictures of a run."""
        alpha = draw_alpha(self.cfg.beta, generator=self.random_state.generator)
        return mix(images, alpha, draw_partners(len(images), generator=self.random_state.generator))


def mix_labels(
    target: torch.Tensor, weights: torch.Tensor, alpha: torch.Tensor, partners: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The single target, and its weights, whose loss has the gradient of Equation 4's two losses.

    alpha w_i |f - H_i|^2 + (1 - alpha) w_j |f - H_j|^2 has, up to a constant, the value of W |f - T|^2 with
    W = alpha w_i + (1 - alpha) w_j and T the mean of H_i and H_j weighted by the two terms of W. If all
    weights are 1, T is the mixed heatmap alpha H_i + (1 - alpha) H_j.

    target (N, K, h, w), weights broadcastable to it -> T and W of the same shapes.
    """
    own, partner = alpha * weights, (1 - alpha) * weights[partners]
    total = own + partner
    mixed = (own * target + partner * target[partners]) / torch.where(total > 0, total, 1.0)
    return mixed, total
