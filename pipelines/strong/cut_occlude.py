"""Cut-occlude: cover joints with patches around joints of other people (SSPCM; docs/methods.md 2.5)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from semipose.configs.settings import settings
from semipose.pipelines import geometry
from semipose.pipelines.masking.masks import draw_half_sizes, draw_jitter, draw_order
from semipose.pipelines.strong.patches import Patches, paste
from semipose.pipelines.strong.scene import Scene


@settings
class CutOcclude:
    """Covers joints with upright patches around the joints of a random image of the batch.

    Differs from SSPCM: coordinates are correct, while its code exchanges rows and columns; joints are real
    and distinct, while its code draws from 24 channels with replacement; patches are cut and pasted in the
    strong view.
    """

    name: Literal["cut_occlude"] = "cut_occlude"
    count: Annotated[int, Field(ge=0)] = 2
    """Number of joints covered per image."""

    def apply(
        self, images: Tensor, scene: Scene, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Paste into `images` (N, 3, H, W), normalised, in place; no terms for the report."""
        patches = draw_joint_patches(
            scene.points_weak, self.count, scene.strong_from_weak, scene.view_hw, generator=generator
        )
        return paste(images, scene.strong, patches), {}


def draw_joint_patches(
    points_weak: Tensor,
    count: int,
    strong_from_weak: Tensor,
    view_hw: tuple[int, int],
    *,
    generator: torch.Generator,
) -> Patches:
    """Draw source images, joints, jitter and sizes, and move them to the strong view.

    Each sample has one source image, uniform over the batch (possibly itself), `count` distinct joints to
    cover and as many distinct joints of the source, all uniform and independent; with fewer joints, all of
    them. Joints that are not finite come last, and nothing is pasted at or from them. Target and source are
    jittered independently, as in pipelines/masking/masks.py.

    The strong view is sampled once from the stored pixels, so patches cannot be pasted into the weak view and
    warped with it. As with masks (masking/masks.py), the centres move with the joints and the sides scale
    with the view of the sample, so that a patch hides the same part of the body but stays upright. Its source
    is cut from the strong view of the source image with the same sides: pixels are copied, not scaled.

    Args:
        points_weak: (N, K, 2) weak-view px, the keypoints of the teacher.
        count: patches per sample.
        strong_from_weak: (N, 2, 3) matrices.
        view_hw: height and width of both views in px.
        generator: on the device of the points.
    """
    num_samples, num_keypoints = points_weak.shape[:2]
    num_patches, height_px = min(count, num_keypoints), view_hw[0]
    sources = torch.randint(num_samples, (num_samples,), generator=generator, device=generator.device)
    exists = points_weak.isfinite().all(dim=-1)
    targets = draw_order(num_samples, num_keypoints, exists, generator=generator)[:, :num_patches]
    origins = draw_order(num_samples, num_keypoints, exists[sources], generator=generator)[:, :num_patches]
    target_jitter = draw_jitter(num_samples, num_patches, height_px, generator=generator)
    origin_jitter = draw_jitter(num_samples, num_patches, height_px, generator=generator)
    half_weak = draw_half_sizes(num_samples, num_patches, height_px, generator=generator)

    points, matrices = points_weak.float(), strong_from_weak.float()
    targets_weak = _take(points, targets) + target_jitter
    origins_weak = _take(points[sources], origins) + origin_jitter
    return Patches(
        sources=sources,
        centres_xy=geometry.apply(matrices, targets_weak),
        origins_xy=geometry.apply(matrices[sources], origins_weak),
        half_sizes=half_weak * geometry.linear_scale(matrices)[:, None, None],
    )


def _take(points_xy: Tensor, joints: Tensor) -> Tensor:
    """(N, P, 2): each sample's points (N, K, 2) at `joints` (N, P)."""
    return points_xy.gather(1, joints[:, :, None].expand(-1, -1, 2))
