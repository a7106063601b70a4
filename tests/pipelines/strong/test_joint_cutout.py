"""How many joints the three augmentations hide, and that they hide just those."""

import json

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from semipose.pipelines.masking.masks import draw_counts, draw_masks, mask_keypoints
from semipose.pipelines.strong import AdaptiveMasks, JointCutout, RandomMasks, Scene, StrongAugmentation

ANY_AUGMENTATION: TypeAdapter = TypeAdapter(StrongAugmentation)
EASY_THEN_HARD = torch.stack([torch.ones(17), torch.zeros(17)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("augmentation", "counts"),
    [
        (JointCutout(), [5, 5]),
        (JointCutout(count=3), [3, 3]),
        (JointCutout(count=99), [17, 17]),
        (AdaptiveMasks(), [8, 2]),
        (AdaptiveMasks(max_masks=6, min_masks=1), [6, 1]),
    ],
)
def test_counts_follow_the_settings(augmentation: JointCutout | AdaptiveMasks, counts: list[int]) -> None:
    assert augmentation.counts(EASY_THEN_HARD, EASY_THEN_HARD >= 0)[0].tolist() == counts


@pytest.mark.parametrize(
    ("keypoints", "masks"), [(1, 1), (2, 1), (4, 2), (6, 3), (14, 7), (16, 8), (17, 8), (133, 63)]
)
def test_at_most_the_published_share_of_the_keypoints_is_masked(keypoints: int, masks: int) -> None:
    peaks = torch.ones(1, keypoints)  # every joint is easy
    counts, _ = AdaptiveMasks().counts(peaks, peaks > 0)
    assert counts.tolist() == [masks]


def test_every_adaptive_setting_is_used() -> None:
    peaks = torch.zeros(1, 17)
    peaks[:, :9] = 0.6
    peaks[:, 9:16] = 0.5  # relative responses 0, 1/6 and 1: n = 9 or 16

    def masks(**changes: float) -> int:
        recipe = json.dumps({"name": "adaptive_masks", **changes})
        return ANY_AUGMENTATION.validate_json(recipe).counts(peaks, peaks >= 0)[0].item()

    assert masks() == 8
    assert masks(gamma=0.1) == 4
    assert masks(max_masks=6) == 6
    assert masks(gamma=0.1, min_masks=7) == 7
    assert masks(min_response=0.7) == 2


def test_adaptive_masks_report_masks_easy_joints_and_hard_share(coordinate_scene) -> None:
    scene = coordinate_scene(2)
    scene.peaks[1] = 0
    _, terms = AdaptiveMasks().apply(scene.strong.clone(), scene, seeded())
    assert {name: term.item() for name, term in terms.items()} == {
        "masks": 5.0,
        "easy_joints": 17.0,
        "hard_share": 0.5,
    }


def far_apart(num_samples: int, num_joints: int = 5) -> Scene:
    """Joints so far apart that no mask reaches another's, in white images of one channel."""
    points = torch.stack((torch.arange(num_joints) * 100.0 + 50, torch.full((num_joints,), 32.0)), dim=-1)
    points, still = points.expand(num_samples, -1, -1), torch.eye(2, 3).expand(num_samples, -1, -1)
    strong = torch.ones(num_samples, 1, 64, 100 * num_joints)
    return Scene(strong, torch.ones(num_samples, num_joints), points, still)


def hidden(images: torch.Tensor, num_joints: int = 5) -> torch.Tensor:
    """Which joints of `far_apart` are hidden, (N, K) bool."""
    return (images[:, 0] == 0).any(dim=1).view(len(images), num_joints, 100).any(dim=2)


def test_random_masks_hide_every_number_of_joints_equally_often() -> None:
    """docs/methods.md 2.3: (0, 4) for each person; five distinct joints, so that all are seen."""
    scene = far_apart(2000)
    images, terms = RandomMasks().apply(scene.strong.clone(), scene, seeded())
    numbers = hidden(images).sum(dim=1)
    shares = torch.bincount(numbers, minlength=5).float() / len(numbers)
    assert len(shares) == 5
    assert (shares - 0.2).abs().max() < 0.03
    assert terms["masks"] == numbers.float().mean()
    assert (hidden(images).float().mean(dim=0) - 0.4).abs().max() < 0.04  # no joint more often than another


@pytest.mark.parametrize(
    ("changes", "num_joints", "expected"),
    [
        ({"min_masks": 2, "max_masks": 3}, 5, {2, 3}),
        ({"min_masks": 3, "max_masks": 3}, 5, {3}),
        ({}, 2, {0, 1, 2}),
        ({"min_masks": 4}, 2, {2}),
    ],
)
def test_the_bounds_of_the_random_number_are_kept(changes, num_joints: int, expected: set[int]) -> None:
    scene = far_apart(100, num_joints)
    images, _ = RandomMasks(**changes).apply(scene.strong.clone(), scene, seeded(1))
    assert set(hidden(images, num_joints).sum(dim=1).tolist()) == expected


def test_the_random_number_does_not_depend_on_the_teacher() -> None:
    scene = far_apart(50)
    images, _ = RandomMasks().apply(scene.strong.clone(), scene, seeded(2))
    unsure = Scene(scene.strong, torch.zeros(50, 5), scene.points_weak, scene.strong_from_weak)
    assert torch.equal(RandomMasks().apply(scene.strong.clone(), unsure, seeded(2))[0], images)
    counts = draw_counts(50, 0, 4, generator=seeded(2))
    assert hidden(images).sum(dim=1).tolist() == counts.tolist()


@pytest.mark.parametrize(
    "augmentation",
    [
        JointCutout(count=3),
        RandomMasks(min_masks=3, max_masks=3),
        AdaptiveMasks(max_masks=3),
        AdaptiveMasks(),
    ],
)
@pytest.mark.parametrize("found", [2, 4])
def test_only_joints_of_somebody_are_drawn(augmentation, found: int) -> None:
    """A whole photo has slots for more people than it shows."""
    scene = far_apart(60, found)
    nobody = torch.full((60, 40, 2), torch.nan)
    points = torch.cat((nobody, scene.points_weak, nobody), dim=1)
    peaks = torch.cat((torch.zeros(60, 40), scene.peaks, torch.zeros(60, 40)), dim=1)
    photos = Scene(scene.strong, peaks, points, scene.strong_from_weak)
    images, terms = augmentation.apply(scene.strong.clone(), photos, seeded())
    count = found // 2 if augmentation == AdaptiveMasks() else min(3, found)  # 8 of 17 are 1 of 2 and 2 of 4
    assert hidden(images, found).sum(dim=1).tolist() == [count] * 60
    assert terms.get("masks", count) == count


@pytest.mark.parametrize("augmentation", [JointCutout(count=4), AdaptiveMasks(max_masks=6)])
def test_augmentation_paints_the_drawn_masks_with_the_mean_colour(augmentation, coordinate_scene) -> None:
    scene = coordinate_scene(3, size_hw=(64, 48))
    images, _ = augmentation.apply(scene.strong.clone(), scene, seeded(2))
    expected, (counts, _) = scene.strong.clone(), augmentation.counts(scene.peaks, scene.exists)
    masks = draw_masks(scene.points_weak, counts, scene.strong_from_weak, (64, 48), generator=seeded(2))
    mask_keypoints(expected, *masks, torch.zeros(3))
    assert not torch.equal(expected, scene.strong)
    assert torch.equal(images, expected)


def test_joint_cutout_hides_distinct_joints(coordinate_scene) -> None:
    """Xie et al. draw with replacement: 5 picks hide 3.26 distinct joints of 17. Ours hide 5."""
    size_hw = (256, 2560)  # five joints so far apart that no mask reaches another's
    points = torch.stack((torch.arange(5) * 500.0 + 200, torch.full((5,), 128.0)), dim=-1).expand(40, 5, 2)
    scene = coordinate_scene(40, 5, size_hw, points_weak=points)
    images, _ = JointCutout(count=3).apply(torch.ones(40, 1, *size_hw), scene, seeded())
    is_hidden = (images[:, 0] == 0).any(dim=1)[:, :2500].view(40, 5, 500).any(dim=2)
    assert is_hidden.sum(dim=1).tolist() == [3] * 40
    assert is_hidden.any(dim=0).all()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"name": "adaptiv"}, "'adaptive_masks', 'joint_cutout', 'random_masks'"),
        ({"name": "random_masks", "min_masks": 5}, "min_masks 5 is above max_masks 4"),
        ({"name": "adaptive_masks", "min_masks": 9, "max_masks": 8}, "min_masks 9 is above max_masks 8"),
        ({"name": "adaptive_masks", "gamma": 0.0}, "greater than 0"),
        ({"name": "joint_cutout", "count": -1}, "greater than or equal to 0"),
        ({"name": "joint_cutout", "gamma": 0.5}, "gamma"),
    ],
)
def test_wrong_recipe_is_refused(recipe: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ANY_AUGMENTATION.validate_json(json.dumps(recipe))
