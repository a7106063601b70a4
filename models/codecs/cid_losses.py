"""The two losses of CID as sums; models/codecs/cid.py divides them.

Shape letters: pipelines/batch.py; in addition I people of all photos of a batch, F features of a cell.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def focal_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the penalty-reduced focal loss (Law and Deng, CornerNet) and its number of positives.

    -w (1 - p)^2 log p where the target is exactly 1, else -w (1 - t)^4 p^2 log(1 - p). All (..., h, w);
    predicted inside (0, 1), target in 0..1, weights broadcastable to them.
    """
    p, t = predicted.float(), target.float()
    is_peak = t == 1
    at_peaks = (1 - p) ** 2 * p.log()
    elsewhere = (1 - t) ** 4 * p**2 * (1 - p).log()
    total = -(weights * torch.where(is_peak, at_peaks, elsewhere)).sum()
    return total, (is_peak & (weights > 0)).sum().float()


def contrast_loss(features: Tensor, photos: Tensor, exists: Tensor, temperature: float) -> Tensor:
    """Return the sum over people of -log of the share of their own cosine among those of their photo.

    features (I, F), photos (I,), exists (I,) bool. A person alone in a photo adds 0.
    """
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(features.float(), dim=1)
        cosines = directions @ directions.T / temperature
    others = (photos[:, None] == photos) & exists | torch.eye(len(photos), device=photos.device).bool()
    share = cosines.masked_fill(~others, -math.inf).logsumexp(-1) - cosines.diagonal()
    return torch.where(exists, share, 0.0).sum()
