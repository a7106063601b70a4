"""What holds for every strong augmentation, alone and in a row."""

import json
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from semipose.pipelines import geometry
from semipose.pipelines.masking.masks import draw_masks, draw_order, mask_keypoints
from semipose.pipelines.strong import CutMix, CutOcclude, Cutout, JointCutout, Scene, StrongAugmentation
from semipose.pipelines.strong.cut_occlude import draw_joint_patches
from semipose.pipelines.strong.holes import draw_holes
from semipose.pipelines.strong.patches import Patches, paste

AUGMENTATIONS = [augmentation() for augmentation in get_args(get_args(StrongAugmentation)[0])]
PLACED = [
    augmentation
    for augmentation in AUGMENTATIONS
    if augmentation.name not in {"rand_augment", "colour", "blur"}
]
"""Augmentations that change only some regions of an image."""
ANCHORED = [augmentation for augmentation in PLACED if augmentation.name not in {"cutout", "cutmix"}]
"""Augmentations that change only what lies near joints."""
SIZES_HW = [(64, 48), (48, 64), (56, 56)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def name_of(augmentation) -> str:
    return augmentation.name


def noise(scene: Scene, **changes: torch.Tensor) -> Scene:
    """The same scene with noise as strong views."""
    strong = torch.randn(scene.strong.shape, generator=seeded(9))
    fields = {"peaks": scene.peaks, "points_weak": scene.points_weak}
    fields |= {"strong": strong, "strong_from_weak": scene.strong_from_weak}
    return Scene(**{**fields, **changes})


def applied(augmentation, scene: Scene, seed: int = 0) -> torch.Tensor:
    return augmentation.apply(scene.strong.clone(), scene, seeded(seed))[0]


def along(path: list, scene: Scene, generator: torch.Generator) -> torch.Tensor:
    """The strong views after the augmentations of a path, as a method applies them."""
    images = scene.strong.clone()
    for augmentation in path:
        images, _ = augmentation.apply(images, scene, generator)
    return images


def test_every_part_has_its_name() -> None:
    assert [augmentation.name for augmentation in AUGMENTATIONS] == [
        "adaptive_masks",
        "joint_cutout",
        "random_masks",
        "cut_occlude",
        "cutout",
        "cutmix",
        "rand_augment",
        "colour",
        "blur",
    ]
    for augmentation in AUGMENTATIONS:
        assert (
            TypeAdapter(StrongAugmentation).validate_json(json.dumps({"name": augmentation.name}))
            == augmentation
        )


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"name": "cut_occlude", "count": -1}, "greater than or equal to 0"),
        ({"name": "cutmix", "count": 1.5}, "integer"),
        ({"name": "rand_augment", "magnitude": 31}, "less than or equal to 30"),
        ({"name": "rand_augment", "magnitude": 0}, "greater than or equal to 1"),
        ({"name": "colour", "grey_probability": 1.1}, "less than or equal to 1"),
        ({"name": "colour", "hue": 0.1}, "hue"),
    ],
)
def test_wrong_settings_are_refused(recipe: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(StrongAugmentation).validate_json(json.dumps(recipe))


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_generator_alone_decides(augmentation, size_hw: tuple[int, int], coordinate_scene) -> None:
    scene = noise(coordinate_scene(4, size_hw=size_hw))
    first, again, other = (
        applied(augmentation, scene),
        applied(augmentation, scene),
        applied(augmentation, scene, seed=1),
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, scene.strong)
    assert first.shape == scene.strong.shape


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_dtype_and_layout_are_kept_and_the_scene_is_left_alone(
    augmentation, dtype: torch.dtype, layout: torch.memory_format, coordinate_scene
) -> None:
    scene = noise(coordinate_scene(3))
    strong = scene.strong.to(dtype).contiguous(memory_format=layout)
    scene = noise(scene, strong=strong)
    clean = strong.clone()
    images = applied(augmentation, scene)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=layout)
    assert torch.equal(scene.strong, clean)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_terms_are_numbers_on_the_device(augmentation, coordinate_scene) -> None:
    scene = coordinate_scene(3)
    _, terms = augmentation.apply(scene.strong.clone(), scene, seeded())
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())


@pytest.mark.parametrize(("num_samples", "num_keypoints"), [(1, 17), (1, 1), (3, 1)])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_one_sample_and_one_keypoint(
    augmentation, num_samples: int, num_keypoints: int, coordinate_scene
) -> None:
    scene = noise(coordinate_scene(num_samples, num_keypoints))
    images = applied(augmentation, scene)
    assert images.isfinite().all()
    if num_samples == 1 and augmentation.name == "cutmix":
        assert torch.equal(images, scene.strong)  # its only partner is itself


@pytest.mark.parametrize("augmentation", PLACED, ids=name_of)
def test_pixels_outside_the_painted_regions_are_untouched(augmentation, coordinate_scene) -> None:
    scene = noise(coordinate_scene(4, size_hw=(128, 96)))
    changed = (applied(augmentation, scene) != scene.strong).any(dim=1).float().mean(dim=(1, 2))
    # at most 8 rectangles, none larger than 19 x 19 px (128 / 256 of 38)
    assert (changed <= 8 * 19**2 / (128 * 96)).all()
    assert changed.mean() > 0.01


@pytest.mark.parametrize(
    "joint_xy", [(-500.0, 20.0), (20.0, 1e9), (float("nan"), 20.0), (20.0, float("inf"))]
)
@pytest.mark.parametrize("augmentation", ANCHORED, ids=name_of)
def test_joints_far_outside_or_not_finite_change_nothing(augmentation, joint_xy, coordinate_scene) -> None:
    scene = noise(coordinate_scene(3), points_weak=torch.tensor(joint_xy).expand(3, 17, 2))
    assert torch.equal(applied(augmentation, scene), scene.strong)


@pytest.mark.parametrize("augmentation", ANCHORED, ids=name_of)
def test_joint_at_the_border_is_covered_within_the_view(augmentation, coordinate_scene) -> None:
    corner = torch.tensor([191.0, 255.0]).expand(30, 17, 2)
    scene = noise(coordinate_scene(30, size_hw=(256, 192)), points_weak=corner)
    is_changed = (applied(augmentation, scene) != scene.strong).any(dim=1)
    assert is_changed[:, :100].sum() == 0
    assert is_changed[:, :, :100].sum() == 0
    assert is_changed[:, 255, 191].float().mean() > 0.4


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name_of)
def test_autocast_changes_nothing(augmentation, coordinate_scene) -> None:
    scene = noise(coordinate_scene(3))
    plain = applied(augmentation, scene)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(applied(augmentation, scene), plain)


def test_patches_come_from_joints_of_somebody_and_cover_such_joints(coordinate_scene) -> None:
    """A whole photo has slots for more people than it shows; a photo without people is left as it is."""
    scene = noise(coordinate_scene(40, size_hw=(128, 96)))
    nobody = torch.full((40, 60, 2), torch.nan)
    points = torch.cat((nobody, scene.points_weak, nobody), dim=1)
    points[0] = torch.nan
    photos = Scene(scene.strong, torch.zeros(40, 137), points, scene.strong_from_weak)
    is_changed = (applied(CutOcclude(count=2), photos) != scene.strong).flatten(1).any(dim=1)
    alone = (applied(CutOcclude(count=2), scene) != scene.strong).flatten(1).any(dim=1)
    assert not is_changed[0]
    assert is_changed.sum() > 0.8 * alone.sum()


def test_joco_is_cut_occlude_and_then_cutout(coordinate_scene) -> None:
    scene, draws = noise(coordinate_scene(4, size_hw=(128, 96))), seeded(5)
    drawn = (scene.strong_from_weak, scene.view_hw)
    expected = paste(
        scene.strong.clone(), scene.strong, draw_joint_patches(scene.points_weak, 2, *drawn, generator=draws)
    )
    centres_xy, half_sizes = draw_holes(5, *drawn, generator=draws)
    every = torch.arange(5).expand(4, 5)
    still = geometry.identity(4, every.device)
    mask_keypoints(expected, centres_xy, torch.full((4,), 5), half_sizes, every, still, torch.zeros(3))
    assert torch.equal(along([CutOcclude(count=2), Cutout(count=5)], scene, seeded(5)), expected)


def test_jccm_is_joint_cutout_and_then_cutmix(coordinate_scene) -> None:
    scene, draws = noise(coordinate_scene(4, size_hw=(128, 96))), seeded(5)
    drawn = (scene.strong_from_weak, scene.view_hw)
    expected = scene.strong.clone()
    masks = draw_masks(scene.points_weak, torch.full((4,), 5), *drawn, generator=draws)
    mask_keypoints(expected, *masks, torch.zeros(3))
    partners = draw_order(1, 4, generator=draws)[0]
    centres_xy, half_sizes = draw_holes(2, *drawn, generator=draws)
    paste(expected, scene.strong, Patches(partners, centres_xy, centres_xy, half_sizes))
    assert torch.equal(along([JointCutout(count=5), CutMix(count=2)], scene, seeded(5)), expected)


def test_all_parts_make_one_path(coordinate_scene) -> None:
    scene = noise(coordinate_scene(4, size_hw=(128, 96)))
    images = along(AUGMENTATIONS, scene, seeded())
    assert images.isfinite().all()
    assert (images != scene.strong).all(dim=1).float().mean() > 0.9


def test_patches_of_a_path_are_clean(coordinate_scene) -> None:
    """JCCM pastes what the loader gave, not the mean colour that joint cutout left there."""
    scene = coordinate_scene(6, size_hw=(128, 96))
    generator = seeded(3)
    masked, _ = JointCutout(count=17).apply(scene.strong.clone() + 1, scene, generator)
    images, _ = CutMix(count=5).apply(masked.clone(), scene, generator)
    is_pasted = (images != masked).any(dim=1)
    assert is_pasted.any()
    same_place = images[:, :2].permute(0, 2, 3, 1)[is_pasted]
    assert torch.equal(same_place, scene.strong[:, :2].permute(0, 2, 3, 1)[is_pasted])
