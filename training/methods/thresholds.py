"""From which score on pseudo people are kept, and below which they are dropped: fixed, or a mixture's.

The mixture follows Consistent-Teacher (Wang et al., CVPR 2023): scores of recent people are two Gaussians,
one of people and one of errors. Ranks share their scores, so all have the same thresholds. Nothing returns to
the host.
"""

from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from semipose.configs.settings import settings

Score = Annotated[float, Field(ge=0)]
LEAST_SCORE = 0.05
"""Scores up to this are of nobody and are not gathered."""
LEAST_SCORES = 64
"""With fewer scores, or two Gaussians that are one, the fixed thresholds hold."""
EM_STEPS = 5
LEAST_SD = 0.03
LEAST_UPPER_WEIGHT = 0.02
LEAST_GAP = 0.1
GRID = 64
HIGH_RANGE = (0.3, 0.9)
LEAST_LOW = 0.15


@settings
class FixedSettings:
    """The same thresholds in the whole run."""

    name: Literal["fixed"] = "fixed"
    high: Score = 0.5
    """People from this score on are kept."""
    low: Score = 0.25
    """People below this score are dropped; heatmaps are not taught around those between."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: lower it")

    def build(self) -> "FixedThresholds":
        """The thresholds."""
        return FixedThresholds(self.high, self.low)


@settings
class MixtureSettings(FixedSettings):
    """Thresholds that follow the scores; `high` and `low` hold until there are enough of them."""

    name: Literal["mixture"] = "mixture"  # type: ignore[assignment]
    length: Annotated[int, Field(ge=LEAST_SCORES)] = 2048
    """How many recent scores are looked at."""

    def build(self) -> "MixtureThresholds":
        """The thresholds."""
        return MixtureThresholds(self.high, self.low, self.length)


ThresholdSettings = Annotated[FixedSettings | MixtureSettings, Field(discriminator="name")]


class FixedThresholds(nn.Module):
    """Gives the same high and low threshold always, scalars on the device."""

    fixed: Tensor

    def __init__(self, high: float, low: float) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.tensor((high, low)), persistent=False)

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """High and low for people with scores (N, Q)."""
        return self.fixed[0], self.fixed[1]


class MixtureThresholds(FixedThresholds):
    """High is the upper Gaussian's mean, low is where both are equally likely between the means.

    Both are kept in a range. In train mode the scores go into a ring of recent ones, to which the mixture
    takes a few steps of expectation maximisation from where it was. Ring and mixture are buffers.
    """

    ring: Tensor
    gathered: Tensor
    mixture: Tensor

    def __init__(self, high: float, low: float, length: int) -> None:
        super().__init__(high, low)
        self.register_buffer("ring", torch.zeros(length + 1))  # and a place for what is not gathered
        self.register_buffer("gathered", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mixture", torch.zeros(3, 2))  # weights, means, variances; the lower one first

    @torch.no_grad()
    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """High and low for people with scores (N, Q), 0 where nobody is; every process must call this."""
        if self.training:
            is_new = self.gathered < LEAST_SCORES  # few scores so far: start anew from their extremes
            self._gather(all_ranks(scores).flatten())
            values, places = self.ring[:-1], torch.arange(len(self.ring) - 1, device=scores.device)
            is_there = places < self.gathered
            mixture = torch.where(is_new, first_mixture(values, is_there), self.mixture)
            for _ in range(EM_STEPS):
                mixture = em_step(values, is_there, mixture)
            self.mixture.copy_(mixture)
        return self._thresholds()

    def _gather(self, scores: Tensor) -> None:
        length = len(self.ring) - 1
        counts = scores > LEAST_SCORE
        total = counts.sum()
        order = counts.cumsum(0) - 1
        is_kept = counts & (order >= total - length)  # of more than the ring holds, the last ones
        place = torch.where(is_kept, (self.gathered + order) % length, length)
        self.ring.scatter_(0, place, scores.float())
        self.gathered += total

    def _thresholds(self) -> tuple[Tensor, Tensor]:
        weights, means, _ = self.mixture
        share = torch.linspace(0, 1, GRID, device=means.device)
        grid = means[0] + share * (means[1] - means[0])
        is_upper = posterior(grid, self.mixture)[1] > 0.5
        low = torch.where(is_upper, grid, means[1]).amin()
        high = means[1].clamp(*HIGH_RANGE)
        low = torch.minimum(low.clamp(min=LEAST_LOW), high)
        is_usable = (self.gathered >= LEAST_SCORES) & (weights[1] >= LEAST_UPPER_WEIGHT)
        is_usable &= means[1] - means[0] >= LEAST_GAP
        return torch.where(is_usable, high, self.fixed[0]), torch.where(is_usable, low, self.fixed[1])


def first_mixture(values: Tensor, is_there: Tensor) -> Tensor:
    """Return a mixture (3, 2) to start from: the least and the highest value, the variance of all, halves."""
    count = is_there.sum().clamp(min=1)
    low = torch.where(is_there, values, torch.inf).amin()
    high = torch.where(is_there, values, -torch.inf).amax()
    means = torch.where(is_there.any(), torch.stack((low, high)), 0.0)
    mean = torch.where(is_there, values, 0.0).sum() / count
    variance = torch.where(is_there, (values - mean) ** 2, 0.0).sum() / count
    variances = variance.clamp(min=LEAST_SD**2).expand(2)
    return torch.stack((torch.full_like(means, 0.5), means, variances))


def posterior(values: Tensor, mixture: Tensor) -> Tensor:
    """Return how likely each value (R,) is of each Gaussian, (2, R)."""
    weights, means, variances = mixture[..., None]
    log = weights.clamp(min=1e-12).log() - 0.5 * variances.log() - (values - means) ** 2 / (2 * variances)
    return log.softmax(0)


def em_step(values: Tensor, is_there: Tensor, mixture: Tensor) -> Tensor:
    """Return the mixture (3, 2) after one step of expectation maximisation on values (R,) that are there.

    The Gaussian with the lower mean comes first: while all values are close together both become the same,
    and rounding would decide which of them is the upper one once the values part.
    """
    shares = torch.where(is_there, posterior(values, mixture), 0.0)
    counts = shares.sum(1)
    divisor = counts.clamp(min=1e-6)
    means = torch.where(counts > 1e-6, (shares * values).sum(1) / divisor, mixture[1])
    variances = (shares * (values - means[:, None]) ** 2).sum(1) / divisor
    weights = counts / counts.sum().clamp(min=1e-6)
    return torch.stack((weights, means, variances.clamp(min=LEAST_SD**2)))[:, means.argsort()]


def all_ranks(scores: Tensor) -> Tensor:
    """Return the scores of all processes, (world N, Q), in their order."""
    if not (dist.is_available() and dist.is_initialized()):
        return scores
    gathered = [torch.empty_like(scores) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, scores.contiguous())
    return torch.cat(gathered)
