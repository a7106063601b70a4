"""What a user of torchvision writes: our crops, augmented by torchvision.transforms.v2 in workers."""

import io
import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode, functional

from semipose.pipelines.source import Split
from semipose.pipelines.views import MEAN_RGB, STD_RGB, AffinePolicy, ViewSettings
from semipose.sharding.samples.crop import BOX_PADDING
from semipose.sharding.samples.person import decode_pose
from semipose.sharding.store.index import Component, read_index
from semipose.training.bench.rivals.classic_loader import MEAN_COLOUR, draw_angle_deg, draw_scale


@dataclass(frozen=True)
class StoredCrop:
    """Where the bytes of one crop are, and the person's box in it (x, y, w, h)."""

    tar: str
    offset: int
    size: int
    box_xywh: np.ndarray

    def read(self) -> bytes:
        """The JPEG."""
        return _read(self.tar, self.offset, self.size)


def stored_crops(split: Split) -> list[StoredCrop]:
    """The crops of a split of local shards, in order."""
    crops = []
    for part in split.parts(range(split.num_samples)):
        samples = read_index(part.idx)
        for index in part.in_tar:
            members: dict[str, Component] = {member.extension: member for member in samples[index]}
            jpeg, pose = members["jpg"], members["pose"]
            box_xywh, _ = decode_pose(_read(part.tar, pose.offset, pose.size), split.skeleton.num_keypoints)
            crops.append(StoredCrop(part.tar, jpeg.offset, jpeg.size, box_xywh))
    return crops


def _read(tar: str, offset: int, size: int) -> bytes:
    with open(tar, "rb") as file:
        return os.pread(file.fileno(), size, offset)


class TorchvisionDataset(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each crop by the same policies; the strong one is made of the weak one.

    Pillow's images: with uint8 tensors torchvision takes as long on a CPU, within a tenth.
    """

    def __init__(self, split: Split, views: ViewSettings) -> None:
        self.crops = stored_crops(split)
        self.views = views

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        crop = self.crops[index]
        image = Image.open(io.BytesIO(crop.read())).convert("RGB")
        left, top, right, bottom = padded_box(crop.box_xywh, self.views.size_hw)
        weak = functional.resized_crop(
            image, top, left, bottom - top, right - left, list(self.views.size_hw), InterpolationMode.BILINEAR
        )
        weak = self._turn(weak, self.views.weak)
        if np.random.random() < self.views.weak.flip_probability:
            weak = functional.horizontal_flip(weak)
        return finish(weak), finish(self._turn(weak, self.views.strong))

    @staticmethod
    def _turn(image: Image.Image, policy: AffinePolicy) -> Image.Image:
        return functional.affine(
            image,
            angle=draw_angle_deg(policy),
            translate=[0, 0],
            scale=1 / draw_scale(policy),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
            fill=list(MEAN_COLOUR if policy.border == "mean" else (0, 0, 0)),
        )


def padded_box(box_xywh: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what a view shows at scale 1, in whole stored pixels."""
    x, y, box_w, box_h = box_xywh
    aspect = size_hw[1] / size_hw[0]
    width = BOX_PADDING * max(box_w, box_h * aspect)
    left, top = x + box_w / 2 - width / 2, y + box_h / 2 - width / aspect / 2
    return round(left), round(top), round(left + width), round(top + width / aspect)


def finish(view: Image.Image) -> Tensor:
    """A view as (3, H, W) float32, normalised."""
    scaled = functional.to_dtype(functional.to_image(view), torch.float32, scale=True)
    return functional.normalize(scaled, list(MEAN_RGB), list(STD_RGB), inplace=True)
