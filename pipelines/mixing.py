"""Mixup of unlabelled images or features: draw the weight and the partners, then mix.

With one weight alpha and one permutation for the batch, sample i becomes alpha * x_i + (1 - alpha) *
x_partner(i), and its target is the same mixture of the two heatmaps: the two-loss form of the paper
(arXiv 2404.14835, Eq. 4) has exactly the gradient of that mixed target.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from configs.load import InputError


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


def draw_partners(num_samples: int, *, generator: torch.Generator) -> Tensor:
    """(N,) int64 on the generator's device: a uniform permutation of the batch."""
    keys = torch.rand(num_samples, generator=generator, device=generator.device)
    return keys.argsort(stable=True)


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
        modules = {name: module for name, module in network.named_modules() if name}
        if layer not in modules:
            near = get_close_matches(layer, modules, n=3, cutoff=0.4) or list(modules)[:3]
            raise InputError(
                f"the network has no layer '{layer}' to mix at: name one of its modules, for instance "
                + ", ".join(near)
            )
        self.layer = layer
        self._weights: tuple[Tensor, Tensor] | None = None
        self._has_mixed = False
        modules[layer].register_forward_pre_hook(self._mix_inputs)

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
