"""The people of whole photos, padded to a batch, and the parts of the photos that are not annotated.

Shape letters: pipelines/batch.py. M is the most people of any photo of the batch, 0 included. Frames and
matrices: pipelines/geometry.py. Nothing here waits for the device.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from semipose.pipelines.geometry import apply


@dataclass(frozen=True)
class People:
    """Annotated people, or those that a teacher found. Rows where `is_person` is false are padding."""

    points_xy: Tensor
    """(N, M, K, 2) float32 in view pixels; anything, NaN included, where `visible` is 0."""
    visible: Tensor
    """(N, M, K) float32: 1 where the annotator marked the keypoint (occluded or not), also outside the view,
    else 0; between 0 and 1 where a teacher found it, and then the weight of the keypoint in the losses."""
    is_person: Tensor
    """(N, M) bool."""
    corners_xy: Tensor
    """(N, M, 4, 2) float32 in view pixels: the corners of the person's box in order around it (the view may
    turn it). Four equal corners stand for no box."""

    @property
    def marked(self) -> Tensor:
        """(N, M, K) bool: keypoints of people that have a place."""
        return (self.visible > 0) & self.is_person[..., None]

    def box_sides(self, *, grown: float) -> Tensor:
        """Return the sides of each person's box (N, M, 2) in view px.

        Without a box they are the extent of the keypoints, `grown` times as large.
        """
        corners, points_xy, marked = self.corners_xy.float(), self.points_xy.float(), self.marked[..., None]
        sides = (corners[..., 1:3, :] - corners[..., 0:2, :]).norm(dim=-1)
        has_box = (sides > 0).any(-1)
        low = torch.where(marked, points_xy, torch.inf).amin(-2)
        high = torch.where(marked, points_xy, -torch.inf).amax(-2)
        extent = torch.where(marked.any(-2), high - low, 0.0)
        return torch.where(has_box[..., None], sides, grown * extent)


@dataclass(frozen=True)
class FoundPeople(People):
    """People found by a teacher; some of their keypoints may not count."""

    centres_xy: Tensor
    """(N, M, 2) float32 in view pixels: where the teacher found each person. Keypoints that do not count, or
    that the view does not show, have their part in it."""


@dataclass(frozen=True)
class IgnoredArea:
    """Where a photo shows people that are not annotated: crowds, and people without keypoints."""

    grid: Tensor
    """(N, 1, G, G) float32 0/1: a grid stretched over the stored photo, 1 where it is ignored."""
    stored_from_view: Tensor
    """(N, 2, 3) float32."""
    stored_hw: Tensor
    """(N, 2) float32: height and width of the stored photos in pixels."""

    def counted(self, map_hw: tuple[int, int], stride: float) -> Tensor:
        """Return (N, 1, h, w) float32: 1 for cells inside the photo and not ignored, else 0.

        Cell i sits at view pixel `stride * i`. The grid is read bilinearly and ignored from one half on.
        Cells outside the photo do not count, as published (DEKR warps its mask with a border of 0).
        """
        cells = cells_on_photo(self.stored_from_view, self.stored_hw, map_hw, stride)
        ignored = F.grid_sample(self.grid.float(), cells, padding_mode="border", align_corners=False)
        return (are_inside(cells) & (ignored < 0.5)).float()


@dataclass(frozen=True)
class PhotoFrame:
    """Where a view shows its photo, stored or source; beyond its border there is nothing to see."""

    photo_from_view: Tensor
    """(N, 2, 3) float32."""
    photo_hw: Tensor
    """(N, 2): height and width of the photos in pixels."""

    def shows(self, map_hw: tuple[int, int], stride: float) -> Tensor:
        """Return (N, 1, h, w) bool: cells inside the photo. Cell i sits at view pixel `stride * i`."""
        return are_inside(cells_on_photo(self.photo_from_view, self.photo_hw, map_hw, stride))


def cells_on_photo(
    photo_from_view: Tensor, photo_hw: Tensor, map_hw: tuple[int, int], stride: float
) -> Tensor:
    """Return where the cells of maps of size (h, w) are on their photos: x and y, (N, h, w, 2) float32.

    -1 is the photo's left or upper edge, half a pixel before the first pixel's centre, and 1 the other edge.
    Cell i sits at view pixel `stride * i`. photo_from_view (N, 2, 3); photo_hw (N, 2) height and width in px.
    """
    height, width = map_hw
    axes = [
        torch.arange(size, device=photo_from_view.device, dtype=torch.float32) * stride
        for size in (height, width)
    ]
    y_view, x_view = torch.meshgrid(*axes, indexing="ij")
    cells_view = torch.stack((x_view, y_view), dim=-1).flatten(0, 1)
    cells = apply(photo_from_view.float(), cells_view.expand(len(photo_from_view), -1, -1))
    edges = (2 * cells + 1) / photo_hw.float().flip(-1)[:, None] - 1
    return edges.view(-1, height, width, 2)


def are_inside(cells: Tensor) -> Tensor:
    """Return (N, 1, h, w) bool: whether cells, as from `cells_on_photo`, are inside their photos."""
    return (cells.abs() <= 1).all(-1)[:, None]
