"""Numbers of a codec, such as the order of mirrored keypoints, as tensors that are copied once."""

from functools import lru_cache

import torch
from torch import Tensor


def on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return `values` on the device, copied once: a list as an index would be copied at every use."""
    if torch.compiler.is_exporting():  # its tensors hold no numbers, and must not be kept
        return torch.tensor(values, device=device)
    return _kept_on_device(values, device)


@lru_cache
def _kept_on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # or gradients could not pass what a teacher asked for first
        return torch.tensor(values, device=device)
