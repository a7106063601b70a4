"""The warp on the CPU: every pixel is OpenCV's own of three channels, normalised as torchvision does it."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from semipose.pipelines.graph import Pipeline, labelled_graph, unlabelled_graph
from semipose.pipelines.loader import labelled_loader, unlabelled_loader
from semipose.pipelines.source import open_split
from semipose.pipelines.views import BORDER_GREYS, MEAN_RGB, STD_RGB, ViewSettings
from semipose.pipelines.warp import CpuWarp, View
from tests.pipelines.conftest import MakeShards, encode
from tests.pipelines.test_graph import SIZES_HW, pixels_of, reading_of


def test_every_level_is_normalised_as_by_torchvision() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    warp = CpuWarp((16, 16), 1)
    found = warp.start([levels], [View("same", np.eye(2, 3, dtype=np.float32)[None], "mean")])()["same"][0]
    warp.close()
    exact = torch.from_numpy(levels).permute(2, 0, 1).double() / 255
    expected = functional.normalize(exact, list(MEAN_RGB), list(STD_RGB)).permute(1, 2, 0)
    torch.testing.assert_close(found.double(), expected, atol=4e-7, rtol=0)


@pytest.mark.parametrize("size_hw", SIZES_HW)
@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_opencvs_own(size_hw: tuple[int, int], threads: int) -> None:
    rng = np.random.default_rng(3)
    crops = [rng.integers(0, 256, (40 + 17 * i, 90 - 7 * i, 3), dtype=np.uint8) for i in range(9)]
    matrices = {name: rng.normal(0, 1, (9, 2, 3)).astype(np.float32) for name in ("one", "other")}
    for each in matrices.values():
        each[:, :, 2] = rng.uniform(0, 60, (9, 2))
    warp = CpuWarp(size_hw, threads)
    views = (View("one", matrices["one"], "mean"), View("other", matrices["other"], "black"))
    found = warp.start(crops, views)()
    warp.close()
    for view in views:
        for place, crop in enumerate(crops):
            grey = BORDER_GREYS[view.border]
            expected = cv2.warpAffine(crop, view.from_stored[place], size_hw[::-1], borderValue=grey)
            assert np.array_equal(pixels_of(found[view.name][place]).numpy(), expected)


def test_loaders_give_the_pixels_and_points_of_the_whole_graph(make_shards: MakeShards) -> None:
    """The graph that warps by itself, as on a GPU, and the one that hands over crops draw the same."""
    rng = np.random.default_rng(6)
    photos = [rng.integers(0, 255, (120 + i, 100 - i, 3), np.uint8) for i in range(8)]
    split = open_split(make_shards([encode(photo) for photo in photos]))
    views = ViewSettings(size_hw=(96, 64))
    many = unlabelled_loader(split, views, batch_size=5, seed=4)
    few = labelled_loader(split, views, batch_size=5, seed=4)
    whole = partial(unlabelled_graph, views=views)
    labelled = partial(labelled_graph, views=views, num_keypoints=split.skeleton.num_keypoints)
    for loader, graph in ((many, whole), (few, labelled)):
        pipeline = Pipeline(graph, loader._build.args[1])
        for _ in range(4):
            batch, expected = next(loader), pipeline.next()
            for name in {"weak", "strong", "image"} & set(expected):
                shown = getattr(batch, name).permute(0, 2, 3, 1)
                assert torch.equal(pixels_of(shown), pixels_of(expected[name]))
        loader.close()
    assert reading_of(split, batch_size=2).crops is False
