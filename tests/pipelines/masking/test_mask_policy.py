"""The policies that a recipe can name."""

import json

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipelines.masking.policy import AdaptiveMasks, FixedMasks, MaskingPolicy, NoMasks

ANY_POLICY: TypeAdapter = TypeAdapter(MaskingPolicy)
EASY_THEN_HARD = torch.cat([torch.ones(1, 17, 4, 3), torch.zeros(1, 17, 4, 3)])


@pytest.mark.parametrize(
    ("recipe", "policy", "counts"),
    [
        ({"name": "none"}, NoMasks(), [0, 0]),
        ({"name": "fixed"}, FixedMasks(), [5, 5]),
        ({"name": "fixed", "count": 3}, FixedMasks(count=3), [3, 3]),
        ({"name": "adaptive"}, AdaptiveMasks(), [8, 2]),
        (
            {"name": "adaptive", "max_masks": 6, "min_masks": 1},
            AdaptiveMasks(max_masks=6, min_masks=1),
            [6, 1],
        ),
    ],
)
def test_recipe_gives_its_policy(recipe: dict, policy: object, counts: list[int]) -> None:
    built = ANY_POLICY.validate_json(json.dumps(recipe))
    assert built == policy
    assert built.counts(EASY_THEN_HARD)[0].tolist() == counts


def test_every_adaptive_setting_is_used() -> None:
    heatmaps = torch.zeros(1, 17, 4, 3)
    heatmaps[:, :9] = 0.6
    heatmaps[:, 9:16] = 0.5  # relative responses 0, 1/6 and 1: n = 9 or 16

    def masks(**changes: float) -> int:
        return AdaptiveMasks(**changes).counts(heatmaps)[0].item()

    assert masks() == 8
    assert masks(gamma=0.1) == 4
    assert masks(max_masks=6) == 6
    assert masks(gamma=0.1, min_masks=7) == 7
    assert masks(min_response=0.7) == 2


def test_adaptive_log_tells_masks_easy_joints_and_hard_share() -> None:
    _, log = AdaptiveMasks().counts(EASY_THEN_HARD)
    assert {name: term.item() for name, term in log.items()} == {
        "masks": 5.0,
        "easy_joints": 17.0,
        "hard_share": 0.5,
    }


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"name": "adaptiv"}, "'none', 'fixed', 'adaptive'"),
        ({"name": "adaptive", "min_masks": 9}, "min_masks 9 is above max_masks 8"),
        ({"name": "adaptive", "gamma": 0.0}, "greater than 0"),
        ({"name": "fixed", "count": -1}, "greater than or equal to 0"),
        ({"name": "none", "count": 1}, "count"),
    ],
)
def test_wrong_recipe_is_refused(recipe: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ANY_POLICY.validate_json(json.dumps(recipe))
