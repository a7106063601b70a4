"""From photos to the network's input: the plain view of training, drawn without shards.

A person is cut out and scaled down exactly as the shards of the run store it (`ModelConfig.crop`), and the
view of that crop is warped as a run on a CPU warps it (pipelines/warp.py). So a prediction differs from that
of `evaluate.py` only by the JPEG in which a shard keeps the crop. The size of the crops matters: a warp alone
does not average the pixels that it skips, so a view from a larger crop is sharper.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from semipose.configs.load import InputError
from semipose.pipelines.batch import EvalBatch
from semipose.pipelines.geometry import compose, invert
from semipose.pipelines.photo_views import EVAL_MULTIPLE
from semipose.pipelines.views import Border, view_from_stored
from semipose.pipelines.warp import CpuWarp, View
from semipose.sharding.samples.crop import (
    PersonCrop,
    cut,
    image_from_stored,
    move_box,
    person_region,
    scale_down,
)

OVERSAMPLE = 4 / 3
"""A photo is scaled down before it is warped where it has more pixels than this per pixel of its view, as
shards of people do; a warp alone would skip pixels."""


@dataclass(frozen=True)
class Cut:
    """The part of a photo from which one view is warped."""

    pixels: np.ndarray
    """(h, w, 3) uint8 RGB."""
    image_from_stored: np.ndarray
    """(2, 3) float64: photo pixels from these pixels."""
    box_xywh: np.ndarray
    """(4,) float64: the person's box in these pixels; of a whole photo the photo."""
    source_wh: tuple[int, int]
    """Width and height of the photo."""


def cut_person(photo: np.ndarray, box_xywh: Sequence[float], crop: PersonCrop) -> Cut:
    """Cut a person out of a photo (H, W, 3) uint8, as shards with these crops store it.

    Raises InputError for a box that is outside the photo.
    """
    x, y, width, height = map(float, box_xywh)
    size_wh = (photo.shape[1], photo.shape[0])
    box = np.array([x, y, width, height])
    fault = InputError(f"the box {box.tolist()} is empty or outside the photo")
    if not np.isfinite(box).all() or min(width, height) < 0 or max(width, height) <= 0:
        raise fault
    region = person_region((x, y, width, height), size_wh, crop)
    if region.is_empty:
        raise fault
    matrix = image_from_stored(region)
    scale = matrix[[0, 1], [0, 1]]
    stored_from_image = np.column_stack([np.diag(1 / scale), -matrix[:, 2] / scale])
    pixels = cut(photo, region)
    # A copy, so that the photo can go.
    own = pixels.copy() if pixels.base is not None else pixels
    return Cut(own, matrix, move_box(box, stored_from_image), size_wh)


def cut_photo(photo: np.ndarray, short_px: float) -> Cut:
    """A whole photo (H, W, 3) uint8 whose shorter side is going to be shown on `short_px` pixels."""
    height, width = photo.shape[:2]
    scale = min(1.0, OVERSAMPLE * short_px / min(height, width))
    stored_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = width / stored_wh[0], height / stored_wh[1]
    matrix = np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2]])
    return Cut(scale_down(photo, stored_wh), matrix, np.array([0.0, 0.0, *stored_wh]), (width, height))


class ViewMaker:
    """Warps cuts into batches of plain views, in threads."""

    def __init__(self, size_hw: tuple[int, int], border: Border, threads: int | None = None) -> None:
        """size_hw: of the views of people, and of fitted photos; `photos` have sizes of their own."""
        self.size_hw, self.border = size_hw, border
        self._warp = CpuWarp(size_hw, threads or min(8, os.cpu_count() or 1))

    def people(self, cuts: Sequence[Cut]) -> EvalBatch:
        """The plain view of each person: the padded box fills it."""
        none = np.zeros(len(cuts))
        boxes = np.stack([cut.box_xywh for cut in cuts])
        matrices = view_from_stored(boxes, none + 1, none, none > 0, self.size_hw)
        return self._batch(cuts, matrices, None)

    def photos(self, cuts: Sequence[Cut], short_px: int) -> EvalBatch:
        """The plain view of each whole photo, padded with the mean colour to the largest one of the batch.

        The law is that of `pipelines.photo_graph.eval_photo_graph`.
        """
        plans = [whole_view(cut.source_wh, short_px) for cut in cuts]
        return self._whole(cuts, [matrix for matrix, _ in plans], np.array([size for _, size in plans]))

    def fitted_photos(self, cuts: Sequence[Cut]) -> EvalBatch:
        """A view of `size_hw` of each whole photo, which fills the upper left as far as it goes."""
        return self._whole(cuts, [fitted_view(cut.source_wh, self.size_hw) for cut in cuts], None)

    def _whole(
        self, cuts: Sequence[Cut], view_from_image: Sequence[np.ndarray], sizes_hw: np.ndarray | None
    ) -> EvalBatch:
        pairs = zip(view_from_image, cuts, strict=True)
        matrices = np.stack([_product(matrix, cut.image_from_stored) for matrix, cut in pairs])
        return self._batch(cuts, matrices, sizes_hw)

    def _batch(self, cuts: Sequence[Cut], matrices: np.ndarray, sizes_hw: np.ndarray | None) -> EvalBatch:
        from_stored = matrices.astype(np.float32)
        view = View("image", from_stored, self.border, sizes_hw=sizes_hw)
        image = self._warp.start([cut.pixels for cut in cuts], [view])()["image"]
        back = np.stack([cut.image_from_stored for cut in cuts]).astype(np.float32)
        return EvalBatch(
            image=image.permute(0, 3, 1, 2),
            image_from_view=compose(torch.from_numpy(back), invert(torch.from_numpy(from_stored))),
            records=[{"source_size": cut.source_wh} for cut in cuts],
            view_hw=None if sizes_hw is None else torch.from_numpy(sizes_hw),
        )

    def close(self) -> None:
        """Stop the threads."""
        self._warp.close()


def whole_view(size_wh: tuple[int, int], short_px: int) -> tuple[np.ndarray, tuple[int, int]]:
    """`view_from_image` (2, 3) float64 of a photo, and height and width of its view.

    The shorter side is shown on `short_px` pixels, and both sides of the view are multiples of 64; the centre
    of the photo is rounded as published (HigherHRNet, DEKR, CID).
    """
    short = min(size_wh)
    width, height = (
        EVAL_MULTIPLE * int(np.ceil(np.float32(short_px * side) / np.float32(short) / EVAL_MULTIPLE))
        for side in size_wh
    )
    zoom = short_px / short
    centre = [np.floor(0.5 * side + 0.5) for side in size_wh]
    shift_x, shift_y = 0.5 * width - zoom * centre[0], 0.5 * height - zoom * centre[1]
    return np.array([[zoom, 0.0, shift_x], [0.0, zoom, shift_y]]), (height, width)


def fitted_view(size_wh: tuple[int, int], size_hw: tuple[int, int]) -> np.ndarray:
    """`view_from_image` (2, 3) float64 of a whole photo that fills the upper left of a view."""
    zoom = shown_scale(size_wh, size_hw)
    return np.array([[zoom, 0.0, (zoom - 1) / 2], [0.0, zoom, (zoom - 1) / 2]])


def shown_scale(size_wh: tuple[int, int], size_hw: tuple[int, int]) -> float:
    """View pixels per pixel of the photo in its `fitted_view`."""
    return min(size_hw[0] / size_wh[1], size_hw[1] / size_wh[0])


def _product(a_from_b: np.ndarray, b_from_c: np.ndarray) -> np.ndarray:
    """`a_from_c` (2, 3) of two matrices (2, 3)."""
    shift = a_from_b[:, :2] @ b_from_c[:, 2:] + a_from_b[:, 2:]
    return np.concatenate([a_from_b[:, :2] @ b_from_c[:, :2], shift], axis=1)
