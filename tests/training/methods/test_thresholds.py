"""Thresholds of pseudo people: fixed, and by a mixture of two Gaussians."""

import math

import numpy as np
import pytest
import torch

from semipose.configs.load import InputError
from semipose.training.methods.thresholds import (
    FixedSettings,
    MixtureSettings,
    MixtureThresholds,
    em_step,
    first_mixture,
)
from tests.training.tiny import make_settings


def scores(
    count: int, seed: int = 0, low: float = 0.2, high: float = 0.7, share: float = 0.4
) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    is_high = rng.random(count) < share
    values = np.where(is_high, rng.normal(high, 0.08, count), rng.normal(low, 0.06, count))
    return torch.from_numpy(values.clip(0.06, 1)).float()


def mixture(**changes: int) -> MixtureThresholds:
    return MixtureSettings(high=0.5, low=0.25, **changes).build().train()


def plain_em(values: list[float], steps: int) -> tuple[list[float], list[float], list[float]]:
    """Expectation maximisation of two Gaussians, value by value in double precision."""
    mean = sum(values) / len(values)
    variance = max(sum((v - mean) ** 2 for v in values) / len(values), 0.03**2)
    weights, means, variances = [0.5, 0.5], [min(values), max(values)], [variance, variance]
    for _ in range(steps):
        sums = [[0.0, 0.0], [0.0, 0.0]]
        shares = []
        for value in values:
            apart = [(value - mean) ** 2 for mean in means]
            density = [
                weights[i] * math.exp(-apart[i] / (2 * variances[i])) / math.sqrt(variances[i])
                for i in (0, 1)
            ]
            shares.append([d / sum(density) for d in density])
            for i in (0, 1):
                sums[i][0] += shares[-1][i]
                sums[i][1] += shares[-1][i] * value
        means = [total / count for count, total in sums]
        for i in (0, 1):
            spread = sum(s[i] * (v - means[i]) ** 2 for s, v in zip(shares, values, strict=True))
            variances[i] = max(spread / sums[i][0], 0.03**2)
        weights = [count / len(values) for count, _ in sums]
    return weights, means, variances


def test_expectation_maximisation_is_the_plain_one() -> None:
    values = scores(200)
    padded = torch.cat((values, torch.full((56,), 9.0)))
    is_there = torch.arange(256) < 200
    ours = first_mixture(padded, is_there)
    for _ in range(200):
        ours = em_step(padded, is_there, ours)
    torch.testing.assert_close(ours, torch.tensor(plain_em(values.tolist(), 200)), rtol=1e-3, atol=1e-4)


def test_high_is_the_upper_mean_and_low_is_between() -> None:
    thresholds = mixture()
    for seed in range(30):
        high, low = thresholds(scores(60, seed).view(4, 15))
    assert high == pytest.approx(0.7, abs=0.03)
    assert 0.3 < low < 0.55  # between 0.2 and 0.7, where both are equally likely


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.005, 0.02])
def test_a_teacher_whose_scores_were_all_alike_gets_its_thresholds_later(spread: float, seed: int) -> None:
    """Both Gaussians are then the same, and either could become the upper one."""
    thresholds, rng = mixture(), np.random.default_rng(seed)
    for _ in range(60):
        thresholds(torch.from_numpy(rng.normal(0.2, spread, (4, 15))).float())
    for number in range(120):
        high, low = thresholds(scores(60, 1_000 * seed + number).view(4, 15))
    assert high == pytest.approx(0.7, abs=0.03)
    assert 0.3 < low < 0.55


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (scores(40), "too few scores"),
        (torch.full((100,), 0.4), "one Gaussian, not two"),
        (torch.zeros(100), "nobody"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_two_gaussians_the_fixed_thresholds_hold(given: torch.Tensor, why: str) -> None:
    high, low = mixture()(given[None])
    assert (float(high), float(low)) == (0.5, 0.25), why


@pytest.mark.parametrize(("low", "high", "expected"), [(0.08, 0.22, 0.3), (0.3, 0.97, 0.9)])
def test_high_stays_in_its_range(low: float, high: float, expected: float) -> None:
    thresholds = mixture()
    for seed in range(10):
        given, lower = thresholds(scores(100, seed, low, high)[None].clamp(max=1.2))
    assert float(given) == pytest.approx(expected)
    assert 0.15 <= float(lower) <= float(given)


def test_the_ring_holds_the_last_scores_in_any_portions() -> None:
    thresholds = mixture(length=64)
    given = [scores(count, seed) for seed, count in enumerate((10, 0, 50, 70, 3))]
    for portion in given:
        thresholds(portion[None])
    assert sorted(thresholds.ring[:-1].tolist()) == sorted(torch.cat(given)[-64:].tolist())
    assert int(thresholds.gathered) == 133


def test_looking_without_training_leaves_no_trace() -> None:
    thresholds = mixture()
    thresholds(scores(100)[None])
    before = {name: value.clone() for name, value in thresholds.state_dict().items()}
    thresholds.eval()
    thresholds(scores(100, 1)[None])
    assert all(torch.equal(before[name], value) for name, value in thresholds.state_dict().items())


def test_a_low_threshold_above_the_high_one_is_refused() -> None:
    with pytest.raises((ValueError, InputError), match=r"low 0\.6 is above high 0\.5: lower it"):
        FixedSettings(high=0.5, low=0.6)
    with pytest.raises(ValueError, match="lower it"):
        make_settings("detector_free", thresholds={"name": "mixture", "high": 0.5, "low": 0.6})
