"""The Mixup branch: mixtures of two unlabelled people against equally mixed pseudo labels.

Meng et al. (arXiv 2404.14835), Eq. 4; docs/methods.md 9, rows 13 to 19.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.load import InputError
from semipose.configs.settings import settings
from semipose.models.codecs.heatmap import HeatmapCodec
from semipose.models.net import FeatureNet
from semipose.pipelines.masking.masks import draw_order
from semipose.training.methods.method import named_layer
from semipose.training.methods.random_state import RandomState

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

    def __init__(
        self, cfg: MixupSettings, codec: HeatmapCodec, student: FeatureNet, random_state: RandomState
    ) -> None:
        self.cfg = cfg
        self.codec = codec
        self.student = student
        self.random_state = random_state
        self.mixers = {layer: FeatureMixer(student, layer) for layer in cfg.layers if layer != INPUT}
        for layer in self.mixers:
            self._require_whole(layer)

    def loss(self, images: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
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
            partners = draw_order(1, len(images), generator=self.random_state.generator)[0]
            mixed_target, mixed_weights = mix_labels(target, weights, alpha, partners)
            predicted = self._predict(layer, images, alpha, partners)
            losses.append(self.codec.loss(predicted, mixed_target, mixed_weights))
        return torch.stack(losses).mean(), alpha

    def _predict(self, layer: str, images: Tensor, alpha: Tensor, partners: Tensor) -> Tensor:
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

    def example(self, images: Tensor) -> Tensor:
        """`images` (N, 3, H, W), each mixed half and half with the next, for the pictures of a run.

        A drawn alpha is mostly near 0 or 1, which shows no mixture.
        """
        following = torch.arange(len(images), device=images.device).roll(-1)
        return mix(images, images.new_tensor(0.5), following)


def mix_labels(target: Tensor, weights: Tensor, alpha: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
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


def draw_alpha(a: float, *, generator: torch.Generator) -> Tensor:
    """One weight from Beta(a, a), a > 0: 0-dim float32 on the generator's device.

    Two uniform numbers give a variate of Student's t with 2a degrees of freedom (Bailey 1994, polar method),
    and t / sqrt(2a + t^2) maps it to the symmetric beta distribution. This is exact and needs no rejection
    loop, so nothing is read back to the host; torch's own Beta takes no generator.
    """
    if not a > 0:
        raise ValueError(f"Beta(a, a) needs a > 0, not {a}")
    # float64: for a small a most values of radius ** (1 / a) are below the smallest float32
    radius, turn = torch.rand(2, generator=generator, device=generator.device, dtype=torch.float64)
    power = radius ** (1.0 / a)
    cosine = torch.cos(2.0 * math.pi * turn)
    alpha = 0.5 + 0.5 * cosine / torch.sqrt(power / (1.0 - power) + cosine**2)
    return alpha.float()


def mix(x: Tensor, alpha: Tensor, partners: Tensor) -> Tensor:
    """alpha * x + (1 - alpha) * x[partners], (N, ...) in x's dtype.

    The arithmetic is at least float32, so that half-precision features and float32 targets are mixed with
    the same alpha.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.lerp(x[partners].to(dtype), x.to(dtype), alpha.to(dtype)).to(x.dtype)


class FeatureMixer:
    """Mixes what enters one named layer of a network, only inside `with mixer.mixing(alpha, partners):`.

    The hook is permanent and does nothing outside the context, so one network serves the plain and the mixed
    pass, and compiles to one graph for each. A copy of the network (an EMA teacher) has its own idle copy of
    the mixer: mixing the network never mixes the copy.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        """Hook the module `layer` (a name of `network.named_modules()`, like "backbone.layer3").

        Raises:
            InputError: the network has no such module; the message lists similar names.
        """
        module = named_layer(network, layer, setting="method.mixup.layers")
        self.layer = layer
        self._weights: tuple[Tensor, Tensor] | None = None
        self._has_mixed = False
        module.register_forward_pre_hook(self._mix_inputs)

    @contextmanager
    def mixing(self, alpha: Tensor, partners: Tensor) -> Iterator[None]:
        """Mix every tensor that enters the layer, with `alpha` (0-dim) and `partners` (N,).

        Raises:
            RuntimeError: at the end, if no forward pass called the layer, so that nothing was mixed.
        """
        if self._weights is not None:
            raise RuntimeError(f"layer '{self.layer}' is already being mixed")
        self._weights, self._has_mixed = (alpha, partners), False
        try:
            yield
            if not self._has_mixed:
                raise RuntimeError(f"nothing was mixed: no forward pass called layer '{self.layer}'")
        finally:
            self._weights = None

    def _mix_inputs(self, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._weights is None:
            return None
        self._has_mixed = True
        return _mix_all(inputs, *self._weights)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is idle, even if it is made inside the context."""
        return {**self.__dict__, "_weights": None, "_has_mixed": False}


def _mix_all(value: Any, alpha: Tensor, partners: Tensor) -> Any:
    """`mix` of every tensor in nested lists and tuples (the branches of an HRNet enter a stage as a list)."""
    if isinstance(value, Tensor):
        return mix(value, alpha, partners)
    if isinstance(value, list | tuple):
        return type(value)(_mix_all(item, alpha, partners) for item in value)
    return value
