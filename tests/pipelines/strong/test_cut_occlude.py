"""Which joints cut-occlude covers, and with what: its distributions and the true coordinates."""

import math

import pytest
import torch

from semipose.pipelines.strong import CutOcclude
from semipose.pipelines.strong.cut_occlude import draw_joint_patches
from semipose.pipelines.strong.patches import Patches

VIEW_HW = (256, 192)
APART_PX = 1000.0
"""Joints this far apart tell which one a centre belongs to, whatever the jitter."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def similarities(num_samples: int) -> torch.Tensor:
    """A different matrix for each sample, as in strong views."""
    angle, scale = torch.linspace(-1, 1, num_samples), torch.linspace(0.8, 1.25, num_samples)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = torch.linspace(-20, 30, num_samples)
    return torch.stack((cosine, -sine, shift, sine, cosine, -shift), dim=1).view(-1, 2, 3)


def draw(num_samples: int, num_keypoints: int = 17, count: int = 2, seed: int = 0, **changes) -> Patches:
    """Patches for joint k of sample n at (1000 k, 1000 n), in the plain view."""
    sample, joint = torch.meshgrid(torch.arange(num_samples), torch.arange(num_keypoints), indexing="ij")
    points = changes.get("points", torch.stack((joint, sample), dim=-1) * APART_PX)
    matrices = changes.get("matrices", torch.eye(2, 3).expand(num_samples, 2, 3))
    view_hw = changes.get("view_hw", VIEW_HW)
    return draw_joint_patches(points, count, matrices, view_hw, generator=seeded(seed))


def joints_of(points_xy: torch.Tensor) -> torch.Tensor:
    return (points_xy / APART_PX).round().long()


def test_joints_are_distinct_and_uniform_on_both_ends() -> None:
    patches = draw(4_000, count=2)
    for points_xy in (patches.centres_xy, patches.origins_xy):
        joints = joints_of(points_xy)[..., 0]
        assert (joints[:, 0] != joints[:, 1]).all()
        share = torch.bincount(joints.flatten(), minlength=17) / 4_000
        assert (share - 2 / 17).abs().max() < 5 * math.sqrt(2 / 17 * 15 / 17 / 4_000)
    both = torch.stack((joints_of(patches.centres_xy)[:, 0, 0], joints_of(patches.origins_xy)[:, 0, 0]))
    assert abs(torch.corrcoef(both.float())[0, 1]) < 0.06


def test_source_is_a_uniform_image_of_the_batch_and_lends_its_own_joints() -> None:
    times = torch.zeros(4)
    for seed in range(500):
        patches = draw(4, seed=seed)
        assert torch.equal(joints_of(patches.origins_xy)[..., 1], patches.sources[:, None].expand(4, 2))
        assert torch.equal(joints_of(patches.centres_xy)[..., 1], torch.arange(4)[:, None].expand(4, 2))
        times += torch.bincount(patches.sources, minlength=4)
    assert (times / 2_000 - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 2_000)


def test_jitter_and_half_sides_follow_the_masks_law() -> None:
    # joints at 0, where float32 would show a fraction that must not be there
    patches = draw(3_000, points=torch.zeros(3_000, 17, 2))
    for jitter in (patches.centres_xy, patches.origins_xy):
        assert torch.equal(jitter, jitter.trunc())
        assert abs(jitter.mean()) < 0.4
        assert abs(jitter.var() - 92.35) < 6.0  # E trunc(10 N)^2
    ends = torch.stack((patches.centres_xy.flatten(), patches.origins_xy.flatten()))
    assert abs(torch.corrcoef(ends)[0, 1]) < 0.05
    values, times = patches.half_sizes.unique(return_counts=True)
    assert values.tolist() == list(range(10, 20))
    assert (times / patches.half_sizes.numel() - 0.1).abs().max() < 0.015


def test_sizes_and_jitter_grow_with_the_view() -> None:
    points = torch.zeros(3, 17, 2)
    published, larger = draw(3, points=points), draw(3, points=points, view_hw=(384, 288))
    for name in ("centres_xy", "origins_xy", "half_sizes"):
        assert torch.equal(getattr(larger, name), getattr(published, name) * 1.5)


def test_each_end_moves_with_its_own_view() -> None:
    points = torch.rand(5, 17, 2, generator=seeded(9)) * torch.tensor([192.0, 256.0])
    still, matrices = draw(5, points=points), similarities(5)
    moved = draw(5, points=points, matrices=matrices)
    assert torch.equal(moved.sources, still.sources)
    for name, its in (("centres_xy", matrices), ("origins_xy", matrices[still.sources])):
        expected = torch.einsum("nij,npj->npi", its[..., :2], getattr(still, name)) + its[:, None, :, 2]
        torch.testing.assert_close(getattr(moved, name), expected, atol=1e-3, rtol=0)
    scale = torch.linspace(0.8, 1.25, 5)[:, None, None]
    torch.testing.assert_close(moved.half_sizes, still.half_sizes * scale)


@pytest.mark.parametrize(("num_keypoints", "expected"), [(1, 1), (2, 2), (3, 3), (17, 5)])
def test_fewer_joints_than_patches_are_all_covered(num_keypoints: int, expected: int) -> None:
    patches = draw(6, num_keypoints, count=5)
    joints = joints_of(patches.centres_xy)[..., 0].sort(dim=1).values
    assert joints.shape == (6, expected)
    assert (joints.diff(dim=1) > 0).all()


def standing_people(num_people: int) -> torch.Tensor:
    """(N, 17, 2): upright joints, x in 60..132 and y in 30..230 of a view 192 wide and 256 high."""
    uniform = torch.rand(num_people, 17, 2, generator=seeded(4))
    return uniform * torch.tensor([72.0, 200.0]) + torch.tensor([60.0, 30.0])


def test_patches_fall_on_joints_not_on_transposed_places(coordinate_scene) -> None:
    """SSPCM takes x for the row: there these joints give mean row 95, column 112, and 0.6 % reach row 162."""
    scene = coordinate_scene(100, size_hw=VIEW_HW, points_weak=standing_people(100))
    images, _ = CutOcclude().apply(torch.full_like(scene.strong, -1.0), scene, seeded())
    is_pasted = images[:, 2] >= 0
    _, rows, columns = is_pasted.nonzero(as_tuple=True)
    assert rows.float().mean() == pytest.approx(130, abs=9)
    assert columns.float().mean() == pytest.approx(96, abs=5)
    assert is_pasted[:, 162:].any(dim=(1, 2)).float().mean() > 0.5
    # and so they do where they are cut: pixels of these views say where they come from
    content = images.permute(0, 2, 3, 1)[is_pasted]
    assert content[:, 1].mean() == pytest.approx(130, abs=9)
    assert content[:, 0].mean() == pytest.approx(96, abs=5)


def test_patch_shows_the_surroundings_of_the_source_joint(coordinate_scene) -> None:
    points = torch.tensor([[[50.0, 200.0]], [[140.0, 40.0]]])
    scene = coordinate_scene(2, 1, VIEW_HW, points_weak=points)
    seen = set()
    for seed in range(8):
        images, _ = CutOcclude(count=1).apply(torch.full_like(scene.strong, -1.0), scene, seeded(seed))
        for n in range(2):
            rows, columns = (images[n, 2] >= 0).nonzero(as_tuple=True)
            column, row, source = images[n][:, rows, columns].mean(dim=1)
            centre = torch.tensor([columns.float().mean(), rows.float().mean()])
            assert (centre - points[n, 0]).abs().max() < 40  # jitter: 4 deviations
            assert (torch.tensor([column, row]) - points[int(source), 0]).abs().max() < 40
            seen.add((n, int(source)))
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}
