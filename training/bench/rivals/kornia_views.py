"""What a user of kornia writes: our crops decoded by workers, both views warped in batches on the GPU.

kornia is no dependency of this project: if it is not installed, the row is left out with that reason.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from semipose.pipelines.source import Split
from semipose.pipelines.views import MEAN_RGB, STD_RGB, ViewSettings
from semipose.training.bench.rivals.classic_loader import draw_strong, draw_view, endless_batches
from semipose.training.bench.rivals.torchvision_v2 import stored_crops


def why_not() -> str | None:
    """Why kornia cannot be measured here; None if it can."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    return None if find_spec("kornia") else "kornia is not installed"


class CanvasDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Each crop on a canvas of the largest one's size (3, S, S) uint8, and its views' matrices (2, 3)."""

    def __init__(self, split: Split, views: ViewSettings) -> None:
        self.crops = stored_crops(split)
        self.views = views
        self.side_px = max(max(self._decode(index).shape[1:]) for index in range(len(self.crops)))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        image = self._decode(index)
        canvas = torch.zeros(3, self.side_px, self.side_px, dtype=torch.uint8)
        canvas[:, : image.shape[1], : image.shape[2]] = image
        weak, _ = draw_view(self.crops[index].box_xywh, self.views.weak, self.views.size_hw)
        strong = draw_strong(self.views.strong, self.views.size_hw) @ weak
        weak_from_stored, strong_from_stored = (
            torch.from_numpy(m[:2].astype(np.float32)) for m in (weak, strong)
        )
        return canvas, weak_from_stored, strong_from_stored

    def _decode(self, index: int) -> Tensor:
        content = torch.frombuffer(bytearray(self.crops[index].read()), dtype=torch.uint8)
        return decode_jpeg(content, mode=ImageReadMode.RGB)


def kornia_batches(split: Split, views: ViewSettings, *, batch_size: int, workers: int) -> Iterator[object]:
    """Endless batches of both views (N, 3, H, W) float32, normalised, on the GPU."""
    from kornia.enhance import normalize
    from kornia.geometry.transform import warp_affine

    device = torch.device("cuda:0")
    mean, std = torch.tensor(MEAN_RGB, device=device), torch.tensor(STD_RGB, device=device)
    shift: Callable[[Tensor], Tensor] = lambda scaled: normalize(scaled, mean, std)  # noqa: E731
    for batch in endless_batches(CanvasDataset(split, views), batch_size=batch_size, workers=workers):
        canvas, *matrices = (tensor.to(device, non_blocking=True) for tensor in batch)
        scaled = canvas.float() / 255
        yield [shift(warp_affine(scaled, matrix, views.size_hw)) for matrix in matrices]
