"""Which rows of a head's tensors belong to which keypoint: networks of other keypoints can share them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """How dimension 0 of a layer's tensors is divided: shared rows, one or more blocks, shared rows.

    A block holds the same number of rows for each of the K keypoints, one keypoint after another.
    """

    first: int = 0
    """Shared rows before the blocks."""
    blocks: tuple[int, ...] | None = None
    """Rows of a keypoint in each block; None: all rows between the shared ones are one block."""
    last: int = 0
    """Shared rows after the blocks."""

    def split(self, size: int, num_keypoints: int) -> tuple[Tensor, Tensor]:
        """Return the rows of each keypoint, (K, R) int64, and the shared rows, of a tensor of `size` rows.

        Raises ValueError if `size` is not that of so many keypoints.
        """
        inside = size - self.first - self.last
        blocks = self.blocks or (inside // num_keypoints,)
        if inside != num_keypoints * sum(blocks) or min(blocks) < 1:
            raise ValueError(f"{size} rows are not those of {num_keypoints} keypoints")
        rows, start = [], self.first
        for block in blocks:
            rows.append(torch.arange(start, start + num_keypoints * block).view(num_keypoints, block))
            start += num_keypoints * block
        shared = torch.cat((torch.arange(self.first), torch.arange(start, size)))
        return torch.cat(rows, dim=1), shared
